"""One optimiser step: the gradient of a global batch, however it is cut into micro-batches and processes, and what may go wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tracekit.errors import BadDataError, StorageError
from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.losses import Losses, loss_counts, losses
from tracekit.training.optimiser import learning_rate, set_learning_rate, trained_parameters
from tracekit.training.processes import Processes
from tracekit.training.recipe import Recipe
from tracekit.training.shared_model import SharedModel
from tracekit.training.stopwatch import Stopwatch

TERMS = ("loss", "flow", "done", "rigidity")
_MOST_NAMES_IN_A_MESSAGE = 24


@dataclass(frozen=True)
class StepResult:
    """What is logged of a step."""

    terms: dict[str, float]
    """Of the global batch, by TERMS."""
    gradient_norm: float
    """Before it was clipped."""
    learning_rate: float
    somebody_asked_to_stop: bool


class Stepper:
    """Does steps. What is in `model` and `optimiser` changes only by whole, finite steps."""

    def __init__(
        self,
        model: SharedModel,
        optimiser: torch.optim.Optimizer,
        recipe: Recipe,
        weights: LossWeights,
        processes: Processes,
        *,
        bf16: bool,
        seed: int,
    ) -> None:
        self._model, self._optimiser = model, optimiser
        self._trained = list(trained_parameters(model.model).values())
        self._recipe, self._weights = recipe, weights
        self._processes, self._bf16, self._seed = processes, bf16, seed

    def __call__(
        self,
        step: int,
        batches: Sequence[TraceBatch],
        watch: Stopwatch,
        asked_to_stop: Callable[[], bool],
        names: Callable[[Sequence[int]], list[str]],
    ) -> StepResult:
        """Step 1, 2, ... from this process' micro-batches. `names` says which clips positions are of.

        Raises BadDataError naming step, positions and clips when the loss or a gradient is not finite, before anything has changed;
        StorageError when the memory of the device does not suffice.
        """
        with explained_exhaustion(batches):
            batches = [batch.to(self._processes.device) for batch in batches]
            watch.lap("data")
            # Whatever draws in a network is the same when this step is done again.
            torch.manual_seed(self._seed * 1_000_003 + step)
            counts = self._processes.sum(torch.stack([loss_counts(batch) for batch in batches]).sum(dim=0))
            sums = [self._backward(batch, counts, watch, is_last=batch is batches[-1]) for batch in batches]
            stop = torch.tensor([float(asked_to_stop())], device=counts.device)
            *values, num_stops = self._processes.sum(torch.cat([torch.stack(sums).sum(dim=0), stop])).tolist()
            terms = dict(zip(TERMS, values, strict=True))
            total_norm = self._gradient_norm()
            norm = float(total_norm)
            if not all(map(_is_finite, [*values, norm])):
                self._optimiser.zero_grad(set_to_none=True)
                raise self._not_finite(step, terms, norm, batches, sums, names)
            rate = learning_rate(step, self._recipe)
            set_learning_rate(self._optimiser, rate)
            if self._recipe.clip_norm:
                torch.nn.utils.clip_grads_with_norm_(self._trained, self._recipe.clip_norm, total_norm)
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
            watch.lap("step")
        return StepResult(terms, norm, rate, num_stops > 0)

    def _backward(self, batch: TraceBatch, counts: Tensor, watch: Stopwatch, *, is_last: bool) -> Tensor:
        """Add a micro-batch's gradient. Returns its part of the TERMS."""
        with self._model.gradients(is_last=is_last):
            with autocast(self._processes.device, self._bf16):
                forecast = self._model(batch)
            terms = losses(forecast, batch, self._weights, counts)
            watch.lap("forward")
            # Gradients are averaged over processes, but the loss is already over the count of all.
            (terms.total * self._processes.world_size).backward()
            watch.lap("backward")
        return stacked(terms)

    def _gradient_norm(self) -> Tensor:
        norm = torch.nn.utils.get_total_norm([value.grad for value in self._trained if value.grad is not None])
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _not_finite(
        self,
        step: int,
        terms: dict[str, float],
        norm: float,
        batches: Sequence[TraceBatch],
        sums: Sequence[Tensor],
        names: Callable[[Sequence[int]], list[str]],
    ) -> BadDataError:
        """Names the samples of the micro-batches whose loss is not finite, or all of the step when only the gradient is not."""
        guilty = [batch for batch, part in zip(batches, sums, strict=True) if not bool(part.isfinite().all())]
        mine = [int(position) for batch in guilty for position in batch.position]
        positions = [position for part in self._processes.gather(mine) for position in part]
        if not positions:
            everybody = self._processes.gather([int(position) for batch in batches for position in batch.position])
            positions = [position for part in everybody for position in part]
        clips = list(dict.fromkeys(names(positions)))
        figures = ", ".join(f"{name} {value:.4g}" for name, value in {**terms, "gradient norm": norm}.items())
        return BadDataError(
            f"step {step} is not finite ({figures}); nothing was changed by it. Positions: {_listed(positions)}; of: {_listed(clips)}",
            hint="the last checkpoint is as it was. Look at these samples; a lower --learning-rate, or --precision fp32, may help",
        )


def stacked(terms: Losses) -> Tensor:
    """(4,) by TERMS, without gradient."""
    return torch.stack([terms.total, terms.flow, terms.done, terms.rigidity]).detach()


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """Products in bfloat16 where that is wanted; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


@contextlib.contextmanager
def explained_exhaustion(batches: Sequence[TraceBatch]) -> Iterator[None]:
    """Raise StorageError, which says what to set, where the memory of the GPU does not hold one of the micro-batches."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        size, keypoints = max(len(batch) for batch in batches), max(batch.present.shape[1] for batch in batches)
        raise StorageError(
            f"the GPU's memory does not hold {size} samples of {keypoints} keypoints at a time ({str(error).splitlines()[0]})",
            hint=f"in this order: --micro-batch {max(1, size // 2)} (the same batch in more parts), --gradient-checkpointing,"
            " --fsdp with several GPUs, --max-keypoints",
        ) from error


def _is_finite(value: float) -> bool:
    return value - value == 0.0


def _listed(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:_MOST_NAMES_IN_A_MESSAGE]))
    return shown + (f" and {len(values) - _MOST_NAMES_IN_A_MESSAGE} more" if len(values) > _MOST_NAMES_IN_A_MESSAGE else "")
