"""A training from its first step, or from its last checkpoint, to its end: steps, log, validation, checkpoints, requests to stop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tracekit.errors import ConfigurationError, ResumableError
from tracekit.report import Report
from tracekit.training.learner import Batch, Learner
from tracekit.training.loader import loader
from tracekit.training.processes import Processes
from tracekit.training.recipe import EngineParameters, Recipe, uses_bf16
from tracekit.training.run_folder import RunFolder
from tracekit.training.run_identity import differences
from tracekit.training.run_log import RunLog, check_log_packages
from tracekit.training.shared_model import optimiser_tensors, put_optimiser_tensors, whole
from tracekit.training.stop_signals import StopRequest
from tracekit.training.stopwatch import Stopwatch
from tracekit.training.train_state import TrainState, score_of
from tracekit.training.train_step import Stepper, StepResult


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


@contextlib.contextmanager
def held_run(run: RunFolder, recipe: Recipe, engine: EngineParameters, processes: Processes) -> Iterator[None]:
    """Within the block the folder of the run is there and nobody else's.

    Raises UnavailableError for packages that the log needs, ConfigurationError for a batch that cannot be shared, and as `RunFolder.create`.
    """
    check_log_packages(engine)
    micro_batches(recipe, engine, processes.world_size)
    processes.first_does(run.create)
    try:
        yield
    finally:
        run.release()


def checkpoint_to_go_on_from(run: RunFolder, known: dict[str, Any], processes: Processes, *, force: bool) -> Path | None:
    """None with `force`, and where a start was killed before its first checkpoint.

    Raises ConfigurationError when the run was started with another configuration than is `known` now.
    """
    return processes.first_does(lambda: _latest(run, known, force=force))


def is_done(state: TrainState, checkpoint: Path | None, recipe: Recipe, report: Report) -> bool:
    """Whether nothing is left to do."""
    if state.step >= recipe.steps:
        report.note(f"all {recipe.steps} steps are done: {checkpoint}")
    return state.step >= recipe.steps


def go_on(
    learner: Learner, state: TrainState, known: dict[str, Any], run: RunFolder, processes: Processes, request: StopRequest, report: Report
) -> None:
    """Train to the last step; from step 0 what an earlier run left in the folder goes first.

    Raises ResumableError when asked to stop, after a checkpoint; BadDataError when a step is not finite; StorageError when the disk or a GPU's
    memory is full.
    """
    if state.step:
        report.note(f"goes on after step {state.step} of {learner.recipe.steps}")

    def begin() -> None:
        if not state.step:
            run.clear()
            run.remember(known)
        learner.begin(run)

    processes.first_does(begin)
    loop = _Loop(learner, state, known, run, processes, request, report)
    try:
        loop.go_on()
    finally:
        loop.close()


def _latest(run: RunFolder, known: dict[str, Any], *, force: bool) -> Path | None:
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


class _Loop:
    """Steps, and what happens between them."""

    def __init__(
        self,
        learner: Learner,
        state: TrainState,
        known: dict[str, Any],
        run: RunFolder,
        processes: Processes,
        request: StopRequest,
        report: Report,
    ) -> None:
        self._learner, self._run, self._processes, self._request, self._report = learner, run, processes, request, report
        self._recipe, self._engine = learner.recipe, learner.engine
        self._size, self._parts = micro_batches(learner.recipe, learner.engine, processes.world_size)
        if state.step:
            put_optimiser_tensors(learner.optimiser, learner.shared.model, state.optimiser)
        bf16 = uses_bf16(self._engine.precision, processes.device.type)
        self._stepper = Stepper(learner.shared, learner.optimiser, self._recipe, learner, processes, bf16=bf16, seed=learner.seed)
        self._step = self._start = state.step
        self._scores = processes.first_does(lambda: _scores(run))
        self._log: RunLog | None = None
        processes.first_does(lambda: self._open_log(known))

    def go_on(self) -> None:
        """To the last step."""
        engine, watch = self._engine, Stopwatch(self._processes.device)
        flag = torch.tensor([float(self._request.is_made)], device=self._processes.device)
        if self._processes.sum(flag).item():
            raise self._stopped()
        batches = self._batches()
        while self._step < self._recipe.steps:
            watch.start()
            parts = list(islice(batches, self._parts))
            result = self._stepper(self._step + 1, parts, watch, lambda: self._request.is_made, self._names)
            self._step += 1
            if self._step % engine.log_every == 0:
                self._record(result, parts, watch.seconds())
            score = self._validate() if self._is_time_to(engine.validate_every) else None
            stops = result.somebody_asked_to_stop or self._step - self._start == engine.stop_after
            if stops or self._is_time_to(engine.save_every) or self._is_among_the_best(score):
                self._save(score)
            if stops and self._step < self._recipe.steps:
                raise self._stopped()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _open_log(self, known: dict[str, Any]) -> None:
        self._log = RunLog(self._run, self._engine, self._step, known)

    def _is_time_to(self, every: int) -> bool:
        return bool(every) and (self._step % every == 0 or self._step == self._recipe.steps)

    def _stopped(self) -> ResumableError:
        why = f"by {self._request.name} " if self._request.name else ""
        return ResumableError(f"stopped {why}after step {self._step} of {self._recipe.steps}", hint="run the same command again")

    def _batches(self) -> Iterator[Batch]:
        recipe, processes, learner = self._recipe, self._processes, self._learner
        return loader(
            learner.dataset,
            learner.collate,
            self._size * processes.world_size,
            start=self._step * recipe.batch_size,
            stop=recipe.steps * recipe.batch_size,
            num_workers=learner.num_workers,
            rank=processes.rank,
            world_size=processes.world_size,
            pin_memory=processes.device.type == "cuda",
        )

    def _names(self, positions: Sequence[int]) -> list[str]:
        return [f"{self._learner.source} {name}, frame {frame}" for name, frame in map(self._learner.dataset.origin, positions)]

    def _record(self, result: StepResult, parts: Sequence[Batch], seconds: dict[str, float]) -> None:
        if self._log is None:
            return
        recipe, total = self._recipe, sum(seconds.values())
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
                **self._learner.speed(parts, total),
            },
        )
        self._report.progress(self._step, recipe.steps, "steps")
        self._report.describe(f"loss {result.terms['loss']:.4g}, {rate:.3g} samples/s")

    def _validate(self) -> float | None:
        validation = self._learner.validation
        if validation is None:
            return None
        figures = validation(self._learner.shared, self._processes)
        score, metric = validation.score(figures), validation.metric
        if self._log is not None:
            self._log.write(self._step, {"validation": figures})
        self._report.note(f"step {self._step}: validation loss {figures['loss']:.4g}, {metric} {figures.get(metric, float('nan')):.4g}")
        if score is None:
            self._report.note(f"step {self._step}: the validation is not finite and counts for nothing; a lower --learning-rate may help")
        return score

    def _is_among_the_best(self, score: float | None) -> bool:
        better = [other for other in self._scores.values() if score is not None and other <= score]
        return score is not None and len(better) < self._engine.keep_best

    def _save(self, score: float | None) -> None:
        """All processes put the weights together, the first writes."""
        learner, engine = self._learner, self._engine
        weights = {name: whole(value) for name, value in learner.weights().items()}
        state = TrainState(self._step, score, optimiser_tensors(learner.optimiser, learner.shared.model))

        def write() -> dict[int, float]:
            assert self._log is not None
            self._log.sync()
            learner.save(self._run.step_folder(self._step), weights, state)
            scores = _scores(self._run)
            self._run.point(scores, learner.validation.metric if learner.validation else "")
            self._run.prune(scores, engine.keep_last, engine.keep_best)
            return _scores(self._run)

        self._scores = self._processes.first_does(write)


def _scores(run: RunFolder) -> dict[int, float]:
    """Validation scores of the checkpoints that there are."""
    scores = {step: score_of(folder) for step, folder in run.steps().items()}
    return {step: score for step, score in scores.items() if score is not None}
