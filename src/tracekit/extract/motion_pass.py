"""What moves, at a glance: a cheap first pass over the representative frames of a chunk (ours; the paper has none)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from tracekit.geometry import cameras
from tracekit.geometry.odometry import Odometry
from tracekit.records import CameraSensor, Frames

SAMPLES = 6
"""Pixels per side of a patch on which motion is looked for."""
LEAST_SHIFT = 1.0
"""Pixels of that grid by which something must depart from where the camera's motion alone would carry it."""
LEAST_GAIN = 8.0
"""Grey levels by which the picture must fit better where it went than where it would be, had only the camera moved."""
LEFT = 0.03
"""Fraction of its depth by which the surface seen in a point's place lies behind it when the point has gone."""
ODOMETRY_STEP = 5
"""Frames from which the camera's motion can be followed without those between them."""
SMALLEST_DEPTH = 1e-3
"""Metres; nothing is measured so near."""


class MotionPass:
    """Finds what moves in a clip, chunk by chunk in the order of time.

    `frames` (T, H, W, 3) and `depth` (T, h, w), None where none was measured, are those of the whole clip. They are read only
    where the recording has no poses: odometry needs frames between the representative ones, and the poses of one chunk lead to
    those of the next.
    """

    def __init__(self, frames: Frames, depth: Frames | None, camera: CameraSensor | None, *, seed: int) -> None:
        self._frames, self._depth, self._camera = frames, depth, camera
        self._seed = seed
        self._odometry: Odometry | None = None
        self._reached = -1

    def moving_share(self, pictures: np.ndarray, depth: np.ndarray | None, indices: list[int], grid: tuple[int, int]) -> np.ndarray:
        """How much of each patch moves against the scene, and how far, as a number from 0 to 1: (R, gh, gw) float32.

        It is the share of the patch's pixels seen to move, averaged over the other frames that it was compared with: what moves
        by less than its width stays in its place as far as depth can tell. `pictures` (R, H, W, 3) uint8 RGB and `depth`
        (R, h, w) metres, 0 where unknown, are of the representative frames `indices` (R,).

        With depth and cameras, a point has moved when its place is seen empty in another of the frames: what is measured there
        lies behind it. And in any case when dense flow to a neighbouring frame (DIS, Kroeger et al. 2016) leads elsewhere than
        the camera's motion would, and the picture fits better there: plain surfaces, whose flow is a guess, give no evidence.
        Without depth or cameras the camera's motion is the homography that most of the flow agrees on (RANSAC).
        """
        import cv2

        size = (grid[1] * SAMPLES, grid[0] * SAMPLES)
        grey = [cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY) for picture in pictures]
        measured = None if depth is None or self._camera is None else self._measured(self._camera, pictures, depth, indices, size)
        still: _StillScene = _Dominant(size) if measured is None else measured
        moved = np.zeros((len(grey), len(grey), size[1], size[0]), bool)  # from frame to frame
        dense: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        dense.setFinestScale(1)
        for first, second in itertools.pairwise(range(len(grey))):
            there, back = dense.calc(grey[first], grey[second], None), dense.calc(grey[second], grey[first], None)
            moved[first, second] = _departs(grey[first], grey[second], there, back, *still.carried(first, second, there))
            moved[second, first] = _departs(grey[second], grey[first], back, there, *still.carried(second, first, back))
        if measured is not None:
            for first, second in itertools.permutations(range(len(grey)), 2):
                moved[first, second] |= measured.gone(first, second)
        compared = max(1, len(grey) - 1 if measured is not None else min(2, len(grey) - 1))
        per_patch = moved.reshape(*moved.shape[:2], grid[0], SAMPLES, grid[1], SAMPLES).sum(axis=(1, 3, 5))
        return (per_patch / (SAMPLES**2 * compared)).astype(np.float32)

    def _measured(
        self, camera: CameraSensor, pictures: np.ndarray, depth: np.ndarray, indices: list[int], size: tuple[int, int]
    ) -> _Measured:
        picture_size = (pictures.shape[2], pictures.shape[1])
        if camera.world_from_camera is not None:
            poses = camera.world_from_camera[indices]
        else:
            self._odometry = self._odometry or Odometry(camera.intrinsics, picture_size, seed=self._seed)
            poses = np.stack([self._pose(self._odometry, *view) for view in zip(pictures, depth, indices, strict=True)])
        return _Measured(depth, cameras.scale_intrinsics(camera.intrinsics, picture_size, size), poses, size)

    def _pose(self, odometry: Odometry, picture: np.ndarray, depth: np.ndarray, index: int) -> np.ndarray:
        """The pose (4, 4) of frame `index`, from that of the one before it in steps that odometry can follow."""
        assert self._depth is not None
        for between in range(self._reached + ODOMETRY_STEP, index, ODOMETRY_STEP) if self._reached >= 0 else ():
            odometry.track(np.asarray(self._frames[between : between + 1])[0], np.asarray(self._depth[between : between + 1])[0])
        self._reached = index
        return odometry.track(picture, depth).world_from_camera


