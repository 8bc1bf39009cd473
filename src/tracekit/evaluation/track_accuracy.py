"""Are the points where they really were, and seen when they really could be seen?

The measures are those of TAP-Vid (Doersch et al., "TAP-Vid: A Benchmark for Tracking Any Point in a Video", 2022) in the image and of
TAPVid-3D (Koppula et al., "TAPVid-3D: A Benchmark for Tracking Any Point in 3D", 2024) in space, pooled over all tracks and frames
of a clip as there. Three choices of ours: no scale is fitted (TAPVid-3D rescales by the median norm unless told otherwise, because
its trackers are monocular); the frame in which a point was selected does not count (as in TAP-Vid; TAPVid-3D counts it); and frames
before that one count from the first of the chunk, because tracks are followed backwards too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.evaluation.figures import figure, quantile, ratio
from tracekit.geometry import cameras, se3
from tracekit.ground_truth import Scene, TruePaths
from tracekit.records import Keypoints, Tracks

RADII = (1, 2, 4, 8, 16)
"""Pixels within which a position is right, of an image whose shorter side is REFERENCE_SIDE (both TAP-Vid and TAPVid-3D)."""

REFERENCE_SIDE = 256
"""Other sizes are brought to this shorter side with their aspect kept, the focal length with them (TAPVid-3D)."""


@dataclass(frozen=True)
class TrackAccuracy:
    """Estimated against true paths. Shares by radius are keyed by RADII."""

    num_tracks: int | None = figure("tracks")
    num_tracks_without_body: int | None = figure("tracks left out: no body at their pixel")
    track_error_median_m: float | None = figure("error where seen, median", "m")
    track_error_p90_m: float | None = figure("error where seen, 90 %", "m")
    position_coverage: float | None = figure("visible frames with a position")
    visible_recall: float | None = figure("visible frames called visible")
    occlusion_accuracy: float | None = figure("occlusion accuracy (OA)")
    delta_avg: float | None = figure("3-D within radius, mean (APD)")
    delta: dict[str, float | None] | None = figure("3-D within 1, 2, 4, 8, 16 px")
    average_jaccard: float | None = figure("3-D Jaccard, mean (AJ)")
    jaccard: dict[str, float | None] | None = figure("3-D Jaccard at 1, 2, 4, 8, 16 px")
    pck_avg: float | None = figure("2-D within radius, mean")
    pck: dict[str, float | None] | None = figure("2-D within 1, 2, 4, 8, 16 px (PCK)")


@dataclass(frozen=True)
class PathComparison:
    """Estimated and true paths of the same N points in the same T frames, side by side. All arrays are (T, N)."""

    visible: np.ndarray
    """bool: the estimate has a position and calls it visible."""
    true_visible: np.ndarray
    """bool."""
    counted: np.ndarray
    """bool: frames that count for the statistics of a point."""
    error_px: np.ndarray
    """Distance in the image, in pixels of an image whose shorter side is REFERENCE_SIDE; NaN where there is no position."""
    error_m: np.ndarray | None
    """Distance in space; NaN where there is no position. None when the estimate is not metric."""
    metres_per_px: np.ndarray
    """Length that one such pixel spans at the true depth of the point: z / sqrt(fx fy) (TAPVid-3D)."""

    def within(self, radius: float) -> np.ndarray:
        """Where the estimate is closer than `radius` pixels: in space where it is metric, else in the image."""
        return self.within_px(radius) if self.error_m is None else self.within_space(radius)

    def within_px(self, radius: float) -> np.ndarray:
        return self.error_px < radius

    def within_space(self, radius: float) -> np.ndarray:
        assert self.error_m is not None
        return self.error_m < radius * self.metres_per_px


def frames_in_reach(keypoints: Keypoints, tracks: Tracks) -> np.ndarray:
    """(T, N) bool: from the first frame of the chunk in which a track was started to the end of the clip."""
    return np.arange(len(tracks.visible))[:, None] >= keypoints.chunk_start[tracks.chunk]


def frames_that_count(keypoints: Keypoints, tracks: Tracks) -> np.ndarray:
    """(T, N) bool: those in reach, without the one in which the point was selected: there it is right by definition."""
    return frames_in_reach(keypoints, tracks) & (np.arange(len(tracks.visible))[:, None] != keypoints.frame[tracks.keypoint])


def compare_paths(
    tracks: Tracks,
    size: tuple[int, int],
    alignment: np.ndarray | None,
    paths: TruePaths,
    scene: Scene,
    counted: np.ndarray,
) -> PathComparison:
    """Hold `tracks` of N points against their true `paths` in the same T frames.

    `size` is the (width, height) of the grid of the tracks, which may differ from the scene's. `alignment` (4, 4) maps the world
    of the tracks onto the true one; None says that their lengths are not metres.
    """
    height, width = scene.depth.shape[1:]
    to_reference = REFERENCE_SIDE / min(width, height)
    uv = cameras.resize_pixels(tracks.uv.astype(np.float64), size, (width, height))
    error_m = None
    if alignment is not None:
        xyz = se3.transform_points(alignment, tracks.xyz_world.reshape(-1, 3).astype(np.float64)).reshape(tracks.xyz_world.shape)
        error_m = np.linalg.norm(xyz - paths.xyz_world, axis=-1)
    z = se3.transform_points(se3.inverse(scene.world_from_camera), paths.xyz_world)[..., 2]
    focal_length = np.sqrt(scene.intrinsics[0, 0] * scene.intrinsics[1, 1]) * to_reference
    return PathComparison(
        visible=tracks.visible.astype(bool) & np.isfinite(tracks.uv).all(axis=-1) & np.isfinite(tracks.xyz_world).all(axis=-1),
        true_visible=paths.visible,
        counted=counted,
        error_px=np.linalg.norm(uv - paths.uv, axis=-1) * to_reference,
        error_m=error_m,
        metres_per_px=z / focal_length,
    )


def track_accuracy(comparison: PathComparison, num_without_body: int = 0) -> TrackAccuracy:
    """All figures of a comparison.

    A truly visible frame without a position is outside every radius and called occluded, so it lowers APD, AJ, PCK and OA alike.
    Errors in metres are over the frames in which estimate and truth both see the point. 3-D figures are None where the estimate
    is not metric.
    """
    should_see = comparison.counted & comparison.true_visible
    both_see = should_see & comparison.visible
    num_visible = int(should_see.sum())
    delta = jaccard = None
    seen_error = np.zeros(0)
    if comparison.error_m is not None:
        seen_error = comparison.error_m[both_see]
        delta = {str(r): ratio((comparison.within_space(r) & should_see).sum(), num_visible) for r in RADII}
        jaccard = {str(r): _jaccard(comparison, comparison.within_space(r)) for r in RADII}
    pck = {str(r): ratio((comparison.within_px(r) & should_see).sum(), num_visible) for r in RADII}
    agree = comparison.counted & (comparison.visible == comparison.true_visible)
    return TrackAccuracy(
        num_tracks=comparison.visible.shape[1] + num_without_body,
        num_tracks_without_body=num_without_body,
        track_error_median_m=quantile(seen_error, 0.5),
        track_error_p90_m=quantile(seen_error, 0.9),
        position_coverage=ratio((should_see & np.isfinite(comparison.error_px)).sum(), num_visible),
        visible_recall=ratio(both_see.sum(), num_visible),
        occlusion_accuracy=ratio(agree.sum(), comparison.counted.sum()),
        delta_avg=_mean(delta),
        delta=delta,
        average_jaccard=_mean(jaccard),
        jaccard=jaccard,
        pck_avg=_mean(pck),
        pck=pck,
    )


def _jaccard(comparison: PathComparison, within: np.ndarray) -> float | None:
    """True positives / (truly visible + false positives) over the frames that count.

    A true positive is called visible, truly visible and within the radius; what else is called visible is a false positive.
    """
    called = comparison.counted & comparison.visible
    true_positives = int((called & comparison.true_visible & within).sum())
    false_positives = int(called.sum()) - true_positives
    return ratio(true_positives, int((comparison.counted & comparison.true_visible).sum()) + false_positives)


def _mean(by_radius: dict[str, float | None] | None) -> float | None:
    values = [value for value in (by_radius or {}).values() if value is not None]
    return sum(values) / len(values) if values else None
