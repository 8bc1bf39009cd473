"""A clip of 10,000 frames through reconstruct and track: memory is bounded, every chunk is aligned, no identity is lost, and all is true."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from long_clip import INTRINSICS, distance_outside, is_lost, plugin, similarity, true_cameras, true_depth, true_paths, write_long_episode
from run_command import PROGRAM, environment

from tracekit.format.file import RecordFile, open_records
from tracekit.geometry import cameras
from tracekit.records import Geometry, Keypoints, Tracks

FLOAT16 = 1e-3
"""Relative depth is kept as a 16-bit float: it is right to half a thousandth."""


def run(command: str, source: Path, output: Path, env: dict[str, str]) -> float:
    """Run a stage; returns the most memory that it held, in MB."""
    flag = "--tracker" if command == "track" else "--backend"
    arguments = [*PROGRAM, command, "-q", str(source), "-o", str(output), flag, "longclip"]
    process = subprocess.Popen(arguments, env=environment(env))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / 1024


def assert_true_geometry(geometry: Geometry, num_frames: int) -> None:
    """Cameras and depth equal the truth but for the one similarity that nobody can know."""
    poses = true_cameras(np.arange(num_frames))
    scale, rotation, shift = similarity(poses, geometry.world_from_camera)
    np.testing.assert_allclose(geometry.world_from_camera[:, :3, :3], rotation @ poses[:, :3, :3], atol=1e-6)
    centres = scale * poses[:, :3, 3] @ rotation.T + shift
    np.testing.assert_allclose(geometry.world_from_camera[:, :3, 3], centres, atol=1e-5 * scale)
    np.testing.assert_allclose(geometry.intrinsics, INTRINSICS, atol=1e-9)
    assert len(geometry.depth) == num_frames
    for start in range(0, num_frames, 500):
        here = slice(start, min(start + 500, num_frames))
        np.testing.assert_allclose(geometry.depth[here], scale * true_depth(poses[here]), rtol=FLOAT16)

    lengths = geometry.chunk_stop - geometry.chunk_start
    assert geometry.chunk_start[0] == 0 and geometry.chunk_stop[-1] == num_frames
    np.testing.assert_array_equal(geometry.chunk_start[1:], geometry.chunk_stop[:-1])
    assert lengths.max() <= 60 and geometry.chunk_num_anchors.min() >= 2
    assert geometry.chunk_residual.max() < 1e-6 * scale
    assert len(np.unique(geometry.chunk_scale.round(6))) == len(lengths), "every call was at a scale of its own"


def assert_true_tracks(tracks: Tracks, keypoints: Keypoints, geometry: Geometry, num_frames: int) -> None:
    """Every track is where its point is, in every frame from its chunk on, and is seen exactly when the point is in the image."""
    poses = true_cameras(np.arange(num_frames))
    scale, rotation, shift = similarity(poses, geometry.world_from_camera)
    uv = keypoints.uv[tracks.keypoint].astype(np.float64)
    places = np.empty((len(uv), 3))
    for born in np.unique(tracks.born):
        here = tracks.born == born
        z = surface(uv[here], poses[born])
        places[here] = cameras.unproject(uv[here], z, INTRINSICS, poses[born])
    np.testing.assert_array_equal(tracks.born, keypoints.frame[tracks.keypoint])
    assert len(np.unique(tracks.keypoint)) == len(tracks.keypoint), "two tracks of one candidate"
    begins = tracks.born // 60 * 60
    for start in range(0, num_frames, 250):
        frames = np.arange(start, min(start + 250, num_frames))
        paths = true_paths(places, tracks.born, frames)
        outside = distance_outside(paths, poses[frames])
        valid, visible = tracks.valid[frames] == 1, tracks.visible[frames] == 1
        lives = frames[:, None] >= begins
        assert not valid[~lives].any()
        # A tenth of a pixel decides nothing at the outline: depth was kept in 16 bits.
        # Far behind, the camera's plane cuts the wall: what is beyond it has no image.
        assert valid[lives & ~is_lost(places, outside, -0.1) & (outside < 1000)].all(), "an identity was lost"
        assert not valid[is_lost(places, outside, 0.1)].any()
        assert visible[lives & (outside < -0.1)].all() and not visible[outside > 0.1].any()
        expected = scale * paths @ rotation.T + shift
        error = np.linalg.norm(tracks.xyz_world[frames] - expected, axis=-1) / scale
        assert np.nanmax(error, initial=0) < 0.003
        assert np.abs(tracks.uv[frames] - projected(paths, poses[frames]))[visible].max() < 0.1


def surface(uv: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Depth of the wall at pixels (P, 2)."""
    one = cameras.unproject(uv, np.ones(len(uv)), INTRINSICS, pose) - pose[:3, 3]
    return (3.0 - pose[2, 3]) / one[:, 2]


def projected(paths: np.ndarray, poses: np.ndarray) -> np.ndarray:
    return np.stack([cameras.project(path, INTRINSICS, pose)[0] for path, pose in zip(paths, poses, strict=True)])


def extract(folder: Path, num_frames: int) -> Iterator[tuple[str, float]]:
    """Run both stages; (stage, MB)."""
    env = plugin(folder / f"site{num_frames}")
    source = write_long_episode(folder / f"{num_frames}.h5", num_frames)
    for command in ("reconstruct", "track"):
        output = folder / f"{num_frames}-{command}.h5"
        yield command, run(command, source, output, env)
        source = output


def assert_all_true(file: RecordFile, num_frames: int) -> Tracks:
    geometry, tracks = file.read("geometry"), file.read("tracks")
    assert_true_geometry(geometry, num_frames)
    assert_true_tracks(tracks, file.read("keypoints"), geometry, num_frames)
    return tracks


def test_a_clip_of_many_chunks_is_true(tmp_path: Path) -> None:
    """More chunks than half the anchors of one pass: the global pass has two levels, and points come and go."""
    dict(extract(tmp_path, 900))
    with open_records(tmp_path / "900-track.h5") as file:
        tracks = assert_all_true(file, 900)
    assert tracks.valid.shape[1] > 200 and (tracks.valid.sum(axis=0) < 500).mean() > 0.3


@pytest.mark.slow
def test_10_000_frames_in_the_memory_of_1_000(tmp_path: Path) -> None:
    """What grows is what is known of every track and every frame, not pictures, depth or positions: at most 100 MB here."""
    few, many = dict(extract(tmp_path, 1_000)), dict(extract(tmp_path, 10_000))
    for command in few:
        assert many[command] - few[command] < 100, (few, many)
    with open_records(tmp_path / "10000-track.h5") as file:
        tracks = assert_all_true(file, 10_000)
    assert tracks.valid.shape[1] > 1_500
