"""Which device a network runs on. Imports torch only when asked: the embedded backends run without it."""

from __future__ import annotations

from typing import Any

from tracekit.errors import UnavailableError


def torch_device(name: str) -> Any:
    """The torch device of `--device`: auto takes cuda, else mps, else cpu. Raises UnavailableError when this machine has no such one."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_there in available.items() if is_there))
    if not available.get(name.partition(":")[0], False):
        usable = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise UnavailableError(f"there is no device {name!r} on this machine", hint=f"--device: auto, {usable}")
    return torch.device(name)