def smooth(share: np.ndarray) -> np.ndarray:
    """The mean over 3 x 3 patches of each frame (R, gh, gw): a thing that moves is more than a patch."""
    import cv2

    return np.stack([cv2.blur(frame, (3, 3), borderType=cv2.BORDER_REPLICATE) for frame in share])


class _StillScene(Protocol):
    """Where each pixel of a frame would be in another if only the camera had moved."""

    def carried(self, first: int, second: int, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (h, w, 2) float32 in frame `second`, and which of them are known and not hidden there (h, w) bool."""
        ...


@dataclass(frozen=True)
class _Dominant:
    """A scene without depth: the homography that most of the flow agrees on."""

    size: tuple[int, int]

    def carried(self, first: int, second: int, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        pixels = _pixels(self.size)
        sparse = np.s_[SAMPLES // 2 :: SAMPLES, SAMPLES // 2 :: SAMPLES]
        origin, target = pixels[sparse].reshape(-1, 2), (pixels + flow)[sparse].reshape(-1, 2)
        homography = cv2.findHomography(origin, target, cv2.RANSAC, LEAST_SHIFT)[0] if len(origin) >= 4 else None
        place = pixels if homography is None else cv2.perspectiveTransform(pixels, homography)
        return place, np.ones(pixels.shape[:2], bool)


class _Measured:
    """A scene of measured depth and known cameras, on the grid of `SAMPLES` pixels a patch."""

    def __init__(self, depth: np.ndarray, intrinsics: np.ndarray, world_from_camera: np.ndarray, size: tuple[int, int]) -> None:
        import cv2

        small = [cv2.resize(np.nan_to_num(frame).astype(np.float32), size, interpolation=cv2.INTER_NEAREST) for frame in depth]
        window = np.ones((3, 3), np.uint8)
        self._intrinsics, self._poses, self._size = intrinsics, world_from_camera, size
        # The nearest surface next to each pixel, and nothing next to a hole: what is seen must be seen beyond doubt.
        self._nearest = [cv2.erode(frame, window) for frame in small]
        # Next to an edge, and where a surface is seen at a glancing angle, a pixel more or less makes a difference.
        self._slant = [cv2.dilate(frame, window) / np.maximum(frame, SMALLEST_DEPTH) for frame in small]
        self._known = [frame > 0 for frame in small]
        pixels = _pixels(size).astype(np.float64)
        self._world = [
            cameras.unproject(pixels[known], frame[known], intrinsics, pose)
            for frame, known, pose in zip(small, self._known, world_from_camera, strict=True)
        ]
        self._projected = cache(self._project)

    def carried(self, first: int, second: int, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place, z = self._projected(first, second)
        return place, (z > 0) & (_sampled(self._nearest[second], place) >= (1 - LEFT) * z)

    def gone(self, first: int, second: int) -> np.ndarray:
        """(h, w) bool: the surface of frame `first` is not in its place in frame `second`, because one looks through it there."""
        place, z = self._projected(first, second)
        return (z > 0) & (_sampled(self._nearest[second], place) > (1 + LEFT) * z * self._slant[first])

    def _project(self, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (h, w, 2) float32 of frame `first` in frame `second`, and their depth there; 0 where not known or behind."""
        uv, z = cameras.project(self._world[first], self._intrinsics, self._poses[second])
        place = np.full((*self._known[first].shape, 2), -1, np.float32)
        depth = np.zeros(place.shape[:2], np.float32)
        place[self._known[first]] = np.nan_to_num(uv, nan=-1)
        depth[self._known[first]] = np.where(np.isfinite(uv).all(axis=1), z, 0)
        return place, depth


def _departs(
    grey: np.ndarray, other: np.ndarray, flow: np.ndarray, back: np.ndarray, unmoved: np.ndarray, in_sight: np.ndarray
) -> np.ndarray:
    """(h, w) bool: pixels of `grey` that `flow` carries elsewhere in `other` than the camera would (`unmoved`), with good reason."""
    import cv2

    pixels = _pixels((grey.shape[1], grey.shape[0]))
    went = pixels + flow
    shift = np.linalg.norm(went - unmoved, axis=-1)
    returned = np.linalg.norm(went + _sampled(back, went) - pixels, axis=-1) < LEAST_SHIFT
    at_rest, moving = (cv2.blur(np.abs(_sampled(other.astype(np.float32), place) - grey), (3, 3)) for place in (unmoved, went))
    return in_sight & returned & (shift > LEAST_SHIFT) & (at_rest - moving > LEAST_GAIN)


def _pixels(size: tuple[int, int]) -> np.ndarray:
    """(h, w, 2) float32: the coordinates of every pixel."""
    return np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), axis=-1).astype(np.float32)


def _sampled(image: np.ndarray, place: np.ndarray) -> np.ndarray:
    """`image` (h, w[, 2]) at `place` (h, w, 2); 0 outside."""
    import cv2

    across, down = np.ascontiguousarray(place[..., 0]), np.ascontiguousarray(place[..., 1])
    return cv2.remap(image, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
