"""A checkpoint as a folder of plain files, with a manifest: format, version, and size and SHA-256 of every other file.

A folder appears whole or not at all. On reading, every file is held against the manifest before anything else looks at it; nothing in a
checkpoint is ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tracekit import __version__
from tracekit.errors import BadDataError, MissingInputError
from tracekit.format.atomic_folder import new_folder
from tracekit.format.json_file import read_json

MANIFEST = "manifest.json"
_MOST_NAMES_IN_A_MESSAGE = 5
_DAMAGED = "take another checkpoint; a training goes on from the one before when this folder is moved away"


@dataclass(frozen=True)
class FolderFormat:
    """One kind of checkpoint."""

    name: str
    version: int
    required: tuple[str, ...]
    """Files that every one of them has."""
    read_as_folders: tuple[str, ...]
    """Folders in it in which no file may be that the manifest does not list."""


@contextlib.contextmanager
def new_checkpoint(folder: Path, kind: FolderFormat) -> Iterator[Path]:
    """Yield an empty folder; when the block ends well, it gets its manifest and becomes `folder`.

    Raises StorageError when the disk fails, CannotCreateError when the folder is there or cannot be made; then nothing of it is left.
    """
    with new_folder(folder) as temporary:
        yield temporary
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        entries = {str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files}
        write_json(temporary / MANIFEST, {"format": kind.name, "format_version": kind.version, "tracekit": __version__, "files": entries})


def check_checkpoint(folder: Path, kind: FolderFormat) -> dict[str, str]:
    """Hold all files against the manifest. Returns the SHA-256 of each by its name.

    Raises MissingInputError when it is no checkpoint, BadDataError naming the file that is missing, cut, changed or of another version.
    """
    return _check_files(folder, kind, _manifest(folder, kind))


def format_of(folder: Path) -> str:
    """What the manifest says that a checkpoint is, "tracekit/checkpoint" or another; empty where there is none or it says nothing."""
    path = folder / MANIFEST
    content = read_json(path) if path.is_file() else None
    name = content.get("format") if isinstance(content, dict) else None
    return name if isinstance(name, str) else ""


def write_json(path: Path, content: Any) -> None:
    """For people to read, too. Numbers that are not finite are a mistake of the caller."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def check_tensors(stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise BadDataError where names or shapes in a file are not those that are wanted."""
    faults = [
        f"{what} {', '.join(sorted(names)[:_MOST_NAMES_IN_A_MESSAGE])}"
        + (f" and {len(names) - _MOST_NAMES_IN_A_MESSAGE} more" if len(names) > _MOST_NAMES_IN_A_MESSAGE else "")
        for what, names in (("has no", set(wanted) - set(stored)), ("has the unknown", set(stored) - set(wanted)))
        if names
    ]
    if faults:
        raise BadDataError(f"{path} " + "; it ".join(faults))
    for name, shape in wanted.items():
        if stored[name] != shape:
            raise BadDataError(f"{path}: {name} has shape {stored[name]}, but {shape} is expected")


def _manifest(folder: Path, kind: FolderFormat) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingInputError(f"{folder} is no checkpoint: it has no {MANIFEST}")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != kind.name:
        raise BadDataError(f"{path} is not of format {kind.name}")
    if content.get("format_version") != kind.version:
        raise BadDataError(
            f"{path}: format_version {content.get('format_version')}, but this tracekit reads version {kind.version}",
            hint=f"it was written by tracekit {content.get('tracekit')}",
        )
    return content


def _check_files(folder: Path, kind: FolderFormat, manifest: dict[str, Any]) -> dict[str, str]:
    entries = manifest.get("files")
    path = folder / MANIFEST
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise BadDataError(f"{path} lists no files")
    for name in kind.required:
        if name not in entries:
            raise BadDataError(f"{path} does not list {name}")
    for name, entry in entries.items():
        if name.startswith("/") or ".." in name.split("/"):
            raise BadDataError(f"{path} lists {name!r}, which is outside the checkpoint")
        _check_file(folder / name, entry)
    for found in (found for name in kind.read_as_folders for found in sorted((folder / name).rglob("*"))):
        is_plain_folder = found.is_dir() and not found.is_symlink()
        if not is_plain_folder and found.relative_to(folder).as_posix() not in entries:
            raise BadDataError(f"{found} is not listed in {path}", hint="what is not listed is not read: move it out of the checkpoint")
    return {name: entry["sha256"] for name, entry in entries.items()}


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise BadDataError(f"{path} is missing")
    size = path.stat().st_size
    if size != entry.get("bytes"):
        raise BadDataError(f"{path} is damaged: it has {size} of {entry.get('bytes')} bytes", hint=_DAMAGED)
    if _digest(path) != entry.get("sha256"):
        raise BadDataError(f"{path} is damaged: its SHA-256 is not that of {MANIFEST}", hint=_DAMAGED)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
