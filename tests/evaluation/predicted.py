"""A predictions file of which everything is known: straight paths, and draws that are off by known distances."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from tracekit.format.file import Target, write_records
from tracekit.format.schema import PREDICTIONS
from tracekit.records import Predictions

NUM_STEPS = 32
OFFSETS = (0.5, 0.3, 0.2, 0.4, 0.6)
"""Distance of each draw from the truth, at every step."""


def straight(num_samples: int = 6, keypoints: int = 4, samples_per_clip: int = 2, seed: int = 0) -> Predictions:
    """Every keypoint goes on as it came, with a velocity of its own; each draw is the truth shifted along u by its OFFSETS.

    All steps are valid, all keypoints move, and all of the history is known. Coordinates are sums of powers of two, so that they are exact.
    """
    rng = np.random.default_rng(seed)
    rows = num_samples * keypoints
    anchor = rng.integers(-64, 64, size=(rows, 3)) / 64 + [0, 0, 2]
    velocity = rng.integers(1, 8, size=(rows, 3)) / 256
    path = anchor[:, None] + velocity[:, None] * np.arange(-4, NUM_STEPS + 1)[:, None]
    return Predictions(
        sample_clip=[f"clip{number // samples_per_clip}" for number in range(num_samples)],
        sample_frame=np.arange(num_samples) * 10,
        sample_caption=["push it"] * num_samples,
        sample=np.repeat(np.arange(num_samples), keypoints),
        entity=np.zeros(rows, int),
        moving=np.ones(rows, np.uint8),
        anchor=anchor.astype(np.float32),
        traces=(path[:, None, 5:] + np.array(OFFSETS)[:, None, None] * [1, 0, 0]).astype(np.float32),
        true_traces=path[:, 5:].astype(np.float32),
        true_valid=np.ones((rows, NUM_STEPS), np.uint8),
        history=path[:, :4].astype(np.float32),
        history_valid=np.ones((rows, 4), np.uint8),
    )


def changed(predictions: Predictions, **fields: object) -> Predictions:
    """A copy in which some fields are others."""
    return dataclasses.replace(predictions, **fields)


def write_predictions(path: Path, predictions: Predictions) -> Path:
    with write_records(Target(path, force=True), PREDICTIONS, "") as writer:
        writer.put(predictions)
    return path
