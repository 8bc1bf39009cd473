"""The training of μ0 from its first step, or from its last checkpoint, to its end (paper B.1, C.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tracekit.errors import BadDataError
from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.checkpoint import Checkpoint, build_with_frozen_parts, save, stored_weights
from tracekit.mu0.collate import Collate
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.corpus_index import CorpusIndex
from tracekit.mu0.cost import StepOperations, peak_operations
from tracekit.mu0.dataset import EvaluationDataset, TraceDataset
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.losses import loss_counts, losses
from tracekit.mu0.model import Forecast, Mu0
from tracekit.mu0.optimiser import optimiser
from tracekit.mu0.presets import build, load_pretrained_parts, tokenizer_of
from tracekit.mu0.recipe import Mu0Engine, Mu0Recipe
from tracekit.mu0.references import make_references
from tracekit.mu0.run_identity import identity
from tracekit.mu0.sampling_parameters import EvaluationParameters, SamplingParameters
from tracekit.mu0.sharding import shard
from tracekit.mu0.statistics import CorpusStatistics
from tracekit.mu0.validation import Validation
from tracekit.report import Report
from tracekit.training.loop import checkpoint_to_go_on_from, go_on, held_run, is_done, micro_batches
from tracekit.training.optimiser import trained_parameters
from tracekit.training.processes import Processes
from tracekit.training.recipe import uses_bf16
from tracekit.training.run_folder import RunFolder
from tracekit.training.shared_model import SharedModel
from tracekit.training.stop_signals import StopRequest
from tracekit.training.train_state import TrainState


@dataclass(frozen=True)
class Plan:
    """All that is decided before a training starts."""

    config: Mu0Config
    recipe: Mu0Recipe
    weights: LossWeights
    sampling: SamplingParameters
    engine: Mu0Engine
    corpora: Sequence[str]
    validation: Sequence[str] = ()
    """Corpora to validate on; else clips of `corpora` that are held out."""
    held_out: float = 0.0
    """Fraction of the clips."""
    videos: str | None = None
    """Folder of videos that are not where the corpora say."""
    seed: int = 0
    num_workers: int = 0
    download: bool = False


def pretrain(plan: Plan, run: RunFolder, processes: Processes, request: StopRequest, report: Report, *, force: bool = False) -> None:
    """Train to the end of the recipe, from the newest checkpoint of the same plan in `run` where there is one; with `force` always anew.

    Raises ResumableError when asked to stop, after a checkpoint; ConfigurationError when the run was started with another plan;
    BadDataError when a step is not finite, and for damaged checkpoints and corpora; StorageError when the disk or a GPU's memory is full.
    """
    with held_run(run, plan.recipe, plan.engine, processes):
        dataset = training_dataset(plan, report)
        known = identity(plan.config, plan.recipe, plan.weights, plan.sampling, plan.seed, _held_out(plan), dataset.index)
        latest = checkpoint_to_go_on_from(run, known, processes, force=force)
        checkpoint = Checkpoint(latest) if latest is not None else None
        state = checkpoint.train_state() if checkpoint is not None else TrainState(0)
        if is_done(state, latest, plan.recipe, report):
            return
        go_on(Mu0Learner(plan, dataset, checkpoint, state, processes, report), state, known, run, processes, request, report)


def training_dataset(plan: Plan, report: Report) -> TraceDataset:
    """The clips that are not held out."""
    part = "held-in" if _held_out(plan) else "all"
    return TraceDataset(
        plan.corpora, plan.config, plan.sampling, seed=plan.seed, part=part, held_out=_held_out(plan), videos=plan.videos, report=report
    )


def validation_dataset(plan: Plan, learnt: CorpusIndex, report: Report) -> EvaluationDataset | None:
    """The clips that are held out, or corpora of their own, thinned out; None when there are none of either.

    Raises BadDataError for corpora whose scales are not those of the samples that are `learnt`.
    """
    if not plan.engine.validate_every or not (plan.validation or _held_out(plan)):
        return None
    part = "all" if plan.validation else "held-out"
    try:
        dataset = EvaluationDataset(
            plan.validation or plan.corpora,
            plan.config,
            EvaluationParameters(num_keypoints=plan.sampling.max_keypoints),
            seed=plan.seed,
            part=part,
            held_out=0.0 if plan.validation else plan.held_out,
            videos=plan.videos,
        )
    except BadDataError as error:
        if plan.validation:
            raise
        report.note(f"nothing to validate on: {error.message}")
        return None
    for what in ("delta_scale", "depth_log_range"):
        one, other = getattr(learnt, what).tolist(), getattr(dataset.index, what).tolist()
        if one != other:
            raise BadDataError(
                f"{what} is {one} in {plan.corpora[0]} and {other} in {plan.validation[0]}",
                hint="corpora that one network is validated on share the scales of those that it learns from: `tracekit fit-bspline --scale FILE`",
            )
    dataset.index.thin_out(plan.engine.validation_samples)
    return dataset


def _held_out(plan: Plan) -> float:
    return 0.0 if plan.validation else plan.held_out


class Mu0Learner:
    """What the engine trains here (`tracekit.training.learner`)."""

    source = "clip"

    def __init__(
        self, plan: Plan, dataset: TraceDataset, checkpoint: Checkpoint | None, state: TrainState, processes: Processes, report: Report
    ) -> None:
        self._plan = plan
        self.recipe, self.engine, self.seed, self.num_workers = plan.recipe, plan.engine, plan.seed, plan.num_workers
        self.dataset = dataset
        self.collate = Collate(
            checkpoint.tokenizer(download=plan.download) if checkpoint else tokenizer_of(plan.config, download=plan.download)
        )
        model = _model(plan, checkpoint, state)
        self._references = {} if plan.engine.embed_frozen else make_references(model)
        bf16 = uses_bf16(plan.engine.precision, processes.device.type)
        if bf16 and not plan.engine.fsdp:
            store_frozen_as_bfloat16(model)
        model.to(processes.device).train()
        if plan.engine.gradient_checkpointing:
            model.vlm.gradient_checkpointing = model.expert.gradient_checkpointing = True
        self._operations, self._peak = StepOperations(model), peak_operations(processes.device)
        self._model = model
        self.shared = SharedModel(model, processes, shard=(lambda all_of_them: shard(model, all_of_them)) if plan.engine.fsdp else None)
        self.optimiser = optimiser(model, plan.recipe)
        self.validation = self._make_validation(processes, bf16, report)

    def begin(self, run: RunFolder) -> None:
        """Checkpoints are all that there is."""

    def prepared(self, batch: TraceBatch) -> TraceBatch:
        return batch

    def counts(self, batch: TraceBatch) -> Tensor:
        return loss_counts(batch)

    def losses(self, output: Forecast, batch: TraceBatch, counts: Tensor) -> dict[str, Tensor]:
        return losses(output, batch, self._plan.weights, counts).by_name()

    def speed(self, batches: Sequence[TraceBatch], seconds: float) -> dict[str, float | None]:
        operations = sum(map(self._operations, batches)) / seconds
        return {"teraflops": operations / 1e12, "mfu": operations / self._peak if self._peak else None}

    def weights(self) -> dict[str, Tensor]:
        return stored_weights(self._model, embed_frozen=not self._references)

    def save(self, folder: Path, weights: Mapping[str, Tensor], state: TrainState) -> None:
        statistics = corpus_statistics(self.dataset.index)
        tokenizer = self.collate.tokenizer
        save(folder, self._plan.config, weights, statistics, references=self._references, tokenizer=tokenizer, train_state=state)

    def _make_validation(self, processes: Processes, bf16: bool, report: Report) -> Validation | None:
        plan = self._plan
        dataset = validation_dataset(plan, self.dataset.index, report)
        if dataset is not None and len(dataset) < processes.world_size:
            report.note(f"no validation: there are {len(dataset)} samples for {processes.world_size} processes")
            dataset = None
        if dataset is None:
            return None
        size = micro_batches(plan.recipe, plan.engine, processes.world_size)[0]
        return Validation(plan.config, dataset, self.collate, plan.weights, plan.engine.validation_draws, size, plan.num_workers, bf16)


def _model(plan: Plan, checkpoint: Checkpoint | None, state: TrainState) -> Mu0:
    if checkpoint is None:
        model = build(plan.config, plan.seed)
        load_pretrained_parts(model, download=plan.download)
        return model
    model = build_with_frozen_parts(checkpoint, vlm=plan.config.vlm_source, dino=plan.config.dino_source, download=plan.download)
    checkpoint.put_weights(model)
    checkpoint.check_optimiser(state, {name: tuple(value.shape) for name, value in trained_parameters(model).items()})
    return model


def corpus_statistics(index: CorpusIndex) -> CorpusStatistics:
    """What goes into checkpoints of the corpora, which share it."""
    head = index.heads[0]
    delta, depth = head.delta_scale.tolist(), head.depth_log_range.tolist()
    return CorpusStatistics(
        (delta[0], delta[1], delta[2]), (depth[0], depth[1]), float(head.stride_seconds), bool(head.retargeted), bool(head.metric)
    )


def store_frozen_as_bfloat16(model: Mu0) -> None:
    """Half the memory for what only takes part in bfloat16 products. What is trained stays in float32."""
    for value in model.parameters():
        if not value.requires_grad:
            value.data = value.data.to(torch.bfloat16)
