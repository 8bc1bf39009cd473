"""export tapip3d: the file is held against what the viewers of TAPIP3D and SpatialTrackerV2 do with it."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import H, T, W, small_episode, write_episode
from moving_camera import long_episode, moving_camera_episode, wall_depth
from run_command import shell, tracekit

from tracekit.errors import BadDataError
from tracekit.geometry import cameras
from tracekit.interop.tapip3d_npz import Tapip3dParameters, write_tapip3d
from tracekit.records import Episode
from tracekit.report import Report

KEYS = {"video", "depths", "intrinsics", "extrinsics", "coords", "visibs", "query_points"}
KEPT = [0, 1, 2, 4]
"""Track 3 is never known."""


def written(episode: Episode, path: Path, report: Report | None = None, **parameters: object) -> dict[str, np.ndarray]:
    assert episode.video.frames is not None
    write_tapip3d(episode, episode.video.frames, path, Tapip3dParameters(**parameters), report or Report())  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def seen_by(coords: np.ndarray, intrinsics: np.ndarray, camera_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (T, N, 2) and depths (T, N), spelled out."""
    camera = np.einsum("tij,tnj->tni", camera_from_world[:, :3, :3], coords) + camera_from_world[:, None, :3, 3]
    pixels = np.einsum("tij,tnj->tni", intrinsics, camera)
    return pixels[..., :2] / pixels[..., 2:], camera[..., 2]


def test_their_fields_in_the_types_of_their_own_files(tmp_path: Path) -> None:
    found = written(moving_camera_episode(), tmp_path / "x.npz", max_size=32)
    assert found.keys() == KEYS and {array.dtype for array in found.values()} == {np.dtype("f4")}
    assert {key: array.shape for key, array in found.items()} == {
        "video": (T, 3, 24, 32),
        "depths": (T, 24, 32),
        "intrinsics": (T, 3, 3),
        "extrinsics": (T, 4, 4),
        "coords": (T, 4, 3),
        "visibs": (T, 4),
        "query_points": (4, 4),
    }


@pytest.mark.parametrize("size", [0, 32])
def test_points_are_seen_where_they_were_tracked(tmp_path: Path, size: int) -> None:
    episode = moving_camera_episode()
    assert episode.tracks is not None
    found = written(episode, tmp_path / "x.npz", max_size=size)
    grid = (found["video"].shape[3], found["video"].shape[2])
    truth = cameras.resize_pixels(episode.tracks.uv[:, KEPT].astype(np.float64), (W, H), grid)
    valid = episode.tracks.valid[:, KEPT].astype(bool)
    uv, _ = seen_by(found["coords"], found["intrinsics"], found["extrinsics"])
    np.testing.assert_allclose(uv[valid], truth[valid], atol=1e-3)
    assert (found["visibs"] == episode.tracks.visible[:, KEPT]).all()

    # visualize.py and tapip3d_viz.py multiply cameras and points by the inverse of the first camera, both from the left.
    first = np.linalg.inv(found["extrinsics"][0])
    drawn = np.concatenate([found["coords"], np.ones((*found["coords"].shape[:2], 1))], axis=2) @ first.T
    uv, _ = seen_by(drawn[..., :3], found["intrinsics"], np.array([first @ camera for camera in found["extrinsics"]]))
    np.testing.assert_allclose(uv[valid], truth[valid], atol=1e-3)
    np.testing.assert_allclose(found["extrinsics"][0], np.eye(4), atol=1e-6)


def test_points_lie_on_the_surface_that_the_depth_shows(tmp_path: Path) -> None:
    episode = moving_camera_episode()
    assert episode.geometry is not None and episode.tracks is not None
    fine = wall_depth(episode.geometry.intrinsics, episode.geometry.world_from_camera, (W, H))
    found = written(
        dataclasses.replace(episode, geometry=dataclasses.replace(episode.geometry, depth=fine)), tmp_path / "x.npz", max_size=0
    )
    assert np.array_equal(found["depths"], fine)
    uv, z = seen_by(found["coords"], found["intrinsics"], found["extrinsics"])
    column, row = uv.round().astype(int).transpose(2, 0, 1)
    inside = (column > 0) & (column < W) & (row >= 0) & (row < H) & episode.tracks.valid[:, KEPT].astype(bool)
    assert inside.sum() >= 12
    frame = np.arange(T)[:, None].repeat(len(KEPT), axis=1)
    np.testing.assert_allclose(found["depths"][frame[inside], row[inside], column[inside]], z[inside], rtol=0.01)
    coarse = written(episode, tmp_path / "y.npz", max_size=W // 2)
    assert np.array_equal(coarse["depths"], episode.geometry.depth), "depth on this grid stays as it is"
    spread = written(episode, tmp_path / "z.npz", max_size=0)["depths"]
    assert np.array_equal(spread, np.asarray(episode.geometry.depth).repeat(2, axis=1).repeat(2, axis=2)), "no depth is invented"


def test_pictures_come_back_exactly_by_their_arithmetic(tmp_path: Path) -> None:
    episode = small_episode()
    assert episode.video.frames is not None
    found = written(episode, tmp_path / "x.npz", max_size=0)
    assert found["video"].min() == 0 and found["video"].max() <= 1
    assert np.array_equal((found["video"].transpose(0, 2, 3, 1) * 255).astype(np.uint8), episode.video.frames[:])
    small = written(episode, tmp_path / "y.npz", max_size=32)["video"]
    expected = np.stack([cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA) for frame in np.asarray(episode.video.frames)])
    assert np.array_equal((small.transpose(0, 2, 3, 1) * 255).astype(np.uint8), expected)


