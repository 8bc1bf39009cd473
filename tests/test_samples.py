"""The sample clip that comes with tracekit: its two files are about the same frames, and its geometry is that of its pictures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tracekit
from tracekit import records, video
from tracekit.extract.recording import match_recording
from tracekit.format.file import open_records
from tracekit.format.schema import EPISODE
from tracekit.geometry import cameras, se3
from tracekit.geometry.depth_lookup import lookup_depth, surface_depth

SAMPLES = Path(tracekit.__file__).parent / "samples"
MOVIE, SENSOR = SAMPLES / "drawer.mp4", SAMPLES / "drawer.sensor.h5"
SCRIPT = Path(__file__).parents[1] / "tools" / "make_demo_clip.py"


@pytest.fixture(scope="module")
def clip() -> tuple[records.Clip, video.ClipFrames]:
    return video.open_clip(MOVIE, max_size=640)


@pytest.fixture(scope="module")
def recorded() -> records.Episode:
    """The sensor file, its depth in memory."""
    with open_records(SENSOR, EPISODE) as file:
        return records.Episode(
            clip_id=file.clip_id,
            video=file.read("video"),
            depth_sensor=records.DepthSensor(file.read("depth_sensor").depth[:]),
            camera_sensor=file.read("camera_sensor"),
        )


@pytest.fixture(scope="module")
def studio() -> ModuleType:
    """The script that made the clip."""
    spec = importlib.util.spec_from_file_location("make_demo_clip", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def still_points(recorded: records.Episode) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 3) in the world of frame 0's pixels (P, 2) that lie on the table or on the wall."""
    assert recorded.depth_sensor and recorded.camera_sensor and recorded.camera_sensor.world_from_camera is not None
    size = (recorded.video.width, recorded.video.height)
    uv = np.stack(np.meshgrid(np.arange(8, size[0] - 8, 8.0), np.arange(8, size[1] - 8, 8.0)), axis=-1).reshape(-1, 2)
    z = surface_depth(recorded.depth_sensor.depth[0], uv, size)
    xyz = cameras.unproject(uv, z, recorded.camera_sensor.intrinsics, recorded.camera_sensor.world_from_camera[0])
    still = (np.abs(xyz[:, 2]) < 0.003) | (np.abs(xyz[:, 1] - 0.64) < 0.003)
    return xyz[still], uv[still]


def test_both_are_small_enough_to_ship() -> None:
    assert MOVIE.stat().st_size + SENSOR.stat().st_size <= 1_200_000


def test_sensor_file_is_valid() -> None:
    with open_records(SENSOR, EPISODE) as file:
        file.validate_everything()
        assert file.unknown_names() == []
        assert [step.command for step in file.steps()] == ["tools/make_demo_clip.py"]


def test_sensor_file_is_about_the_video(clip: tuple[records.Clip, video.ClipFrames], recorded: records.Episode) -> None:
    opened, frames = clip
    about = recorded.video
    assert (about.uri, recorded.clip_id) == (MOVIE.name, "drawer")
    for name in (
        "sha256",
        "fps",
        "width",
        "height",
        "source_width",
        "source_height",
        "rotation",
        "num_source_frames",
        "num_missing_frames",
    ):
        assert getattr(about, name) == getattr(opened, name), name
    np.testing.assert_array_equal(about.pts, opened.pts)
    np.testing.assert_array_equal(about.source_frame, opened.source_frame)
    assert recorded.depth_sensor and recorded.camera_sensor
    assert frames.shape == (80, 360, 480, 3)
    assert len(recorded.depth_sensor.depth) == 80
    assert (recorded.depth_sensor.depth[:] > 0.3).all() and (recorded.depth_sensor.depth[:] < 3).all()


def test_a_thinned_and_shrunk_clip_finds_its_depth_and_cameras(recorded: records.Episode) -> None:
    thinned, _ = video.open_clip(MOVIE, fps=5, max_size=240)
    assert recorded.depth_sensor and recorded.camera_sensor and recorded.camera_sensor.world_from_camera is not None
    depth, camera = match_recording(
        recorded.video, recorded.depth_sensor, recorded.camera_sensor, thinned, with_poses=True, name=SENSOR.name
    )
    np.testing.assert_array_equal(depth.depth[1], recorded.depth_sensor.depth[3])
    np.testing.assert_allclose(camera.intrinsics[0, 0], recorded.camera_sensor.intrinsics[0, 0] / 2)
    assert camera.world_from_camera is not None
    np.testing.assert_array_equal(camera.world_from_camera[1], recorded.camera_sensor.world_from_camera[3])


