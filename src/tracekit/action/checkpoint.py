"""Policies: an action expert, what it must know of its robot, and the world model that it stands on, as folders of plain files.

    RUN/world_model/                   the world model: a checkpoint of μ0 without the state of its training
    RUN/checkpoints/step-*/
        config.json                    the expert (tracekit.action.config), its cameras and state, what it was trained on, and the digest of
                                       its world model
        normalisation.json             scales of states and actions
        model.safetensors              weights of the expert alone
        train_state/, manifest.json    as in checkpoints of μ0

A folder appears whole or not at all, and is held against its manifest before anything else looks at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracekit.action.config import ActionConfig, config_from_json
from tracekit.action.diffusion_policy import word_tokenizer
from tracekit.action.frozen import FeatureWidths, FrozenMu0, feature_widths
from tracekit.action.heads import Head, build_head
from tracekit.action.normalisation import Normalisation, normalisation_from_json
from tracekit.errors import BadDataError, MissingInputError
from tracekit.format.atomic_folder import remove_folder
from tracekit.format.demo_file import DemoLayout, layout_from_json
from tracekit.format.json_file import read_json
from tracekit.mu0 import checkpoint as mu0_checkpoint
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.statistics import CorpusStatistics
from tracekit.mu0.text import Tokenizer
from tracekit.training.checkpoint_folder import FolderFormat, check_checkpoint, check_tensors, new_checkpoint, shapes_of, write_json
from tracekit.training.run_folder import find_checkpoint
from tracekit.training.tensor_file import read_shapes, read_tensors, write_tensors
from tracekit.training.train_state import STATE_FOLDER, TrainState, check_optimiser_state, read_train_state, write_train_state

_CONFIG, _WEIGHTS, _NORMALISATION = "config.json", "model.safetensors", "normalisation.json"
FORMAT = FolderFormat("tracekit/policy", 1, (_CONFIG, _WEIGHTS, _NORMALISATION), (STATE_FOLDER,))
WORLD_MODEL = "world_model"
_MOST_SENTENCES = 100
_LARGEST_PICTURE = 100_000


@dataclass(frozen=True)
class TrainedOn:
    """What a policy learnt from."""

    demonstrations: int
    frames: int
    sentences: tuple[str, ...]
    """What was done in them, a hundred different ones at most."""
    picture_size: tuple[int, int]
    """Width and height in pixels of the pictures of the scene, as they are in the demonstrations."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sentences": list(self.sentences[:_MOST_SENTENCES]), "picture_size": list(self.picture_size)}


@dataclass(frozen=True)
class PolicyDescription:
    """Everything about a policy but its weights."""

    config: ActionConfig
    layout: DemoLayout
    normalisation: Normalisation
    world_model: str
    """Digest of the world model's checkpoint; "" for a policy without one."""
    trained_on: TrainedOn


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy that is ready to act."""

    expert: Head
    frozen: FrozenMu0 | None
    """The world model; None for a policy without one."""
    statistics: CorpusStatistics | None
    """Scales of the world model's corpus."""
    tokenizer: Tokenizer
    description: PolicyDescription
    checkpoint: Path
    """The folder that it was read from."""

    @property
    def config(self) -> ActionConfig:
        return self.description.config

    @property
    def normalisation(self) -> Normalisation:
        return self.description.normalisation

    @property
    def layout(self) -> DemoLayout:
        return self.description.layout

    @property
    def image_size(self) -> int:
        """Side of the picture of the scene that it looks at, in pixels."""
        return image_size(self.config, self.frozen.model.config if self.frozen is not None else None)


def image_size(config: ActionConfig, world: Mu0Config | None) -> int:
    """Side in pixels of the picture of the scene: the world model's, or that of the gripper's picture where there is none."""
    return config.gripper_size if world is None else world.image_size


def save_policy(folder: Path, description: PolicyDescription, weights: Mapping[str, Tensor], train_state: TrainState | None = None) -> None:
    """Write a checkpoint as a new folder.

    Raises StorageError when the disk fails, CannotCreateError when the folder is there or cannot be made; then nothing of it is left.
    """
    with new_checkpoint(folder, FORMAT) as temporary:
        write_json(
            temporary / _CONFIG,
            {
                "head": description.config.to_json(),
                "layout": description.layout.to_json(),
                "world_model": description.world_model,
                "trained_on": description.trained_on.to_json(),
            },
        )
        write_json(temporary / _NORMALISATION, description.normalisation.to_json())
        write_tensors(temporary / _WEIGHTS, weights)
        if train_state is not None:
            write_train_state(temporary, train_state)


