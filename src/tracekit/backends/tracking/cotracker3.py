"""Tracker `cotracker3`: CoTracker3 offline (Karaev et al. 2024). It follows points in the image; depth lifts them into the world.

Frames are brought to its grid corner-aligned, as its own resizing would, only before they travel: it works on 512 x 384 pixels whatever it is
given. Pixel centres are at whole numbers there as here.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tracekit.backends.checkouts import Repository
from tracekit.backends.protocols import Facts
from tracekit.backends.tracking import resampling
from tracekit.backends.tracking.foreign_tracker import ForeignTracker
from tracekit.backends.tracking.network_tracks import Clip, lifted_tracks
from tracekit.backends.weights import Published


class CoTracker3(ForeignTracker):
    """A TrackingBackend; see the module. Without depth points lie on z = 1 of their camera. Hidden points have no position."""

    name: ClassVar[str] = "cotracker3"
    facts: ClassVar[Facts] = Facts(
        about="2-D point tracking, lifted by depth; needs none",
        code="https://github.com/facebookresearch/co-tracker",
        code_licence="CC-BY-NC-4.0 (parts MIT and Apache-2.0)",
        weights="facebook/cotracker3",
        weights_licence="CC-BY-NC-4.0",
        commercial="no",
    )
    repository: ClassVar[Repository] = Repository(
        "co-tracker", "https://github.com/facebookresearch/co-tracker", "cotracker/predictor.py", "cotracker", ("torch", "numpy")
    )
    published: ClassVar[Published] = Published("facebook/cotracker3", ("scaled_offline.pth",))
    network: ClassVar[str] = "cotracker3_network"
    most_queries: ClassVar[int] = 1024
    _size: tuple[int, int] | None = None

    def show(self, frames: np.ndarray, clip: Clip) -> None:
        if self._size is None:
            height, width = self.ask("shape")["image_size"]
            self._size = width, height
        self.worker.call({"rgb": resampling.corner_aligned_frames(frames, self._size)}, ask="clip")

    def follow(self, clip: Clip, queries_world: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self._size is not None
        scale = resampling.corner_aligned_scale(clip.image_size, self._size)
        uv = np.empty((len(asked), 2))
        for frame in np.unique(asked):
            uv[asked == frame] = clip.see(frame, queries_world[asked == frame])[0]
        queries = np.concatenate([asked[:, None], uv * scale], axis=1).astype(np.float32)
        _, found = self.worker.call({"queries": queries}, ask="track")
        shape = (len(clip), len(asked))
        tracks = self.part_of(found, "tracks", (*shape, 2)).astype(np.float64)
        seen = self.part_of(found, "visible", shape) | ~np.isfinite(tracks).all(axis=2)
        return lifted_tracks(clip, tracks / scale, seen, queries_world, asked)
