"""The whole chain, typed as the README types it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shlex
import shutil
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
from run_command import shell, tracekit
from tracekit.commands.demo import SAMPLE

from tracekit import video
from tracekit.format.file import RecordFile, open_records
from tracekit.format.schema import CORPUS, EPISODE

STAGES = ("reconstruct", "track", "filter", "segment", "caption")
SAMPLES = Path(str(files("tracekit") / "samples"))


def piped(first: str, output: Path) -> None:
    script = " | ".join([f"tracekit {first}", *(f"tracekit {stage}" for stage in STAGES)]) + f" -o {shlex.quote(str(output))}"
    done = shell(script)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()


def staged(first: str, folder: Path) -> Path:
    """The same with a file per stage; every file must be valid."""
    folder.mkdir()
    previous = folder / "keypoints.h5"
    done = shell(f"tracekit {first} -o {shlex.quote(str(previous))}")
    assert done.returncode == 0, done.stderr.decode()
    for stage in STAGES:
        output = folder / f"{stage}.h5"
        assert tracekit(stage, previous, "-o", output).returncode == 0
        previous = output
    done = tracekit("info", "--json", "--validate", *sorted(folder.glob("*.h5")))
    assert done.returncode == 0, done.stderr.decode()
    assert [report["valid"] for report in json.loads(done.stdout)] == [True] * 6
    return previous


def assert_identical(one: RecordFile, other: RecordFile) -> None:
    assert one.groups == other.groups
    for group in EPISODE.groups:
        if group.name not in one.groups:
            continue
        first, second = one.read(group.name), other.read(group.name)
        for field in dataclasses.fields(first):
            a, b = getattr(first, field.name), getattr(second, field.name)
            if isinstance(a, (str, int, float, list)) or a is None:
                assert a == b, (group.name, field.name)
            else:
                np.testing.assert_array_equal(a[:], b[:], err_msg=f"{group.name}/{field.name}")


def still_clip(path: Path, num_frames: int, size: tuple[int, int] = (160, 120)) -> Path:
    """One textured picture, again and again."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    picture = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    video.write_video(path, itertools.repeat(picture, num_frames), 15.0, gop=30, crf=0)  # lossless: nothing moves
    return path


def test_pipe_and_files_give_identical_arrays_on_the_bundled_clip(tmp_path: Path) -> None:
    first = f"keypoints {SAMPLES}/{SAMPLE}.mp4 --sensor {SAMPLES}/{SAMPLE}.truth.h5"
    piped(first, tmp_path / "piped.h5")
    with open_records(tmp_path / "piped.h5", EPISODE) as one, open_records(staged(first, tmp_path / "staged"), EPISODE) as other:
        assert_identical(one, other)
        episode = one.episode()
        assert episode.geometry.metric == 1 and episode.motion.moving.sum() >= 20
        assert [step.command for step in one.steps()] == ["keypoints", *STAGES]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sheep.mp4", "robot_unitree.mp4"])
def test_pipe_and_files_give_identical_arrays_on_real_videos(tmp_path: Path, real_data: Path, name: str) -> None:
    piped(f"keypoints {real_data / name}", tmp_path / "piped.h5")
    with (
        open_records(tmp_path / "piped.h5", EPISODE) as one,
        open_records(staged(f"keypoints {real_data / name}", tmp_path / "staged"), EPISODE) as other,
    ):
        assert_identical(one, other)
        assert one.read("geometry").metric == 0 and one.read("motion").moving.any()


