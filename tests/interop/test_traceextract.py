"""Episode folders of TraceExtract: read as documented, written as documented, and what comes back from a round trip."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_clips import HEIGHT, WIDTH
from release_episodes import NUM_FRAMES, moving_episode, moving_tracks, write_release_folder

from tracekit.errors import BadDataError, MissingInputError
from tracekit.geometry import se3
from tracekit.interop.traceextract import open_release_episode
from tracekit.interop.traceextract_records import records_of
from tracekit.interop.traceextract_writer import TraceextractParameters, write_release_episode
from tracekit.records import Captions, Clip, Episode, Events, Geometry, Motion, Tracks
from tracekit.report import Report
from tracekit.stage import open_clip_frames

Records = dict[type, Any]


def read(folder: Path, report: Report | None = None, fps: float | None = None, task: str | None = None) -> Records:
    return {type(record): record for record in records_of(open_release_episode(folder), fps, task, report or Report())}


def write(folder: Path, episode: Episode, report: Report | None = None, **parameters: object) -> Path:
    target = folder / "exported"
    target.mkdir()
    frames = open_clip_frames(episode.video, str(folder / "clip-0.h5"))
    write_release_episode(episode, frames, target, "exported", TraceextractParameters(**parameters), report or Report())  # type: ignore[arg-type]
    return target


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release_folder(tmp_path / "episode_1")
    return tmp_path / "episode_1"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Episode:
    return moving_episode(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def exported(original: Episode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("exported"), original)


# --- reading what was written by hand


def test_a_folder_as_the_release_writes_it(tmp_path: Path) -> None:
    world = write_release_folder(tmp_path / "episode")
    report = Report()
    found = read(tmp_path / "episode", report)
    tracks, geometry, clip = found[Tracks], found[Geometry], found[Clip]
    assert tracks.valid.shape == (20, 2) and tracks.valid.all()
    np.testing.assert_allclose(tracks.xyz_world, world, atol=2e-3)
    assert tracks.entity.tolist() == [7, 3] and tracks.born.tolist() == [0, 0]
    assert tracks.visible[4].tolist() == [1, 0] and tracks.visible[:4].all() and tracks.visible[5:19].all()
    assert not tracks.visible[19].any(), "the last frame has no rows, so nothing is said to be seen there"
    np.testing.assert_allclose(geometry.world_from_camera[:, :3, 3], np.arange(20)[:, None] * [0.01, 0, 0], atol=1e-6)
    np.testing.assert_allclose(geometry.intrinsics, [[90, 0, WIDTH / 2 - 0.5], [0, 90, HEIGHT / 2 - 0.5], [0, 0, 1]])
    assert (geometry.depth[3:5] == np.where(np.arange(HEIGHT)[:, None] < 2, 0, 2.5)).all() and geometry.metric
    assert clip.frames.shape == (20, HEIGHT, WIDTH, 3) and clip.frames[1, 0, 0, 0] == HEIGHT * WIDTH * 3 % 256
    assert clip.fps == 10 and clip.pts[3] == pytest.approx(0.3) and clip.task == "put the cup away"
    assert found[Motion].moving.tolist() == [1, 1]
    assert any("10 frames per second taken" in note for note in report.notes)


def test_texts(release: Path) -> None:
    found = read(release)
    captions = found[Captions]
    assert captions.episode_text == "put the cup away"
    assert captions.event_text == ["reach", "lift"] and captions.event_paraphrases == [["go there", "approach"], ["raise", ""]]
    assert captions.event_start.tolist() == [0, 10] and captions.event_stop.tolist() == [10, 20] and captions.event_ok.all()
    assert captions.summary_text == ["reach and lift", "both"] and captions.summary_level.tolist() == [2, 2]
    assert captions.summary_stop.tolist() == [20, 20]
    assert found[Events].stop.tolist() == [10, 20]


def test_what_the_user_says_wins(release: Path) -> None:
    found = read(release, fps=5, task="my own words")
    assert found[Clip].fps == 5 and found[Clip].task == "my own words" and found[Captions].episode_text == "my own words"


def test_a_failed_caption_is_none(release: Path) -> None:
    entry = {"start_idx": 0, "end_idx": 9, "instruction_1": "", "instruction_2": "", "instruction_3": ""}
    (release / "curated_training_texts.json").write_text(json.dumps({"chunk_texts": [entry]}))
    captions = read(release)[Captions]
    assert captions.event_ok.tolist() == [0] and captions.event_text == [""]


def test_texts_are_cleaned_and_bounded(release: Path) -> None:
    entry = {"start_idx": 0, "end_idx": 9, "instruction_1": "a\x1b[31m\x00b\nc" + "x" * 5000}
    (release / "curated_training_texts.json").write_text(json.dumps({"chunk_texts": [entry]}))
    (text,) = read(release)[Captions].event_text
    assert "\x1b" not in text and "\x00" not in text and "\n" not in text and len(text) <= 600


def test_without_texts_and_depth(release: Path) -> None:
    for name in ("curated_training_texts.json", "description.txt", "depth.npy"):
        (release / name).unlink()
    found = read(release)
    assert Captions not in found and Events not in found and found[Geometry].depth is None


def test_arrays_in_columns_and_of_other_widths(release: Path) -> None:
    before = read(release)[Tracks]
    for name in ("raw_traj", "raw_traj_history"):
        stored = np.load(release / "samples" / f"{name}.npy")
        np.save(release / "samples" / f"{name}.npy", np.asfortranarray(stored.astype(">f4")))
    after = read(release)[Tracks]
    np.testing.assert_allclose(after.xyz_world, before.xyz_world, atol=1e-6)


def test_steps_that_are_no_positions_are_masked(release: Path) -> None:
    """The documentation warns of true masks with depth that is not positive."""
    path = release / "samples" / "raw_traj.npy"
    stored = np.load(path)
    stored[:, 3:, 2] = -1
    stored[2::2, 2:] = np.inf
    np.save(path, stored)
    report = Report()
    tracks = read(release, report)[Tracks]
    assert np.isfinite(tracks.xyz_world[tracks.valid == 1]).all()
    assert any("masked" in name and count > 0 for name, count in report.counts.items())


def test_intrinsics_that_vary_are_noted(release: Path) -> None:
    stored = dict(np.load(release / "cameras.npz"))
    stored["intrinsics"][:10, 0, 0] *= 1.1
    np.savez(release / "cameras.npz", **stored)
    report = Report()
    assert read(release, report)[Geometry].intrinsics[0, 0] == pytest.approx(94.5)
    assert any("intrinsics vary" in note for note in report.notes)


# --- what is written


def sample_at(folder: Path, frame: int) -> dict[str, np.ndarray]:
    """The rows of one frame, the way the release's documentation finds them."""
    frames, offsets = np.load(folder / "samples/frame_indices.npy"), np.load(folder / "samples/offsets.npy")
    slot = frames.tolist().index(frame)
    names = [path.stem for path in (folder / "samples").glob("*.npy") if path.stem not in ("frame_indices", "offsets")]
    return {name: np.load(folder / "samples" / f"{name}.npy")[offsets[slot] : offsets[slot + 1]] for name in names}


