"""Tracker `tapip3d`: TAPIP3D (Zhang et al. 2025), what the paper tracks with (A.4). It follows points in the world, on the measured depth.

Frames, depth and K are brought to its grid corner-aligned, since it scales K by (new - 1) / (old - 1); depth is rid of smeared edges first, as
its inference.py does. Poses go in as camera_from_world, queries and tracks are in our world frame.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np

from tracekit.backends.checkouts import Repository
from tracekit.backends.protocols import Facts
from tracekit.backends.tracking import resampling
from tracekit.backends.tracking.depth_edges import without_edges
from tracekit.backends.tracking.foreign_tracker import ForeignTracker
from tracekit.backends.tracking.network_tracks import Clip, known_tracks
from tracekit.backends.weights import Published
from tracekit.geometry import se3

RESOLUTION_FACTOR = 2
"""Pixels for each that it was trained on: its inference.py doubles them."""

NUM_ITERS = 6
SUPPORT_GRID = 16
"""Points each way of a grid that is tracked besides, for context."""

SEEN = 0.9
"""Probability from which a point counts as visible."""

EDGE_JUMP = 0.08
EDGE_BEND = 15.0
"""Degrees."""


class Tapip3d(ForeignTracker):
    """A TrackingBackend; see the module. Without depth all points are taken to lie on z = 1 of their camera, and are put back onto it."""

    name: ClassVar[str] = "tapip3d"
    facts: ClassVar[Facts] = Facts(
        about="3-D point tracking in the world, on depth (the paper's)",
        code="https://github.com/zbw001/TAPIP3D",
        code_licence="Apache-2.0",
        weights="zbww/tapip3d",
        weights_licence="not stated; the encoder began as CoTracker3's (CC-BY-NC-4.0)",
        commercial="no",
    )
    repository: ClassVar[Repository] = Repository(
        "TAPIP3D",
        "https://github.com/zbw001/TAPIP3D",
        "models/point_tracker_3d.py",
        needs=("torch", "torchvision", "numpy", "einops", "box"),
    )
    published: ClassVar[Published] = Published("zbww/tapip3d", ("tapip3d_final.pth",))
    network: ClassVar[str] = "tapip3d_network"
    most_queries: ClassVar[int] = 2048
    _size: tuple[int, int] | None = None

    def can_use(self, clip: Clip) -> bool:
        return clip.depth is None or bool((clip.depth > 0).any())

    def show(self, frames: np.ndarray, clip: Clip) -> None:
        if self._size is None:
            height, width = self.ask("shape")["image_size"]
            self._size = int(width * math.sqrt(RESOLUTION_FACTOR)), int(height * math.sqrt(RESOLUTION_FACTOR))
        intrinsics = resampling.corner_aligned_intrinsics(clip.intrinsics, clip.image_size, self._size)
        arrays = {
            "rgb": resampling.corner_aligned_frames(frames, self._size),
            "depth": self._depth(clip, intrinsics),
            "intrinsics": intrinsics.astype(np.float32),
            "camera_from_world": se3.inverse(clip.world_from_camera).astype(np.float32),
        }
        self.worker.call(arrays, ask="clip")

    def _depth(self, clip: Clip, intrinsics: np.ndarray) -> np.ndarray:
        """(n, h, w) float32 on its grid, without smeared edges."""
        assert self._size is not None
        width, height = self._size
        if clip.depth is None:
            return np.ones((len(clip), height, width), dtype=np.float32)
        x, y = (np.linspace(0, old - 1, new) for old, new in zip(clip.image_size, self._size, strict=True))
        depth = resampling.depth_at(clip.depth, x, y, clip.image_size)
        with ThreadPoolExecutor() as pool:
            cleaned = pool.map(lambda image: without_edges(image, intrinsics, EDGE_JUMP, EDGE_BEND), depth)
            return np.stack(list(cleaned))

    def follow(self, clip: Clip, queries_world: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries = np.concatenate([asked[:, None], queries_world], axis=1).astype(np.float32)
        _, found = self.worker.call({"queries": queries}, ask="track", num_iters=NUM_ITERS, support_grid=SUPPORT_GRID)
        shape = (len(clip), len(asked))
        xyz_world = self.part_of(found, "coords", (*shape, 3)).astype(np.float64)
        if clip.depth is None:
            xyz_world = _on_plane(xyz_world, clip.world_from_camera)
        return known_tracks(clip, xyz_world, self.part_of(found, "logits", shape), math.log(SEEN / (1 - SEEN)), queries_world, asked)


def _on_plane(xyz_world: np.ndarray, world_from_camera: np.ndarray) -> np.ndarray:
    """Points (n, Q, 3) moved along their rays onto z = 1 of the camera of each frame; those behind it stay."""
    camera = se3.transform_points(se3.inverse(world_from_camera), xyz_world)
    z = camera[..., 2:]
    return se3.transform_points(world_from_camera, camera / np.where(z > 0, z, 1))
