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
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tracekit.errors import BadDataError, TracekitError
from tracekit.format.json_file import read_json
from tracekit.mu0.config import Mu0Config, config_from_json
from tracekit.mu0.model import Mu0
from tracekit.mu0.presets import build, load_pretrained_parts, on_meta, tokenizer_of
from tracekit.mu0.references import Reference, check_references, referenced_weights, references_from_json
from tracekit.mu0.statistics import CorpusStatistics, statistics_from_json
from tracekit.mu0.text import HubTokenizer, Tokenizer
from tracekit.training.checkpoint_folder import FolderFormat, check_checkpoint, check_tensors, new_checkpoint, shapes_of, write_json
from tracekit.training.run_folder import find_checkpoint
from tracekit.training.tensor_file import read_shapes, read_tensors, write_tensors
from tracekit.training.train_state import STATE_FOLDER, TrainState, check_optimiser_state, read_train_state, write_train_state

_CONFIG, _WEIGHTS, _STATISTICS, _TOKENIZER = "config.json", "model.safetensors", "stats.json", "tokenizer"
FORMAT = FolderFormat("tracekit/checkpoint", 1, (_CONFIG, _WEIGHTS, _STATISTICS), (_TOKENIZER, STATE_FOLDER))
# The VLM of the largest network has 2.2 billion.
_MOST_WEIGHTS_FROM_ELSEWHERE = 20_000_000_000


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
    with new_checkpoint(folder, FORMAT) as temporary:
        write_json(
            temporary / _CONFIG, {"network": config.to_json(), "references": {name: value.to_json() for name, value in references.items()}}
        )
        write_tensors(temporary / _WEIGHTS, weights)
        write_json(temporary / _STATISTICS, statistics.to_json())
        if isinstance(tokenizer, HubTokenizer):
            tokenizer.save(temporary / _TOKENIZER)
        if train_state is not None:
            write_train_state(temporary, train_state)


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
        self.files = check_checkpoint(folder, FORMAT)
        """SHA-256 of each by its name."""
        content = read_json(folder / _CONFIG)
        if not isinstance(content, dict) or set(content) != {"network", "references"}:
            raise BadDataError(f"{folder / _CONFIG} does not hold exactly network and references")
        self.config = config_from_json(content["network"], str(folder / _CONFIG))
        self.references = references_from_json(content["references"], str(folder / _CONFIG))
        self.statistics = statistics_from_json(read_json(folder / _STATISTICS), str(folder / _STATISTICS))

    @property
    def digest(self) -> str:
        """SHA-256 over all files but the state of a training: what a network is, wherever its checkpoint lies."""
        files = {name: value for name, value in sorted(self.files.items()) if _is_for_use(name)}
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()

    def put_weights(self, model: Mu0) -> None:
        """Into a network of the same configuration. Raises BadDataError naming missing, unexpected and misshapen weights."""
        stored = read_tensors(self.folder / _WEIGHTS)
        wanted = stored_weights(model, embed_frozen=not self.references)
        check_tensors(shapes_of(stored), shapes_of(wanted), self.folder / _WEIGHTS)
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
        check_tensors(read_shapes(self.folder / _WEIGHTS), shapes_of(wanted), self.folder / _WEIGHTS)
        elsewhere = sum(value.numel() for name, value in model.named_parameters() if name not in wanted)
        if elsewhere > _MOST_WEIGHTS_FROM_ELSEWHERE:
            raise BadDataError(f"{self.folder / _CONFIG} asks for {elsewhere:,} weights that the checkpoint does not hold")

    def train_state(self) -> TrainState:
        """Raises BadDataError when the checkpoint is for use only."""
        return read_train_state(self.folder)

    def check_optimiser(self, state: TrainState, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises BadDataError unless the state of the optimiser is that of weights of these names and shapes."""
        check_optimiser_state(self.folder, state, shapes)

    def tokenizer(self, *, download: bool = False) -> Tokenizer:
        """What turns captions into what the network reads."""
        folder = self.folder / _TOKENIZER
        return tokenizer_of(self.config, folder if folder.is_dir() else None, download=download)


def copy_for_use(checkpoint: Checkpoint, folder: Path) -> None:
    """The same network as a new checkpoint, without the state of its training. Raises as `save`."""
    with new_checkpoint(folder, FORMAT) as temporary:
        for name in filter(_is_for_use, checkpoint.files):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint.folder / name, temporary / name)


def _is_for_use(name: str) -> bool:
    return not name.startswith(f"{STATE_FOLDER}/")


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