def test_layout_and_types(exported: Path) -> None:
    found = {path.relative_to(exported).as_posix(): np.load(path, allow_pickle=False) for path in exported.rglob("*.npy")}
    rows = len(found["samples/cluster_ids.npy"])
    num_slots = len(found["samples/frame_indices.npy"])
    expected = {
        "images.npy": ("uint8", (NUM_FRAMES, HEIGHT, WIDTH, 3)),
        "depth.npy": ("float16", (NUM_FRAMES, HEIGHT, WIDTH)),
        "samples/frame_indices.npy": ("int32", (num_slots,)),
        "samples/offsets.npy": ("int64", (num_slots + 1,)),
        "samples/keypoints.npy": ("float16", (rows, 2)),
        "samples/cluster_ids.npy": ("int32", (rows,)),
        "samples/is_moving.npy": ("bool", (rows,)),
        "samples/visibs.npy": ("float16", (rows,)),
    }
    for kind in ("", "raw_"):
        for part, length in (("", 128), ("_history", 32)):
            expected[f"samples/{kind}traj{part}.npy"] = ("float16", (rows, length, 3))
            expected[f"samples/{kind}valid_steps{part}.npy"] = ("bool", (rows, length))
    assert {name: (str(array.dtype), array.shape) for name, array in found.items()} == expected
    cameras = np.load(exported / "cameras.npz")
    assert {name: (str(cameras[name].dtype), cameras[name].shape) for name in cameras.files} == {
        "intrinsics": ("float32", (NUM_FRAMES, 3, 3)),
        "extrinsics": ("float32", (NUM_FRAMES, 4, 4)),
        "height": ("int32", ()),
        "width": ("int32", ()),
    }
    assert (int(cameras["width"]), int(cameras["height"])) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("frame", [0, 17, NUM_FRAMES - 2])
