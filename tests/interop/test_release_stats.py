"""The statistics file of the authors' training code."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from tracekit.errors import BadDataError, CannotCreateError, MissingInputError
from tracekit.interop.release_stats import read_release_stats, read_scales, write_release_stats

# As the authors' documentation of the file has it, with numbers of our own.
CONTENT = {
    "delta_scale_x": 0.31,
    "delta_scale_y": 0.25,
    "delta_scale_z": 0.12,
    "percentile": 95.0,
    "num_samples": 1000,
    "history_len": 8,
    "future_len": 32,
    "target_kind": "anchor",
    "video_fraction": 1.0,
    "depth_log_min": -1.5,
    "depth_log_max": 1.25,
    "depth_p1_m": 0.223,
    "depth_p99_m": 3.49,
    "depth_num_samples": 10,
    "depth_num_dirs": 1,
}


def stats(folder: Path, **changes: object) -> Path:
    path = folder / "stats.json"
    path.write_text(json.dumps({key: value for key, value in {**CONTENT, **changes}.items() if value != "absent"}))
    return path


def test_their_file(tmp_path: Path) -> None:
    delta_scale, depth_log_range = read_release_stats(stats(tmp_path))
    assert delta_scale.tolist() == [0.31, 0.25, 0.12] and depth_log_range.tolist() == [-1.5, 1.25]
    assert [part.tolist() for part in read_scales(tmp_path / "stats.json")] == [[0.31, 0.25, 0.12], [-1.5, 1.25]]


def test_a_file_that_does_not_say_its_targets_is_of_anchors(tmp_path: Path) -> None:
    assert read_release_stats(stats(tmp_path, target_kind="absent"))[0][0] == 0.31


def test_there_and_back(tmp_path: Path) -> None:
    delta_scale, depth_log_range = np.array([0.1, 1 / 3, 0.07]), np.log([0.4, 2.8])
    write_release_stats(tmp_path / "s.json", delta_scale, depth_log_range, history=8, horizon=32)
    found = read_release_stats(tmp_path / "s.json")
    np.testing.assert_array_equal(found[0], delta_scale)
    np.testing.assert_array_equal(found[1], depth_log_range)
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["target_kind"] == "anchor" and content["depth_p99_m"] == pytest.approx(2.8) and content["future_len"] == 32
    with pytest.raises(CannotCreateError):
        write_release_stats(tmp_path / "s.json", delta_scale, depth_log_range, history=8, horizon=32)


def test_our_own_layout(tmp_path: Path) -> None:
    (tmp_path / "ours.json").write_text('{"delta_scale": [1, 2, 3], "depth_log_range": [0, 1]}')
    assert [part.tolist() for part in read_scales(tmp_path / "ours.json")] == [[1, 2, 3], [0, 1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_kind": "step"}, "target_kind is 'step'"),
        ({"delta_scale_x": "absent"}, "delta_scale_x"),
        ({"delta_scale_x": "0.3"}, "3 numbers are expected"),
        ({"delta_scale_y": True}, "3 numbers are expected"),
        ({"delta_scale_z": 0}, "positive"),
        ({"delta_scale_z": -0.1}, "positive"),
        ({"delta_scale_z": math.nan}, "not finite"),
        ({"delta_scale_z": 10**400}, "not finite"),
        ({"depth_log_max": -2}, "ascending"),
        ({"depth_log_min": math.inf}, "not finite"),
        ({"depth_log_min": None, "depth_log_max": None}, "no range of depth"),
        ({"depth_log_min": "absent"}, "depth_log_min"),
    ],
)
def test_numbers_that_are_none(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadDataError, match=message) as caught:
        read_release_stats(stats(tmp_path, **changes))
    assert "stats.json" in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["{", "[1, 2]", "[" * 100_000, "\x00", '"text"'])
def test_what_is_no_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "stats.json").write_text(text)
    with pytest.raises(BadDataError, match=r"stats\.json"):
        read_release_stats(tmp_path / "stats.json")


def test_what_is_no_file_or_too_long(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        read_release_stats(tmp_path / "absent.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadDataError, match="no regular file"):
        read_release_stats(tmp_path / "pipe")
    (tmp_path / "long.json").write_text("{}" + " " * (1 << 20))
    with pytest.raises(BadDataError, match="longer"):
        read_release_stats(tmp_path / "long.json")
