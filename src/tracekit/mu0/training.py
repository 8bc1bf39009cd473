"""The training of μ0 from its first step, or from its last checkpoint, to its end (paper B.1, C.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from tracekit.errors import BadDataError, ConfigurationError, MissingInputError, ResumableError
from tracekit.format.json_file import read_json
from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.checkpoint import Checkpoint, TrainState, build_with_frozen_parts, save, stored_weights
from tracekit.mu0.collate import Collate
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.corpus_index import CorpusIndex
from tracekit.mu0.cost import StepOperations, peak_operations
from tracekit.mu0.dataset import EvaluationDataset, TraceDataset
from tracekit.mu0.loader import loader
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.model import Mu0
from tracekit.mu0.presets import build, load_pretrained_parts, tokenizer_of
from tracekit.mu0.references import make_references
from tracekit.mu0.run_identity import differences, identity
from tracekit.mu0.sampling_parameters import EvaluationParameters, SamplingParameters
from tracekit.mu0.statistics import CorpusStatistics
from tracekit.mu0.validation import Validation
from tracekit.report import Report
from tracekit.training.optimiser import optimiser, trained_parameters
from tracekit.training.processes import Processes
from tracekit.training.recipe import EngineParameters, Recipe, uses_bf16
from tracekit.training.run_folder import RunFolder
from tracekit.training.run_log import RunLog, check_log_packages
from tracekit.training.shared_model import SharedModel, optimiser_tensors, put_optimiser_tensors, whole
from tracekit.training.stop_signals import StopRequest
from tracekit.training.stopwatch import Stopwatch
from tracekit.training.train_step import Stepper, StepResult


@dataclass(frozen=True)
class Plan:
    """All that is decided before a training starts."""

    config: Mu0Config
    recipe: Recipe
    weights: LossWeights
    sampling: SamplingParameters
    engine: EngineParameters
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


def micro_batches(recipe: Recipe, engine: EngineParameters, num_processes: int) -> tuple[int, int]:
    """Samples that a process computes at a time, `engine.micro_batch` at most, and how often it does so in a step.

    Raises ConfigurationError when processes cannot share a batch evenly.
    """
    if recipe.batch_size % num_processes:
        raise ConfigurationError(
            f"a batch of {recipe.batch_size} samples cannot be shared by {num_processes} processes evenly",
            hint=f"--batch-size: a multiple of {num_processes}",
        )
    share = recipe.batch_size // num_processes
    size = max(size for size in range(1, min(share, engine.micro_batch) + 1) if share % size == 0)
    return size, share // size


def pretrain(plan: Plan, run: RunFolder, processes: Processes, request: StopRequest, report: Report, *, force: bool = False) -> None:
    """Train to the end of the recipe, from the newest checkpoint of the same plan in `run` where there is one; with `force` always anew.

    Raises ResumableError when asked to stop, after a checkpoint; ConfigurationError when the run was started with another plan;
    BadDataError when a step is not finite, and for damaged checkpoints and corpora; StorageError when the disk or a GPU's memory is full.
    """
    check_log_packages(plan.engine)
    micro_batches(plan.recipe, plan.engine, processes.world_size)
    processes.first_does(run.create)
    try:
        _go_on(plan, run, processes, request, report, force=force)
    finally:
        run.release()


def _go_on(plan: Plan, run: RunFolder, processes: Processes, request: StopRequest, report: Report, *, force: bool) -> None:
    dataset = training_dataset(plan, report)
    known = identity(plan.config, plan.recipe, plan.weights, plan.sampling, plan.seed, _held_out(plan), dataset.index)
    latest = processes.first_does(lambda: _latest(run, known, force=force))
    checkpoint = Checkpoint(latest) if latest is not None else None
    if checkpoint is not None and checkpoint.train_state().step >= plan.recipe.steps:
        report.note(f"all {plan.recipe.steps} steps are done: {checkpoint.folder}")
        return
    tokenizer = checkpoint.tokenizer(download=plan.download) if checkpoint else tokenizer_of(plan.config, download=plan.download)
    collate = Collate(tokenizer)
    model, state = _model(plan, checkpoint)
    if checkpoint is None:
        processes.first_does(lambda: _begin(run, known))
    else:
        report.note(f"goes on after step {state.step} of {plan.recipe.steps}")
    training = _Training(plan, run, processes, request, report, model, state, dataset, collate, known)
    try:
        training.go_on()
    finally:
        training.close()


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


def _latest(run: RunFolder, known: dict[str, Any], *, force: bool) -> Any:
    """The checkpoint to go on from. With `force`, or where a start was killed before its first checkpoint, none."""
    last = run.last()
    if last is None or force:
        return None
    remembered = run.remembered()
    different = differences(remembered, known) if isinstance(remembered, dict) else ["its configuration is lost"]
    if different:
        raise ConfigurationError(
            f"{run.path} holds a run of another configuration: " + "; ".join(different),
            hint="another -o, or --force to remove that run and start anew",
        )
    return last


def _begin(run: RunFolder, known: dict[str, Any]) -> None:
    run.clear()
    run.remember(known)


def _model(plan: Plan, checkpoint: Checkpoint | None) -> tuple[Mu0, TrainState]:
    if checkpoint is None:
        model = build(plan.config, plan.seed)
        load_pretrained_parts(model, download=plan.download)
        return model, TrainState(0)
    model = build_with_frozen_parts(checkpoint, vlm=plan.config.vlm_source, dino=plan.config.dino_source, download=plan.download)
    checkpoint.put_weights(model)
    state = checkpoint.train_state()
    checkpoint.check_optimiser(state, {name: tuple(value.shape) for name, value in trained_parameters(model).items()})
    return model, state


class _Training:
    """Steps, and what happens between them."""

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        processes: Processes,
        request: StopRequest,
        report: Report,
        model: Mu0,
        state: TrainState,
        dataset: TraceDataset,
        collate: Collate,
        known: dict[str, Any],
    ) -> None:
        self._plan, self._run, self._processes, self._request, self._report = plan, run, processes, request, report
        self._dataset, self._collate = dataset, collate
        self._size, self._parts = micro_batches(plan.recipe, plan.engine, processes.world_size)
        bf16 = uses_bf16(plan.engine.precision, processes.device.type)
        self._references = {} if plan.engine.embed_frozen else make_references(model)
        if bf16 and not plan.engine.fsdp:
            store_frozen_as_bfloat16(model)
        model.to(processes.device).train()
        if plan.engine.gradient_checkpointing:
            model.vlm.gradient_checkpointing = model.expert.gradient_checkpointing = True
        self._operations, self._peak = StepOperations(model), peak_operations(processes.device)
        self._model = SharedModel(model, processes, fsdp=plan.engine.fsdp)
        self._optimiser = optimiser(model, plan.recipe)
        if state.step:
            put_optimiser_tensors(self._optimiser, model, state.optimiser)
        self._stepper = Stepper(self._model, self._optimiser, plan.recipe, plan.weights, processes, bf16=bf16, seed=plan.seed)
        self._validation = self._make_validation(bf16)
        self._step = self._start = state.step
        self._scores = processes.first_does(lambda: _scores(run))
        self._log: RunLog | None = None
        processes.first_does(lambda: self._open_log(known))

    def go_on(self) -> None:
        """To the last step."""
        plan, watch = self._plan, Stopwatch(self._processes.device)
        flag = torch.tensor([float(self._request.is_made)], device=self._processes.device)
        if self._processes.sum(flag).item():
            raise self._stopped()
        batches = self._batches()
        while self._step < plan.recipe.steps:
            watch.start()
            parts = list(islice(batches, self._parts))
            result = self._stepper(self._step + 1, parts, watch, lambda: self._request.is_made, self._names)
            self._step += 1
            if self._step % plan.engine.log_every == 0:
                self._record(result, parts, watch.seconds())
            score = self._validate() if self._is_time_to(plan.engine.validate_every) else None
            stops = result.somebody_asked_to_stop or self._step - self._start == plan.engine.stop_after
            if stops or self._is_time_to(plan.engine.save_every) or self._is_among_the_best(score):
                self._save(score)
            if stops and self._step < plan.recipe.steps:
                raise self._stopped()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _open_log(self, known: dict[str, Any]) -> None:
        self._log = RunLog(self._run, self._plan.engine, self._step, known)

    def _is_time_to(self, every: int) -> bool:
        return bool(every) and (self._step % every == 0 or self._step == self._plan.recipe.steps)

    def _stopped(self) -> ResumableError:
        why = f"by {self._request.name} " if self._request.name else ""
        return ResumableError(f"stopped {why}after step {self._step} of {self._plan.recipe.steps}", hint="run the same command again")

    def _batches(self) -> Iterator[TraceBatch]:
        recipe, processes = self._plan.recipe, self._processes
        return loader(
            self._dataset,
            self._collate,
            self._size * processes.world_size,
            start=self._step * recipe.batch_size,
            stop=recipe.steps * recipe.batch_size,
            num_workers=self._plan.num_workers,
            rank=processes.rank,
            world_size=processes.world_size,
            pin_memory=processes.device.type == "cuda",
        )

    def _names(self, positions: Sequence[int]) -> list[str]:
        return [f"clip {clip}, frame {frame}" for clip, frame in map(self._dataset.origin, positions)]

    def _make_validation(self, bf16: bool) -> Validation | None:
        dataset = validation_dataset(self._plan, self._dataset.index, self._report)
        if dataset is not None and len(dataset) < self._processes.world_size:
            self._report.note(f"no validation: there are {len(dataset)} samples for {self._processes.world_size} processes")
            dataset = None
        if dataset is None:
            return None
        plan = self._plan
        return Validation(
            plan.config, dataset, self._collate, plan.weights, plan.engine.validation_draws, self._size, plan.num_workers, bf16
        )

    def _record(self, result: StepResult, parts: Sequence[TraceBatch], seconds: dict[str, float]) -> None:
        if self._log is None:
            return
        recipe, total = self._plan.recipe, sum(seconds.values())
        operations = sum(map(self._operations, parts)) / total
        rate = recipe.batch_size / total
        self._log.write(
            self._step,
            {
                **result.terms,
                "learning_rate": result.learning_rate,
                "gradient_norm": result.gradient_norm,
                "samples": self._step * recipe.batch_size,
                "seconds": seconds,
                "samples_per_second": rate,
                "teraflops": operations / 1e12,
                "mfu": operations / self._peak if self._peak else None,
            },
        )
        self._report.progress(self._step, recipe.steps, "steps")
        self._report.describe(f"loss {result.terms['loss']:.4g}, {rate:.3g} samples/s")

    def _validate(self) -> float | None:
        if self._validation is None:
            return None
        figures = self._validation(self._model, self._processes)
        score, metric = self._validation.score(figures), self._validation.metric
        if self._log is not None:
            self._log.write(self._step, {"validation": figures})
        self._report.note(f"step {self._step}: validation loss {figures['loss']:.4g}, {metric} {figures.get(metric, float('nan')):.4g}")
        if score is None:
            self._report.note(f"step {self._step}: the validation is not finite and counts for nothing; a lower --learning-rate may help")
        return score

    def _is_among_the_best(self, score: float | None) -> bool:
        better = [other for other in self._scores.values() if score is not None and other <= score]
        return score is not None and len(better) < self._plan.engine.keep_best

    def _save(self, score: float | None) -> None:
        """All processes put the weights together, the first writes."""
        model, engine = self._model.model, self._plan.engine
        weights = {name: whole(value) for name, value in stored_weights(model, embed_frozen=not self._references).items()}
        state = TrainState(self._step, score, optimiser_tensors(self._optimiser, model))

        def write() -> dict[int, float]:
            assert self._log is not None
            self._log.sync()
            folder = self._run.step_folder(self._step)
            statistics = corpus_statistics(self._dataset.index)
            tokenizer = self._collate.tokenizer
            save(folder, self._plan.config, weights, statistics, references=self._references, tokenizer=tokenizer, train_state=state)
            scores = _scores(self._run)
            self._run.point(scores, self._validation.metric if self._validation else "")
            self._run.prune(scores, engine.keep_last, engine.keep_best)
            return _scores(self._run)

        self._scores = self._processes.first_does(write)


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


def _scores(run: RunFolder) -> dict[int, float]:
    """Validation scores of the checkpoints that there are."""
    result = {}
    for step, folder in run.steps().items():
        try:
            score = read_json(folder / "train_state" / "state.json")["score"]
        except (OSError, BadDataError, MissingInputError, KeyError, TypeError):
            continue  # a damaged checkpoint is nobody's best
        if isinstance(score, float):
            result[step] = score
    return result
