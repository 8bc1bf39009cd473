"""Folders with all that a network of transformers consists of: configuration, tokenizer or processor, and weights in one file or several."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tracekit.backends.hub import fetching, first_on_hub
from tracekit.backends.weights import cached_snapshot, is_offline, is_path, sha256_of
from tracekit.errors import BadDataError, UnavailableError
from tracekit.format.json_file import read_json_object

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_FETCHED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""What is fetched of a repository: nothing that could run."""


def find_model(reference: str) -> Path | None:
    """The folder of a model that is whole and on this machine: `reference` itself, or the hub's cache of the repository of that id."""
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        snapshot = None if is_path(reference) else cached_snapshot(reference)
        if snapshot is None:
            return None
        folder = snapshot
    return folder if lacking(folder) is None else None


def missing_model(reference: str, *, download: bool, flag: str) -> str | None:
    """None where a model is here or may be fetched; else what is missing and how to get it, in one sentence. `flag` names it."""
    if find_model(reference) is not None:
        return None
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return f"the folder {reference} has no {lacking(folder)}: {flag} needs a whole model of transformers, with weights in safetensors"
    if folder.is_file():
        return f"{reference} is a file: {flag} needs the folder of a whole model of transformers, with weights in safetensors"
    if is_path(reference):
        return f"there is no folder {reference} ({flag})"
    if not download:
        return f"{reference} is not on this machine: allow the download with --download, or give {flag} a local folder"
    return f"{reference} is not on this machine and HF_HUB_OFFLINE forbids its download" if is_offline() else None


def get_model(reference: str, *, download: bool, flag: str) -> Path:
    """The folder of a model, fetched if need be. Raises UnavailableError where it cannot be had."""
    if (found := find_model(reference)) is not None:
        return found
    if reason := missing_model(reference, download=download, flag=flag):
        raise UnavailableError(reason)
    import huggingface_hub

    instead = f"give {flag} a local folder"
    first_on_hub(reference, [CONFIG], instead)
    with fetching(reference, instead):
        folder = Path(huggingface_hub.snapshot_download(reference, allow_patterns=_FETCHED, ignore_patterns=["*/*"]))
    if lack := lacking(folder):
        raise UnavailableError(f"{reference} has no {lack}", hint=f"{flag} needs a model of transformers with weights in safetensors")
    return folder


def lacking(folder: Path) -> str | None:
    """The first file that a folder lacks to be a model, None where it is whole."""
    if not (folder / CONFIG).is_file():
        return CONFIG
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return "tokenizer.json"
    return next((path.name for path in weight_files(folder) if not path.is_file()), None)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a model; whether they are there is not looked at."""
    if (folder / WHOLE).is_file() or not (folder / INDEX).is_file():
        return [folder / WHOLE]
    try:
        names = read_json_object(folder / INDEX).get("weight_map")
    except BadDataError:
        return [folder / WHOLE]
    if not isinstance(names, dict) or not all(isinstance(name, str) and Path(name).name == name for name in names.values()):
        return [folder / WHOLE]
    return [folder / name for name in sorted(set(names.values()))]


def model_sha256(folder: Path) -> str:
    """Digest of the weights of a model: that of its file, or of the list of names and digests of several, in order of name."""
    digests = {path.name: sha256_of(path) for path in weight_files(folder)}
    return next(iter(digests.values())) if len(digests) == 1 else digest_of(digests)


def digest_of(digests: dict[str, str]) -> str:
    """One digest for several: of the lines "name digest"."""
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in digests.items()).encode()).hexdigest()
