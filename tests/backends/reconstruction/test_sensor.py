"""The backend that takes what was measured: depth, calibration, and poses given or found."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tracekit.backends.protocols import BackendSetup
from tracekit.backends.reconstruction.sensor import SensorBackend
from tracekit.errors import BadDataError, MissingInputError
from tracekit.extract.reconstruct import ReconstructParameters, SequentialBackend, reconstruct
from tracekit.records import CameraSensor
from tracekit.report import Report

REAL_DATA = Path(os.environ.get("TRACEKIT_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
INTRINSICS = np.array([[300.0, 0.0, 159.5], [0.0, 300.0, 119.5], [0.0, 0.0, 1.0]])


def wall(num_frames: int, distance: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A camera that slides along a flat wall by 2 pixels a frame: frames, depth and the camera's true centres, in closed form."""
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.random((n, n, 3)).astype(np.float32), (800, 800), interpolation=cv2.INTER_CUBIC) for n in (20, 60, 150, 300)]
    picture = (255 * np.mean(layers, axis=0)).clip(0, 255).astype(np.uint8)
    frames = np.stack([picture[100 + k : 340 + k, 100 + 2 * k : 420 + 2 * k] for k in range(num_frames)])
    centres = np.stack([np.array([2.0 * k, 1.0 * k, 0.0]) * distance / 300.0 for k in range(num_frames)])
    return frames, np.full((num_frames, 120, 160), distance, np.float32), centres


def run(frames, depth, camera, chunk=20):
    written = []
    geometry = reconstruct(
        frames,
        SensorBackend(BackendSetup()),
        ReconstructParameters(chunk=chunk),
        report=Report(),
        depth=depth,
        camera=camera,
        write_depth=lambda start, chunk: written.append(chunk),
    )
    return geometry, np.concatenate(written)


def test_poses_are_found_in_metres_in_one_world_over_all_chunks():
    frames, depth, centres = wall(70)
    geometry, written = run(frames, depth, CameraSensor(INTRINSICS))
    np.testing.assert_allclose(geometry.world_from_camera[:, :3, 3], centres, atol=0.006)
    np.testing.assert_allclose(geometry.world_from_camera[:, :3, :3], np.tile(np.eye(3), (70, 1, 1)), atol=0.004)
    np.testing.assert_array_equal(written, depth)
    np.testing.assert_array_equal(geometry.intrinsics, INTRINSICS)
    assert geometry.metric and geometry.frame_confidence.min() > 0.8


def test_given_poses_are_taken_as_they_are():
    frames, depth, centres = wall(5)
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, :3, 3] = centres + 1.0
    geometry, _ = run(frames, depth, CameraSensor(INTRINSICS, poses), chunk=2)
    np.testing.assert_array_equal(geometry.world_from_camera, poses)
    np.testing.assert_array_equal(geometry.frame_confidence, 1.0)


def test_what_is_missing_is_named():
    frames, depth, _ = wall(2)
    with pytest.raises(MissingInputError, match="tracekit import rgbd"):
        run(frames, None, CameraSensor(INTRINSICS))
    with pytest.raises(MissingInputError, match="--intrinsics"):
        run(frames, depth, None)
    with pytest.raises(BadDataError, match="1 camera poses, but the clip has a frame 1"):
        run(frames, depth, CameraSensor(INTRINSICS, np.eye(4)[None]))
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = np.nan
    with pytest.raises(BadDataError, match="at frame 1 the camera pose is not finite"):
        run(frames, depth, CameraSensor(INTRINSICS, poses))


def test_it_keeps_the_promises_of_its_kind():
    backend = SensorBackend(BackendSetup())
    assert isinstance(backend, SequentialBackend) and backend.metric
    assert SensorBackend.missing(BackendSetup()) is None and backend.weights_sha256() == ""


@pytest.mark.skipif(not (REAL_DATA / "bridge_drawer").exists(), reason="real recordings are not here")
def test_the_camera_over_a_real_table_stands_still():
    """An arm opens a drawer in front of a fixed camera; a fifth of the depth is missing."""
    folder = REAL_DATA / "bridge_drawer"
    frames = np.stack([cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in sorted((folder / "rgb").iterdir())])
    millimetres = np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((folder / "depth").iterdir())])
    depth = millimetres.astype(np.float32) / 1000
    camera = CameraSensor(np.array([[616.68, 0.0, 320.49], [0.0, 616.68, 239.59], [0.0, 0.0, 1.0]]))
    geometry, written = run(frames, depth, camera)
    assert (geometry.world_from_camera == np.eye(4)).all()
    assert geometry.frame_confidence.min() > 0.5
    np.testing.assert_array_equal(written, depth)
