"""Checkpoints: a network, what it must know of its corpus, and how its training goes on, as a folder of plain files.

    config.json                        the network: tracekit.mu0.config, and where frozen weights come from
    model.safetensors                  weights; frozen ones from a hub only with --embed-frozen
    stats.json                         scales of the corpus
    tokenizer/                         files of the VLM's tokenizer, where it has one
    train_state/state.json             step and validation score
    train_state/optimizer.safetensors  state of AdamW
    manifest.json                      format, version, and size and SHA-256 of every other file

A folder appears whole or not at all. On reading, every file is held against the manifest before anything else looks at it, and weights
against the network before there is memory for it; nothing in a checkpoint is ever run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracekit import __version__
from tracekit.errors import BadDataError, MissingInputError, TracekitError
from tracekit.format.atomic_folder import new_folder
from tracekit.format.json_file import read_json
from tracekit.mu0.config import Mu0Config, config_from_json
from tracekit.mu0.model import Mu0
from tracekit.mu0.presets import build, load_pretrained_parts, on_meta, tokenizer_of
from tracekit.mu0.references import Reference, check_references, referenced_weights, references_from_json
from tracekit.mu0.statistics import CorpusStatistics, statistics_from_json
from tracekit.mu0.text import HubTokenizer, Tokenizer
from tracekit.training.run_folder import find_checkpoint
from tracekit.training.tensor_file import read_shapes, read_tensors, write_tensors

FORMAT = "tracekit/checkpoint"
FORMAT_VERSION = 1
_MANIFEST, _CONFIG, _WEIGHTS, _STATISTICS = "manifest.json", "config.json", "model.safetensors", "stats.json"
_STATE, _OPTIMISER, _TOKENIZER = "train_state/state.json", "train_state/optimizer.safetensors", "tokenizer"
_READ_AS_FOLDERS = (_TOKENIZER, "train_state")
_MOST_NAMES_IN_A_MESSAGE = 5
# The VLM of the largest network has 2.2 billion.
_MOST_WEIGHTS_FROM_ELSEWHERE = 20_000_000_000


@dataclass(frozen=True)
class TrainState:
    """What a training needs besides the weights to go on as if it had never stopped: all its random choices follow from the step."""

    step: int
    """Optimiser steps that are done."""
    score: float | None = None
    """Of the validation after this step, less is better, finite; None when there was none or it was not finite."""
    optimiser: Mapping[str, Tensor] = field(default_factory=dict)
    """exp_avg/NAME, exp_avg_sq/NAME and step/NAME of each weight."""


def save(
    folder: Path,
    config: Mu0Config,
    weights: Mapping[str, Tensor],
    statistics: CorpusStatistics,
    *,
    references: Mapping[str, Reference] | None = None,
    tokenizer: Tokenizer | None = None,
    train_state: TrainState | None = None,
) -> None:
    """Write a checkpoint as a new folder. `weights` are `stored_weights` of the network.

    Raises StorageError when the disk fails, CannotCreateError when the folder is there or cannot be made; then nothing of it is left.
    """
    references = references or {}
    with new_folder(folder) as temporary:
        _write_json(
            temporary / _CONFIG, {"network": config.to_json(), "references": {name: value.to_json() for name, value in references.items()}}
        )
        write_tensors(temporary / _WEIGHTS, weights)
        _write_json(temporary / _STATISTICS, statistics.to_json())
        if isinstance(tokenizer, HubTokenizer):
            tokenizer.save(temporary / _TOKENIZER)
        if train_state is not None:
            (temporary / "train_state").mkdir()
            _write_json(temporary / _STATE, {"step": train_state.step, "score": train_state.score})
            write_tensors(temporary / _OPTIMISER, train_state.optimiser)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        entries = {str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files}
        _write_json(temporary / _MANIFEST, {"format": FORMAT, "format_version": FORMAT_VERSION, "tracekit": __version__, "files": entries})


def stored_weights(model: Mu0, *, embed_frozen: bool) -> dict[str, Tensor]:
    """The weights that go into a checkpoint, by name: all but frozen ones from a hub, or all. Tied weights are there once."""
    left_out = set() if embed_frozen else {name for part in referenced_weights(model).values() for name in part}
    return {name: value for name, value in model.named_parameters() if name not in left_out}


class Checkpoint:
    """A checkpoint on disk, all of whose files are what was written.

    Raises MissingInputError when it is not there, BadDataError naming the file that is missing, cut, changed or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._check_files(self._manifest())
        content = read_json(folder / _CONFIG)
        if not isinstance(content, dict) or set(content) != {"network", "references"}:
            raise BadDataError(f"{folder / _CONFIG} does not hold exactly network and references")
        self.config = config_from_json(content["network"], str(folder / _CONFIG))
        self.references = references_from_json(content["references"], str(folder / _CONFIG))
        self.statistics = statistics_from_json(read_json(folder / _STATISTICS), str(folder / _STATISTICS))

    def put_weights(self, model: Mu0) -> None:
        """Into a network of the same configuration. Raises BadDataError naming missing, unexpected and misshapen weights."""
        stored = read_tensors(self.folder / _WEIGHTS)
        wanted = stored_weights(model, embed_frozen=not self.references)
        _check_tensors(_shapes(stored), _shapes(wanted), self.folder / _WEIGHTS)
        with torch.no_grad():
            for name, value in wanted.items():
                value.copy_(stored[name])

    def check_weights(self) -> None:
        """Hold the stored weights against the network of the configuration while neither takes memory.

        Raises BadDataError where the configuration makes no network, and as `put_weights`.
        """
        try:
            model = on_meta(self.config)
        except TracekitError:
            raise
        except Exception as error:  # transformers raises whatever comes of a value that it does not expect
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BadDataError(f"{self.folder / _CONFIG} describes no network that can be built: {reason}") from None
        wanted = stored_weights(model, embed_frozen=not self.references)
        _check_tensors(read_shapes(self.folder / _WEIGHTS), _shapes(wanted), self.folder / _WEIGHTS)
        elsewhere = sum(value.numel() for name, value in model.named_parameters() if name not in wanted)
        if elsewhere > _MOST_WEIGHTS_FROM_ELSEWHERE:
            raise BadDataError(f"{self.folder / _CONFIG} asks for {elsewhere:,} weights that the checkpoint does not hold")

    def train_state(self) -> TrainState:
        """Raises BadDataError when the checkpoint is for use only."""
        if not (self.folder / _STATE).is_file():
            raise BadDataError(f"{self.folder} holds no state of a training")
        content = read_json(self.folder / _STATE)
        step, score = (content.get("step"), content.get("score")) if isinstance(content, dict) else (None, None)
        if type(step) is not int or step < 0 or not (score is None or (type(score) in (int, float) and math.isfinite(score))):
            raise BadDataError(f"{self.folder / _STATE} holds no step and score")
        return TrainState(step, score if score is None else float(score), read_tensors(self.folder / _OPTIMISER))

    def check_optimiser(self, state: TrainState, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises BadDataError unless the state of the optimiser is that of weights of these names and shapes."""
        wanted = {f"{kind}/{name}": () if kind == "step" else shape for name, shape in shapes.items() for kind in OPTIMISER_STATE}
        _check_tensors(_shapes(state.optimiser), wanted, self.folder / _OPTIMISER)

    def tokenizer(self, *, download: bool = False) -> Tokenizer:
        """What turns captions into what the network reads."""
        folder = self.folder / _TOKENIZER
        return tokenizer_of(self.config, folder if folder.is_dir() else None, download=download)

    def _manifest(self) -> dict[str, Any]:
        path = self.folder / _MANIFEST
        if not path.is_file():
            raise MissingInputError(f"{self.folder} is no checkpoint: it has no {_MANIFEST}")
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BadDataError(f"{path} is not of format {FORMAT}")
        if content.get("format_version") != FORMAT_VERSION:
            raise BadDataError(
                f"{path}: format_version {content.get('format_version')}, but this tracekit reads version {FORMAT_VERSION}",
                hint=f"it was written by tracekit {content.get('tracekit')}",
            )
        return content

    def _check_files(self, manifest: dict[str, Any]) -> None:
        entries = manifest.get("files")
        path = self.folder / _MANIFEST
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise BadDataError(f"{path} lists no files")
        for name in (_CONFIG, _WEIGHTS, _STATISTICS):
            if name not in entries:
                raise BadDataError(f"{path} does not list {name}")
        for name, entry in entries.items():
            if name.startswith("/") or ".." in name.split("/"):
                raise BadDataError(f"{path} lists {name!r}, which is outside the checkpoint")
            _check_file(self.folder / name, entry)
        for found in (found for name in _READ_AS_FOLDERS for found in sorted((self.folder / name).rglob("*"))):
            is_plain_folder = found.is_dir() and not found.is_symlink()
            if not is_plain_folder and found.relative_to(self.folder).as_posix() not in entries:
                raise BadDataError(f"{found} is not listed in {path}", hint="what is not listed is not read: move it out of the checkpoint")


OPTIMISER_STATE = ("exp_avg", "exp_avg_sq", "step")


def load_model(
    path: str | Path, device: torch.device | str = "cpu", *, vlm: str = "", dino: str = "", download: bool = False
) -> tuple[Mu0, CorpusStatistics]:
    """A trained network, ready to predict, and the scales of its corpus. `path` is a checkpoint or a run, of which the best one is taken.

    `vlm` and `dino` say where frozen weights that the checkpoint does not hold are now; else they are where they were in training.
    Raises MissingInputError when they are not there, or not the checkpoint; BadDataError for damage, and for frozen weights that are not those
    that the network was trained with.
    """
    checkpoint = Checkpoint(find_checkpoint(Path(path)))
    model = build_with_frozen_parts(checkpoint, vlm=vlm, dino=dino, download=download)
    checkpoint.put_weights(model)
    return model.to(device).eval(), checkpoint.statistics


def build_with_frozen_parts(checkpoint: Checkpoint, *, vlm: str = "", dino: str = "", download: bool = False) -> Mu0:
    """The network of a checkpoint with the weights that the checkpoint does not hold."""
    checkpoint.check_weights()
    config = checkpoint.config
    config = dataclasses.replace(config, vlm_source=vlm or config.vlm_source, dino_source=dino or config.dino_source)
    model = build(config)
    if checkpoint.references:
        load_pretrained_parts(model, download=download)
        check_references(model, checkpoint.references, str(checkpoint.folder))
    return model


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise BadDataError(f"{path} is missing")
    size = path.stat().st_size
    if size != entry.get("bytes"):
        raise BadDataError(f"{path} is damaged: it has {size} of {entry.get('bytes')} bytes", hint=_DAMAGED)
    if _digest(path) != entry.get("sha256"):
        raise BadDataError(f"{path} is damaged: its SHA-256 is not that of {_MANIFEST}", hint=_DAMAGED)


_DAMAGED = "take another checkpoint; a training goes on from the one before when this folder is moved away"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _check_tensors(stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Names and shapes."""
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


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
