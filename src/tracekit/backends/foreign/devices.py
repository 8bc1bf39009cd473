"""Which device a network runs on. Imports torch only when asked: `serve.py` knows the error without it."""

from __future__ import annotations

from typing import Any


class DeviceError(Exception):
    """The device that was asked for is not one that the network can run on here."""


def device_of(options: dict[str, Any]) -> Any:
    """The torch device of the option "device". Raises DeviceError where this Python's torch has no such one."""
    import torch

    name = options["device"]
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(f"there is no device {name!r}: torch {torch.__version__}, which runs it, sees no GPU")
    if name.startswith("mps"):
        raise DeviceError(f"there is no device {name!r} for it: it runs on cuda or cpu alone")
    return torch.device(name)
