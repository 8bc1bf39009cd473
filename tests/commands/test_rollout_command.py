"""`tracekit rollout` as a user runs it: pipes, pictures, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from conftest import write_episode
from mu0.questions import CONFIG, EPISODES, HEIGHT, NUM_MOVING, WIDTH, network, write_checkpoint, write_corpus
from run_command import shell, tracekit

from tracekit import cli
from tracekit.format.file import open_records
from tracekit.format.schema import PREDICTIONS
from tracekit.records import Predictions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mu0/ (a checkpoint), test.h5 (a corpus), episode.h5, scene.png; nothing is written into it by a test."""
    path = tmp_path_factory.mktemp("rollout")
    write_checkpoint(path / "mu0")
    write_corpus(path / "test.h5")
    write_episode(path / "episode.h5", EPISODES[0])
    frames = EPISODES[0].video.frames
    assert frames is not None
    cv2.imwrite(str(path / "scene.png"), frames[0][..., ::-1])
    return path


def read(path: Path) -> Predictions:
    with open_records(path, PREDICTIONS) as file:
        file.validate_everything()
        return file.read("")


def rollout(folder: Path, *arguments: object) -> tuple[int, str]:
    """Exit code and standard error of the command in `folder`. In this process, which has paid for the import of torch already."""
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()) as said:
        code = cli.run(["rollout", *map(str, arguments)])
    assert "Traceback" not in said.getvalue()
    return code, said.getvalue()