class PolicyCheckpoint:
    """A checkpoint on disk, all of whose files are what was written.

    Raises MissingInputError when it is not there, BadDataError naming the file that is missing, cut, changed, of another version, or whose values
    make no sense.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_checkpoint(folder, FORMAT)
        self.description = self._description()

    def build(self, widths: FeatureWidths | None) -> Head:
        """The expert with its weights, which are held against the network before there is memory for it."""
        with torch.device("meta"):
            wanted = shapes_of(dict(build_head(self.description.config, widths).named_parameters()))
        check_tensors(read_shapes(self.folder / _WEIGHTS), wanted, self.folder / _WEIGHTS)
        expert = build_head(self.description.config, widths)
        stored = read_tensors(self.folder / _WEIGHTS)
        with torch.no_grad():
            for name, value in expert.named_parameters():
                value.copy_(stored[name])
        return expert

    def train_state(self) -> TrainState:
        """Raises BadDataError when the checkpoint is for use only."""
        return read_train_state(self.folder)

    def check_optimiser(self, state: TrainState, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises BadDataError unless the state of the optimiser is that of weights of these names and shapes."""
        check_optimiser_state(self.folder, state, shapes)

    def _description(self) -> PolicyDescription:
        path = self.folder / _CONFIG
        where, content = str(path), read_json(path)
        if not isinstance(content, dict) or set(content) != {"head", "layout", "world_model", "trained_on"}:
            raise BadDataError(f"{where} does not hold exactly head, layout, world_model and trained_on")
        if not isinstance(content["world_model"], str):
            raise BadDataError(f"{where}: world_model is no digest")
        config = config_from_json(content["head"], where)
        if (config.method == "diffusion") != (content["world_model"] == ""):
            raise BadDataError(f"{where}: a policy of method {config.method} {'has' if content['world_model'] else 'needs'} a world model")
        path = self.folder / _NORMALISATION
        normalisation = normalisation_from_json(read_json(path), str(path))
        for what, there, wanted in (
            ("states", len(normalisation.state_scale), config.state_size),
            ("actions", len(normalisation.action_scale), config.action_size),
        ):
            if there != wanted:
                raise BadDataError(f"{path} is about {what} of {there} numbers, but {wanted} are expected")
        layout = layout_from_json(content["layout"], where)
        return PolicyDescription(config, layout, normalisation, content["world_model"], _trained_on(content["trained_on"], where))


def load_policy(
    path: str | Path,
    device: torch.device | str = "cpu",
    *,
    world_model: str | Path = "",
    vlm: str = "",
    dino: str = "",
    download: bool = False,
) -> LoadedPolicy:
    """A trained policy, ready to act. `path` is a checkpoint or a run, of which the best one is taken.

    `world_model` says where the world model is when it is not in the run; `vlm` and `dino` as for `mu0.checkpoint.load_model`.
    Raises MissingInputError when something is not there, BadDataError for damage, and for a world model that the policy was not trained on.
    """
    checkpoint = PolicyCheckpoint(find_checkpoint(Path(path)))
    description = checkpoint.description
    if not description.world_model:
        expert = checkpoint.build(None).to(device).eval()
        return LoadedPolicy(expert, None, None, word_tokenizer(), description, checkpoint.folder)
    folder = Path(world_model) if world_model else checkpoint.folder.parent.parent / WORLD_MODEL
    if not folder.is_dir():
        raise MissingInputError(
            f"the world model of {checkpoint.folder} is not in {folder}", hint="a policy belongs to the folder of its run, which holds it"
        )
    world = mu0_checkpoint.Checkpoint(find_checkpoint(folder))
    if world.digest != description.world_model:
        raise BadDataError(f"{checkpoint.folder} was not trained on the world model in {folder}")
    model, statistics = mu0_checkpoint.load_model(world.folder, device, vlm=vlm, dino=dino, download=download)
    frozen = FrozenMu0(model, description.config)
    expert = checkpoint.build(feature_widths(model)).to(device).eval()
    return LoadedPolicy(expert, frozen, statistics, world.tokenizer(download=download), description, checkpoint.folder)


def keep_world_model(source: mu0_checkpoint.Checkpoint | None, run: Path) -> None:
    """Copy a world model into the folder of a run, without the state of its training; where it is already, nothing happens.

    Another one that is there goes, and so does any where `source` is None.
    """
    folder = run / WORLD_MODEL
    if source is not None and _is_the_same(source, folder):
        return
    remove_folder(folder)
    if source is not None:
        mu0_checkpoint.copy_for_use(source, folder)


def _is_the_same(source: mu0_checkpoint.Checkpoint, folder: Path) -> bool:
    try:
        return mu0_checkpoint.Checkpoint(folder).digest == source.digest
    except (BadDataError, MissingInputError):
        return False  # damaged, or not there


def _trained_on(content: Any, where: str) -> TrainedOn:
    if not isinstance(content, dict) or set(content) != {field.name for field in fields(TrainedOn)}:
        raise BadDataError(f"{where}: trained_on does not hold exactly {', '.join(field.name for field in fields(TrainedOn))}")
    numbers, sentences, size = [content["demonstrations"], content["frames"]], content["sentences"], content["picture_size"]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise BadDataError(f"{where}: demonstrations and frames of trained_on are {numbers}")
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        raise BadDataError(f"{where}: sentences of trained_on are no sentences")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and 0 < side <= _LARGEST_PICTURE for side in size):
        raise BadDataError(f"{where}: picture_size of trained_on is {size}, but width and height are expected")
    return TrainedOn(numbers[0], numbers[1], tuple(sentences), (size[0], size[1]))
