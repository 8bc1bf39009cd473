"""export rerun: the recording is read back by rerun itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import H, T, W, small_episode, write_episode
from moving_camera import long_episode, moving_camera_episode
from run_command import shell, tracekit

from tracekit.drawing import entity_colour
from tracekit.geometry import cameras
from tracekit.interop.rerun_recording import LEAST_VERSION, RerunParameters, upright, write_recording
from tracekit.pictures import encode_jpeg
from tracekit.records import Episode
from tracekit.report import Report

INSTALLED = importlib.util.find_spec("rerun") is not None
with_rerun = pytest.mark.skipif(not INSTALLED, reason="rerun-sdk is not installed (extra `rerun`)")
GROUPS = {"moving": [0, 1], "static": [2, 3, 4]}


class Recording:
    """What is in a recording: component values by entity, at each frame or for the whole clip."""

    def __init__(self, path: Path) -> None:
        from rerun.chunk import RrdReader

        self.static: dict[tuple[str, str], Any] = {}
        self.at: dict[tuple[str, str], dict[int, Any]] = {}
        self.seconds: dict[int, float] = {}
        for chunk in RrdReader(path).stream():
            columns = chunk.to_record_batch().to_pydict()
            for name, values in columns.items():
                if name in ("rerun.controls.RowId", "frame", "time"):
                    continue
                key = (chunk.entity_path, name.partition(":")[2])
                if chunk.is_static:
                    self.static[key] = values[0]
                else:
                    self.at.setdefault(key, {}).update(zip(columns["frame"], values, strict=True))
            if not chunk.is_static:
                self.seconds |= {frame: time.total_seconds() for frame, time in zip(columns["frame"], columns["time"], strict=True)}

    def entities(self) -> set[str]:
        return {entity for entity, _ in (*self.static, *self.at)}


def recorded(episode: Episode, path: Path, report: Report | None = None, **parameters: Any) -> Recording:
    assert episode.video.frames is not None
    write_recording(episode, episode.video.frames, path, RerunParameters(**parameters), report or Report())
    return Recording(path)


@pytest.fixture
def episode() -> Episode:
    return moving_camera_episode()


@pytest.fixture
def recording(episode: Episode, tmp_path: Path) -> Iterator[Recording]:
    yield recorded(episode, tmp_path / "x.rrd", jpeg_quality=100)


@with_rerun
def test_points_are_seen_by_the_recorded_cameras_where_they_were_tracked(episode: Episode, recording: Recording) -> None:
    tracks = episode.tracks
    assert tracks is not None
    # rerun stores matrices column by column; its pixels have their corners at whole numbers.
    intrinsics = np.reshape(recording.static["/world/camera/image", "image_from_camera"][0], (3, 3)).T
    assert recording.static["/world/camera/image", "resolution"] == [[W, H]]
    for name, members in GROUPS.items():
        for frame in range(T):
            rotation = np.reshape(recording.at["/world/camera", "mat3x3"][frame][0], (3, 3)).T
            translation = np.array(recording.at["/world/camera", "translation"][frame][0])
            here = [track for track in members if tracks.valid[frame, track]]
            points = np.array(recording.at[f"/world/tracks/{name}", "positions"][frame])
            pixels = (points - translation) @ rotation @ intrinsics.T
            np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:] - 0.5, tracks.uv[frame, here], atol=1e-3)
            assert recording.at[f"/world/tracks/{name}", "class_ids"][frame] == tracks.entity[here].tolist()
            large = np.array(recording.at[f"/world/tracks/{name}", "radii"][frame]) <= -4  # negative: pixels of the screen
            assert large.tolist() == tracks.visible[frame, here].astype(bool).tolist()


@with_rerun
def test_what_moves_has_a_trail_of_its_known_past(episode: Episode, tmp_path: Path) -> None:
    tracks = episode.tracks
    assert tracks is not None
    recording = recorded(episode, tmp_path / "x.rrd", tail=2)
    for frame in range(T):
        trails = recording.at["/world/tracks/moving/trail", "strips"][frame]
        past = range(max(0, frame - 2), frame + 1)
        expected = [[tracks.xyz_world[t, n] for t in past if tracks.valid[t, n]] for n in (0, 1) if tracks.valid[frame, n] and frame > 0]
        assert len(trails) == len(expected)
        for trail, path in zip(trails, expected, strict=True):
            np.testing.assert_array_equal(np.float32(trail), np.array(path))
    assert "/world/tracks/static/trail" not in recording.entities()
    assert "/world/tracks/moving/trail" not in recorded(episode, tmp_path / "y.rrd", tail=0).entities()


@with_rerun
def test_pictures_depth_and_time(episode: Episode, recording: Recording) -> None:
    geometry, video = episode.geometry, episode.video
    assert geometry is not None and geometry.depth is not None and video.frames is not None
    grid = (W // 2, H // 2)
    own = np.reshape(recording.static["/world/camera/depth", "image_from_camera"][0], (3, 3)).T
    expected = cameras.scale_intrinsics(geometry.intrinsics, (W, H), grid)
    expected[:2, 2] += 0.5
    np.testing.assert_allclose(own, expected, atol=1e-5)
    for frame in range(T):
        assert bytes(recording.at["/world/camera/image", "blob"][frame][0]) == encode_jpeg(video.frames[frame], 100).tobytes()
        stored = cv2.imdecode(np.array(recording.at["/world/camera/depth", "blob"][frame][0], np.uint8), cv2.IMREAD_UNCHANGED)
        assert recording.at["/world/camera/depth", "meter"][frame] == [1000.0]
        np.testing.assert_allclose(stored / 1000, geometry.depth[frame], atol=0.00051)
    assert recording.seconds == pytest.approx(dict(enumerate(video.pts)))


@with_rerun
def test_captions_are_text_at_the_event_and_entities_have_their_colours(episode: Episode, recording: Recording) -> None:
    said = recording.at["/captions/event", "text"]
    assert said == {0: ["A block slides.\n\nIt lies.\n\nIt slides – à droite.\n\nIt lies again."]}
    assert recording.at["/captions/event", "media_type"] == {0: ["text/plain"]}
    assert recording.static["/captions/episode", "text"] == ["A block slides."]
    context = {entry["class_id"]: entry["class_description"]["info"] for entry in recording.static["/world/tracks", "context"][0]}
    for entity in (0, 1, 2):
        red, green, blue = entity_colour(entity)
        assert (
            context[entity]["label"] == f"entity {entity}" and context[entity]["color"] == (red << 24) + (green << 16) + (blue << 8) + 255
        )


@with_rerun
def test_what_an_episode_does_not_have_is_not_in_the_recording(episode: Episode, tmp_path: Path) -> None:
    bare = dataclasses.replace(episode, tracks=None, motion=None, captions=None)
    assert recorded(bare, tmp_path / "x.rrd", depth=False).entities() == {"/__properties", "/world", "/world/camera", "/world/camera/image"}
    unfiltered = recorded(dataclasses.replace(episode, motion=None), tmp_path / "y.rrd").entities()
    assert {"/world/tracks/unfiltered", "/world/tracks/unfiltered/trail"} < unfiltered and "/world/tracks/moving" not in unfiltered
    failed = dataclasses.replace(episode.captions, event_ok=np.zeros(1, np.uint8), event_text=[""])  # type: ignore[type-var]
    assert recorded(dataclasses.replace(episode, captions=failed), tmp_path / "z.rrd").at["/captions/event", "text"] == {
        0: ["(no caption)"]
    }


@with_rerun
def test_relative_depth_stays_as_it_is_and_depth_beyond_16_bits_is_counted(episode: Episode, tmp_path: Path) -> None:
    far = np.full((T, 3, 4), 70.0, np.float32)
    far[:, 1] = 2.0
    metric = dataclasses.replace(episode, geometry=dataclasses.replace(episode.geometry, depth=far))  # type: ignore[type-var]
    report = Report()
    recorded(metric, tmp_path / "x.rrd", report)
    assert report.counts["depth pixels too far to be kept (beyond 65.5 m)"] == T * 8
    relative = dataclasses.replace(metric, geometry=dataclasses.replace(metric.geometry, metric=False))  # type: ignore[type-var]
    found = recorded(relative, tmp_path / "y.rrd")
    assert np.frombuffer(bytes(found.at["/world/camera/depth", "buffer"][0][0]), np.float32).tolist() == far[0].ravel().tolist()


@with_rerun
def test_long_clips_are_read_block_by_block(tmp_path: Path) -> None:
    episode, frames, depth = long_episode(100)
    found = recorded(episode, tmp_path / "x.rrd")
    assert max(frames.most, depth.most) <= 16
    assert sorted(found.at["/world/camera/image", "blob"]) == sorted(found.at["/world/camera/depth", "blob"]) == list(range(100))


@with_rerun
def test_the_command_writes_whole_or_not_at_all(tmp_path: Path) -> None:
    source, target = write_episode(tmp_path / "in.h5", moving_camera_episode()), tmp_path / "out.rrd"
    done = tracekit("export", "rerun", source, "-o", target)
    assert done.returncode == 0, done.stderr
    assert len(Recording(target).seconds) == T
    assert tracekit("export", "rerun", source, "-o", target).returncode == 73
    for blocks in (20, target.stat().st_size // 1024, target.stat().st_size // 512):  # blocks of 512 bytes: the last cuts off the end only
        full = shell(f"ulimit -f {blocks}; tracekit export rerun '{source}' -o '{tmp_path}/full.rrd'")
        assert full.returncode == 74 and b"rerun could not write" in full.stderr, full.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5", "out.rrd"]


@pytest.mark.skipif(INSTALLED, reason="rerun-sdk is installed")
def test_without_the_package_the_command_says_how_to_get_it(episode_file: Path, tmp_path: Path) -> None:
    done = tracekit("export", "rerun", episode_file, "-o", tmp_path / "out.rrd")
    assert done.returncode == 69 and b"pip install '.[rerun]' in the clone" in done.stderr and not (tmp_path / "out.rrd").exists()
    assert tracekit("export", "rerun", "--help").returncode == 0


def test_a_version_that_is_too_old_is_refused_by_its_number(episode_file: Path, tmp_path: Path) -> None:
    """Its metadata are all that is looked at."""
    (tmp_path / "site" / "rerun_sdk-0.22.1.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "rerun_sdk-0.22.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: rerun-sdk\nVersion: 0.22.1\n")
    done = tracekit("export", "rerun", episode_file, "-o", tmp_path / "out.rrd", env={"PYTHONPATH": str(tmp_path / "site")})
    assert done.returncode == 69 and b"rerun-sdk 0.22.1 is installed, but 0.41 is needed" in done.stderr
    required = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]["rerun"]
    assert required == ["rerun-sdk>=" + ".".join(map(str, LEAST_VERSION))]


def test_the_axis_that_points_up_is_that_of_the_cameras() -> None:
    geometry, moving = small_episode().geometry, moving_camera_episode().geometry
    assert geometry is not None and moving is not None
    assert upright(geometry.world_from_camera) == "RIGHT_HAND_Y_DOWN"
    assert upright(moving.world_from_camera) == "RIGHT_HAND_Z_UP"
