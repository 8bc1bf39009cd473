"""Is the depth right?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.evaluation.figures import figure, ratio
from tracekit.geometry import cameras
from tracekit.records import Frames


@dataclass(frozen=True)
class DepthAccuracy:
    """Estimated depth against the true one."""

    depth_absrel: float | None = figure("relative error (AbsRel)")
    depth_coverage: float | None = figure("pixels with depth")


def depth_accuracy(depth: Frames, true_depth: Frames) -> DepthAccuracy:
    """Mean of |z - z*| / z* over all pixels of all frames where both are known (AbsRel of Eigen et al., "Depth Map Prediction from
    a Single Image using a Multi-Scale Deep Network", 2014), without fitting a scale.

    `depth` (T, h, w) and `true_depth` (T, H, W) are metres, 0 where unknown, and cover the same image: each pixel of `depth` is
    held against the true one nearest to its centre. `depth_coverage` is the share of those with a true depth that have one.
    Frames are read one by one.
    """
    row, column = _same_places(depth.shape[1:], true_depth.shape[1:])
    total, num_both, num_true = 0.0, 0, 0
    for frame in range(len(depth)):
        z = np.asarray(depth[frame])
        z_true = np.asarray(true_depth[frame])[row[:, None], column]
        known = z_true > 0
        both = known & (z > 0)
        num_true += int(known.sum())
        num_both += int(both.sum())
        total += float((np.abs(z[both] - z_true[both]) / z_true[both]).sum(dtype=np.float64))
    return DepthAccuracy(ratio(total, num_both), ratio(num_both, num_true))


def _same_places(size: tuple[int, ...], true_size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (h,) and columns (w,) of the true image under the pixel centres of the other. Sizes are (height, width)."""
    (height, width), (true_height, true_width) = size, true_size
    middle = np.stack([np.arange(max(size)), np.arange(max(size))], axis=1)
    at = np.rint(cameras.resize_pixels(middle, (width, height), (true_width, true_height))).astype(int)
    at = np.clip(at, 0, [true_width - 1, true_height - 1])
    return at[:height, 1], at[:width, 0]
