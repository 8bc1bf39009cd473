"""What the trackers that run a network of another repository have in common."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import numpy as np

from tracekit.backends.foreign_network import ForeignNetwork
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.tracking.network_tracks import Clip, frames_to_ask


class ForeignTracker(ForeignNetwork):
    """A TrackingBackend whose network answers in a process of its own.

    It is shown each clip once, and then asked about its points, `most_queries` at a time: points attend to each other, so what is found
    depends a little on which are asked together, and memory grows with their number.
    """

    most_queries: ClassVar[int]

    def __init__(self, setup: BackendSetup) -> None:
        super().__init__(setup)
        self._shown: weakref.ref[np.ndarray] | None = None

    def close(self) -> None:
        self._shown = None
        super().close()

    def track(
        self,
        frames: np.ndarray,
        depth: np.ndarray | None,
        intrinsics: np.ndarray,
        world_from_camera: np.ndarray,
        queries_world: np.ndarray,
        query_frames: np.ndarray,
        identities: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See TrackingBackend.track. A point that is hidden or out of sight where it is queried is asked for where its place comes into sight."""
        shape = (len(frames), len(identities))
        xyz_world, visible = np.full((*shape, 3), np.nan, dtype=np.float32), np.zeros(shape, dtype=bool)
        clip = Clip(
            (frames.shape[2], frames.shape[1]), depth, np.asarray(intrinsics, np.float64), np.asarray(world_from_camera, np.float64)
        )
        if 0 in shape or not self.can_use(clip):
            return xyz_world, visible
        queries_world, query_frames = np.asarray(queries_world, dtype=np.float64), np.asarray(query_frames)
        asked = frames_to_ask(clip, queries_world, query_frames)
        to_ask = np.flatnonzero(asked >= 0)
        if len(to_ask) and (self._shown is None or self._shown() is not frames):
            self._shown = None
            self.show(frames, clip)
            self._shown = weakref.ref(frames)  # the points of a chunk come in two calls
        for start in range(0, len(to_ask), self.most_queries):
            batch = to_ask[start : start + self.most_queries]
            xyz_world[:, batch], visible[:, batch] = self.follow(clip, queries_world[batch], asked[batch])
        return xyz_world, visible

    def can_use(self, clip: Clip) -> bool:
        """Whether anything can be found in it."""
        return True

    def show(self, frames: np.ndarray, clip: Clip) -> None:
        """Hand the network a clip."""
        raise NotImplementedError

    def follow(self, clip: Clip, queries_world: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, Q, 3) and visibility (n, Q) of points (Q, 3) that are seen in the frames `asked` (Q,) of the clip shown."""
        raise NotImplementedError

    def ask(self, what: str, **message: Any) -> dict[str, Any]:
        """The network's answer to a question without arrays."""
        return self.worker.call({}, ask=what, **message)[0]