def test_a_point_stays_where_it_was_known_last_and_before_that_where_it_will_be_first(tmp_path: Path) -> None:
    report = Report()
    found = written(moving_camera_episode(), tmp_path / "x.npz", report)
    coords, visibs = found["coords"], found["visibs"]
    assert np.isfinite(coords).all()
    assert (coords[3, 1] == coords[2, 1]).all() and (coords[4, 1] != coords[3, 1]).any()  # a gap
    assert (coords[5, 2] == coords[4, 2]).all()  # lost at the end
    assert (coords[:2, 3] == coords[2, 3]).all()  # born in frame 2
    assert visibs[3, 1] == visibs[5, 2] == visibs[0, 3] == visibs[1, 3] == 0 and visibs[2, 3] == 1
    assert found["query_points"][:, 0].tolist() == [0, 0, 0, 2]
    for track, (frame, *position) in enumerate(found["query_points"]):
        assert (coords[int(frame), track] == np.float32(position)).all()
    assert report.counts["tracks without any known position, left out"] == 1


def test_only_what_moves(tmp_path: Path) -> None:
    episode = moving_camera_episode()
    everything = written(episode, tmp_path / "x.npz")
    report = Report()
    found = written(episode, tmp_path / "y.npz", report, moving_only=True)
    assert np.array_equal(found["coords"], everything["coords"][:, :2]) and report.counts["static tracks left out"] == 2
    with pytest.raises(BadDataError, match="looked at what moves"):
        written(dataclasses.replace(episode, motion=None), tmp_path / "z.npz", moving_only=True)
    nothing = dataclasses.replace(episode.motion, moving=np.zeros(5, np.uint8))  # type: ignore[type-var]
    assert written(dataclasses.replace(episode, motion=nothing), tmp_path / "z.npz", moving_only=True)["coords"].shape == (T, 0, 3)


def test_without_depth_the_plane_on_which_points_lie_is_written_and_said(tmp_path: Path) -> None:
    episode = dataclasses.replace(small_episode(), depth_sensor=None)
    planar = dataclasses.replace(episode, geometry=dataclasses.replace(episode.geometry, depth=None, metric=False))  # type: ignore[type-var]
    report = Report()
    assert (written(planar, tmp_path / "x.npz", report)["depths"] == 1).all()
    assert any("z = 1" in note for note in report.notes) and any("relative" in note for note in report.notes)


def test_long_clips_are_read_block_by_block(tmp_path: Path) -> None:
    episode, frames, depth = long_episode(100)
    found = written(episode, tmp_path / "x.npz")
    assert max(frames.most, depth.most) <= 16
    assert len(found["video"]) == len(found["depths"]) == len(found["coords"]) == 100
    assert np.array_equal(found["video"][6:12], found["video"][:6]) and np.array_equal(found["depths"][90:96], found["depths"][:6])


def test_the_command_writes_whole_or_not_at_all(tmp_path: Path) -> None:
    source, target = write_episode(tmp_path / "in.h5", moving_camera_episode()), tmp_path / "out.npz"
    done = tracekit("export", "tapip3d", source, "-o", target, "--moving-only")
    assert done.returncode == 0, done.stderr
    assert zipfile.ZipFile(target).testzip() is None and np.load(target)["coords"].shape == (T, 2, 3)
    before = target.read_bytes()
    assert tracekit("export", "tapip3d", source, "-o", target).returncode == 73
    assert target.read_bytes() == before
    assert tracekit("export", "tapip3d", source, "-o", target, "--moving-only", "--force").returncode == 0
    assert target.read_bytes() == before, "the same episode gives the same file"
    assert tracekit("export", "tapip3d", source).returncode == 2
    assert tracekit("export", "tapip3d", source, "-o", source, "--force").returncode == 2
    untracked = write_episode(tmp_path / "untracked.h5", small_episode(), without=("tracks", "motion", "events", "captions"))
    done = tracekit("export", "tapip3d", untracked, "-o", tmp_path / "none.npz")
    assert done.returncode == 65 and b"track" in done.stderr and not (tmp_path / "none.npz").exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    source = write_episode(tmp_path / "in.h5", moving_camera_episode())
    done = shell(f"ulimit -f 200; tracekit export tapip3d '{source}' -o '{tmp_path}/out.npz'")
    assert done.returncode == 74 and b"size limit" in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5"]
