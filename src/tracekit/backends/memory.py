"""Running out of memory, on whichever device."""

from __future__ import annotations

import gc
import sys

# What torch says where it has no error class of its own: on the CPU, on Apple's GPUs, and from CUDA itself and its libraries.
_SAID = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller request may succeed. torch's own error is known by its name, because torch need not be imported for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def free_memory() -> None:
    """Give back what a call that ran out of memory has left behind, so that a smaller one can have it. Call it outside of `except`: the
    error holds on to everything that the call held."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
