"""The tracking stage with `klt` against the bare OpenCV calls that it stands on: 256 points, 300 frames of 640 x 480.

The peer follows the points from frame to frame and back with `cv2.calcOpticalFlowPyrLK`, all points in one call, with the same
window, levels and termination, on frames that are grey already. It remembers nothing, so it drifts, and lifts nothing.
"""

from __future__ import annotations

import itertools
import time

import cv2
import numpy as np

from tracekit.backends.protocols import BackendSetup
from tracekit.backends.tracking import klt
from tracekit.extract.track import TrackParameters, track
from tracekit.records import Geometry, Keypoints
from tracekit.report import Report

NUM_POINTS, NUM_FRAMES, WIDTH, HEIGHT = 256, 300, 640, 480
ROUNDS = 5
GOAL = 0.75


def main() -> list[dict]:
    frames = _clip()
    greys = [np.ascontiguousarray(frame[..., 0]) for frame in frames]
    corners = cv2.goodFeaturesToTrack(greys[0], NUM_POINTS, 0.001, 12)[:, 0]
    keypoints = _keypoints(corners)
    depth = np.full((NUM_FRAMES, HEIGHT, WIDTH), 2.0, dtype=np.float32)
    peer, planar, lifted = [], [], []
    for _ in range(ROUNDS):
        peer.append(_seconds(lambda: _bare(greys, corners)))
        planar.append(_seconds(lambda: _ours(frames, keypoints, None)))
        lifted.append(_seconds(lambda: _ours(frames, keypoints, depth)))
    return [
        _row("Lucas-Kanade, 256 points x 300 frames 640 x 480, forward-backward, planar", planar, peer),
        _row("the same, lifted by depth", lifted, peer),
    ]


def _row(work: str, ours: list[float], peer: list[float]) -> dict:
    ours_ms, peer_ms = 1e3 * float(np.median(ours)), 1e3 * float(np.median(peer))
    return {"work": work, "ours": f"{ours_ms:.0f} ms", "peer": f"{peer_ms:.0f} ms", "ratio": peer_ms / ours_ms, "goal": GOAL}


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _clip() -> np.ndarray:
    """A textured wall that sways in front of the camera, with some sensor noise."""
    rng = np.random.default_rng(0)
    wall = sum(cv2.GaussianBlur(rng.normal(size=(HEIGHT + 160, WIDTH + 200)), (0, 0), s) * s for s in (1.5, 4.0, 9.0))
    wall = np.clip(127 + 45 * wall / wall.std(), 0, 255).astype(np.float32)
    frames = np.empty((NUM_FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for t in range(NUM_FRAMES):
        shift = np.array([[1, 0, -100 - 80 * np.sin(t / 25)], [0, 1, -80 - 60 * np.sin(t / 40)]])
        grey = cv2.warpAffine(wall, shift, (WIDTH, HEIGHT)) + rng.normal(0, 2, (HEIGHT, WIDTH))
        frames[t] = np.clip(np.rint(grey), 0, 255)[..., None]
    return frames


def _bare(greys: list[np.ndarray], corners: np.ndarray) -> None:
    options = {"winSize": (klt.WINDOW, klt.WINDOW), "maxLevel": klt.LEVELS, "criteria": klt.TERMINATION}
    points = corners.reshape(-1, 1, 2)
    for before, after in itertools.pairwise(greys):
        forth, _, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, **options)
        cv2.calcOpticalFlowPyrLK(after, before, forth, None, **options)
        points = forth


def _ours(frames: np.ndarray, keypoints: Keypoints, depth: np.ndarray | None) -> None:
    geometry = Geometry(
        backend="known",
        metric=depth is not None,
        intrinsics=np.array([[600.0, 0, WIDTH / 2], [0, 600.0, HEIGHT / 2], [0, 0, 1]]),
        world_from_camera=np.tile(np.eye(4), (NUM_FRAMES, 1, 1)),
        frame_confidence=np.ones(NUM_FRAMES, np.float32),
        anchor_frame=np.zeros(1, np.int32),
        chunk_start=np.zeros(1, np.int32),
        chunk_stop=np.full(1, NUM_FRAMES, np.int32),
        chunk_scale=np.ones(1),
        chunk_alignment=np.eye(4)[None],
        chunk_residual=np.zeros(1),
        chunk_num_anchors=np.ones(1, np.int32),
        depth=depth,
    )
    track(frames, keypoints, geometry, klt.KLT(BackendSetup()), TrackParameters(), report=Report())


def _keypoints(corners: np.ndarray) -> Keypoints:
    number = len(corners)
    one = np.zeros(1, np.int32)
    return Keypoints(
        patch_size=16.0,
        budget=number,
        features="none",
        uv=corners.astype(np.float32),
        frame=np.zeros(number, np.int32),
        entity=np.zeros(number, np.int32),
        chunk=np.zeros(number, np.int32),
        score=np.ones(number, np.float32),
        chunk_start=one,
        chunk_stop=one + NUM_FRAMES,
        entity_id=one,
        entity_num_patches=one,
        entity_num_frames=one,
        entity_rgb=np.zeros((1, 3), np.uint8),
        label_frame=one,
        labels=np.zeros((1, HEIGHT // 16, WIDTH // 16), np.int32),
    )


if __name__ == "__main__":
    from table import print_table

    print_table(main())