def test_rows_are_the_tracks_seen_from_the_camera_of_their_frame(original: Episode, exported: Path, frame: int) -> None:
    """K (R x + t) with the matrices of the folder itself, point by point."""
    assert original.tracks is not None
    cameras, rows = np.load(exported / "cameras.npz"), sample_at(exported, frame)
    to_camera, matrix = cameras["extrinsics"][frame].astype(float), cameras["intrinsics"][frame].astype(float)

    def seen(point: np.ndarray) -> np.ndarray:
        x, y, z = matrix @ (to_camera[:3, :3] @ point + to_camera[:3, 3])
        return np.array([x / z, y / z, z])

    valid = original.tracks.valid.astype(bool)
    inside = [seen(original.tracks.xyz_world[frame, track]) if valid[frame, track] else np.full(3, np.nan) for track in moving_tracks()]
    expected = [track for track, (u, v, z) in zip(moving_tracks(), inside, strict=True) if 0 <= u <= WIDTH and 0 <= v <= HEIGHT and z > 0]
    assert rows["cluster_ids"].tolist() == original.tracks.entity[expected].tolist() and len(expected) >= 3
    for row, track in enumerate(expected):
        np.testing.assert_allclose(rows["keypoints"][row], seen(original.tracks.xyz_world[frame, track])[:2], atol=0.05)
        for name, direction in (("", 1), ("_history", -1)):
            path, mask = rows[f"raw_traj{name}"][row], rows[f"raw_valid_steps{name}"][row]
            for step in range(len(path)):
                at = frame + direction * step
                if 0 <= at < NUM_FRAMES and valid[at, track]:
                    np.testing.assert_allclose(path[step], seen(original.tracks.xyz_world[at, track]), rtol=1e-3, atol=0.05)
                    assert mask[step]
                else:
                    assert not mask[step] and (path[step] == -np.inf).all()
    assert rows["visibs"].tolist() == original.tracks.visible[frame, expected].tolist()


def test_steps_of_traj_have_equal_lengths_of_path(original: Episode, exported: Path) -> None:
    """The fastest of fourteen keypoints (2 %, at least one) covers 0.05 of (u/W, v/H, z) between two steps, along the frames' polyline."""
    assert original.tracks is not None and original.geometry is not None
    rows = sample_at(exported, 0)
    for name in ("", "_history"):
        np.testing.assert_array_equal(rows[f"traj{name}"][:, 0], rows[f"raw_traj{name}"][:, 0])
        stored, mask = rows[f"traj{name}"].astype(float), rows[f"valid_steps{name}"]
        assert ((stored == -np.inf).all(axis=2) == ~mask).all()
    size = np.array([WIDTH, HEIGHT, 1])
    stored, mask = rows["traj"].astype(float) / size, rows["valid_steps"]
    both = mask[:, 1:] & mask[:, :-1]
    with np.errstate(invalid="ignore"):
        step = np.where(both, np.linalg.norm(np.diff(stored, axis=1), axis=2), 0.0)
    # Straight from step to step is never longer than along the path; where one keypoint is fastest throughout, it is as long.
    fastest = step.max(axis=0)[both.any(axis=0)]
    assert len(fastest) > 20 and fastest.max() < 0.055 and np.median(fastest) > 0.04


def test_the_trainers_conditions_hold(exported: Path) -> None:
    """What the authors' dataset checks before it takes a folder: steps for h + 1 and F + 1, depth on the grid of the images, anchors
    that are valid, finite and inside the image in [-1, 1]."""
    history = np.load(exported / "samples/traj_history.npy").astype(np.float32)
    assert np.load(exported / "samples/valid_steps_history.npy")[:, 0].all() and np.isfinite(history[:, 0]).all()
    assert (np.abs(history[:, 0, :2] / [WIDTH, HEIGHT] * 2 - 1) <= 1).all()
    np.testing.assert_array_equal(history[:, 0], np.load(exported / "samples/traj.npy")[:, 0])
    assert history.shape[1] >= 9 and np.load(exported / "samples/traj.npy").shape[1] >= 33
    assert np.load(exported / "samples/is_moving.npy").all()
    texts = json.loads((exported / "curated_training_texts.json").read_text())
    covered = [entry for entry in texts["chunk_texts"] + texts["merged_texts"] if entry["start_idx"] <= 25 <= entry["end_idx"]]
    said = {entry[f"instruction_{number}"] for entry in covered for number in (1, 2, 3)} - {""}
    assert said == {"grasp", "pick up", "grip", "reach and grasp"}


