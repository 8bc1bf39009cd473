"""What the engine asks of whatever it trains: μ0 on a corpus, or an action expert on demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from tracekit.training.loader import Samples
from tracekit.training.processes import Processes
from tracekit.training.recipe import EngineParameters, Recipe
from tracekit.training.run_folder import RunFolder
from tracekit.training.shared_model import SharedModel
from tracekit.training.train_state import TrainState

B = TypeVar("B", bound="Batch")


class Batch(Protocol):
    """Samples as tensors. Everything that is random was drawn with them: a batch alone decides the loss."""

    takes_less_memory: ClassVar[str]
    """Options of the command that help where a GPU is full, besides a smaller micro-batch."""

    @property
    def position(self) -> Tensor:
        """(B,) int64: number of each sample in the order of training."""
        ...

    @property
    def extent(self) -> tuple[int, str]:
        """What a sample's share of the memory goes with: (9, "keypoints")."""
        ...

    def to(self: B, device: torch.device | str) -> B: ...

    def __len__(self) -> int: ...


class Objective(Protocol):
    """What is minimised. Terms are sums over counts of the global batch: however it is cut, the loss and its gradient are the same."""

    def counts(self, batch: Any) -> Tensor:
        """(n,) float32, which may be added up over micro-batches and processes."""
        ...

    def prepared(self, batch: Any) -> Any:
        """The batch with what comes before the trained network, or as it is."""
        ...

    def losses(self, output: Any, batch: Any, counts: Tensor) -> Mapping[str, Tensor]:
        """Terms of the log, scalars, of the network's output for a batch; "loss", the first, is what gradients are of."""
        ...


class Validation(Protocol):
    """How well a network does on what it does not learn from."""

    @property
    def metric(self) -> str:
        """The figure by which checkpoints are compared; less is better."""
        ...

    def __call__(self, shared: SharedModel, processes: Processes) -> Mapping[str, float]:
        """Figures by name, "loss" among them. All processes take part, and all learn them."""
        ...

    def score(self, figures: Mapping[str, float]) -> float | None:
        """What `metric` says; None where it or the loss is not finite."""
        ...


class Dataset(Samples[Any], Protocol):
    """Samples in the order of training."""

    def origin(self, position: int) -> tuple[str, int]:
        """What a sample is of, and which frame."""
        ...


class Learner(Objective, Protocol):
    """A network that is on its device, shared with the other processes, and all that belongs to its training."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def engine(self) -> EngineParameters: ...

    @property
    def seed(self) -> int: ...

    @property
    def num_workers(self) -> int: ...

    @property
    def source(self) -> str:
        """What samples are of: "clip" or "demonstration"."""
        ...

    @property
    def shared(self) -> SharedModel: ...

    @property
    def optimiser(self) -> torch.optim.Optimizer: ...

    @property
    def dataset(self) -> Dataset: ...

    @property
    def collate(self) -> Callable[[Sequence[Any]], Any]: ...

    @property
    def validation(self) -> Validation | None: ...

    def begin(self, run: RunFolder) -> None:
        """Put into the folder of a run what belongs there besides checkpoints. The first process alone does it, at every start."""
        ...

    def speed(self, batches: Sequence[Any], seconds: float) -> Mapping[str, float | None]:
        """Figures of the log about the step of these micro-batches."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """What goes into a checkpoint."""
        ...

    def save(self, folder: Path, weights: Mapping[str, Tensor], state: TrainState) -> None:
        """Write a checkpoint as a new folder."""
        ...