@pytest.mark.slow
def test_the_drawer_and_the_gripper_move_and_the_wall_does_not(tmp_path: Path, real_data: Path) -> None:
    """The regions were marked by hand in the recording: wall and table never move, the drawer's front moves in the second half."""
    recording = tmp_path / "recording.h5"
    done = tracekit(
        "import", "rgbd", real_data / "bridge_drawer", "--intrinsics", "616.68,616.68,320.49,239.59", "--source-fps", 5, "-o", recording
    )
    assert done.returncode == 0, done.stderr.decode()
    piped(f"keypoints {recording}", tmp_path / "piped.h5")
    with (
        open_records(tmp_path / "piped.h5", EPISODE) as one,
        open_records(staged(f"keypoints {recording}", tmp_path / "staged"), EPISODE) as other,
    ):
        assert_identical(one, other)
        episode = one.episode()
    assert episode.video.task == "it has opened the drawer"
    np.testing.assert_allclose(episode.geometry.world_from_camera, np.tile(np.eye(4), (35, 1, 1)), atol=0.01)
    tracks, moving = episode.tracks, episode.motion.moving.astype(bool)
    born_at = tracks.uv[tracks.born, np.arange(len(moving))]
    u, v = born_at[:, 0], born_at[:, 1]
    still = ((u > 470) & (v < 250)) | ((v > 300) & (u < 400) & (u > 250))
    assert still.sum() >= 15
    assert moving[still].mean() <= 0.05, "wall, shelf and table stand still"
    front = moving & (tracks.entity == tracks.entity) & (u > 80) & (u < 280) & (v > 180) & (v < 360)
    assert front.sum() >= 8, "the drawer's front and the gripper carry moving tracks"


def test_a_clip_without_motion(tmp_path: Path) -> None:
    clip = still_clip(tmp_path / "still.mp4", 40)
    piped(f"keypoints {clip}", tmp_path / "out.h5")
    with open_records(tmp_path / "out.h5", EPISODE) as file:
        episode = file.episode()
    assert not episode.motion.moving.any()
    assert len(episode.events.start) == 1 and episode.tracks.valid.mean() > 0.95
    drift = np.linalg.norm(episode.tracks.uv - episode.tracks.uv[:1], axis=-1)
    inside = ((episode.tracks.uv[0] > 8) & (episode.tracks.uv[0] < [151, 111])).all(axis=1)
    assert inside.sum() > 100 and np.nanmax(drift[:, inside]) < 0.1
    assert np.nanmax(drift) < 1, "at the border half of the window is missing"


def test_a_clip_of_one_frame(tmp_path: Path) -> None:
    clip = still_clip(tmp_path / "one.mp4", 1)
    piped(f"keypoints {clip}", tmp_path / "out.h5")
    with open_records(tmp_path / "out.h5", EPISODE) as file:
        episode = file.episode()
        file.validate_everything()
    assert episode.tracks.xyz_world.shape[0] == 1 and episode.tracks.valid.all() and not episode.motion.moving.any()
    done = tracekit("fit-bspline", tmp_path / "out.h5", "-o", tmp_path / "corpus.h5")
    assert done.returncode == 0
    with open_records(tmp_path / "corpus.h5", CORPUS) as file:
        assert len(file.read("").sample_frame) == 0
    assert tracekit("view", tmp_path / "out.h5", "-o", tmp_path / "one.png").returncode == 0


@pytest.mark.slow
def test_a_clip_of_ten_minutes(tmp_path: Path) -> None:
    clip = still_clip(tmp_path / "long.mp4", 9000)
    piped(f"keypoints {clip} --fps 5", tmp_path / "out.h5")
    with open_records(tmp_path / "out.h5", EPISODE) as file:
        episode = file.episode()
    assert len(episode.video.pts) == 3000 and episode.video.pts[-1] == pytest.approx(599.8, abs=0.1)
    assert episode.geometry.chunk_num_anchors.min() >= 2
    assert episode.tracks.valid[-1].mean() > 0.9, "points are still followed after ten minutes"
    assert not episode.motion.moving.any()


@pytest.mark.parametrize(("content", "message"), [(b"this is no video" * 100, b"video"), (b"", b"empty")])
def test_a_video_that_is_none(tmp_path: Path, content: bytes, message: bytes) -> None:
    (tmp_path / "bad.mp4").write_bytes(content)
    done = tracekit("keypoints", tmp_path / "bad.mp4", "-o", tmp_path / "out.h5")
    assert done.returncode == 65 and message in done.stderr and b"Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mp4"]


@pytest.fixture
def depth_folder(tmp_path: Path) -> Path:
    """Ten colour images with depth; the upper half returns nothing."""
    folder = tmp_path / "recording"
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    depth = np.full((120, 160), 1500, np.uint16)
    depth[:60] = 0
    for i in range(10):
        cv2.imwrite(str(folder / "rgb" / f"{i}.png"), picture)
        cv2.imwrite(str(folder / "depth" / f"{i}.png"), depth)
    (folder / "intrinsics.json").write_text('{"fx": 150, "fy": 150, "cx": 79.5, "cy": 59.5}')
    return folder


