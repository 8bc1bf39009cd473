"""`tracekit evaluate PREDICTIONS`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from evaluation.predicted import OFFSETS, changed, straight, write_predictions
from run_command import shell, tracekit

from tracekit.evaluation.trace_scores import TraceParameters, score
from tracekit.format.file import open_records
from tracekit.format.schema import TRACE_VALUES


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_predictions(tmp_path_factory.mktemp("predictions") / "a.h5", straight())


def lines(output: bytes) -> list[list[str]]:
    return [line.split() for line in output.decode().splitlines()]


def test_the_table_has_every_metric_and_both_baselines(file: Path) -> None:
    done = tracekit("evaluate", file)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    rows = lines(done.stdout)
    assert [row[0] for row in rows if row[-2:] == ["top-1", "top-5"]] == ["ADE", "FDE", "DTW", "Fréchet"]
    for name in ("static", "constant-velocity"):
        assert len([row for row in rows if row and row[0] == name and len(row) == 7]) == 4
    predicted = [row for row in rows if row and row[0].endswith("a.h5") and len(row) == 7]
    assert predicted[0][1:] == [f"{OFFSETS[0]:.3f}"] * 3 + [f"{min(OFFSETS):.3f}"] * 3
    assert ["one", "draw", "for", "the", "slot", "0.200", "0.200", "0.200"] in rows
    assert "24 traces of 6 slots in 3 clips" in done.stdout.decode()
    assert "paper" not in done.stdout.decode() and "nan" not in done.stdout.decode()
    assert max(map(len, done.stdout.decode().splitlines())) <= 110


def test_json_is_what_the_library_says(file: Path) -> None:
    done = tracekit("evaluate", file, "--json", "--metric", "dtw", "--metric", "ade", "--horizons", "16,32", "--top", "3", "--seed", 5)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    parameters = TraceParameters(metric=["dtw", "ade"], horizons="16,32", top="3")
    expected = score(straight(), parameters, seed=5)
    assert content["parameters"]["metric"] == ["ade", "dtw"] and content["parameters"]["seed"] == 5
    assert "event_tolerance" not in content["parameters"]
    (found,) = content["files"]
    assert found["file"] == str(file) and found["num_traces"] == 24 and found["counts"]["keypoints that do not move (left out)"] == 0
    assert list(found["methods"]) == ["predictions", "static", "constant-velocity"]
    for method in expected.methods:
        assert found["methods"][method.name] == [vars(figure) for figure in method.figures]


def test_predictions_come_through_a_pipe_or_a_redirection(file: Path, tmp_path: Path) -> None:
    expected = json.loads(tracekit("evaluate", file, "--json").stdout)["files"][0]["methods"]
    for done in (
        tracekit("evaluate", "--json", stdin=file.read_bytes()),
        tracekit("evaluate", "-", "--json", stdin=file.read_bytes()),
        shell(f"cat {file} | tracekit evaluate --json"),
        shell(f"tracekit evaluate --json < {file}"),
    ):
        assert done.returncode == 0, done.stderr
        (found,) = json.loads(done.stdout)["files"]
        assert found["methods"] == expected and found["file"] == "standard input"


def test_files_side_by_side(file: Path, tmp_path: Path) -> None:
    p = straight()
    half = (p.traces + p.true_traces[:, None]) / 2  # type: ignore[index]
    better = write_predictions(tmp_path / "better.h5", changed(p, traces=half))
    done = tracekit("evaluate", file, better, "--metric", "ade")
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    names = [row[0].rpartition("/")[2] for row in lines(done.stdout)[5:] if len(row) == 7 and row[0] != "T"]
    assert names == ["a.h5", "better.h5", "static", "constant-velocity"]
    assert [row[1] for row in lines(done.stdout) if len(row) == 7 and row[0].endswith("better.h5")] == ["0.250"]
    other = write_predictions(tmp_path / "other.h5", straight(seed=1))
    done = tracekit("evaluate", file, other, "--metric", "ade")
    assert b"different keypoints" in done.stderr
    names = [row[:2] for row in lines(done.stdout) if row and row[0] in ("static", "constant-velocity")]
    assert names == [[name, of] for name in ("static", "constant-velocity") for of in ("(a.h5)", "(other.h5)")]
    content = json.loads(tracekit("evaluate", file, other, "--json").stdout)
    assert len(content["files"]) == 2 and "different keypoints" in content["notes"][0]


def test_the_papers_rows_are_marked_as_the_papers(file: Path) -> None:
    done = tracekit("evaluate", file, "--compare", "paper", "--metric", "dtw", "--metric", "frechet")
    rows = lines(done.stdout)
    assert ["μ0", "(paper)", "0.191", "0.263", "0.308", "0.127", "0.187", "0.223"] in rows
    assert ["μ0", "(paper)", "0.329", "0.455", "0.527", "0.210", "0.319", "0.384"] in rows
    assert b"on its own test set" in done.stdout
    flat = tracekit("evaluate", file, "--compare", "paper", "--space", "uv", "--horizons", "8,10", "--metric", "ade", "--json")
    rows_of_paper = json.loads(flat.stdout)["paper"]
    assert (
        len(rows_of_paper) == 12 and {row["horizon"] for row in rows_of_paper} == {8} and {row["space"] for row in rows_of_paper} == {"uv"}
    )
    assert b"no figures in --space z" in tracekit("evaluate", file, "--compare", "paper", "--space", "z").stderr


def test_values_of_every_trace(file: Path, tmp_path: Path) -> None:
    done = tracekit("evaluate", file, "-o", tmp_path / "values.h5", "--metric", "fde")
    assert done.returncode == 0 and b"FDE" in done.stdout, done.stderr
    with open_records(tmp_path / "values.h5", TRACE_VALUES) as values:
        record = values.read("")
        (step,) = values.steps()
    assert record.fde.shape == (24, 3, 2, 3) and record.ade is None and record.dtw is None
    np.testing.assert_allclose(record.fde[:, 0, 0], OFFSETS[0], atol=1e-5)
    assert record.predictor == [str(file), "static", "constant-velocity"] and record.row.tolist() == list(range(24))
    assert step.command == "evaluate" and step.parameters["metric"] == ["fde"] and step.inputs == ["a.h5"]
    assert tracekit("info", "--validate", tmp_path / "values.h5").returncode == 0
    assert tracekit("evaluate", file, "-o", tmp_path / "values.h5").returncode == 73
    assert tracekit("evaluate", file, "-o", tmp_path / "values.h5", "--force").returncode == 0


def test_info_reads_and_validates_predictions(file: Path, tmp_path: Path) -> None:
    done = tracekit("info", "--validate", file, "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["valid"] is True and content["format"] == "tracekit/predictions" and "traces[24x5x32x3]" in content["groups"]["/"]
    broken = tmp_path / "broken.h5"
    broken.write_bytes(file.read_bytes())
    with h5py.File(broken, "r+") as h5:
        h5["rows/sample"][3] = 6
    done = tracekit("info", "--validate", broken)
    assert done.returncode == 65 and b"rows/sample[3] is 6: an index must be in 0..5" in done.stderr


def test_a_file_written_with_plain_h5py(tmp_path: Path) -> None:
    """As docs/evaluation.md tells owners of other predictors: 2-D, without history, validity or what else is optional."""
    p = straight()
    path = tmp_path / "theirs.h5"
    traces = p.traces.copy()
    traces[..., 2] = np.nan
    with h5py.File(path, "w") as h5:
        h5.attrs["format"], h5.attrs["format_version"] = "tracekit/predictions", 1
        h5["samples/clip"], h5["samples/caption"] = p.sample_clip, p.sample_caption
        h5["samples/frame"] = p.sample_frame.astype("i4")
        h5["rows/sample"], h5["rows/entity"] = p.sample.astype("i4"), p.entity.astype("i4")
        h5["rows/moving"], h5["rows/anchor"] = p.moving, p.anchor
        h5["prediction/traces"] = traces
        h5["truth/traces"], h5["truth/valid"] = p.true_traces, p.true_valid
    assert tracekit("info", "--validate", path).returncode == 0
    done = tracekit("evaluate", path, "--space", "uv", "--json", "--metric", "ade")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"][0]["methods"]["predictions"][0]["mean"] == pytest.approx(0.5, abs=1e-5)
    assert b"24 keypoints without history" in done.stderr
    done = tracekit("evaluate", path)
    assert done.returncode == 65 and b"prediction/traces[0, 0, 0]" in done.stderr and b"--space uv" in done.stderr


def test_nothing_to_score_is_a_dash_and_null_with_a_warning(tmp_path: Path) -> None:
    p = straight()
    still = write_predictions(tmp_path / "still.h5", changed(p, moving=np.zeros_like(p.moving)))
    done = tracekit("evaluate", still, "--metric", "ade")
    assert done.returncode == 0 and b"nothing to score" in done.stderr and b"24 keypoints that do not move" in done.stderr
    assert [row[1:] for row in lines(done.stdout) if row and row[0] == "static"] == [["-"] * 6]
    content = json.loads(tracekit("evaluate", still, "--json").stdout)["files"][0]
    assert all(figure["mean"] is None for figures in content["methods"].values() for figure in figures)
    assert not any(math.isnan(value) for value in content["counts"].values())


def test_what_is_left_out_is_said_unless_quiet(tmp_path: Path) -> None:
    p = straight()
    valid = p.true_valid.copy()  # type: ignore[union-attr]
    valid[:, 30:] = 0
    path = write_predictions(tmp_path / "gaps.h5", changed(p, true_valid=valid, traces=p.traces[:, :2]))
    done = tracekit("evaluate", path)
    assert b"48 steps without truth (masked)" in done.stderr and b"holds 2 draws: nothing is known of top 5" in done.stderr
    assert tracekit("evaluate", path, "-q").stderr == b""


def test_files_that_are_no_good(file: Path, tmp_path: Path) -> None:
    p = straight()
    blind = write_predictions(tmp_path / "blind.h5", changed(p, true_traces=None, true_valid=None))
    done = tracekit("evaluate", blind)
    assert done.returncode == 65 and b"blind.h5 has no truth/traces and no truth/valid" in done.stderr
    traces = p.traces.copy()
    traces[17, 2, 3] = np.nan
    done = tracekit("evaluate", write_predictions(tmp_path / "nan.h5", changed(p, traces=traces)))
    assert done.returncode == 65 and b"prediction/traces[17, 2, 3] of " in done.stderr and b"Traceback" not in done.stderr
    done = tracekit("evaluate", tmp_path / "none.h5")
    assert done.returncode == 66 and b"none.h5 does not exist" in done.stderr
    values = tmp_path / "values.h5"
    assert tracekit("evaluate", file, "-o", values).returncode == 0
    done = tracekit("evaluate", values)
    assert done.returncode == 65 and b"tracekit/predictions is expected" in done.stderr
    done = tracekit("evaluate")
    assert done.returncode == 66 and b"upstream produced nothing" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", "mse"), b"--metric is 'mse'"),
        (("--horizons", "8;16"), b"--horizons is '8;16'"),
        (("--top", "0"), b"--top is '0'"),
        (("--space", "xyz"), b"--space is 'xyz'"),
        (("--truth", "truth.h5"), b"would be predictions"),
        (("--extraction", "in.h5", "--truth", "truth.h5"), b"would be predictions"),
        (("a.h5", "-o", "values.h5"), b"-o holds the values of one predictions file"),
        (("-", "-"), b"standard input is one file"),
    ],
)
def test_options_that_make_no_sense_are_2(file: Path, arguments: tuple[str, ...], message: bytes) -> None:
    done = tracekit("evaluate", file, *arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_an_output_is_never_an_input(file: Path) -> None:
    before = file.read_bytes()
    done = tracekit("evaluate", file, "-o", file, "--force")
    assert done.returncode == 2 and b"inputs are never changed" in done.stderr and file.read_bytes() == before


def test_the_configuration_file_may_choose_metrics(file: Path, tmp_path: Path) -> None:
    (tmp_path / "tracekit.toml").write_text('[evaluate]\nmetric = ["frechet"]\nhorizons = "4"\n')
    done = tracekit("evaluate", file, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"]["metric"] == ["frechet"]
    (tmp_path / "tracekit.toml").write_text('[evaluate]\nmetric = "frechet"\n')
    done = tracekit("evaluate", file, cwd=tmp_path)
    assert done.returncode == 78 and b"evaluate.metric is 'frechet', but list is expected" in done.stderr
