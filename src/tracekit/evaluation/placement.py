"""Do the keypoints lie where something happens? Rigid groups of bodies: how large each is seen, whether it moves, how it is covered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.errors import BadDataError
from tracekit.evaluation.figures import figure, quantile, ratio
from tracekit.evaluation.track_accuracy import RADII, PathComparison
from tracekit.ground_truth import Scene, SurfacePoints, surface_points

SAMPLED_FRAMES = 8
"""Frames in which the surface of a group is sampled, evenly spaced among those that show it."""

SAMPLED_PIXELS = 12
"""Pixels of a group that are sampled in each, evenly spaced in reading order."""

LEAST_PIXEL_SHARE = 0.001
"""Share of the image that a group must cover in some frame to be worth a keypoint."""

COVERED_BY = 8
"""Tracks that must follow a group at one time for it to be covered."""

CLOSE_METRES = 0.05
"""Distance from its true position within which a track follows its point."""

CLOSE_PIXELS = RADII[-1]
"""The same where the estimate is not metric, and the radius for the recall of a group."""


@dataclass(frozen=True)
class Surfaces:
    """How much of the image shows each group, and points sampled on all of them."""

    pixel_share: np.ndarray
    """(T, G) float64; a group stands at the number of its first body, the other columns are 0."""
    body_pixel_share: np.ndarray
    """(T, G) float64 of every body for itself."""
    points: SurfacePoints
    group: np.ndarray
    """(n,) group of each point."""
    frame: np.ndarray
    """(n,) frame in which each point was sampled."""


@dataclass(frozen=True)
class BodyScore:
    """One rigid group that is seen."""

    name: str
    """The body of the group that covers most pixels."""
    bodies: list[str]
    """All bodies of the group that are seen, largest first."""
    robot: bool
    moving: bool
    diameter_px: float | None
    """Median diameter of the true paths of its surface points."""
    pixel_share: float
    """Mean over the frames."""
    largest_pixel_share: float
    num_tracks: int
    """Tracks that were started on it."""
    most_at_a_time: int
    """Tracks started on it that follow their points in one frame, at most."""
    covered: bool
    track_error_median_m: float | None
    recall: float | None
    """Share of the truly visible frames of its tracks with an estimate within CLOSE_PIXELS."""


@dataclass(frozen=True)
class Placement:
    """Where the keypoints lie, against where the motion is."""

    moving_budget_share: float | None = figure("tracks on what moves")
    moving_pixel_share: float | None = figure("pixels on what moves")
    budget_to_pixel_ratio: float | None = figure("the one over the other")
    moving_groups_covered: float | None = figure("moving groups covered")
    num_moving_groups: int | None = figure("moving groups")
    bodies: list[BodyScore] | None = None


def sample_surfaces(scene: Scene) -> Surfaces:
    """Count the pixels of every group in every frame, and sample points on each wherever it is seen. Frames are read one by one.

    Samples are the same at every call: up to SAMPLED_PIXELS in up to SAMPLED_FRAMES frames, however small the group.
    """
    truth, num_frames = scene.truth, len(scene.depth)
    num_bodies = len(truth.body_name)
    num_pixels = np.zeros((num_frames, num_bodies), np.int64)
    for frame in range(num_frames):
        shown = np.asarray(truth.body_at_pixel[frame])
        if shown.max(initial=-1) >= num_bodies:
            raise BadDataError(f"truth/body_at_pixel shows body {shown.max()}, but there are {num_bodies} bodies")
        num_pixels[frame] = np.bincount(shown[shown >= 0], minlength=num_bodies)
    share = num_pixels / np.prod(scene.depth.shape[1:])
    group_share = share @ np.eye(num_bodies)[truth.body_rigid_group]
    uv, group, frame_of = _sampled_pixels(scene, group_share > 0)
    return Surfaces(group_share, share, surface_points(scene, uv, frame_of), group, frame_of)


def _sampled_pixels(scene: Scene, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (n, 2), groups (n,) and frames (n,), given which groups are seen in which frames (T, G)."""
    chosen = np.zeros_like(seen)
    for group in np.flatnonzero(seen.any(axis=0)):
        chosen[_evenly_spaced(np.flatnonzero(seen[:, group]), SAMPLED_FRAMES), group] = True
    uv, groups, frames = [np.zeros((0, 2))], [np.zeros(0, int)], [np.zeros(0, int)]
    for frame in np.flatnonzero(chosen.any(axis=1)):
        shown = np.asarray(scene.truth.body_at_pixel[int(frame)])
        group_shown = np.where(shown >= 0, scene.truth.body_rigid_group[shown], -1)
        for group in np.flatnonzero(chosen[frame]):
            row, column = np.divmod(_evenly_spaced(np.flatnonzero(group_shown == group), SAMPLED_PIXELS), shown.shape[1])
            uv.append(np.stack([column, row], axis=1))
            groups.append(np.full(len(row), group))
            frames.append(np.full(len(row), frame))
    return np.concatenate(uv), np.concatenate(groups), np.concatenate(frames)


