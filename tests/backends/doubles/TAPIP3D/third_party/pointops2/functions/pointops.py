"""As the real one begins: nothing of it works before a CUDA extension is compiled."""

import pointops2_cuda  # noqa: F401
