"""One sample: a frame, a sentence and some keypoints, as arrays."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TraceSample:
    """Shape letters as in `tracekit.mu0.batch`; every keypoint is present, entries that are not valid are 0."""

    position: int
    """Number in the order of training, or of evaluation."""
    clip: str
    frame: int
    """In the episode's own count."""
    caption: str
    image: np.ndarray
    """(3, image_size, image_size) uint8 RGB."""
    depth: np.ndarray | None
    """(3, image_size, image_size) uint8 Turbo colours; None where depth is unknown or was dropped."""
    current: np.ndarray
    """(N, 3)."""
    history: np.ndarray
    """(N, h, 3) minus the anchor."""
    valid_history: np.ndarray
    """(N, h) bool: which steps are known, dropped or not."""
    history_present: np.ndarray
    """(N,) bool: all steps are known, and not dropped."""
    target: np.ndarray
    """(N, P, 3)."""
    target_valid: np.ndarray
    """(N, P) bool."""
    future: np.ndarray
    """(N, H, 3) minus the anchor."""
    valid_future: np.ndarray
    """(N, H) bool."""
    entity: np.ndarray
    """(N,) int."""
    moving: np.ndarray
    """(N,) bool."""
    noise: np.ndarray
    """(N, P, 3) float32."""
    tau: float

    def without_pictures(self) -> TraceSample:
        """What predictions are compared with needs none."""
        return dataclasses.replace(self, image=self.image[:, :0, :0], depth=None)


def prediction_fields(samples: list[TraceSample]) -> dict[str, Any]:
    """The fields of `records.Predictions` that are known before anything is predicted, positions absolute:

        Predictions(traces=traces, validity=validity, **prediction_fields(samples))

    with rows in the order of `samples` and of the keypoints in each, R in all; `traces` is (R, S, H, 3).
    """

    def rows(field: str) -> np.ndarray:
        return np.concatenate([getattr(sample, field) for sample in samples])

    anchor = rows("current")
    return {
        "sample_clip": [sample.clip for sample in samples],
        "sample_frame": np.array([sample.frame for sample in samples], np.int32),
        "sample_caption": [sample.caption for sample in samples],
        "sample": np.repeat(np.arange(len(samples), dtype=np.int32), [len(sample.current) for sample in samples]),
        "entity": rows("entity").astype(np.int32),
        "moving": rows("moving").astype(np.uint8),
        "anchor": anchor,
        "true_traces": anchor[:, None] + rows("future"),
        "true_valid": rows("valid_future").astype(np.uint8),
        "history": anchor[:, None] + rows("history"),
        "history_valid": rows("valid_history").astype(np.uint8),
    }
