"""Which device a network runs on."""

from __future__ import annotations

from typing import Any


def device_of(options: dict[str, Any]) -> Any:
    """The torch device of the option "device". Raises RuntimeError where this Python's torch has no such one."""
    import torch

    name = options["device"]
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(f"its torch {torch.__version__} sees no GPU: use --device cpu, or install a torch that does")
    if name.startswith("mps"):
        raise RuntimeError("it runs on cuda or cpu alone")
    return torch.device(name)
