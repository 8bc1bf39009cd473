"""One optimiser step: the gradient of a global batch, however it is cut into micro-batches and processes, and what may go wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tracekit.errors import BadDataError, StorageError
from tracekit.training.learner import Batch, Objective
from tracekit.training.optimiser import learning_rate, set_learning_rate, trained_parameters
from tracekit.training.processes import Processes
from tracekit.training.recipe import Recipe
from tracekit.training.shared_model import SharedModel
from tracekit.training.stopwatch import Stopwatch

_MOST_NAMES_IN_A_MESSAGE = 24


@dataclass(frozen=True)
class StepResult:
    """What is logged of a step."""

    terms: dict[str, float]
    """Of the global batch, as the objective names them."""
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
        objective: Objective,
        processes: Processes,
        *,
        bf16: bool,
        seed: int,
    ) -> None:
        self._model, self._optimiser = model, optimiser
        self._trained = list(trained_parameters(model.model).values())
        self._recipe, self._objective = recipe, objective
        self._processes, self._bf16, self._seed = processes, bf16, seed

    def __call__(
        self,
        step: int,
        batches: Sequence[Batch],
        watch: Stopwatch,
        asked_to_stop: Callable[[], bool],
        names: Callable[[Sequence[int]], list[str]],
    ) -> StepResult:
        """Step 1, 2, ... from this process' micro-batches. `names` says what positions are of.

        Raises BadDataError naming step, positions and what they are of when the loss or a gradient is not finite, before anything has changed;
        StorageError when the memory of the device does not suffice.
        """
        with explained_exhaustion(batches):
            batches = [batch.to(self._processes.device) for batch in batches]
            watch.lap("data")
            # Whatever draws in a network is the same when this step is done again.
            torch.manual_seed(self._seed * 1_000_003 + step)
            counts = self._processes.sum(torch.stack([self._objective.counts(batch) for batch in batches]).sum(dim=0))
            parts = [self._backward(batch, counts, watch, is_last=batch is batches[-1]) for batch in batches]
            sums = [stacked(part) for part in parts]
            stop = torch.tensor([float(asked_to_stop())], device=counts.device)
            *values, num_stops = self._processes.sum(torch.cat([torch.stack(sums).sum(dim=0), stop])).tolist()
            terms = dict(zip(parts[0], values, strict=True))
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

    def _backward(self, batch: Batch, counts: Tensor, watch: Stopwatch, *, is_last: bool) -> dict[str, Tensor]:
        """Add a micro-batch's gradient. Returns its part of the terms."""
        with self._model.gradients(is_last=is_last):
            with autocast(self._processes.device, self._bf16):
                batch = self._objective.prepared(batch)
                output = self._model(batch)
            terms = self._objective.losses(output, batch, counts)
            watch.lap("forward")
            # Gradients are averaged over processes, but the loss is already over the count of all.
            (terms["loss"] * self._processes.world_size).backward()
            watch.lap("backward")
        return {name: value.detach() for name, value in terms.items()}

    def _gradient_norm(self) -> Tensor:
        norm = torch.nn.utils.get_total_norm([value.grad for value in self._trained if value.grad is not None])
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _not_finite(
        self,
        step: int,
        terms: dict[str, float],
        norm: float,
        batches: Sequence[Batch],
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
        origins = list(dict.fromkeys(names(positions)))
        figures = ", ".join(f"{name} {value:.4g}" for name, value in {**terms, "gradient norm": norm}.items())
        return BadDataError(
            f"step {step} is not finite ({figures}); nothing was changed by it. Positions: {_listed(positions)}; of: {_listed(origins)}",
            hint="the last checkpoint is as it was. Look at these samples; a lower --learning-rate, or --precision fp32, may help",
        )


def stacked(terms: Mapping[str, Tensor]) -> Tensor:
    """(n,) values of n terms in their order, without gradient."""
    return torch.stack(list(terms.values())).detach()


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """Products in bfloat16 where that is wanted; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


@contextlib.contextmanager
def explained_exhaustion(batches: Sequence[Batch]) -> Iterator[None]:
    """Raise StorageError, which says what to set, where the memory of the GPU does not hold one of the micro-batches."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        size, (number, what) = max(len(batch) for batch in batches), max(batch.extent for batch in batches)
        raise StorageError(
            f"the GPU's memory does not hold {size} samples of {number} {what} at a time ({str(error).splitlines()[0]})",
            hint=f"in this order: --micro-batch {max(1, size // 2)} (the same batch in more parts), {batches[0].takes_less_memory}",
        ) from error


def _is_finite(value: float) -> bool:
    return value - value == 0.0


def _listed(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:_MOST_NAMES_IN_A_MESSAGE]))
    return shown + (f" and {len(values) - _MOST_NAMES_IN_A_MESSAGE} more" if len(values) > _MOST_NAMES_IN_A_MESSAGE else "")