def _evenly_spaced(values: np.ndarray, number: int) -> np.ndarray:
    """At most `number` of `values` (n,), each standing for a part of equal length: its middle."""
    number = min(number, len(values))
    return values[((np.arange(number) + 0.5) * len(values) / max(number, 1)).astype(int)]


def placement(
    scene: Scene,
    surfaces: Surfaces,
    diameter_px: np.ndarray,
    threshold_px: float,
    comparison: PathComparison,
    track_group: np.ndarray,
    num_tracks: int,
) -> Placement:
    """How the tracks lie on the groups, and how well each group is followed.

    A group moves when the median of `diameter_px` (n,), the true diameters of the sampled surface points, exceeds `threshold_px`.
    It is covered when in some frame COVERED_BY tracks that were started on it are called visible, are truly visible and lie
    within CLOSE_METRES of their true position (CLOSE_PIXELS where the estimate is not metric). `track_group` (N,) is the group of
    every track of `comparison`; `num_tracks` counts those as well that were started on no body.
    """
    median = _median_by_group(diameter_px, surfaces.group, surfaces.pixel_share.shape[1])
    moves = median > threshold_px  # NaN compares as False
    visible_enough = surfaces.pixel_share.max(axis=0, initial=0) >= LEAST_PIXEL_SHARE
    bodies = [
        _body_score(scene, surfaces, int(group), float(median[group]), bool(moves[group]), comparison, track_group == group)
        for group in np.flatnonzero(visible_enough)
    ]
    bodies.sort(key=lambda body: (not body.moving, -body.pixel_share))
    budget_share = ratio(moves[track_group].sum(), num_tracks)
    pixel_share = float(surfaces.pixel_share[:, moves].sum(axis=1).mean()) if len(surfaces.pixel_share) else None
    moving_bodies = [body for body in bodies if body.moving]
    return Placement(
        moving_budget_share=budget_share,
        moving_pixel_share=pixel_share,
        budget_to_pixel_ratio=None if budget_share is None or pixel_share is None else ratio(budget_share, pixel_share),
        moving_groups_covered=ratio(sum(body.covered for body in moving_bodies), len(moving_bodies)),
        num_moving_groups=len(moving_bodies),
        bodies=bodies,
    )


def _median_by_group(values: np.ndarray, group: np.ndarray, num_groups: int) -> np.ndarray:
    """(G,) float64; NaN for groups without finite values."""
    result = np.full(num_groups, np.nan)
    for index in np.unique(group):
        own = values[(group == index) & np.isfinite(values)]
        if own.size:
            result[index] = np.median(own)
    return result


def _body_score(
    scene: Scene, surfaces: Surfaces, group: int, diameter_px: float, moves: bool, comparison: PathComparison, own: np.ndarray
) -> BodyScore:
    truth = scene.truth
    body_share = surfaces.body_pixel_share.mean(axis=0)
    members = np.flatnonzero((truth.body_rigid_group == group) & (body_share > 0))
    members = members[np.argsort(-body_share[members], kind="stable")]
    names = [truth.body_name[member] for member in members]
    both_see = (comparison.visible & comparison.true_visible)[:, own]
    most = int((both_see & _close(comparison)[:, own]).sum(axis=1).max(initial=0))
    counted = comparison.counted[:, own]
    should_see = counted & comparison.true_visible[:, own]
    error = np.zeros(0) if comparison.error_m is None else comparison.error_m[:, own][both_see & counted]
    return BodyScore(
        name=names[0],
        bodies=names,
        robot=bool(truth.body_is_robot[members].any()),
        moving=moves,
        diameter_px=None if np.isnan(diameter_px) else diameter_px,
        pixel_share=float(surfaces.pixel_share[:, group].mean()),
        largest_pixel_share=float(surfaces.pixel_share[:, group].max()),
        num_tracks=int(own.sum()),
        most_at_a_time=most,
        covered=most >= COVERED_BY,
        track_error_median_m=quantile(error, 0.5),
        recall=ratio((comparison.within(CLOSE_PIXELS)[:, own] & should_see).sum(), should_see.sum()),
    )


def _close(comparison: PathComparison) -> np.ndarray:
    return comparison.within_px(CLOSE_PIXELS) if comparison.error_m is None else comparison.error_m <= CLOSE_METRES
