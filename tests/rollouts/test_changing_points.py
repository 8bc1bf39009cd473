"""Which traces a video shows: those of points where something changes."""

from __future__ import annotations

import numpy as np

from tracekit.rollouts.episode_video import changes_at


def test_points_on_what_moves_are_shown() -> None:
    """A square that goes from left to right over a wall with a little noise."""
    random = np.random.default_rng(0)
    pictures = [np.full((40, 80, 3), 100, np.uint8) + random.integers(0, 8, (40, 80, 3), dtype=np.uint8) for _ in range(4)]
    for step, picture in enumerate(pictures):
        picture[10:20, 20 + 5 * step : 30 + 5 * step] = (200, 30, 30)
    pixels = np.array([[22, 15], [42, 12], [19, 15], [60, 15], [25, 35], [79, 39]])  # column, row
    uv = 2 * (pixels + 0.5) / (80, 40) - 1
    assert changes_at(uv, pictures).tolist() == [True, True, True, False, False, False]
    assert not changes_at(uv, pictures[:1]).any(), "of one picture nothing is known"
    corners = np.array([[-1.0, -1.0], [1.0, 1.0]])
    changed = [pictures[0], pictures[0].copy()]
    changed[1][0, 0] = changed[1][-1, -1] = 255
    assert changes_at(corners, changed).all(), "the borders belong to the picture"
