"""`tracekit evaluate --extraction`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import small_episode, write_episode
from evaluation.true_episode import changed, extraction, truth
from run_command import tracekit

KEYS = [
    "track_error_median_m",
    "track_error_p90_m",
    "occlusion_accuracy",
    "delta_avg",
    "average_jaccard",
    "ate_rmse_m",
    "depth_absrel",
    "moving_precision",
    "moving_recall",
    "moving_budget_share",
    "event_f1",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("evaluate")
    return write_episode(folder / "found.h5", extraction()), write_episode(folder / "found.truth.h5", truth())


def test_json_holds_every_figure(files: tuple[Path, Path]) -> None:
    done = tracekit("evaluate", "--extraction", files[0], "--truth", files[1], "--json")
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    scores = json.loads(done.stdout)
    assert all(isinstance(scores[key], float) for key in KEYS)
    assert scores["delta_avg"] == scores["event_f1"] == 1.0 and scores["track_error_median_m"] < 0.001
    assert scores["num_frames"] == 24 and scores["notes"] == [] and scores["extraction"] == str(files[0])
    assert {body["name"]: body["moving"] for body in scores["bodies"]} == {"wall": False, "board": True, "card": True}


def test_the_table_says_the_same(files: tuple[Path, Path]) -> None:
    text = tracekit("evaluate", "--extraction", files[0], "--truth", files[1]).stdout.decode()
    lines = [line.split() for line in text.splitlines()]
    for line in (
        "3-D within 1, 2, 4, 8, 16 px 1.000 1.000 1.000 1.000 1.000",
        "trajectory error (ATE), RMS 0.0000 m",
        "moving tracks that are called so 1.000",
        "moving groups 2",
        "F1 1.000",
    ):
        assert line.split() in lines
    assert ["board", "yes"] in [line[:2] for line in lines] and ["wall", "no"] in [line[:2] for line in lines]


def test_what_cannot_be_told_is_null_or_a_dash_with_a_note(files: tuple[Path, Path], tmp_path: Path) -> None:
    planar = changed(extraction(), "geometry", metric=False, depth=None)
    found = write_episode(tmp_path / "planar.h5", planar, without=("events",))
    done = tracekit("evaluate", "--extraction", found, "--truth", files[1], "--json")
    scores = json.loads(done.stdout)
    nulls = {"track_error_median_m", "track_error_p90_m", "delta_avg", "average_jaccard", "ate_rmse_m", "depth_absrel", "event_f1"}
    assert {key for key in KEYS if scores[key] is None} == nulls
    assert b"metric = 0" in done.stderr and b"has no events" in done.stderr and len(scores["notes"]) == 2
    done = tracekit("evaluate", "--extraction", found, "--truth", files[1], "-q")
    assert done.stderr == b""
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    assert ["error", "where", "seen,", "median", "-"] in lines and ["F1", "-"] in lines
    assert "nan" not in done.stdout.decode().lower()


def test_the_extraction_may_come_through_a_pipe(files: tuple[Path, Path]) -> None:
    done = tracekit("evaluate", "--extraction", "-", "--truth", files[1], "--json", stdin=files[0].read_bytes())
    assert done.returncode == 0 and json.loads(done.stdout)["delta_avg"] == 1.0


def test_options_that_are_missing_or_wrong_are_2(files: tuple[Path, Path]) -> None:
    for arguments in (("--extraction", files[0]), ("--truth", files[1]), ("--extraction", "-", "--truth", "-")):
        done = tracekit("evaluate", *arguments)
        assert done.returncode == 2 and b"--extraction" in done.stderr, arguments
    done = tracekit("evaluate", "--extraction", files[0], "--truth", files[1], "--event-tolerance", "-1")
    assert done.returncode == 2 and b"--event-tolerance is -1.0, but the least is 0" in done.stderr


def test_files_that_are_no_good(files: tuple[Path, Path], tmp_path: Path) -> None:
    done = tracekit("evaluate", "--extraction", tmp_path / "none.h5", "--truth", files[1])
    assert done.returncode == 66 and b"none.h5 does not exist" in done.stderr
    done = tracekit("evaluate", "--extraction", files[0], "--truth", files[0])
    assert done.returncode == 65 and b"found.h5 has no truth" in done.stderr and b"tracekit simulate" in done.stderr
    (tmp_path / "text.h5").write_text("no HDF5 at all")
    assert tracekit("evaluate", "--extraction", tmp_path / "text.h5", "--truth", files[1]).returncode == 65
    other = write_episode(tmp_path / "other.h5", small_episode())
    done = tracekit("evaluate", "--extraction", other, "--truth", files[1])
    assert done.returncode == 65 and b"another video" in done.stderr
    assert b"Traceback" not in done.stderr
