"""Read a file of weights without letting it run code. Used inside workers; needs torch, and safetensors for such files."""

from __future__ import annotations

import builtins
import collections
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_state(path: str | Path) -> dict[str, Any]:
    """The tensors of a file by name, on the CPU: a .safetensors file, or what `torch.save` wrote of a state_dict.

    A state_dict inside a dictionary under "model", "state_dict" or "weight" is taken out. Raises ValueError for a file that is damaged, or
    that holds anything but data.
    """
    found = read_checkpoint(path)
    for key in ("model", "state_dict", "weight"):
        if isinstance(found.get(key), dict):
            found = found[key]
            break
    import torch

    if not found or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ValueError(f"{path}: it holds something else than named tensors")
    return found


def read_checkpoint(path: str | Path, *, inert: Iterable[str] = ()) -> dict[str, Any]:
    """All that a file of weights holds. Raises ValueError as `read_state` does.

    A checkpoint may hold objects of the classes named in `inert` ("module.Class"). Their code is neither imported nor run: each comes as an
    empty object whose `__dict__` is what the file says.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except Exception as error:
            raise ValueError(f"{path}: not a readable file of weights: {error}") from error
    import torch

    # Before 2.6 even weights_only=True could be made to run code (CVE-2025-32434).
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 6):
        raise ValueError(f"torch {torch.__version__} cannot read {path} safely: use torch 2.6 or newer, or weights in .safetensors")
    try:
        with torch.serialization.safe_globals([_inert_class(name) for name in inert]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a file of weights alone, or damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: it holds something else than named tensors")
    return found


def _inert_class(name: str) -> type:
    """A class without code that passes for the one of that name; containers of Python's own stand for themselves."""
    module, _, own = name.rpartition(".")
    harmless = {"builtins": builtins, "collections": collections}
    return getattr(harmless[module], own) if module in harmless else type(own, (), {"__module__": module})


def load_state(model: Any, state: dict[str, Any], path: str | Path) -> None:
    """Put all weights into the model. Raises ValueError unless names and shapes are exactly the model's."""
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, KeyError) as error:
        lines = str(error).strip().splitlines()
        raise ValueError(f"{path}: these are not the weights of {type(model).__name__}: {' '.join(lines[:4])[:400]}") from error