def test_a_depth_folder(tmp_path: Path, depth_folder: Path) -> None:
    piped(f"import rgbd {depth_folder} | tracekit keypoints", tmp_path / "out.h5")
    with open_records(tmp_path / "out.h5", EPISODE) as file:
        episode, steps = file.episode(), file.steps()
    assert episode.video.source_frame.tolist() == list(range(10)), "natural order: 2 before 10"
    assert steps[0].counts["depth pixels without a return"] == 10 * 60 * 160
    z = episode.tracks.xyz_world[..., 2]
    np.testing.assert_allclose(z[episode.tracks.valid.astype(bool)], 1.5, atol=1e-3)


def test_row_22_depth_that_is_no_depth_is_masked_and_counted(tmp_path: Path, depth_folder: Path) -> None:
    """NaN, infinite, zero and negative values: unknown in every stage, and named in the history of the file."""
    for path in (depth_folder / "depth").iterdir():
        depth = np.full((120, 160), 1.5, np.float32)
        depth[0:10], depth[10:20], depth[20:30], depth[30:40] = np.nan, np.inf, 0.0, -2.0
        path.unlink()
        np.save(path.with_suffix(".npy"), depth)
    piped(f"import rgbd {depth_folder} --metres-per-unit 1 | tracekit keypoints", tmp_path / "out.h5")
    with open_records(tmp_path / "out.h5", EPISODE) as file:
        episode, steps = file.episode(), file.steps()
        assert steps[0].counts["depth pixels without a return"] == 10 * 40 * 160
        assert (episode.geometry.depth[:, :40] == 0).all() and np.allclose(episode.geometry.depth[:, 40:], 1.5)
    assert np.isfinite(episode.tracks.xyz_world[episode.tracks.valid.astype(bool)]).all()
    np.testing.assert_allclose(episode.tracks.xyz_world[episode.tracks.valid.astype(bool)][:, 2], 1.5, atol=1e-3)


def test_a_depth_folder_with_a_missing_frame(tmp_path: Path, depth_folder: Path) -> None:
    (depth_folder / "depth" / "4.png").unlink()
    done = tracekit("import", "rgbd", depth_folder, "-o", tmp_path / "out.h5")
    assert done.returncode == 65 and b"no depth for 4.png (1 of 10 images)" in done.stderr
    assert not (tmp_path / "out.h5").exists()
    done = tracekit("import", "rgbd", depth_folder, "--allow-partial", "-o", tmp_path / "out.h5")
    assert done.returncode == 0 and b"1 frames without a depth image" in done.stderr
    with open_records(tmp_path / "out.h5", EPISODE) as file:
        assert (file.read("depth_sensor").depth[4] == 0).all()
        assert file.steps()[0].counts["frames without a depth image"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "intrinsics.json").unlink(), b"no intrinsics"),
        (lambda f: (f / "intrinsics.json").write_text("{}"), b"holds no intrinsics"),
        (lambda f: (f / "poses.txt").write_text("1 2 3\n"), b"rows of 12 or 16"),
        (lambda f: np.save(f / "poses.npy", np.zeros((10, 4, 4))), b"pose 0 is no rigid motion"),
        (lambda f: shutil.rmtree(f / "depth"), b"does not exist"),
        (lambda f: cv2.imwrite(str(f / "depth" / "3.png"), np.zeros((120, 160, 3), np.uint16)), b"3 channels"),
        (lambda f: cv2.imwrite(str(f / "depth" / "3.png"), np.zeros((60, 80), np.uint16)), b"80 x 60 pixels"),
        (lambda f: (f / "depth" / "3.png").write_bytes(b"no image"), b"not an image"),
        (lambda f: [path.unlink() for path in (f / "rgb").iterdir()], b"no image in"),
    ],
)
def test_bad_recordings(tmp_path: Path, depth_folder: Path, change: object, message: bytes) -> None:
    change(depth_folder)  # type: ignore[operator]
    done = tracekit("import", "rgbd", depth_folder, "-o", tmp_path / "out.h5")
    assert done.returncode in (65, 66) and message in done.stderr and b"Traceback" not in done.stderr, done.stderr.decode()
    assert not (tmp_path / "out.h5").exists()


