"""Between a tracking network and the stage: which queries it can be asked, and what of its answer is known.

A network knows a point by its looks where it is queried. It does not remember it from chunk to chunk as `klt` does, and it answers for every
frame, seen or not. So a point is asked for where its place in the world can be seen, and its answer counts from the first to the last frame in
which the point was seen: between them the network bridges what hides it, beyond them it only guesses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.backends.tracking.klt import APPROACH, FORECAST_FRAMES
from tracekit.geometry import cameras
from tracekit.geometry.depth_lookup import lookup_depth, surface_depth


@dataclass(frozen=True)
class Clip:
    """One run of n frames as its cameras see it."""

    image_size: tuple[int, int]
    """Width and height."""
    depth: np.ndarray | None
    """(n, h, w), 0 unknown; None when all points lie on z = 1 of their camera."""
    intrinsics: np.ndarray
    """(3, 3)."""
    world_from_camera: np.ndarray
    """(n, 4, 4)."""

    def __len__(self) -> int:
        return len(self.world_from_camera)

    def see(self, frame: int, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (P, 2) and depths (P,) of points; NaN pixels behind the camera."""
        return cameras.project(world, self.intrinsics, self.world_from_camera[frame])

    def lift(self, frame: int, uv: np.ndarray, z: np.ndarray) -> np.ndarray:
        """World points (P, 3)."""
        return cameras.unproject(uv, z, self.intrinsics, self.world_from_camera[frame])

    def contains(self, uv: np.ndarray) -> np.ndarray:
        """Which pixels (..., 2) lie in the image, borders included; False for NaN."""
        return np.all((uv >= -0.5) & (uv <= np.array(self.image_size) - 0.5), axis=-1)

    def shows(self, frame: int, world: np.ndarray) -> np.ndarray:
        """Which points (P,) can be seen in a frame: in the image, and nothing known to be in front of them or in their place."""
        uv, z = self.see(frame, world)
        shown = self.contains(uv)
        if self.depth is not None:
            shown &= ~lookup_depth(self.depth[frame], uv, self.image_size, z).hidden
        return shown


def frames_to_ask(clip: Clip, queries_world: np.ndarray, query_frames: np.ndarray) -> np.ndarray:
    """For each query (Q,) the first frame, from its own on, in which its place can be seen; -1 where there is none."""
    asked = np.full(len(queries_world), -1)
    for frame in range(int(query_frames.min(initial=0)), len(clip)):
        open_ones = np.flatnonzero((asked < 0) & (query_frames <= frame))
        asked[open_ones[clip.shows(frame, queries_world[open_ones])]] = frame
        if (asked >= 0).all():
            break
    return asked


def known_tracks(
    clip: Clip, xyz_world: np.ndarray, scores: np.ndarray, threshold: float, queries_world: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, Q, 3) float32 and visibility (n, Q) from a network's answer for all frames.

    A point is seen where its score (n, Q) reaches the threshold and it lies in the image. What is no number counts as claimed, so that the
    stage, which knows the frame's place in the video, says so and stops.
    """
    queried = asked, np.arange(len(asked))
    broken = ~np.isfinite(xyz_world).all(axis=2) | np.isnan(scores)
    xyz_world = np.where(broken[..., None], np.nan, xyz_world)
    xyz_world[queried] = np.where(broken[queried][:, None], np.nan, queries_world)
    visible = scores >= threshold
    visible[queried] = True
    for frame in range(len(clip)):
        visible[frame] &= clip.contains(clip.see(frame, xyz_world[frame])[0])
    times = np.arange(len(clip))[:, None]
    first = np.minimum(np.where(visible, times, len(clip)).min(axis=0), asked)
    last = np.maximum(np.where(visible, times, -1).max(axis=0), asked)
    xyz_world[(times < first) | (times > last)] = np.nan
    return xyz_world.astype(np.float32), visible | broken


def lifted_tracks(
    clip: Clip, uv: np.ndarray, seen: np.ndarray, queries_world: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, Q, 3) float32 and visibility (n, Q) of points that a network sees at pixels uv (n, Q, 2).

    Each point is followed from its query forwards and backwards. Its depth is that of its own surface, near what it was before; a jump means
    that something is in front of it or that it slid off, and it is not known there. In a hole of the depth it goes on for a few frames as
    far away as before. Pixels that are no numbers count as claimed, as in `known_tracks`.
    """
    xyz_world = np.full((*seen.shape, 3), np.nan)
    visible = np.zeros(seen.shape, dtype=bool)
    broken = seen & ~np.isfinite(uv).all(axis=2)
    for order in (range(len(clip)), range(len(clip) - 1, -1, -1)):
        place = np.array(queries_world, dtype=np.float64)
        in_hole = np.zeros(len(asked), dtype=int)
        for frame in order:
            due = asked <= frame if order.step > 0 else asked >= frame
            index = np.flatnonzero(due & seen[frame] & ~broken[frame] & clip.contains(uv[frame]))
            z, hole = _depth_there(clip, frame, uv[frame, index], clip.see(frame, place[index])[1])
            in_hole[index] = np.where(hole, in_hole[index] + 1, 0)
            kept = np.isfinite(z) & (in_hole[index] <= FORECAST_FRAMES)
            index, z = index[kept], z[kept]
            place[index] = clip.lift(frame, uv[frame, index].astype(np.float64), z)
            at_query = asked[index] == frame
            place[index[at_query]] = queries_world[index[at_query]]
            xyz_world[frame, index], visible[frame, index] = place[index], True
    return xyz_world.astype(np.float32), visible | broken


def _depth_there(clip: Clip, frame: int, uv: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth (P,) of each point's surface, NaN where another one is in its place; and where the depth image has a hole instead."""
    if clip.depth is None:
        return np.ones(len(uv)), np.zeros(len(uv), dtype=bool)
    found = lookup_depth(clip.depth[frame], uv, clip.image_size, expected)
    hole = np.isnan(found.z) & ~found.hidden
    z = np.where(hole, expected, found.z)
    jumped = np.flatnonzero(found.hidden)
    if len(jumped):  # the network sees the same thing there: it may have come nearer or gone away between two frames
        after = surface_depth(clip.depth[frame], uv[jumped], clip.image_size)
        with np.errstate(invalid="ignore"):
            credible = np.abs(after - expected[jumped]) <= APPROACH * np.maximum(after, expected[jumped])
        z[jumped] = np.where(credible, after, np.nan)
    return z, hole
