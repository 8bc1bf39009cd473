"""Backends that answer in the shapes of the paper's networks and sleep for as long as those take on a GPU, as an installed package."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.backends.protocols import BackendSetup, EventCaption, EventRequest, LocalGeometry, PatchFeatures

# Seconds in the network on one H100, 640 x 480, random weights of the true sizes: docs/backends/README.md.
DINOV2_FRAME = 0.05 / 60
VGGT_60, VGGT_150 = 1.7, 7.9
TRACKERS = {"tapip3d": 17.0, "cotracker3": 0.48}
"""A chunk of 60 frames."""
SMOLVLM_EVENT = 4.7
GRID, WIDTH_OF_FEATURES = (28, 37), 768
DEPTH = (392, 518)


def install(site: Path) -> dict[str, str]:
    """Put the package into a folder; the environment in which it is installed. SLEPT names a file that gets the seconds asleep."""
    info = site / "sleeping-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeping\nVersion: 1.0\n")
    kinds = {"features": "Features", "reconstruction": "Reconstruction", "tracking": "Tracking", "captioning": "Captioning"}
    lines = [f"{kind}.sleeping = sleeping_networks:{name}\n" for kind, name in kinds.items()]
    (info / "entry_points.txt").write_text("[tracekit.backends]\n" + "".join(lines))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parent)])}


_asleep = 0.0


@atexit.register
def _say_how_long() -> None:
    if slept := os.environ.get("SLEPT"):
        Path(slept).write_text(str(_asleep))


def in_network(seconds: float, answer: Callable[[], Any]) -> Any:
    """The answer, after `seconds`: what it costs to make one up is part of them, unless that takes longer."""
    global _asleep
    start = time.perf_counter()
    result = answer()
    time.sleep(max(0.0, seconds - (time.perf_counter() - start)))
    _asleep += time.perf_counter() - start
    return result


class _Sleeping:
    name = "sleeping"
    stateless = True

    def __init__(self, setup: BackendSetup) -> None:
        self.rng = np.random.default_rng(0)

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        return None

    def weights_sha256(self) -> str:
        return ""


class Features(_Sleeping):
    """Colour in a space of 768 dimensions, and noise."""

    def describe(self, frames: np.ndarray) -> PatchFeatures:
        def answer() -> PatchFeatures:
            rows = np.linspace(0, frames.shape[1] - 1, GRID[0]).astype(int)
            columns = np.linspace(0, frames.shape[2] - 1, GRID[1]).astype(int)
            colour = frames[:, rows[:, None], columns] / 255.0 - 0.5
            mixed = colour @ np.random.default_rng(1).standard_normal((3, WIDTH_OF_FEATURES))
            return PatchFeatures((mixed + 0.3 * self.rng.standard_normal(mixed.shape)).astype(np.float32))

        return in_network(DINOV2_FRAME * len(frames), answer)


class Reconstruction(_Sleeping):
    """A camera that hardly moves before a slanted wall, with the digits of a network's depth."""

    metric = False

    def reconstruct(self, frames: np.ndarray, frame_indices: np.ndarray, depth: np.ndarray | None) -> LocalGeometry:
        count = len(frames)

        def answer() -> LocalGeometry:
            poses = np.tile(np.eye(4), (count, 1, 1))
            poses[:, 0, 3] = 1e-3 * frame_indices
            wall = 2 + np.linspace(0, 0.5, DEPTH[1], dtype=np.float32) + np.zeros((count, *DEPTH), np.float32)
            wall += self.rng.standard_normal(DEPTH, np.float32) * np.float32(2e-3)
            focal = float(frames.shape[2])
            intrinsics = np.array([[focal, 0, frames.shape[2] / 2 - 0.5], [0, focal, frames.shape[1] / 2 - 0.5], [0, 0, 1]])
            return LocalGeometry(np.tile(intrinsics, (count, 1, 1)), poses, np.ones(count, np.float32), wall)

        return in_network(float(np.interp(count, [0, 60, 150], [0, VGGT_60, VGGT_150])), answer)


class Tracking(_Sleeping):
    """Points that swing about where they were selected."""

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
        def answer() -> tuple[np.ndarray, np.ndarray]:
            xyz = np.repeat(queries_world[None], len(frames), axis=0).astype(np.float32)
            swing = 0.3 * np.sin(np.arange(len(frames))[:, None] / 9 + identities)
            xyz[..., 0] += np.where(identities % 2, swing - swing[query_frames, np.arange(len(identities))], 0)
            return xyz, np.ones(xyz.shape[:2], bool)

        return in_network(TRACKERS[os.environ.get("TRACKER", "tapip3d")] * len(frames) / 60, answer)


class Captioning(_Sleeping):
    """Looks at three frames of an event, as SmolVLM2 does."""

    looks_at_frames = True

    def describe(self, request: EventRequest) -> EventCaption:
        assert request.frames is not None
        for frame in (request.start, (request.start + request.stop) // 2, request.stop - 1):
            request.frames[frame]
        said = [f"{what} {request.start}" for what in ("before", "something moves", "after", "something moves at")]
        return in_network(SMOLVLM_EVENT, lambda: EventCaption(*said, paraphrases=[f"{n}: it moves" for n in range(3)]))

    def merge(self, texts: list[str]) -> str:
        return in_network(SMOLVLM_EVENT / 8, lambda: f"First {texts[0]}, at last {texts[-1]}.")
