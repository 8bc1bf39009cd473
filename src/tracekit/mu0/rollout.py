"""Futures of keypoints from a trained μ0: scenes in, predictions out (paper B.3).

Letters as in `tracekit.mu0.batch`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracekit.errors import BadDataError, StorageError
from tracekit.mu0.collate import Collate
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.decode import decode
from tracekit.mu0.model import Mu0, Samples
from tracekit.mu0.rollout_parameters import RolloutParameters
from tracekit.mu0.sample import TraceSample, prediction_fields
from tracekit.mu0.scenes import Scene
from tracekit.mu0.statistics import CorpusStatistics
from tracekit.mu0.text import Tokenizer
from tracekit.records import Predictions
from tracekit.training.recipe import uses_bf16

# Keypoints closer than this, in [-1, 1], may be given the same noise.
_SAME_PLACE = 1 / 4096


@dataclass(frozen=True)
class Rollout:
    """The futures of one scene's N keypoints."""

    scene: Scene
    traces: np.ndarray
    """(N, S, H, 3) float32, absolute: u and v in [-1, 1], z in metres."""
    validity: np.ndarray
    """(N, H) float32: probability that each step exists, the mean over the draws."""


def rollout(
    model: Mu0,
    tokenizer: Tokenizer,
    statistics: CorpusStatistics,
    scenes: Iterable[Scene],
    parameters: RolloutParameters,
    seed: int = 0,
) -> Iterator[Rollout]:
    """The futures of scenes, in their order, on the device where the model is.

    What is drawn for a keypoint follows from (seed, clip, frame, its place in the frame) alone: neither batches nor the order or number
    of scenes and keypoints change it, and fewer draws are the first of more.
    Raises BadDataError naming the scene when the network's output is not finite, StorageError when the memory of the device does not
    suffice for one scene and one draw.
    """
    predictor = _Predictor(model, Collate(tokenizer), statistics, parameters, seed)
    scenes = iter(scenes)
    while batch := list(itertools.islice(scenes, parameters.batch_size)):
        yield from predictor.predict(batch)


def predictions(rollouts: Iterable[Rollout]) -> Predictions:
    """The record of all rollouts. Truth and history are in it where any of it is known. Raises BadDataError when there are none."""
    samples, traces, validity = [], [], []
    for one in rollouts:
        samples.append(dataclasses.replace(one.scene.sample, image=np.zeros((3, 0, 0), np.uint8), depth=None))
        traces.append(one.traces)
        validity.append(one.validity)
    if not samples:
        raise BadDataError("there is nothing to predict: no sample has a keypoint that moves", hint="were the episodes filtered?")
    fields = prediction_fields(samples)
    for mask, values in (("true_valid", "true_traces"), ("history_valid", "history")):
        if not fields[mask].any():
            fields[mask] = fields[values] = None
    return Predictions(traces=np.concatenate(traces), validity=np.concatenate(validity), **fields)


def draw_noise(sample: TraceSample, num_draws: int, config: Mu0Config, seed: int) -> np.ndarray:
    """(S, N, P, 3) float32, standard normal. A keypoint is known by its place, so that its row in the sample is of no matter."""
    where = f"{seed}/{sample.frame}/{sample.clip}".encode("utf-8", "surrogateescape")
    # Rounded to parts of a pixel, so that the last bits of a position, which differ from one way to compute it to the next, do not count.
    places = np.rint(sample.current[:, :2].astype(np.float64) / _SAME_PLACE).astype("<i8")
    noise = np.empty((num_draws, len(places), config.target_points, 3), np.float32)
    for row, place in enumerate(places):
        digest = hashlib.blake2b(where, digest_size=16, salt=place.tobytes()).digest()
        random = np.random.Generator(np.random.Philox(key=np.frombuffer(digest, "<u8").astype(np.uint64)))
        noise[:, row] = random.standard_normal(noise.shape[:1] + noise.shape[2:], dtype=np.float32)
    return noise


@dataclass(frozen=True)
class _Predictor:
    model: Mu0
    collate: Collate
    statistics: CorpusStatistics
    parameters: RolloutParameters
    seed: int

    def predict(self, scenes: list[Scene]) -> Iterator[Rollout]:
        parameters, config = self.parameters, self.model.config
        samples = [scene.sample for scene in scenes]
        noise = [draw_noise(sample, parameters.samples, config, self.seed) for sample in samples]
        for scene, drawn in zip(scenes, self._draw(samples, noise), strict=True):
            number = len(scene.sample.current)
            points, validity = drawn.points[:, :number], drawn.validity[:, :number]
            if not (points.isfinite().all() and validity.isfinite().all()):
                raise BadDataError(
                    f"the network's output for clip {scene.sample.clip}, frame {scene.sample.frame} is not finite; nothing was written",
                    hint="is the checkpoint sound? --precision fp32 helps where numbers grew too large for bf16",
                )
            current = torch.from_numpy(scene.sample.current)
            scale = np.array(self.statistics.delta_scale, np.float32)
            traces = decode(config, points[None], current[None], scale, validity[None], parameters.end_threshold)[0]
            yield Rollout(scene, traces.transpose(0, 1).numpy(), validity.mean(dim=0).numpy())

    def _draw(self, samples: list[TraceSample], noise: list[np.ndarray]) -> list[Samples]:
        """Points (S, N', P, 3) and validity (S, N', H) of each sample, float32 in main memory, N' its keypoints or more.

        Where the device's memory does not suffice, halves are drawn one after the other: first of the samples, then of the draws.
        """
        try:
            drawn = self._draw_at_once(samples, noise)
        except torch.OutOfMemoryError:
            drawn = None  # the memory is free again once the exception is gone
        if drawn is not None:
            return drawn
        torch.cuda.empty_cache()
        num_samples, num_draws = len(samples), len(noise[0])
        if num_samples > 1:
            half = num_samples // 2
            return self._draw(samples[:half], noise[:half]) + self._draw(samples[half:], noise[half:])
        if num_draws > 1:
            half = num_draws // 2
            first, second = self._draw(samples, [noise[0][:half]])[0], self._draw(samples, [noise[0][half:]])[0]
            return [Samples(torch.cat([first.points, second.points]), torch.cat([first.validity, second.validity]))]
        raise StorageError(
            f"the memory of the device does not suffice for {len(samples[0].current)} keypoints",
            hint="ask about fewer with --max-keypoints or --grid, or use --device cpu",
        )

    def _draw_at_once(self, samples: list[TraceSample], noise: list[np.ndarray]) -> list[Samples]:
        device = next(self.model.parameters()).device
        batch = self.collate(samples).to(device)
        padded = np.zeros((len(samples), len(noise[0]), batch.present.shape[1], *noise[0].shape[2:]), np.float32)
        for row, drawn in zip(padded, noise, strict=True):
            row[:, : drawn.shape[1]] = drawn
        with _arithmetic(device, self.parameters.precision):
            result = self.model.sample(batch, torch.from_numpy(padded).to(device), self.parameters.steps)
        points, validity = _on_host(result.points), _on_host(result.validity)
        return [Samples(points[row], validity[row]) for row in range(len(samples))]


def _on_host(values: Tensor) -> Tensor:
    return values.detach().float().cpu()


def _arithmetic(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if uses_bf16(precision, device.type) else contextlib.nullcontext()