def test_the_camera_is_held_by_hand(recorded: records.Episode) -> None:
    assert recorded.camera_sensor
    poses = recorded.camera_sensor.world_from_camera
    assert poses is not None
    assert se3.is_pose(poses, 1e-9).all()
    centres = poses[:, :3, 3]
    assert 0.06 < np.ptp(centres, axis=0).max() < 0.2
    assert np.linalg.norm(np.diff(centres, axis=0), axis=1).max() < 0.01
    turns = se3.rotation_angle(poses[0, :3, :3].T @ poses[:, :3, :3])
    assert 1 < np.degrees(turns.max()) < 15


@pytest.mark.parametrize("frame", [1, 15, 29, 44, 60, 79])
def test_table_and_wall_stay_where_they_are(recorded: records.Episode, frame: int) -> None:
    """What frame 0 measured lies within a centimetre of what a later frame measures there, but for what comes in between."""
    assert recorded.depth_sensor and recorded.camera_sensor and recorded.camera_sensor.world_from_camera is not None
    size = (recorded.video.width, recorded.video.height)
    xyz, _ = still_points(recorded)
    assert len(xyz) > 1000
    uv, z = cameras.project(xyz, recorded.camera_sensor.intrinsics, recorded.camera_sensor.world_from_camera[frame])
    seen = ((uv > 4) & (uv < np.array(size) - 5)).all(axis=1)
    there = lookup_depth(recorded.depth_sensor.depth[frame], uv[seen], size, z[seen])
    agrees = np.abs(there.z - z[seen]) < 0.01
    assert agrees.mean() > 0.85
    # Nothing is seen through them, but for a depth pixel or two beside an edge, whose neighbour speaks for the point.
    seen_through = ~agrees & ~there.hidden & ~(there.z < z[seen])
    assert seen_through.mean() < 0.01


@pytest.mark.parametrize("frame", [15, 44, 79])
def test_pictures_follow_the_cameras(clip: tuple[records.Clip, video.ClipFrames], recorded: records.Episode, frame: int) -> None:
    """Points of the table and the wall look the same where the recorded camera sees them, and not where they were in frame 0."""
    assert recorded.camera_sensor and recorded.camera_sensor.world_from_camera is not None
    _, frames = clip
    xyz, before = still_points(recorded)
    after, _ = cameras.project(xyz, recorded.camera_sensor.intrinsics, recorded.camera_sensor.world_from_camera[frame])
    seen = ((after > 4) & (after < np.array([frames.shape[2], frames.shape[1]]) - 5)).all(axis=1)

    def grey(index: int, uv: np.ndarray) -> np.ndarray:
        column, row = np.rint(uv).astype(int).T
        return frames[index].mean(axis=2)[row, column]

    expected = grey(0, before[seen])
    moved, unmoved = (np.median(np.abs(grey(frame, uv[seen]) - expected)) for uv in (after, before))
    assert moved < 5
    assert unmoved > 1.4 * moved


def test_the_robot_puts_the_block_into_the_open_drawer(studio: ModuleType) -> None:
    keys = studio.story()
    bodies = [studio.body_poses(keys, frame) for frame in range(studio.NUM_FRAMES)]
    for name in bodies[0]:
        path = np.stack([body[name] for body in bodies])
        assert se3.is_pose(path, 1e-9).all(), name
        assert np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1).max() < 0.06, name
    drawer = np.stack([(se3.inverse(studio.CABINET) @ body["drawer"])[:3, 3] for body in bodies])
    np.testing.assert_allclose(drawer[-1], [0, -studio.TRAVEL, 0], atol=1e-12)
    block = (se3.inverse(bodies[-1]["drawer"]) @ bodies[-1]["block"])[:3, 3]
    width, depth, _ = studio.CABINET_SIZE
    assert abs(block[0]) < width / 2 - 0.03
    assert -depth / 2 < block[1] < depth / 2
    assert abs(block[2] - studio.HANDLE[2]) < 0.05


@pytest.mark.slow
def test_the_script_made_these_files(studio: ModuleType, clip: tuple[records.Clip, video.ClipFrames], recorded: records.Episode) -> None:
    studio.open_studio()
    picture, depth = studio.take(29)
    assert recorded.depth_sensor
    np.testing.assert_allclose(recorded.depth_sensor.depth[29], depth, atol=6e-4)
    difference = {frame: np.abs(clip[1][frame].astype(float) - picture).mean() for frame in (27, 29, 31)}
    assert difference[29] < 6  # what H.264 leaves out, mostly of the colours
    assert difference[29] < 0.8 * min(difference[27], difference[31])