def test_poses_of_a_recording_reach_the_tracks(tmp_path: Path, depth_folder: Path) -> None:
    """A camera that is said to move, in either direction of the matrices."""
    poses = np.tile(np.eye(4), (10, 1, 1))
    poses[:, 2, 3] = np.arange(10) * 0.1
    np.save(depth_folder / "poses.npy", poses)
    piped(f"import rgbd {depth_folder} | tracekit keypoints", tmp_path / "out.h5")
    np.save(depth_folder / "poses.npy", np.linalg.inv(poses))
    piped(f"import rgbd {depth_folder} --pose-direction camera_from_world | tracekit keypoints", tmp_path / "inverse.h5")
    with open_records(tmp_path / "out.h5", EPISODE) as one, open_records(tmp_path / "inverse.h5", EPISODE) as other:
        np.testing.assert_allclose(one.read("geometry").world_from_camera, poses, atol=1e-9)
        np.testing.assert_allclose(one.read("tracks").xyz_world, other.read("tracks").xyz_world, atol=1e-6)
        z = one.read("tracks").xyz_world[..., 2]
        np.testing.assert_allclose(np.nanmedian(z, axis=1), 1.5 + np.arange(10) * 0.1, atol=1e-3)


def test_a_sensor_file_is_matched_by_source_frame(tmp_path: Path) -> None:
    first = f"keypoints {SAMPLES}/{SAMPLE}.mp4 --sensor {SAMPLES}/{SAMPLE}.truth.h5 --fps 5 --max-size 240"
    done = shell(f"tracekit {first} | tracekit reconstruct -o {tmp_path}/out.h5")
    assert done.returncode == 0, done.stderr.decode()
    with open_records(tmp_path / "out.h5", EPISODE) as file, open_records(SAMPLES / f"{SAMPLE}.truth.h5", EPISODE) as sensor:
        kept = file.read("video").source_frame
        assert len(kept) > 10 and (np.diff(kept) == 4).all()
        np.testing.assert_allclose(file.read("camera_sensor").world_from_camera, sensor.read("camera_sensor").world_from_camera[kept])
        np.testing.assert_allclose(file.read("depth_sensor").depth[3], sensor.read("depth_sensor").depth[int(kept[3])])
        assert file.read("camera_sensor").intrinsics[0, 0] == pytest.approx(sensor.read("camera_sensor").intrinsics[0, 0] * 0.75)
    done = shell(f"tracekit {first} --sensor-poses no -o {tmp_path}/no.h5")
    with open_records(tmp_path / "no.h5", EPISODE) as file:
        assert file.read("camera_sensor").world_from_camera is None


def test_a_moved_video_is_found_and_a_changed_one_refused(tmp_path: Path) -> None:
    clip = still_clip(tmp_path / "a.mp4", 5)
    assert tracekit("keypoints", "-q", clip, "-o", tmp_path / "k.h5").returncode == 0
    (tmp_path / "elsewhere").mkdir()
    moved = clip.rename(tmp_path / "elsewhere" / "b.mp4")
    done = tracekit("reconstruct", tmp_path / "k.h5", "-o", tmp_path / "r.h5")
    assert done.returncode == 66 and b"--video" in done.stderr
    assert tracekit("reconstruct", tmp_path / "k.h5", "--video", moved, "-o", tmp_path / "r.h5").returncode == 0
    still_clip(moved, 6)
    done = tracekit("track", tmp_path / "r.h5", "--video", moved, "-o", tmp_path / "t.h5")
    assert done.returncode == 65 and b"changed" in done.stderr


def test_embedded_frames_need_no_video(tmp_path: Path) -> None:
    clip = still_clip(tmp_path / "a.mp4", 5)
    assert tracekit("keypoints", "-q", clip, "--embed-frames", "-o", tmp_path / "k.h5").returncode == 0
    clip.unlink()
    piped(f"keypoints {tmp_path}/k.h5 --budget 64", tmp_path / "out.h5")
    assert tracekit("view", tmp_path / "out.h5", "-o", tmp_path / "out.mp4").returncode == 0
    made, _ = video.open_clip(tmp_path / "out.mp4")
    assert len(made.pts) == 5