def test_pipes_into_evaluate(folder: Path) -> None:
    done = shell("tracekit rollout -q mu0 test.h5 | tracekit evaluate -q --metric dtw --metric ade --json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert b"NaN" not in done.stdout and "dtw" in json.dumps(json.loads(done.stdout)).lower()


@pytest.mark.parametrize("name", ["test.h5", "episode.h5"])
def test_reads_a_corpus_and_an_episode_from_a_pipe(folder: Path, tmp_path: Path, name: str) -> None:
    done = shell(f"cat {name} | tracekit rollout -q mu0 -o {tmp_path}/piped-{name}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert rollout(folder, "-q", "mu0", name, "-o", tmp_path / f"named-{name}")[0] == 0
    piped, named = read(tmp_path / f"piped-{name}"), read(tmp_path / f"named-{name}")
    assert np.array_equal(piped.traces, named.traces) and piped.sample_clip == named.sample_clip


def test_several_sources_are_predicted_one_after_the_other(folder: Path, tmp_path: Path) -> None:
    assert rollout(folder, "mu0", "episode.h5", "test.h5", "--every", 2, "-o", tmp_path / "out.h5")[0] == 0
    result = read(tmp_path / "out.h5")
    assert list(zip(result.sample_clip, result.sample_frame.tolist(), strict=True)) == [
        ("first", 0),
        ("first", 8),
        *((clip, frame) for clip in ("first", "second", "third") for frame in (0, 6)),
    ]
    assert result.sample.max() == 7 and len(result.traces) == 8 * NUM_MOVING


def test_the_file_says_how_it_was_made(folder: Path, tmp_path: Path) -> None:
    code, said = rollout(folder, "mu0", "test.h5", "--samples", 2, "--seed", 3, "--caption", "", "-o", tmp_path / "out.h5")
    assert code == 0 and "keypoints that do not move (left out)" in said
    with open_records(tmp_path / "out.h5", PREDICTIONS) as file:
        (step,) = file.steps()
    assert step.seed == 3 and step.parameters["samples"] == 2 and step.parameters["caption"] == ""
    assert step.inputs == ["first", "second", "third"] and step.backend == "mu0 tiny-random" and len(step.weights_sha256) == 64
    assert step.counts["keypoints that do not move (left out)"] == 24
    assert read(tmp_path / "out.h5").sample_caption == [""] * 12, "an empty sentence is a sentence"


def test_the_same_seed_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    for name, seed, batch in (("a", 0, 8), ("b", 0, 3), ("c", 1, 8)):
        assert rollout(folder, "mu0", "test.h5", "--seed", seed, "--batch-size", batch, "-o", tmp_path / name)[0] == 0
    one, same, other = (read(tmp_path / name) for name in "abc")
    np.testing.assert_allclose(same.traces, one.traces, atol=2e-5)
    assert np.abs(other.traces - one.traces).max() > 0.01


def test_swapped_captions(folder: Path, tmp_path: Path) -> None:
    assert rollout(folder, "mu0", "test.h5", "--swap-captions", "--every", 4, "-o", tmp_path / "out.h5")[0] == 0
    assert read(tmp_path / "out.h5").sample_caption == ["open the drawer", "slide the block", "slide the block"]
    code, said = rollout(folder, "mu0", "episode.h5", "--swap-captions", "-o", tmp_path / "other.h5")
    assert code == 2 and "make a corpus" in said


def test_a_bare_picture_on_a_grid(folder: Path, tmp_path: Path) -> None:
    arguments = ("--image", "scene.png", "--text", "open the drawer", "--grid", 4, "--picture", tmp_path / "traces.png")
    done = tracekit("rollout", "mu0", *arguments, cwd=folder)
    assert done.returncode == 0 and done.stdout == b"", "with a picture and no -o, the picture is all"
    picture = cv2.imread(str(tmp_path / "traces.png"))
    assert picture is not None and picture.shape[1] > 560
    code, said = rollout(folder, "mu0", *arguments, "-o", tmp_path / "out.h5", "--force")
    assert code == 0 and "z is relative" in said
    result = read(tmp_path / "out.h5")
    assert result.traces.shape == (16, 5, CONFIG.horizon, 3) and result.true_traces is None
    assert result.sample_clip == ["scene"] and result.sample_caption == ["open the drawer"]
    with open_records(tmp_path / "out.h5") as file:
        assert any("z is relative" in note for note in file.steps()[0].notes)


def test_a_bare_picture_with_points_and_no_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "uv.csv").write_text(f"u,v\n0,0\n{WIDTH - 1},{HEIGHT - 1}\n")
    done = tracekit("rollout", "mu0", "--image", "scene.png", "--points", tmp_path / "uv.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    (tmp_path / "out.h5").write_bytes(done.stdout)
    anchor = read(tmp_path / "out.h5").anchor
    np.testing.assert_allclose(anchor, [[1 / WIDTH - 1, 1 / HEIGHT - 1, 0], [1 - 1 / WIDTH, 1 - 1 / HEIGHT, 0]], atol=1e-6)


def test_a_sheet_of_samples_beside_the_file(folder: Path, tmp_path: Path) -> None:
    code, said = rollout(folder, "mu0", "test.h5", "--pictures", 2, "--picture", tmp_path / "sheet.jpg", "-o", tmp_path / "out.h5")
    assert code == 0, said
    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert sheet is not None and sheet.shape[0] > 2 * 432 and sheet.shape[1] > 2 * 576, "two samples, predicted and true"
    assert (tmp_path / "out.h5").exists()


def test_a_dry_run_touches_nothing(folder: Path, tmp_path: Path) -> None:
    code, said = rollout(folder, "mu0", "test.h5", "-n", "-o", tmp_path / "out.h5", "--picture", tmp_path / "a.png")
    assert code == 0 and "would read mu0 and test.h5, write" in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "name the checkpoint"),
        (("nowhere", "test.h5"), 66, "nowhere does not exist"),
        (("test.h5", "mu0"), 66, "test.h5 is no folder"),
        (("mu0", "nothing.h5"), 66, "nothing.h5"),
        (("mu0", "scene.png"), 65, "scene.png"),
        (("mu0", "--image", "test.h5"), 65, "test.h5 is no picture"),
        (("mu0", "--image", "none.png"), 66, "none.png does not exist"),
        (("mu0", "test.h5", "--image", "scene.png"), 2, "stands in place of test.h5"),
        (("mu0", "test.h5", "--points", "uv.csv"), 2, "points of an --image"),
        (("mu0", "--image", "scene.png", "--points", "scene.png"), 65, "scene.png is no CSV"),
        (("mu0", "--image", "scene.png", "--history"), 2, "bare picture has no history"),
        (("mu0", "test.h5", "--swap-captions", "--caption", "x"), 2, "exclude each other"),
        (("mu0", "test.h5", "--samples", "0"), 2, "--samples is 0, but the least is 1"),
        (("mu0", "test.h5", "--picture", "a.gif"), 2, "cannot draw a .gif"),
        (("mu0", "test.h5", "--picture", "nowhere/a.png"), 73, "nowhere does not exist"),
        (("mu0", "-", "-"), 2, "standard input is one file"),
    ],
)
def test_what_is_refused(folder: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    got, said = rollout(folder, *arguments, "-o", tmp_path / "out.h5")
    assert (got, message in said) == (code, True), said
    assert not list(tmp_path.iterdir())


def test_points_outside_the_picture_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "uv.csv").write_text("u,v\n3,4\n640,10\n")
    code, said = rollout(folder, "mu0", "--image", "scene.png", "--points", tmp_path / "uv.csv", "-o", tmp_path / "out.h5")
    assert code == 65 and "line 3" in said and "64 x 48 pixels" in said and not (tmp_path / "out.h5").exists()


