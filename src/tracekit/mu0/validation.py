"""How well a network does on clips that it does not learn from: the loss, and predicted traces against what happened (paper D.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tracekit.evaluation.trace_scores import TraceParameters, score
from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.collate import Collate
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.dataset import EvaluationDataset
from tracekit.mu0.decode import decode
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.losses import TERMS, loss_counts, losses
from tracekit.mu0.model import Mu0
from tracekit.mu0.rollout import draw_noise
from tracekit.mu0.sample import TraceSample, prediction_fields
from tracekit.records import Predictions
from tracekit.training.loader import evaluation_loader
from tracekit.training.processes import Processes
from tracekit.training.shared_model import SharedModel
from tracekit.training.train_step import autocast, stacked

_METRICS = ["ade", "dtw"]


@dataclass(frozen=True)
class Validation:
    """The same samples, noise and flow times each time."""

    config: Mu0Config
    dataset: EvaluationDataset
    collate: Collate
    weights: LossWeights
    num_draws: int
    micro_batch: int
    num_workers: int
    bf16: bool

    @property
    def metric(self) -> str:
        """The figure by which checkpoints are compared; less is better. Where no keypoint could be scored it is the loss."""
        return f"ade/top{min(5, self.num_draws)}/{self.config.horizon}"

    def __call__(self, shared: SharedModel, processes: Processes) -> dict[str, float]:
        """The loss terms by TERMS, and "ade/top5/32" and so on. All processes take part, and all learn the figures."""
        model: Any = shared.model
        model.eval()
        try:
            with torch.no_grad(), autocast(processes.device, self.bf16):
                return self._measure(model, processes)
        finally:
            shared.settle()
            model.train()

    def score(self, figures: Mapping[str, float]) -> float | None:
        """What `metric` says of `figures`; None where it or the loss is not finite: steps that are NaN may end up as traces that stand still."""
        value = figures.get(self.metric, math.nan)
        value = figures["loss"] if math.isnan(value) else value
        return value if math.isfinite(value) and math.isfinite(figures["loss"]) else None

    def _measure(self, model: Mu0, processes: Processes) -> dict[str, float]:
        device = processes.device
        sums, counts = torch.zeros(4, device=device), torch.zeros(3, device=device)
        pieces: list[tuple[np.ndarray, np.ndarray, list[TraceSample]]] = []
        for batch, samples in self._batches(processes):
            batch = batch.to(device)
            counts += loss_counts(batch)
            sums += stacked(losses(model(batch), batch, self.weights, torch.ones(3, device=device)).by_name())
            pieces.append((*self._predict(model, batch, samples), samples))
        totals = processes.sum(torch.cat([sums, counts])).tolist()
        flow, done, rigidity = (value / max(count, 1e-9) for value, count in zip(totals[1:4], totals[4:], strict=True))
        loss = flow + self.weights.done * done + self.weights.rigidity * rigidity
        everything = [piece for part in processes.gather(pieces) for piece in part]
        figures = processes.first_does(lambda: self._score(everything))
        return dict(zip(TERMS, (loss, flow, done, rigidity), strict=True)) | figures

    def _batches(self, processes: Processes) -> Iterator[tuple[TraceBatch, list[TraceSample]]]:
        """All processes have equally many batches: shared-out weights come together in all of them at the same time.

        So the last batch, which may be smaller, is shared out evenly, too.
        """
        each = len(self.dataset) // processes.world_size
        size = min(self.micro_batch, each)
        whole = each // size * size
        for start, stop, part in ((0, whole, size), (whole, each, each - whole)):
            if part:
                yield from evaluation_loader(
                    self.dataset,
                    self.collate,
                    part * processes.world_size,
                    start=start * processes.world_size,
                    stop=stop * processes.world_size,
                    num_workers=self.num_workers,
                    rank=processes.rank,
                    world_size=processes.world_size,
                )

    def _predict(self, model: Mu0, batch: TraceBatch, samples: list[TraceSample]) -> tuple[np.ndarray, np.ndarray]:
        """Absolute traces (R, S, H, 3) and validity (R, H) of the R keypoints of the samples, as `rollout` draws them for this seed."""
        noise = torch.zeros(len(samples), self.num_draws, batch.present.shape[1], *batch.target.shape[2:])
        for row, sample in zip(noise, samples, strict=True):
            row[:, : len(sample.current)] = torch.from_numpy(draw_noise(sample, self.num_draws, self.config, self.dataset.seed))
        drawn = model.sample(batch, noise.to(batch.tau.device))
        validity = drawn.validity.float()
        traces = decode(self.config, drawn.points, batch.current, self.dataset.index.delta_scale, validity)
        return traces.transpose(1, 2)[batch.present].cpu().numpy(), validity.mean(dim=1)[batch.present].cpu().numpy()

    def _score(self, pieces: list[tuple[np.ndarray, np.ndarray, list[TraceSample]]]) -> dict[str, float]:
        top = ",".join(str(number) for number in sorted({1, min(5, self.num_draws)}))
        parameters = TraceParameters(metric=_METRICS, horizons=str(self.config.horizon), top=top, resamples=0)
        traces, validity = np.concatenate([piece[0] for piece in pieces]), np.concatenate([piece[1] for piece in pieces])
        if not np.isfinite(traces).all():
            return {self.metric: math.inf}  # there is no distance to it
        samples = [sample for piece in pieces for sample in piece[2]]
        predictions = Predictions(traces=traces, validity=validity, **prediction_fields(samples))
        return {
            name: value for name, value in score(predictions, parameters, name="the validation").numbers().items() if "joint" not in name
        }
