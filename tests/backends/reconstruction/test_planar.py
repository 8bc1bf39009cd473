"""The backend without depth: a camera that turns is followed, one that rests stays put."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tracekit.backends.protocols import BackendSetup
from tracekit.backends.reconstruction.planar import PlanarBackend, guess_intrinsics
from tracekit.extract.reconstruct import ReconstructParameters, SequentialBackend, reconstruct
from tracekit.geometry import se3
from tracekit.records import CameraSensor
from tracekit.report import Report

REAL_DATA = Path(os.environ.get("TRACEKIT_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
SIZE = (320, 240)


def panorama() -> np.ndarray:
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.random((n, n, 3)).astype(np.float32), (1200, 1200), interpolation=cv2.INTER_CUBIC) for n in (20, 60, 150, 300)]
    return (255 * np.mean(layers, axis=0)).clip(0, 255).astype(np.uint8)


def turning_camera(rotations: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """What cameras with poses (T, 3, 3) see of a far-away picture: the homography K R^T K^-1, exactly."""
    picture = panorama()
    centre = np.array([[1.0, 0.0, SIZE[0] / 2 - 600], [0.0, 1.0, SIZE[1] / 2 - 600], [0.0, 0.0, 1.0]])
    views = [intrinsics @ rotation.T @ np.linalg.inv(intrinsics) @ centre for rotation in rotations]
    return np.stack([cv2.warpPerspective(picture, view, SIZE) for view in views])


def run(frames: np.ndarray, backend: PlanarBackend, camera: CameraSensor | None = None):
    def refuse(start: int, depth: np.ndarray) -> None:
        raise AssertionError("planar claims no depth")

    return reconstruct(frames, backend, ReconstructParameters(chunk=10), report=Report(), depth=None, camera=camera, write_depth=refuse)


def test_rotation_is_found_across_chunks_with_the_guessed_focal_length():
    intrinsics = guess_intrinsics(SIZE)
    rotations = np.stack([cv2.Rodrigues(np.array([0.15 * np.sin(a), 0.4 * np.sin(a / 2), 0.1 * a / 3]))[0] for a in np.linspace(0, 3, 25)])
    geometry = run(turning_camera(rotations, intrinsics), PlanarBackend(BackendSetup()))
    error = se3.rotation_angle(np.swapaxes(geometry.world_from_camera[:, :3, :3], 1, 2) @ (rotations[0].T @ rotations))
    assert error.max() * intrinsics[0, 0] < 0.5, "pixels"
    assert (geometry.world_from_camera[:, :3, 3] == 0).all()
    assert geometry.depth is None and not geometry.metric
    np.testing.assert_array_equal(geometry.intrinsics, intrinsics)
    np.testing.assert_array_equal(geometry.chunk_alignment, np.tile(np.eye(4), (len(geometry.chunk_start), 1, 1)))


def test_calibration_of_the_recording_replaces_the_guess():
    intrinsics = np.array([[500.0, 0.0, 150.0], [0.0, 505.0, 125.0], [0.0, 0.0, 1.0]])
    rotations = np.stack([cv2.Rodrigues(np.array([0.0, angle, 0.0]))[0] for angle in np.linspace(0, 0.25, 12)])
    geometry = run(turning_camera(rotations, intrinsics), PlanarBackend(BackendSetup()), CameraSensor(intrinsics))
    np.testing.assert_array_equal(geometry.intrinsics, intrinsics)
    assert se3.rotation_angle(geometry.world_from_camera[-1, :3, :3]) == pytest.approx(0.25, abs=1e-3)


def test_a_still_picture_with_noise_has_a_still_camera():
    rng = np.random.default_rng(1)
    frame = turning_camera(np.eye(3)[None], guess_intrinsics(SIZE))[0]
    frames = np.clip(frame + rng.normal(0, 4, (15, *frame.shape)), 0, 255).astype(np.uint8)
    assert (run(frames, PlanarBackend(BackendSetup())).world_from_camera == np.eye(4)).all()


def test_one_instance_serves_clip_after_clip():
    intrinsics = guess_intrinsics(SIZE)
    frames = turning_camera(np.stack([cv2.Rodrigues(np.array([0.0, 0.02 * k, 0.0]))[0] for k in range(6)]), intrinsics)
    backend = PlanarBackend(BackendSetup())
    first = run(frames, backend).world_from_camera
    np.testing.assert_array_equal(run(frames, backend).world_from_camera, first)
    np.testing.assert_array_equal(first[0], np.eye(4))
    assert isinstance(backend, SequentialBackend) and PlanarBackend.missing(BackendSetup()) is None and backend.weights_sha256() == ""


def background_motion(first: np.ndarray, second: np.ndarray) -> float:
    """Median distance in pixels that corners move between two pictures."""
    one, two = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second))
    corners = cv2.goodFeaturesToTrack(one, 600, 0.005, 8)
    moved, _, _ = cv2.calcOpticalFlowPyrLK(one, two, corners, None)
    back, _, _ = cv2.calcOpticalFlowPyrLK(two, one, moved, None)
    followed = np.abs(back - corners).max(axis=(1, 2)) < 0.5
    return float(np.median(np.linalg.norm(moved - corners, axis=2)[followed]))


@pytest.mark.skipif(not (REAL_DATA / "sheep.mp4").exists(), reason="real recordings are not here")
def test_grass_stands_still_while_the_camera_pans_over_sheep():
    capture = cv2.VideoCapture(str(REAL_DATA / "sheep.mp4"))
    frames = np.stack([cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(100)])
    geometry = run(frames, PlanarBackend(BackendSetup()))
    upright = geometry.intrinsics @ geometry.world_from_camera[:, :3, :3] @ np.linalg.inv(geometry.intrinsics)
    steady = [cv2.warpPerspective(frame, view, frame.shape[1::-1]) for frame, view in zip(frames, upright, strict=True)]
    pairs = [(index, index + 10) for index in range(0, 90, 10)]
    before = np.array([background_motion(frames[a], frames[b]) for a, b in pairs])
    after = np.array([background_motion(steady[a], steady[b]) for a, b in pairs])
    assert before.max() > 4.0
    assert after.max() < 0.8 and np.median(after) < 0.4