def test_a_corpus_with_another_horizon_is_refused_naming_both(folder: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "other.h5", config=dataclasses.replace(CONFIG, horizon=6))
    code, said = rollout(folder, "mu0", tmp_path / "other.h5", "-o", tmp_path / "out.h5")
    assert code == 65 and "horizon is 6 steps in" in said and "4 in the network" in said and not (tmp_path / "out.h5").exists()


def test_predictions_are_no_question(folder: Path, tmp_path: Path) -> None:
    assert rollout(folder, "mu0", "test.h5", "-o", tmp_path / "out.h5")[0] == 0
    code, said = rollout(folder, "mu0", tmp_path / "out.h5", "-o", tmp_path / "again.h5")
    assert code == 65 and "tracekit/predictions, but tracekit/corpus or tracekit/episode is expected" in said


def test_inputs_are_never_replaced(folder: Path, tmp_path: Path) -> None:
    before = (folder / "test.h5").read_bytes()
    for flag, name in (("-o", "test.h5"), ("--picture", "scene.png")):
        arguments = ("--image", "scene.png") if name == "scene.png" else ("test.h5",)
        code, said = rollout(folder, "mu0", *arguments, flag, name, "--force")
        assert code == 2 and "inputs are never changed" in said
    assert (folder / "test.h5").read_bytes() == before
    code, said = rollout(folder, "mu0", "test.h5", "-o", tmp_path / "a.png", "--picture", tmp_path / "a.png")
    assert code == 2 and "same file" in said


def test_an_output_that_exists_is_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.h5").write_text("mine")
    assert rollout(folder, "mu0", "test.h5", "-o", tmp_path / "out.h5")[0] == 73
    assert (tmp_path / "out.h5").read_text() == "mine"


def test_a_damaged_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    broken = write_checkpoint(tmp_path / "broken")
    content = bytearray((broken / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (broken / "model.safetensors").write_bytes(content)
    code, said = rollout(folder, broken, "test.h5", "-o", tmp_path / "out.h5")
    assert code == 65 and "model.safetensors is damaged" in said and not (tmp_path / "out.h5").exists()


def test_a_network_gone_wrong_writes_nothing(folder: Path, tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model.velocity.bias.fill_(float("inf"))
    code, said = rollout(folder, write_checkpoint(tmp_path / "wrong", model), "test.h5", "-o", tmp_path / "out.h5")
    assert code == 65 and "clip first, frame 0 is not finite" in said and not (tmp_path / "out.h5").exists()


def test_a_producer_that_failed_is_told_from_our_own_failure(folder: Path, tmp_path: Path) -> None:
    done = shell(f"false | tracekit rollout mu0 -o {tmp_path}/out.h5", cwd=folder)
    assert done.returncode == 66 and b"upstream produced nothing" in done.stderr and not (tmp_path / "out.h5").exists()


def test_a_full_tmpdir_is_named(folder: Path, tmp_path: Path) -> None:
    """Standard input fits into it once; an episode or a corpus is read more than once, from a copy."""
    small, content = tmp_path / "small", (folder / "test.h5").read_bytes()
    small.mkdir()
    size = f"size={len(content) * 3 // 2}"
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        done = tracekit("rollout", "-q", folder / "mu0", "-o", tmp_path / "out.h5", stdin=content, env={"TMPDIR": str(small)})
        assert done.returncode == 74 and f"no space left: the temporary folder {small} (TMPDIR)" in done.stderr.decode(), done.stderr
        assert not (tmp_path / "out.h5").exists() and list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_stops_quietly_when_nobody_reads_on(folder: Path) -> None:
    done = shell("tracekit rollout -q mu0 test.h5 | true; exit 0", cwd=folder)
    assert done.returncode == 0 and done.stderr == b""


def test_a_video_that_has_moved(folder: Path, tmp_path: Path) -> None:
    """Without pictures in the corpus they come out of the videos, which may be looked for elsewhere."""
    bare = tmp_path / "bare.h5"
    bare.write_bytes((folder / "test.h5").read_bytes())
    with h5py.File(bare, "a") as file:
        del file["images"]
    code, said = rollout(folder, "mu0", bare, "-o", tmp_path / "out.h5")
    assert code == 66 and "small.mp4 is not there" in said and "--videos" in said
