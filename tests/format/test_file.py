"""Records survive the way to a file and back; what the schema forbids is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import N, T, write_episode

from tracekit import records
from tracekit.errors import BadDataError, CannotCreateError
from tracekit.format.file import Target, open_records, read_text_column, write_records
from tracekit.format.schema import CORPUS, EPISODE


def assert_same(first: Any, second: Any) -> None:
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, (str, float, int, list)) or one is None:
            assert one == other, field.name
        else:
            np.testing.assert_array_equal(np.asarray(one[:]), np.asarray(other[:]).astype(np.asarray(one[:]).dtype), err_msg=field.name)


def test_every_record_comes_back(episode: records.Episode, episode_file: Path) -> None:
    with open_records(episode_file, EPISODE) as file:
        assert file.groups == [group.name for group in EPISODE.groups]
        back = file.episode()
        assert back.clip_id == "small"
        for group in EPISODE.groups:
            expected = getattr(episode, group.name)
            stored = {f.name: f.metadata["spec"].dtype for f in dataclasses.fields(expected)}
            rounded = {
                name: np.asarray(getattr(expected, name)).astype(code)
                for name, code in stored.items()
                if code in ("f4", "i4", "u1", "f8") and name != "frames"
            }
            assert_same(
                dataclasses.replace(expected, **{k: v for k, v in rounded.items() if v.ndim}),
                getattr(back, group.name),
            )
        file.validate_everything()
        assert [step.command for step in file.steps()] == ["keypoints"]
        assert file.steps()[0].parameters == {"budget": 7}


def test_depth_is_kept_to_half_a_millimetre_and_far_points_are_unknown(tmp_path: Path, episode: records.Episode) -> None:
    depth = np.random.default_rng(0).uniform(0.1, 9.0, (T, 24, 32)).astype(np.float32)
    depth[0, 0, 0], depth[0, 0, 1] = 0.0, 70.0
    path = write_episode(tmp_path / "a.h5", dataclasses.replace(episode, depth_sensor=records.DepthSensor(depth)))
    with open_records(path, EPISODE) as file:
        back = file.read("depth_sensor").depth[:]
    assert back[0, 0, 0] == 0 and back[0, 0, 1] == 0
    error = np.abs(back - depth)
    error[0, 0, 1] = 0
    assert error.max() < 0.5e-3 + 1e-6


def damage(path: Path, change: Any) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(file: h5py.File, name: str, value: np.ndarray) -> None:
    del file[name]
    file[name] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: replace(f, "tracks/visible", np.zeros((8, 6), np.uint8)),
            r"tracks/visible has shape \(8, 6\), but T = 6 \(from video/pts\)",
        ),
        (
            lambda f: replace(f, "tracks/visible", np.zeros((T, 6), np.uint8)),
            r"tracks/visible has shape \(6, 6\), but N = 5 \(from tracks/xyz_world\)",
        ),
        (lambda f: replace(f, "tracks/uv", np.zeros((T, N), np.float32)), r"tracks/uv has shape \(6, 5\), but 3 axes are expected"),
        (lambda f: replace(f, "tracks/uv", np.zeros((T, N, 3), np.float32)), r"tracks/uv has shape \(6, 5, 3\), but the axis of 2 has 3"),
        (lambda f: replace(f, "tracks/uv", np.zeros((T, N, 2), np.float64)), "tracks/uv has dtype float64, but float32 is expected"),
        (lambda f: f.__delitem__("tracks/valid"), "tracks/valid is missing"),
        (lambda f: f["tracks"].attrs.__delitem__("tracker"), "attribute tracker of tracks in .* is missing"),
        (lambda f: f["video"].attrs.__setitem__("fps", "fast"), "attribute fps of video .* is 'fast', but one number is expected"),
        (lambda f: f["video"].attrs.__setitem__("uri", 3), "attribute uri of video .* but text is expected"),
        (lambda f: f.attrs.__setitem__("format_version", 9), "format_version 9, but this tracekit reads tracekit/episode up to version 1"),
        (lambda f: f.attrs.__setitem__("format", "tracekit/corpus"), "is of format tracekit/corpus, but tracekit/episode is expected"),
        (lambda f: f.attrs.__delitem__("format"), "not a tracekit file"),
        (lambda f: (f.__delitem__("tracks/uv"), f.create_group("tracks/uv")), "tracks/uv in .* is a group, but a dataset is expected"),
    ],
)
def test_a_broken_layout_names_the_path_and_both_values(episode_file: Path, change: Any, message: str) -> None:
    damage(episode_file, change)
    with pytest.raises(BadDataError, match=message), open_records(episode_file, EPISODE):
        pass


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("tracks", lambda f: f["tracks/visible"].__setitem__((2, 3), 7), r"tracks/visible\[2, 3\] is 7: only 0 and 1"),
        ("tracks", lambda f: f["tracks/keypoint"].__setitem__(1, 70), r"tracks/keypoint\[1\] is 70: an index must be in 0\.\.6 \(K = 7\)"),
        (
            "geometry",
            lambda f: f["geometry/world_from_camera"].__setitem__((4, 0, 0), -1.0),
            r"geometry/world_from_camera\[4\]: not a rigid motion",
        ),
        ("geometry", lambda f: f["geometry/intrinsics"].__setitem__((0, 0), np.nan), r"geometry/intrinsics\[0, 0\] is nan"),
    ],
)
def test_a_forbidden_value_names_its_index(episode_file: Path, group: str, change: Any, message: str) -> None:
    damage(episode_file, change)
    with open_records(episode_file, EPISODE) as file:
        with pytest.raises(BadDataError, match=message):
            file.read(group)
        with pytest.raises(BadDataError, match=message):
            file.validate_everything()


def test_groups_that_no_longer_hold_are_left_out_and_strangers_stay(tmp_path: Path, episode_file: Path, episode: records.Episode) -> None:
    damage(episode_file, lambda f: f.create_dataset("my_lab/notes", data=np.arange(3)))
    before = episode_file.read_bytes()
    with (
        open_records(episode_file, EPISODE) as file,
        write_records(Target(tmp_path / "b.h5"), EPISODE, base=file, writes={"geometry"}) as writer,
    ):
        assert sorted(writer.dropped) == ["captions", "events", "motion", "tracks"]
        writer.put(episode.geometry)
    with open_records(tmp_path / "b.h5", EPISODE) as file:
        assert file.groups == ["video", "depth_sensor", "camera_sensor", "keypoints", "geometry", "truth"]
        assert ("my_lab/notes", (3,), "int64", 24) in file.datasets()
        assert len(file.steps()) == 1
    assert episode_file.read_bytes() == before, "inputs are read-only"


def test_nothing_appears_when_writing_fails(tmp_path: Path, episode: records.Episode) -> None:
    wrong = dataclasses.replace(episode.motion, moving=np.full(N, 3, np.uint8))
    with pytest.raises(BadDataError, match=r"motion/moving\[0\] is 3"), write_records(Target(tmp_path / "b.h5"), EPISODE, "x") as writer:
        writer.put(episode.video)
        writer.put(wrong)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_needs_force(tmp_path: Path, episode_file: Path, episode: records.Episode) -> None:
    with pytest.raises(CannotCreateError, match="exists"), write_records(Target(episode_file), EPISODE, "x"):
        pass
    write_episode(episode_file, dataclasses.replace(episode, clip_id="other"))
    with open_records(episode_file) as file:
        assert file.clip_id == "other"


def test_empty_axes_are_written_and_read(tmp_path: Path, episode: records.Episode) -> None:
    def cut(record: Any, keep: dict[str, int]) -> Any:
        changes = {}
        for field in dataclasses.fields(record):
            value, shape = getattr(record, field.name), field.metadata["spec"].shape
            if value is None or shape is None:
                continue
            if isinstance(value, list):
                changes[field.name] = value[: keep.get(shape[0], len(value))]
            else:
                changes[field.name] = value[tuple(slice(0, keep.get(axis)) for axis in shape)]
        return dataclasses.replace(record, **changes)

    keep = {"T": 0, "N": 0, "K": 0, "A": 0, "C": 0, "B": 0, "M": 0, "R": 0, "E": 0}
    empty = records.Episode("empty", **{group.name: cut(getattr(episode, group.name), keep) for group in EPISODE.groups})
    path = write_episode(tmp_path / "empty.h5", empty)
    with open_records(path, EPISODE) as file:
        file.validate_everything()
        assert file.read("tracks").xyz_world.shape == (0, 0, 3)
        assert file.read("captions").event_text == []


def test_unicode_spaces_and_a_leading_dash_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, episode: records.Episode) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-o.h5", "ein Würfel ▲.h5"):
        write_episode(Path(name), episode)
        with open_records(name, EPISODE) as file:
            assert file.clip_id == "small"


def test_a_column_of_texts(episode_file: Path) -> None:
    assert read_text_column(str(episode_file), "captions/event_text") == ["A block slides."]
    with pytest.raises(BadDataError, match="no one-dimensional text dataset"):
        read_text_column(str(episode_file), "tracks/uv")


def test_the_schema_is_consistent() -> None:
    for kind in (EPISODE, CORPUS):
        paths = [
            entry.path if not entry.is_attribute else f"{entry.path}@{entry.field}" for group in kind.groups for entry in group.entries()
        ]
        assert len(set(paths)) == len(paths)
        names = {group.name for group in kind.groups}
        for group in kind.groups:
            assert set(group.needs) <= names
            for entry in group.entries():
                assert entry.spec.meaning and entry.spec.dtype
    assert EPISODE.outdated_by({"tracks"}) == {"motion", "events", "captions"}
    assert EPISODE.outdated_by({"keypoints"}) == {"tracks", "motion", "events", "captions"}
