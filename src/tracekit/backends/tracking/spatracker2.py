"""Tracker `spatracker2`: SpatialTrackerV2 offline (Xiao et al. 2025), on our depth and our cameras.

It is told to leave cameras and intrinsics as they are (`fixed_cam`) and not to scale depth (stage 1), and says in its answer which it used; an
answer from other cameras is refused. What it finds is in the frame of each frame's camera, so our pose of that frame brings it into our world,
with no fit and no scale of its own in between.

It scales pixels and K by new / old without regard to their centres. Frames, depth and K are therefore brought here to the very grid that it
would choose (shorter side 336, multiples of 14), where that changes nothing.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tracekit.backends.checkouts import Repository
from tracekit.backends.protocols import Facts
from tracekit.backends.tracking import resampling
from tracekit.backends.tracking.foreign_tracker import ForeignTracker
from tracekit.backends.tracking.network_tracks import Clip, known_tracks
from tracekit.backends.weights import Published
from tracekit.errors import MissingInputError, UnavailableError, UsageError
from tracekit.geometry import cameras, se3

MULTIPLE = 14
NUM_ITERS = 4
REPLACE_RATIO = 0.2
"""Part of the points, the steadiest, whose depth it takes from the depth image: as its inference.py has it."""

SEEN = 0.5
"""Visibility from which a point counts as visible. The network has added 0.2 to its probabilities by then: it is too timid about hidden points."""

SAME_CAMERA = 1e-3
"""How far the cameras that it used may be from ours: rotations, translations as a fraction of their largest, K as a fraction of its focal length."""


class SpatialTracker2(ForeignTracker):
    """A TrackingBackend; see the module. Needs depth."""

    name: ClassVar[str] = "spatracker2"
    facts: ClassVar[Facts] = Facts(
        about="3-D point tracking in the image and in depth",
        code="https://github.com/henry123-boy/SpaTrackerV2",
        code_licence="CC-BY-NC-4.0",
        weights="Yuxihenry/SpatialTrackerV2-Offline",
        weights_licence="CC-BY-NC-4.0 (its repository's)",
        commercial="no",
    )
    repository: ClassVar[Repository] = Repository(
        "SpaTrackerV2",
        "https://github.com/henry123-boy/SpaTrackerV2",
        "models/SpaTrackV2/models/predictor.py",
        needs=("torch", "torchvision", "numpy", "scipy", "einops", "huggingface_hub", "tqdm"),
    )
    published: ClassVar[Published] = Published("Yuxihenry/SpatialTrackerV2-Offline", ("model.safetensors",), ("config.json",))
    network: ClassVar[str] = "spatracker2_network"
    most_queries: ClassVar[int] = 1024
    _size: tuple[int, int] = (0, 0)

    def can_use(self, clip: Clip) -> bool:
        if clip.depth is None:
            raise MissingInputError("spatracker2 needs depth, and this clip has none", hint="choose --tracker cotracker3 or klt")
        return bool((clip.depth > 0).any())

    def show(self, frames: np.ndarray, clip: Clip) -> None:
        shape = self.ask("shape")
        if len(frames) > shape["most_frames"]:
            raise UsageError(
                f"spatracker2 tracks {shape['most_frames']} frames at a time, not {len(frames)}", hint=f"--chunk {shape['most_frames'] - 1}"
            )
        assert clip.depth is not None
        self._size = own_size(clip.image_size, shape["resolution"])
        x, y = self._pixels(clip)
        intrinsics = cameras.scale_intrinsics(clip.intrinsics, clip.image_size, self._size)
        arrays = {
            "rgb": resampling.edge_aligned_frames(frames, self._size),
            "depth": resampling.depth_at(clip.depth, x, y, clip.image_size),
            "intrinsics": np.tile(intrinsics.astype(np.float32), (len(frames), 1, 1)),
            "world_from_camera": clip.world_from_camera.astype(np.float32),
        }
        self.worker.call(arrays, ask="clip")

    def _pixels(self, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of its grid, in pixels of the frames."""
        across, down = (np.arange(side, dtype=np.float64) for side in self._size)
        x = cameras.resize_pixels(np.stack([across, np.zeros_like(across)], axis=1), self._size, clip.image_size)[:, 0]
        y = cameras.resize_pixels(np.stack([np.zeros_like(down), down], axis=1), self._size, clip.image_size)[:, 1]
        return x, y

    def follow(self, clip: Clip, queries_world: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        uv = np.empty((len(asked), 2))
        for frame in np.unique(asked):
            uv[asked == frame] = clip.see(frame, queries_world[asked == frame])[0]
        uv = cameras.resize_pixels(uv, clip.image_size, self._size)
        queries = np.concatenate([asked[:, None], uv], axis=1).astype(np.float32)
        _, found = self.worker.call({"queries": queries}, ask="track", num_iters=NUM_ITERS, replace_ratio=REPLACE_RATIO)
        num_frames, num_points = len(clip), len(asked)
        intrinsics = self.part_of(found, "intrinsics", (num_frames, 3, 3))
        first_from_camera = self.part_of(found, "first_from_camera", (num_frames, 4, 4))
        self._check_cameras(clip, intrinsics.astype(np.float64), first_from_camera.astype(np.float64))
        xyz_camera = self.part_of(found, "xyz_camera", (num_frames, num_points, 3))
        xyz_world = se3.transform_points(clip.world_from_camera, xyz_camera.astype(np.float64))
        return known_tracks(clip, xyz_world, self.part_of(found, "visibility", (num_frames, num_points)), SEEN, queries_world, asked)

    def _check_cameras(self, clip: Clip, intrinsics: np.ndarray, first_from_camera: np.ndarray) -> None:
        """Raise UnavailableError unless it used our cameras: points in the frames of others would come out in wrong places."""
        ours = se3.inverse(clip.world_from_camera[:1]) @ clip.world_from_camera
        own_k = cameras.scale_intrinsics(clip.intrinsics, clip.image_size, self._size)
        far = max(float(np.abs(ours[:, :3, 3]).max()), 1.0)
        off = max(
            np.abs(intrinsics - own_k).max() / own_k[0, 0],
            np.abs(first_from_camera[:, :3, :3] - ours[:, :3, :3]).max(),
            np.abs(first_from_camera[:, :3, 3] - ours[:, :3, 3]).max() / far,
        )
        if not off <= SAME_CAMERA:  # NaN fails, too
            raise UnavailableError(
                "spatracker2: this version of its repository moves the cameras it is given, or says something else of them",
                hint="use an earlier checkout of it, or another --tracker",
            )


def own_size(image_size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """(width, height) that it resizes to: the shorter side becomes `resolution` at least, both are multiples of 14."""
    scale = max(resolution / side for side in image_size)
    rounded = [round(scale * side / MULTIPLE) * MULTIPLE for side in image_size]
    width, height = (side if side >= resolution else -(-resolution // MULTIPLE) * MULTIPLE for side in rounded)
    return width, height
