"""What the reconstruction networks of other repositories have in common: VGGT, and those that were made of it."""

from __future__ import annotations

import numpy as np

from tracekit.backends.foreign_network import ForeignNetwork
from tracekit.backends.protocols import LocalGeometry
from tracekit.backends.reconstruction.pose_encoding import cameras_of
from tracekit.errors import BadDataError
from tracekit.geometry.cameras import scale_intrinsics


class ForeignReconstruction(ForeignNetwork):
    """A ReconstructionBackend whose network answers in a process of its own, for all frames of a call at once.

    Frames go there as they are, and are resized on the network's device to `grid_size` without cropping: what that distorts, a patch at
    most, the intrinsics take back exactly. Depth stays on the network's grid. Lengths have a scale of their own in every call.
    """

    metric = False

    @staticmethod
    def grid_size(size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that the network works on, for frames of `size` (width, height)."""
        raise NotImplementedError

    def reconstruct(self, frames: np.ndarray, frame_indices: np.ndarray, depth: np.ndarray | None) -> LocalGeometry:
        """See `ReconstructionBackend`; `depth` is ignored. Depth is that of all pixels, 0 only where the network's own rule says so.

        Raises BadDataError where it gives a frame no depth at all that is a number, WorkerMemoryError where the frames are too many.
        """
        size = (frames.shape[2], frames.shape[1])
        grid = self.grid_size(size)
        _, found = self.worker.call({"frames": frames}, size=list(grid))
        world_from_camera, intrinsics = cameras_of(self.part_of(found, "pose_encoding", (len(frames), 9)), grid)
        depth_of_frames = self.part_of(found, "depth", (len(frames), grid[1], grid[0]))
        self._check_depth(depth_of_frames, frame_indices)
        return LocalGeometry(
            intrinsics=np.stack([scale_intrinsics(each, grid, size) for each in intrinsics]),
            world_from_camera=world_from_camera,
            confidence=self.part_of(found, "confidence", (len(frames),)),
            depth=depth_of_frames,
        )

    def _check_depth(self, depth: np.ndarray, frame_indices: np.ndarray) -> None:
        stage = f"reconstruct, backend {self.name}"
        known = [bool(np.isfinite(image).any()) for image in depth]
        if not all(known):
            number = len(known) - sum(known)
            raise BadDataError(f"{stage}: at frame {frame_indices[known.index(False)]} no depth is finite ({number} frames of this pass)")


def whole_patches(size: tuple[int, int], longest: int, patch: int) -> tuple[int, int]:
    """(width, height) in whole patches with the longer side `longest`, as near to the shape of `size` as they come."""
    scale = longest / max(size)
    width, height = (max(1, round(side * scale / patch)) * patch for side in size)
    return width, height
