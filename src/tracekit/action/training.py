"""The training of an action expert on demonstrations, on top of a frozen μ0 (paper 3.4, B.4), by the engine that trains μ0."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tracekit.action.batch import ActionBatch
from tracekit.action.checkpoint import (
    PolicyCheckpoint,
    PolicyDescription,
    TrainedOn,
    image_size,
    keep_world_model,
    save_policy,
)
from tracekit.action.collate import ActionCollate
from tracekit.action.config import ActionConfig
from tracekit.action.dataset import DemoDataset
from tracekit.action.demo_index import DemoIndex
from tracekit.action.diffusion_policy import word_tokenizer
from tracekit.action.feature_cache import FeatureCache, build_cache, find_cache
from tracekit.action.finetune_options import DemoOptions
from tracekit.action.frozen import FeatureWidths, FrozenMu0, feature_widths
from tracekit.action.heads import Head, build_head
from tracekit.action.normalisation import fit_normalisation
from tracekit.action.objective import ActionObjective
from tracekit.action.run_identity import identity
from tracekit.action.validation import ActionValidation
from tracekit.format.demo_file import DemoLayout
from tracekit.mu0.checkpoint import Checkpoint, load_model
from tracekit.mu0.presets import on_meta
from tracekit.report import Report
from tracekit.training.loop import checkpoint_to_go_on_from, go_on, held_run, is_done, micro_batches
from tracekit.training.optimiser import adamw, trained_parameters
from tracekit.training.processes import Processes
from tracekit.training.recipe import EngineParameters, Recipe, uses_bf16
from tracekit.training.run_folder import RunFolder, find_checkpoint
from tracekit.training.shared_model import SharedModel
from tracekit.training.stop_signals import StopRequest
from tracekit.training.train_state import TrainState


@dataclass(frozen=True)
class WorldModel:
    """A checkpoint of μ0, and what of its features a head must know."""

    checkpoint: Checkpoint
    widths: FeatureWidths
    vlm: str = ""
    """Where weights are that the checkpoint does not hold, when they are not where they were in training."""
    dino: str = ""
    download: bool = False

    def load(self, config: ActionConfig, processes: Processes) -> FrozenMu0:
        """Onto the device of this process."""
        model, _ = load_model(self.checkpoint.folder, processes.device, vlm=self.vlm, dino=self.dino, download=self.download)
        return FrozenMu0(model, config)


@dataclass(frozen=True)
class Plan:
    """All that is decided before a training starts."""

    config: ActionConfig
    recipe: Recipe
    engine: EngineParameters
    data: DemoOptions
    index: DemoIndex
    world: WorldModel | None
    """None for a head that needs none."""
    seed: int = 0


def open_world_model(path: str | Path, *, vlm: str = "", dino: str = "", download: bool = False) -> WorldModel:
    """A checkpoint of μ0, or the best of a run, before there is memory for its weights.

    Raises MissingInputError when there is none, BadDataError when it is damaged, or is no checkpoint of μ0.
    """
    checkpoint = Checkpoint(find_checkpoint(Path(path)))
    checkpoint.check_weights()
    return WorldModel(checkpoint, feature_widths(on_meta(checkpoint.config)), vlm, dino, download)


def load_demos(paths: Sequence[str], data: DemoOptions, report: Report) -> DemoIndex:
    """Which frames there are, with cameras and proprioception as the options call them. Raises as DemoIndex."""
    layout = DemoLayout(data.camera, data.gripper_camera, tuple(name for name in data.state.split(",") if name))
    return DemoIndex(paths, layout, language=data.language, report=report)


def finetune(plan: Plan, run: RunFolder, processes: Processes, request: StopRequest, report: Report, *, force: bool = False) -> None:
    """Train to the end of the recipe, from the newest checkpoint of the same plan in `run` where there is one; with `force` always anew.

    Raises ResumableError when asked to stop, after a checkpoint; ConfigurationError when the run was started with another plan;
    BadDataError when a step is not finite, and for damaged checkpoints and demonstrations; StorageError when the disk or a GPU's memory is full.
    """
    with held_run(run, plan.recipe, plan.engine, processes):
        digest = plan.world.checkpoint.digest if plan.world is not None else ""
        known = identity(plan.config, plan.recipe, plan.data, plan.seed, plan.index, digest)
        latest = checkpoint_to_go_on_from(run, known, processes, force=force)
        checkpoint = PolicyCheckpoint(latest) if latest is not None else None
        state = checkpoint.train_state() if checkpoint is not None else TrainState(0)
        if is_done(state, latest, plan.recipe, report):
            return
        learner = ActionLearner(plan, checkpoint, state, processes, request, report)
        go_on(learner, state, known, run, processes, request, report)


class ActionLearner:
    """What the engine trains here (`tracekit.training.learner`)."""

    source = "demonstration"

    def __init__(
        self,
        plan: Plan,
        checkpoint: PolicyCheckpoint | None,
        state: TrainState,
        processes: Processes,
        request: StopRequest,
        report: Report,
    ) -> None:
        self._plan = plan
        self.recipe, self.engine, self.seed, self.num_workers = plan.recipe, plan.engine, plan.seed, plan.data.workers
        index, config, world = plan.index, plan.config, plan.world
        tokenizer = world.checkpoint.tokenizer(download=world.download) if world is not None else word_tokenizer()
        self.collate = ActionCollate(tokenizer)
        cache, frozen = _features(plan, self.collate, processes, request, report)
        self.objective = ActionObjective(frozen)
        file, head, step = index.step(0)
        height, width = file.agentview(head.key, step).shape[:2]
        shown = [language for (_, head), language in zip(index.demos, index.language, strict=True) if head.split == "train"]
        learnt = TrainedOn(len(shown), len(index.frames("train")), tuple(dict.fromkeys(shown)), (width, height))
        normalisation = fit_normalisation(index.states("train"), index.actions("train"), plan.data.normalise)
        self._description = PolicyDescription(
            config, index.layout, normalisation, world.checkpoint.digest if world is not None else "", learnt
        )
        self._image_size = image_size(config, world.checkpoint.config if world is not None else None)
        self._cache = cache
        self.dataset = self._samples("train", draws=plan.data.draws, augment=plan.data.augment)
        self._model = _model(plan, checkpoint, state).to(processes.device).train()
        self.shared = SharedModel(self._model, processes)
        self.optimiser = adamw([(1.0, list(trained_parameters(self._model).values()))], plan.recipe)
        self.validation = self._make_validation(processes, report)

    def begin(self, run: RunFolder) -> None:
        """A run holds the world model that its policies need, and no other."""
        keep_world_model(self._plan.world.checkpoint if self._plan.world is not None else None, run.path)

    def prepared(self, batch: ActionBatch) -> ActionBatch:
        return self.objective.prepared(batch)

    def counts(self, batch: ActionBatch) -> Tensor:
        return self.objective.counts(batch)

    def losses(self, output: Tensor, batch: ActionBatch, counts: Tensor) -> dict[str, Tensor]:
        return self.objective.losses(output, batch, counts)

    def speed(self, batches: Sequence[ActionBatch], seconds: float) -> dict[str, float | None]:
        """Nothing but what the engine itself measures."""
        return {}

    def weights(self) -> dict[str, Tensor]:
        return dict(self._model.named_parameters())

    def save(self, folder: Path, weights: Mapping[str, Tensor], state: TrainState) -> None:
        save_policy(folder, self._description, weights, state)

    def _samples(self, split: str, *, draws: int, augment: bool) -> DemoDataset:
        return DemoDataset(
            self._plan.index,
            None,
            self._plan.config,
            self._image_size,
            self._description.normalisation,
            seed=self.seed,
            split=split,
            draws=draws,
            features=self._cache,
            augment=augment,
        )

    def _make_validation(self, processes: Processes, report: Report) -> ActionValidation | None:
        plan = self._plan
        if not plan.engine.validate_every:
            return None
        if not any(head.split == "valid" for _, head in plan.index.demos):
            report.note("nothing to validate on: no demonstration is in mask/valid")
            return None
        return ActionValidation(
            self.objective,
            self._samples("valid", draws=1, augment=False),
            self.collate,
            self._description.normalisation,
            plan.engine.validation_samples,
            micro_batches(plan.recipe, plan.engine, processes.world_size)[0],
            plan.data.workers,
            uses_bf16(plan.engine.precision, processes.device.type),
        )


def _features(
    plan: Plan, collate: ActionCollate, processes: Processes, request: StopRequest, report: Report
) -> tuple[FeatureCache | None, FrozenMu0 | None]:
    """Either a cache of all features, or the world model that makes them, or neither."""
    if plan.world is None:
        return None, None
    if plan.data.cache_features is None:
        return None, plan.world.load(plan.config, processes)
    folder, digest = Path(plan.data.cache_features), plan.world.checkpoint.digest
    cache = find_cache(folder, plan.index, plan.config, digest, collate.tokenizer)
    if cache is None:
        cache = build_cache(
            folder,
            plan.index,
            plan.config,
            functools.partial(plan.world.load, plan.config, processes),
            collate.tokenizer,
            digest=digest,
            report=report,
            should_stop=lambda: request.is_made,
        )
    return cache, None


def _model(plan: Plan, checkpoint: PolicyCheckpoint | None, state: TrainState) -> Head:
    widths = plan.world.widths if plan.world is not None else None
    if checkpoint is None:
        return build_head(plan.config, widths, plan.seed)
    model = checkpoint.build(widths)
    checkpoint.check_optimiser(state, {name: tuple(value.shape) for name, value in trained_parameters(model).items()})
    return model
