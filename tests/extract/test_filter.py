import numpy as np
import pytest

from tracekit.extract.filter import PRESETS, FilterParameters, filter_moving
from tracekit.geometry import cameras, se3
from tracekit.records import Geometry, Tracks
from tracekit.report import Report

INTRINSICS = np.array([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]])


def geometry(world_from_camera: np.ndarray) -> Geometry:
    number = len(world_from_camera)
    return Geometry(
        backend="known",
        metric=True,
        intrinsics=INTRINSICS,
        world_from_camera=world_from_camera,
        frame_confidence=np.ones(number, np.float32),
        anchor_frame=np.zeros(1, np.int32),
        chunk_start=np.zeros(1, np.int32),
        chunk_stop=np.full(1, number, np.int32),
        chunk_scale=np.ones(1),
        chunk_alignment=np.eye(4)[None],
        chunk_residual=np.zeros(1),
        chunk_num_anchors=np.ones(1, np.int32),
    )


def moving_camera(num_frames: int) -> np.ndarray:
    angle = np.linspace(0, 0.6, num_frames)
    rotation = np.zeros((num_frames, 3, 3))
    rotation[:, 0, 0] = rotation[:, 2, 2] = np.cos(angle)
    rotation[:, 0, 2], rotation[:, 2, 0], rotation[:, 1, 1] = np.sin(angle), -np.sin(angle), 1
    return se3.from_rotation_translation(rotation, np.stack([angle, 0 * angle, 0.5 * angle], axis=1))


def tracks(xyz_world: np.ndarray, visible: np.ndarray, born: np.ndarray, poses: np.ndarray) -> Tracks:
    number = len(born)
    uv = (
        np.stack([cameras.project(xyz, INTRINSICS, pose)[0] for xyz, pose in zip(xyz_world, poses, strict=True)])
        if len(poses)
        else (np.zeros((0, number, 2)))
    )
    return Tracks(
        tracker="known",
        xyz_world=xyz_world.astype(np.float32),
        uv=uv.astype(np.float32),
        visible=visible.astype(np.uint8),
        valid=np.isfinite(xyz_world).all(axis=-1).astype(np.uint8),
        keypoint=np.arange(number, dtype=np.int32),
        entity=np.zeros(number, np.int32),
        born=np.asarray(born, np.int32),
        chunk=np.zeros(number, np.int32),
    )


def judge(given: Tracks, poses: np.ndarray, report: Report | None = None, **parameters):
    return filter_moving(given, geometry(poses), 640, 480, FilterParameters(**parameters), report=report or Report())


def test_equals_brute_force_over_visible_pairs_in_the_reference_camera():
    rng = np.random.default_rng(3)
    num_frames, number = 70, 40
    poses = moving_camera(num_frames)
    xyz = np.array([0.1, 0.0, 3.0]) + np.cumsum(rng.normal(0, 0.02, (num_frames, number, 3)), axis=0)
    visible = rng.random((num_frames, number)) < 0.6
    xyz[rng.random((num_frames, number)) < 0.1] = np.nan
    visible &= np.isfinite(xyz).all(axis=-1)
    born = rng.integers(0, num_frames, number)
    given = tracks(xyz, visible, born, poses)
    found = judge(given, poses, lambda_z=7.0)
    for track in range(number):
        camera_from_world = np.linalg.inv(poses[born[track]])
        seen = given.xyz_world[visible[:, track], track].astype(np.float64) @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
        curve = np.stack([500 * seen[:, 0] / seen[:, 2], 500 * seen[:, 1] / seen[:, 2], 7.0 * seen[:, 2]], axis=1)
        longest = max(np.linalg.norm(a - b) for a in curve for b in curve)
        assert found.diameter_px[track] == pytest.approx(longest, rel=1e-6)
    np.testing.assert_array_equal(found.moving, found.diameter_px > 40)
    np.testing.assert_array_equal(found.reference_frame, born)
    assert 0 < found.moving.sum() < number


def test_a_moving_camera_moves_nothing():
    poses = moving_camera(50)
    xyz = np.broadcast_to([0.3, 0.1, 4.0], (50, 1, 3))
    found = judge(tracks(xyz, np.ones((50, 1)), [20], poses), poses)
    assert found.diameter_px[0] < 1e-2 and not found.moving[0]


def test_the_threshold_must_be_exceeded():
    poses = np.tile(np.eye(4), (2, 1, 1))
    xyz = np.array([[[0.0, 0, 5], [0, 0, 5]], [[0.4, 0, 5], [0.41, 0, 5]]])  # 40 and 41 pixels
    found = judge(tracks(xyz, np.ones((2, 2)), [0, 0], poses), poses)
    np.testing.assert_allclose(found.diameter_px, [40, 41], rtol=1e-5)
    np.testing.assert_array_equal(judge(tracks(xyz, np.ones((2, 2)), [0, 0], poses), poses, threshold=40.5).moving, [0, 1])
    assert judge(tracks(xyz, np.ones((2, 2)), [0, 0], poses), poses, threshold_fraction=0.05).threshold_px == pytest.approx(40.0)


def test_never_visible_is_nan_and_counted_and_one_sight_is_no_motion():
    poses = np.tile(np.eye(4), (3, 1, 1))
    xyz = np.tile([[0.0, 0, 2], [0, 0, 2]], (3, 1, 1))
    visible = np.array([[0, 0], [0, 1], [0, 0]])
    report = Report()
    found = judge(tracks(xyz, visible, [0, 1], poses), poses, report)
    assert np.isnan(found.diameter_px[0]) and found.diameter_px[1] == 0
    np.testing.assert_array_equal(found.moving, [0, 0])
    assert report.counts["tracks that are never visible (diameter NaN)"] == 1


def test_positions_behind_the_reference_camera_are_left_out_and_counted():
    poses = np.tile(np.eye(4), (3, 1, 1))
    xyz = np.array([[[0.0, 0, 2]], [[0.01, 0, 2]], [[0.0, 0, -2]]])
    report = Report()
    found = judge(tracks(xyz, np.ones((3, 1)), [0], poses), poses, report)
    assert found.diameter_px[0] == pytest.approx(2.5, rel=1e-5)
    assert report.counts["positions behind the reference camera, left out of the diameter"] == 1


def test_the_release_preset_looks_at_the_first_64_frames_of_each_track():
    poses = np.tile(np.eye(4), (200, 1, 1))
    xyz = np.zeros((200, 2, 3))
    xyz[..., 2] = 5
    xyz[64:, 0, 0] = 1.0  # jumps when 64 frames have passed
    xyz[163:, 1, 0] = 1.0  # is first seen in frame 100, jumps in its 64th frame
    visible = np.ones((200, 2))
    visible[:100, 1] = 0
    found = judge(tracks(xyz, visible, [0, 100], poses), poses, **PRESETS["release"])
    np.testing.assert_array_equal(found.moving, [0, 1])
    assert found.threshold_px == pytest.approx(np.hypot(640 / 20, 480 / 20))


@pytest.mark.parametrize(("num_frames", "number"), [(0, 0), (5, 0), (1, 3)])
def test_empty_and_single(num_frames, number):
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    found = judge(tracks(np.ones((num_frames, number, 3)), np.ones((num_frames, number)), np.zeros(number, int), poses), poses)
    assert found.diameter_px.shape == (number,) and found.moving.dtype == np.uint8 and not found.moving.any()