def test_static_keypoints_on_request(original: Episode, exported: Path, tmp_path: Path) -> None:
    everything = write(tmp_path, original, moving_only=False)
    is_moving = np.load(everything / "samples/is_moving.npy")
    assert not is_moving.all() and is_moving.sum() == len(np.load(exported / "samples/is_moving.npy"))
    assert Motion in read(everything) and 0 < read(everything)[Motion].moving.sum() < len(read(everything)[Motion].moving)


def test_an_episode_without_depth_and_captions(original: Episode, tmp_path: Path) -> None:
    assert original.geometry is not None
    bare = dataclasses.replace(original, geometry=dataclasses.replace(original.geometry, depth=None), captions=None, motion=None)
    report = Report()
    folder = write(tmp_path, bare, report)
    assert not (folder / "depth.npy").exists() and not (folder / "curated_training_texts.json").exists()
    assert (
        any("depth.npy" in note for note in report.notes) and report.counts["tracks taken as moving because the episode was not filtered"]
    )


def test_an_episode_that_was_not_tracked_is_refused(original: Episode, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="has no tracks"):
        write(tmp_path, dataclasses.replace(original, tracks=None))


# --- there and back


def test_round_trip_of_tracks(original: Episode, exported: Path) -> None:
    """All moving tracks come back once each, across gaps and trips out of the image, to the rounding of 16-bit floats."""
    assert original.tracks is not None
    found, expected = read(exported)[Tracks], original.tracks
    taken = set()
    for track in moving_tracks():
        valid = expected.valid[:, track].astype(bool)
        distance = np.linalg.norm(found.xyz_world - expected.xyz_world[:, track, None], axis=2)
        nearest = int(np.nanmean(np.where(valid[:, None], distance, np.nan), axis=0).argmin())
        taken.add(nearest)
        np.testing.assert_array_equal(found.valid[:, nearest].astype(bool), valid)
        np.testing.assert_allclose(found.xyz_world[valid, nearest], expected.xyz_world[valid, track], atol=4e-3)
        assert found.entity[nearest] == expected.entity[track]
        inside = valid & ((expected.uv[:, track] >= -0.4) & (expected.uv[:, track] <= [WIDTH - 0.6, HEIGHT - 0.6])).all(axis=1)
        inside[-1] = False  # which leads nowhere and has no rows
        np.testing.assert_array_equal(found.visible[inside, nearest], expected.visible[inside, track])
    assert len(taken) == found.valid.shape[1] == len(moving_tracks())
    assert read(exported)[Motion].moving.all()


def test_round_trip_of_cameras_depth_pictures_and_texts(original: Episode, exported: Path) -> None:
    assert original.geometry is not None and original.captions is not None
    found = read(exported)
    geometry = found[Geometry]
    np.testing.assert_allclose(geometry.intrinsics, original.geometry.intrinsics, rtol=1e-6)
    np.testing.assert_allclose(geometry.world_from_camera, original.geometry.world_from_camera, atol=1e-6)
    assert se3.is_pose(geometry.world_from_camera).all()
    doubled = np.asarray(original.geometry.depth).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(geometry.depth[:], doubled, rtol=5e-4)
    assert (geometry.depth[:, :6] == 0).all(), "three rows of the smaller grid, where nothing is known"
    np.testing.assert_array_equal(found[Clip].frames[:], open_clip_frames(original.video, "")[:])
    assert found[Clip].fps == original.video.fps and found[Clip].task == "tidy up"
    captions = found[Captions]
    for field in dataclasses.fields(Captions):
        if field.name != "captioner":
            before, after = getattr(original.captions, field.name), getattr(captions, field.name)
            assert np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after, field.name


def test_a_second_round_trip_changes_nothing_more(exported: Path, tmp_path: Path) -> None:
    """Rounded positions are rounded to themselves, but for what the camera of another frame adds."""
    found = read(exported)
    again = Episode("again", found[Clip], geometry=found[Geometry], tracks=found[Tracks], motion=found[Motion], captions=found[Captions])
    once_more = read(write(tmp_path, again))
    np.testing.assert_array_equal(once_more[Tracks].valid, found[Tracks].valid)
    np.testing.assert_allclose(once_more[Tracks].xyz_world, found[Tracks].xyz_world, atol=4e-3)
    assert once_more[Captions].event_paraphrases == found[Captions].event_paraphrases


# --- hostile and broken folders


