"""How well an action expert does on demonstrations that it does not learn from: the loss, and sampled chunks against what was done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracekit.action.batch import ActionBatch
from tracekit.action.collate import ActionCollate
from tracekit.action.dataset import DemoDataset
from tracekit.action.normalisation import Normalisation
from tracekit.action.objective import ActionObjective
from tracekit.training.loader import loader
from tracekit.training.processes import Processes
from tracekit.training.shared_model import SharedModel
from tracekit.training.train_step import autocast


@dataclass(frozen=True)
class ActionValidation:
    """The same frames, noise and flow times each time: those of the first positions of the dataset."""

    objective: ActionObjective
    dataset: DemoDataset
    collate: ActionCollate
    normalisation: Normalisation
    num_samples: int
    micro_batch: int
    num_workers: int
    bf16: bool

    metric = "action_l1"

    def __call__(self, shared: SharedModel, processes: Processes) -> dict[str, float]:
        """ "loss", and "action_l1": mean absolute error of the actions of sampled chunks, in the robot's own units."""
        model: Any = shared.model
        model.eval()
        try:
            with torch.no_grad(), autocast(processes.device, self.bf16):
                return self._measure(model, processes)
        finally:
            model.train()

    def score(self, figures: Mapping[str, float]) -> float | None:
        """What `metric` says of `figures`; None where it or the loss is not finite."""
        value = figures[self.metric]
        return value if math.isfinite(value) and math.isfinite(figures["loss"]) else None

    def _measure(self, model: Any, processes: Processes) -> dict[str, float]:
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in loader(
            self.dataset,
            self.collate,
            self.micro_batch * processes.world_size,
            stop=min(self.num_samples, len(self.dataset)),
            num_workers=self.num_workers,
            rank=processes.rank,
            world_size=processes.world_size,
        ):
            batch = self.objective.prepared(batch.to(processes.device))
            count = self.objective.counts(batch)
            loss = self.objective.losses(model(batch), batch, count)["loss"] * count[0]
            sums += torch.tensor([float(loss), self._distance(model.sample(batch), batch), float(count[0])], dtype=torch.float64)
        # Not every device has float64.
        loss_sum, distance, number = processes.sum(sums.float().to(processes.device)).tolist()
        return {"loss": loss_sum / max(number, 1.0), self.metric: distance / max(number, 1.0)}

    def _distance(self, chunks: Tensor, batch: ActionBatch) -> float:
        """Sum of the absolute errors of chunks (B, R, T, A), over all that is valid."""
        drawn, done = (self.normalisation.unnormalise_actions(values.float().cpu().numpy()) for values in (chunks, batch.actions[:, None]))
        return float((np.abs(drawn - done) * batch.action_valid.cpu().numpy()[:, None, :, None]).sum(dtype=np.float64))
