"""Where weights are: a path, the cache of the hub, or a download that the user has allowed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracekit.backends.hub import fetching, first_on_hub
from tracekit.backends.protocols import BackendSetup
from tracekit.errors import BadDataError, UnavailableError


@dataclass(frozen=True)
class Published:
    """Weights on the hub."""

    repository: str
    """Its id: "owner/name"."""
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    """Names that the file of weights may have, best first; a download takes the first that is there."""
    beside: tuple[str, ...] = ()
    """Files that have to lie beside it: "config.json"."""


def find_weights(setup: BackendSetup, published: Published) -> Path | None:
    """The file of weights, where it is on this machine already: `setup.weights` if that is a file or folder, else in the hub's cache."""
    if setup.weights is not None:
        # Whole, because workers have another working folder; links stay, because what they lead to in the hub's cache has no suffix.
        path = Path(os.path.abspath(Path(setup.weights).expanduser()))
        if path.is_file():
            return path
        if path.is_dir():
            return _file_in(path, published)
        if is_path(setup.weights):
            return None
    snapshot = cached_snapshot(_repository(setup, published))
    return None if snapshot is None else _file_in(snapshot, published)


def missing_weights(setup: BackendSetup, published: Published) -> str | None:
    """None where the weights are here, or may be fetched; else what is missing and how to get it, in one sentence."""
    if find_weights(setup, published) is not None:
        return None
    repository = _repository(setup, published)
    needed = _listed([*published.beside, published.files[0]])
    if setup.weights is not None and (folder := Path(setup.weights).expanduser()).is_dir():  # whatever hub ids look like
        lacking = _listed(_lacking(folder, published))
        return f"the folder {setup.weights} lacks {lacking}" + (f"; it must hold {needed}" if lacking != needed else "")
    if setup.weights is not None and is_path(setup.weights):
        return f"there are no weights at {setup.weights}: give a file, or a folder with {needed}"
    if not setup.download:
        return (
            f"its weights ({repository}) are not on this machine: "
            "allow the download with --download, or give --weights a local file or folder"
        )
    if is_offline():
        return f"its weights ({repository}) are not on this machine and HF_HUB_OFFLINE forbids their download"
    return None


def get_weights(setup: BackendSetup, published: Published) -> Path:
    """The file of weights, fetched if need be. Raises UnavailableError where it cannot be had."""
    if (found := find_weights(setup, published)) is not None:
        return found
    if reason := missing_weights(setup, published):
        raise UnavailableError(reason)
    import huggingface_hub

    repository, instead = _repository(setup, published), "give --weights a local file or folder"
    # All are looked for before the first is fetched: they may be large.
    names = [first_on_hub(repository, choice, instead) for choice in (*((other,) for other in published.beside), published.files)]
    with fetching(repository, instead):
        return [Path(huggingface_hub.hf_hub_download(repository, name)) for name in names][-1]


def sha256_of(path: Path) -> str:
    """Digest of a file of weights."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a file by name. Nothing in it can run code. Raises BadDataError for one that is damaged or no file of weights."""
    from tracekit.backends.foreign.safe_weights import read_state

    try:
        return read_state(path)
    except ValueError as error:
        raise BadDataError(str(error), hint="fetch it again; .safetensors is best") from error


def cached_snapshot(repository: str) -> Path | None:
    """The folder in which the hub's cache keeps a repository, None where it does not."""
    # The layout of the cache is public; importing the hub's client to ask it costs more than all of the lowlevel backend.
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    folder = cache / ("models--" + repository.replace("/", "--"))
    current = folder / "refs" / "main"
    snapshot = folder / "snapshots" / current.read_text().strip() if current.is_file() else None
    return snapshot if snapshot is not None and snapshot.is_dir() else None


def is_path(weights: str) -> bool:
    """A hub id has one slash at most, and no suffix of a file; anything else can only be a path."""
    path = Path(weights)
    named_as_file = path.suffix in (".safetensors", ".bin", ".pth", ".pt")
    return named_as_file or path.is_absolute() or weights.startswith((".", "~")) or len(path.parts) > 2


def is_offline() -> bool:
    """Whether the environment forbids downloads."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _repository(setup: BackendSetup, published: Published) -> str:
    return setup.weights if setup.weights is not None and not is_path(setup.weights) else published.repository


def _lacking(folder: Path, published: Published) -> list[str]:
    """The files that a folder lacks to hold these weights."""
    lacking = [name for name in published.beside if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in published.files):
        lacking.append(published.files[0])
    return lacking


def _listed(names: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])


def _file_in(folder: Path, published: Published) -> Path | None:
    if not all((folder / name).is_file() for name in published.beside):
        return None
    return next((folder / name for name in published.files if (folder / name).is_file()), None)