class _Harmful:
    def __reduce__(self) -> tuple:
        return os.system, ("touch harmed",)


def header(shape: str, descr: str = "'<f2'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def pickled(path: Path) -> None:
    with open(path, "wb") as stream:
        np.save(stream, np.array([_Harmful()], object), allow_pickle=True)


def pickled_member(path: Path) -> None:
    np.savez(path, intrinsics=np.array([_Harmful()], object))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def texts(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def entry(**changes: object) -> str:
    return json.dumps({"chunk_texts": [{"start_idx": 0, "end_idx": 9, "instruction_1": "reach", **changes}]})


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def swollen_member(path: Path) -> None:
    """An archive whose member claims little and unpacks to 200 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("intrinsics.npy", header("(20, 3, 3)", "'<f4'") + bytes(200_000_000))


def sparse(shape: str, descr: str, num_bytes: int) -> Callable[[Path], object]:
    """A file that keeps what its header promises, and takes no room on the disk."""

    def spoil(path: Path) -> None:
        path.write_bytes(header(shape, descr))
        os.truncate(path, path.stat().st_size + num_bytes)

    return spoil


HOSTILE: list[tuple[str, Callable[[Path], object], str]] = [
    ("samples/raw_traj.npy", pickled, "object"),
    ("samples/cluster_ids.npy", pickled, "object"),
    ("cameras.npz", pickled, "no archive"),
    ("cameras.npz", pickled_member, "object"),
    ("images.npy", cut_off, "cut off"),
    ("depth.npy", cut_off, "cut off"),
    ("samples/raw_traj.npy", cut_off, "cut off"),
    ("samples/raw_valid_steps.npy", cut_off, "cut off"),
    ("images.npy", lambda path: path.write_bytes(header("(1000000000000000, 64, 96, 3)", "'|u1'")), "cut off"),
    ("images.npy", lambda path: path.write_bytes(header("(20, 2000000000, 96, 3)", "'|u1'")), "cut off"),
    ("samples/raw_traj.npy", lambda path: path.write_bytes(header("(38, 99999999999999999999, 3)")), "cut off"),
    ("samples/raw_traj.npy", lambda path: path.write_bytes(header("(-38, 12, 3)")), "shape"),
    ("samples/raw_traj.npy", lambda path: path.write_bytes(header("(38, 12, 3)", "[('a', '<f2')]")), "floats are expected"),
    ("samples/raw_traj.npy", lambda path: path.write_bytes(header("(" + "1, " * 3000 + ")")), "no NumPy array"),
    ("samples/raw_traj.npy", lambda path: path.write_bytes(header("__import__('os').system('touch harmed')")), "no NumPy array"),
    ("samples/raw_traj.npy", lambda path: path.write_bytes(b""), "no NumPy array"),
    ("samples/raw_traj.npy", lambda path: path.write_bytes(b"\x93NUMPY\x03\x00\xff\xff\xff\xff"), "no NumPy array"),
    ("samples/raw_traj.npy", lambda path: np.save(path, np.zeros((38, 12, 2), np.float16)), "shape"),
    ("samples/raw_traj.npy", lambda path: np.save(path, np.zeros((37, 12, 3), np.float16)), "shape"),
    ("samples/raw_traj.npy", lambda path: path.unlink(), "missing"),
    ("samples/offsets.npy", lambda path: path.unlink(), "missing"),
    ("samples/raw_traj.npy", fifo, "no regular file"),
    ("samples/frame_indices.npy", lambda path: np.save(path, np.arange(5, 24)), "frames of 0 to 19"),
    ("samples/frame_indices.npy", lambda path: np.save(path, np.zeros(19, int)), "ascending"),
    ("samples/frame_indices.npy", lambda path: np.save(path, np.arange(19) - 1), "frames of 0 to 19"),
    ("samples/frame_indices.npy", lambda path: np.save(path, np.arange(19.0)), "whole numbers"),
    ("samples/offsets.npy", lambda path: np.save(path, 3 * np.arange(20)), "offsets.npy"),
    ("samples/offsets.npy", lambda path: np.save(path, np.array([0, 38, *[20] * 17, 38])), "offsets.npy"),
    ("samples/offsets.npy", lambda path: np.save(path, np.array([-2, *range(2, 38, 2), 38])), "offsets.npy"),
    ("samples/cluster_ids.npy", lambda path: np.save(path, np.full(38, 1 << 40)), "32 bits"),
    ("depth.npy", lambda path: np.save(path, np.zeros((20, HEIGHT, WIDTH + 1), np.float16)), "shape"),
    ("images.npy", lambda path: np.save(path, np.zeros((20, HEIGHT, WIDTH, 3), np.uint16)), "8-bit"),
    ("images.npy", lambda path: np.save(path, np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)), "8-bit"),
    ("images.npy", sparse("(2000000, 64, 96, 3)", "'|u1'", 2_000_000 * 64 * 96 * 3), "8-bit"),
    ("cameras.npz", swollen_member, "overlong"),
    ("cameras.npz", lambda path: path.write_bytes(b"PK\x03\x04 not really"), "no archive"),
    ("cameras.npz", lambda path: np.savez(path, intrinsics=np.ones((20, 3, 3))), "pinhole|extrinsics"),
    ("curated_training_texts.json", texts("{broken"), "no JSON"),
    ("curated_training_texts.json", texts("[" * 100_000), "no JSON"),
    ("curated_training_texts.json", texts("[]"), "no JSON object"),
    ("curated_training_texts.json", lambda path: path.write_bytes(b"\xff\xfe{}"), "no JSON"),
    ("curated_training_texts.json", lambda path: os.truncate(path, 1 << 30), "longer than"),
    ("curated_training_texts.json", texts('{"chunk_texts": {"0": 1}}'), "no list"),
    ("curated_training_texts.json", texts('{"chunk_texts": ["reach"]}'), r"chunk_texts\[0\]"),
    ("curated_training_texts.json", texts(entry(end_idx=20)), "frames 0 to 19"),
    ("curated_training_texts.json", texts(entry(start_idx=-1)), "frames 0 to 19"),
    ("curated_training_texts.json", texts(entry(start_idx=True)), "start_idx"),
    ("curated_training_texts.json", texts(entry(start_idx=1e300)), "start_idx"),
    ("curated_training_texts.json", texts(entry(instruction_1=["a"])), "no text"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), HOSTILE)
def test_a_spoiled_file_is_named(release: Path, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Any, message: str) -> None:
    monkeypatch.chdir(release)
    spoil(release / name)
    with pytest.raises(BadDataError, match=message) as caught:
        read(release)
    assert Path(name).name in str(caught.value) and len(str(caught.value)) < 1000
    assert not (release / "harmed").exists()


@pytest.mark.parametrize("field", ["intrinsics", "extrinsics"])
def test_cameras_that_are_none_are_refused(release: Path, field: str) -> None:
    stored = dict(np.load(release / "cameras.npz"))
    stored[field][7] *= np.nan
    np.savez(release / "cameras.npz", **stored)
    with pytest.raises(BadDataError, match=rf"cameras.npz: {field}\[7\]"):
        read(release)


def test_a_frame_with_more_positions_than_fit_into_memory(release: Path) -> None:
    """Two million rows of zeros in the last frame; the files are sparse and consistent."""
    samples, num_rows = release / "samples", 2_000_000
    offsets = np.load(samples / "offsets.npy")
    offsets[-1] = num_rows
    np.save(samples / "offsets.npy", offsets)
    sparse(f"({num_rows},)", "'<i4'", num_rows * 4)(samples / "cluster_ids.npy")
    for name, columns in (("raw_traj", 12), ("raw_traj_history", 6)):
        sparse(f"({num_rows}, {columns}, 3)", "'<f2'", num_rows * columns * 6)(samples / f"{name}.npy")
        sparse(f"({num_rows}, {columns})", "'|b1'", num_rows * columns)(samples / f"{name.replace('traj', 'valid_steps')}.npy")
    for name in ("is_moving", "visibs"):
        (samples / f"{name}.npy").unlink()
    with pytest.raises(BadDataError, match=r"raw_traj\.npy has more than \d+ positions for one frame"):
        read(release)


def test_rows_that_do_not_continue_each_other_are_tracks_of_their_own(release: Path) -> None:
    """Noise of a tenth of the image is no continuation."""
    path = release / "samples" / "raw_traj.npy"
    stored = np.load(path)
    stored[..., :2] += np.random.default_rng(0).normal(0, 10, (len(stored), 1, 2))
    np.save(path, stored.astype(np.float16))
    report = Report()
    read(release, report)
    assert report.counts["tracks that the rows make"] > 30


def test_what_is_no_episode(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no folder"):
        read(tmp_path / "absent")
    with pytest.raises(BadDataError, match=r"images\.npy is missing"):
        read(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(BadDataError, match="older layout"):
        read(tmp_path)
