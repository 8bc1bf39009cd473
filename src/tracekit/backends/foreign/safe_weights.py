"""Read a file of weights without letting it run code. Used inside workers; needs torch, and safetensors for such files."""

from __future__ import annotations

import builtins
import collections
import re
import warnings
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
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise ValueError(f"{path}: it cannot be read: {error.strerror}") from None
    if is_empty:
        raise ValueError(f"{path}: the file is empty")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except Exception as error:
            raise ValueError(f"{path}: not a file of safetensors, or damaged or cut short") from error
    import torch

    # Before 2.6 even weights_only=True could be made to run code (CVE-2025-32434).
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 6):
        raise ValueError(f"torch {torch.__version__} cannot read {path} safely: use torch 2.6 or newer, or weights in .safetensors")
    try:
        # Whatever torch has to say of a file, it is not for users: above all not its advice to read it without weights_only.
        with warnings.catch_warnings(), torch.serialization.safe_globals([_inert_class(name) for name in inert]):
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        if "allocate memory" in str(error):
            raise
        named = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if named:
            known = ", a configuration as TAPIP3D's file has one" if named[1].startswith("omegaconf.") else ""
            reason = (
                f"not a file of weights alone: it holds more than tensors ({named[1][:80]}{known}), which could run code, and is not read"
            )
        else:
            reason = "not a file of weights as torch.save writes them, or damaged or cut short"
        raise ValueError(f"{path}: {reason}") from error
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
        raise ValueError(
            f"{path}: these are not the weights of {type(model).__name__}: {differences(model.state_dict(), state)}"
        ) from error


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    """How many weights are missing, of another shape or unknown, and the first two of each."""
    shapes = {name: (tuple(getattr(found[name], "shape", ())), tuple(wanted[name].shape)) for name in wanted if name in found}
    faults = (
        ("missing", [_shown(name) for name in wanted if name not in found]),
        ("of another shape", [f"{_shown(name)} {has}, not {needs}" for name, (has, needs) in shapes.items() if has != needs]),
        ("without a place", [_shown(name) for name in found if name not in wanted]),
    )
    told = [f"{len(names)} {fault} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" for fault, names in faults if names]
    return "; ".join(told) or "they do not fit"


def _shown(name: str) -> str:
    """A name from a file, which may be long and hold anything, for a message."""
    return (name if name.isprintable() else ascii(name))[:100]
