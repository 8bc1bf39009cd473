"""What every tracker that runs a foreign network is put through, with a double in the network's place that knows the answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tracking_scene import NUM_POINTS, TrackingScene

from tracekit.backends.protocols import BackendSetup
from tracekit.backends.tracking.foreign_tracker import ForeignTracker
from tracekit.errors import BadDataError
from tracekit.extract.track import TrackParameters, track
from tracekit.records import Geometry, Keypoints
from tracekit.report import Report

DOUBLES = Path(__file__).parents[1] / "doubles"
SHAPES = [(160, 120), (90, 160), (64, 48), (3840, 2160)]
"""Width and height: landscape, portrait, tiny, 4K."""
LENGTHS = [1, 2, 7, 61]
ALL_POINTS = np.arange(NUM_POINTS)


def scene_of(shape: tuple[int, int], num_frames: int) -> TrackingScene:
    scene = TrackingScene(num_frames, *shape, depth_size=(480, 270) if shape[0] > 1000 else None)
    assert ((scene.place > 0.05) & (scene.place < 0.95)).all()
    return scene


def setup(repository: str, weights: Path, **other) -> BackendSetup:
    return BackendSetup(device="cpu", weights=str(weights), repo=str(DOUBLES / repository), patience=60, **other)


def expect_other_shapes_to_be_told(kind, repository: str, code: str, real: str, other: str, said: str, weights: Path, scene) -> None:
    """Another version of the repository: its file `code` has `other` in the place of `real`, and answers in another shape."""
    checkout = weights.parent / repository
    shutil.copytree(DOUBLES / repository, checkout)
    text = (checkout / code).read_text()
    assert text.count(real) == 1
    (checkout / code).write_text(text.replace(real, other))
    tracker = kind(BackendSetup(device="cpu", weights=str(weights), repo=str(checkout), patience=60))
    try:
        with pytest.raises(BadDataError, match=f"{kind.name} answered {said}") as caught:
            find(tracker, scene)
    finally:
        tracker.close()
    assert "another version of its repository" in caught.value.hint


def find(tracker: ForeignTracker, scene: TrackingScene, points=ALL_POINTS, *, depth=..., queries=None, query_frames=None):
    points = np.asarray(points)
    return tracker.track(
        scene.frames,
        scene.depth if depth is ... else depth,
        scene.intrinsics,
        scene.poses,
        scene.queries(points) if queries is None else queries,
        scene.query_frames[points] if query_frames is None else query_frames,
        points,
    )


def expect_truth(found, scene: TrackingScene, points=ALL_POINTS, *, bridges: bool) -> None:
    """All that is not hidden is seen, and everything known is where it is; `bridges`: what is hidden in between is known, too."""
    xyz, visible = found
    points = np.asarray(points)
    assert xyz.dtype == np.float32 and xyz.shape == (scene.num_frames, len(points), 3) and visible.dtype == bool
    seen = ~scene.hidden[:, points]
    np.testing.assert_array_equal(visible, seen)
    times = np.arange(scene.num_frames)[:, None]
    first, last = np.where(seen, times, 10**6).min(axis=0), np.where(seen, times, -1).max(axis=0)
    known = (times >= first) & (times <= last) if bridges else seen
    np.testing.assert_array_equal(np.isfinite(xyz).all(axis=2), known)
    np.testing.assert_allclose(xyz[known], scene.world[:, points][known], atol=1e-4)


def hide_some(scene: TrackingScene) -> None:
    """One point behind something in the middle, one gone for the rest, one coming late: none of them where it is queried."""
    scene.hidden[6:8, 0] = True
    scene.hidden[7:, 1] = True
    scene.hidden[:2, 2] = True


def track_in_chunks(tracker: ForeignTracker, scene: TrackingScene, chunk: int):
    """All points through the stage."""
    number = scene.num_frames
    starts = np.arange(0, number, chunk, dtype=np.int32)
    uv = scene.place[scene.query_frames, ALL_POINTS] * [scene.width - 1, scene.height - 1]
    keypoints = Keypoints(
        patch_size=scene.width / 4,
        budget=NUM_POINTS,
        features="known",
        uv=uv.astype(np.float32),
        frame=scene.query_frames.astype(np.int32),
        entity=np.full(NUM_POINTS, 7, np.int32),
        chunk=(scene.query_frames // chunk).astype(np.int32),
        score=np.linspace(1, 0, NUM_POINTS, dtype=np.float32),
        chunk_start=starts,
        chunk_stop=np.minimum(starts + chunk, number).astype(np.int32),
        entity_id=np.array([7], np.int32),
        entity_num_patches=np.ones(1, np.int32),
        entity_num_frames=np.ones(1, np.int32),
        entity_rgb=np.zeros((1, 3), np.uint8),
        label_frame=np.zeros(1, np.int32),
        labels=np.full((1, 3, 4), 7, np.int32),
    )
    geometry = Geometry(
        backend="known",
        metric=True,
        intrinsics=scene.intrinsics,
        world_from_camera=scene.poses,
        frame_confidence=np.ones(number, np.float32),
        anchor_frame=np.arange(1, dtype=np.int32),
        chunk_start=np.zeros(1, np.int32),
        chunk_stop=np.full(1, number, np.int32),
        chunk_scale=np.ones(1),
        chunk_alignment=np.eye(4)[None],
        chunk_residual=np.zeros(1),
        chunk_num_anchors=np.ones(1, np.int32),
        depth=scene.depth,
    )
    return track(scene.frames, keypoints, geometry, tracker, TrackParameters(chunk=chunk, least_tracks=100), report=Report())
