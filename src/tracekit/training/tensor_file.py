"""Tensors on disk: safetensors, which holds numbers and nothing that runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tracekit.errors import BadDataError
from tracekit.format.atomic import storage_error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises StorageError naming the folder when the disk fails."""
    try:
        safetensors.torch.save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise storage_error(OSError(int(number[1]), str(error)), f"the folder {path.parent}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU. Raises BadDataError when it is no safetensors file, or is cut."""
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise _no_safetensors(path, error) from None


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by its name, from the head of the file alone. Raises BadDataError when it is no safetensors file, or is cut."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise _no_safetensors(path, error) from None


def _no_safetensors(path: Path, error: SafetensorError) -> BadDataError:
    return BadDataError(f"{path} is no safetensors file: {error}", hint="files of weights in other formats are never opened")
