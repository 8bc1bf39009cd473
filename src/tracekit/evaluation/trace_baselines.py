"""What every predictor must beat: nothing moves, and everything goes on as it did.

Letters: R traces, F future steps, h history steps, C coordinates. Both return one draw, (R, 1, F, C), in the dtype of the anchors.
"""

from __future__ import annotations

import numpy as np


def static(anchor: np.ndarray, num_steps: int) -> np.ndarray:
    """Every keypoint stays at its anchor (R, C)."""
    return np.repeat(anchor[:, None, None], num_steps, axis=2)


def constant_velocity(
    anchor: np.ndarray, history: np.ndarray | None, history_valid: np.ndarray | None, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every keypoint keeps the velocity with which it came to its anchor (R, C).

    `history` (R, h, C) are the positions before the anchor, oldest first, known where `history_valid` (R, h) is 1; the velocity is that
    from the last known of them to the anchor. Also returns where there is one (R,) bool: other keypoints stay at their anchor.
    """
    if history is None or history_valid is None or history.shape[1] == 0:
        return static(anchor, num_steps), np.zeros(len(anchor), dtype=bool)
    known: np.ndarray = history_valid.astype(bool)
    steps_ago = 1 + known[:, ::-1].argmax(axis=1)
    has_history = np.any(known, axis=1)
    last = np.take_along_axis(history, (history.shape[1] - steps_ago)[:, None, None], axis=1)[:, 0]
    velocity = np.where(has_history[:, None], (anchor - last) / steps_ago[:, None], 0.0)
    moved = anchor[:, None] + velocity[:, None] * np.arange(1, num_steps + 1)[:, None]
    return moved[:, None].astype(anchor.dtype), has_history
