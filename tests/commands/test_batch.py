"""Many sources: resume, shards, failures, processes that crash, hang or are told to stop."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import small_episode, write_episode
from run_command import PROGRAM, environment, tracekit

from tracekit.batch import name_items, read_manifest, take_shard
from tracekit.errors import BadDataError, MissingInputError, UsageError
from tracekit.format.file import open_records


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "in"
    folder.mkdir()
    return [write_episode(folder / f"clip{i}.h5", dataclasses.replace(small_episode(), clip_id=f"clip{i}")) for i in range(4)]


def outputs(folder: Path) -> dict[str, float]:
    """Threshold in force, by output."""
    result = {}
    for path in sorted(folder.glob("*.h5")):
        with open_records(path) as file:
            file.validate_everything()
            result[path.name] = file.read("motion").threshold_px
    return result


def failures(folder: Path) -> dict[str, int]:
    path = folder / "failures.jsonl"
    return {entry["id"]: entry["exit_code"] for entry in map(json.loads, path.read_text().splitlines())} if path.exists() else {}


def test_one_bad_source_does_not_stop_the_others_and_resume_redoes_only_it(tmp_path: Path, sources: list[Path]) -> None:
    out = tmp_path / "out"
    whole = sources[1].read_bytes()
    sources[1].write_bytes(whole[:-1])
    done = tracekit("filter", *sources, "-d", out)
    assert done.returncode == 65, done.stderr
    assert b"clip1 failed" in done.stderr and b"1 of 4 sources failed" in done.stderr
    assert set(outputs(out)) == {"clip0.h5", "clip2.h5", "clip3.h5"}
    assert failures(out) == {"clip1": 65}
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    sources[1].write_bytes(whole)
    done = tracekit("filter", *sources, "-d", out)
    assert done.returncode == 0 and b"3 of 4 outputs are there already" in done.stderr
    assert len(outputs(out)) == 4 and failures(out) == {}
    assert all((out / name).stat().st_mtime_ns == when for name, when in written.items())


def test_a_damaged_output_is_made_again(tmp_path: Path, sources: list[Path]) -> None:
    out = tmp_path / "out"
    assert tracekit("filter", *sources[:2], "-d", out).returncode == 0
    (out / "clip0.h5").write_bytes(b"half a file")
    assert tracekit("filter", *sources[:2], "-d", out).returncode == 0
    assert set(outputs(out)) == {"clip0.h5", "clip1.h5"}


def test_force_makes_all_again_and_several_jobs_give_the_same(tmp_path: Path, sources: list[Path]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    env = {"SOURCE_DATE_EPOCH": "0"}
    assert tracekit("filter", *sources, "-d", one, env=env).returncode == 0
    assert tracekit("filter", *sources, "-d", one, "--force", "--threshold", 7, env=env).returncode == 0
    assert set(outputs(one).values()) == {7.0}
    assert tracekit("filter", *sources, "-d", two, "--jobs", 2, "--threshold", 7, env=env).returncode == 0
    assert outputs(two) == outputs(one)


def test_shards_cover_everything_once(tmp_path: Path, sources: list[Path]) -> None:
    out = tmp_path / "out"
    manifest = tmp_path / "in" / "list.txt"
    manifest.write_text("\n".join(path.name for path in sources) + "\n")
    assert tracekit("filter", "--manifest", manifest, "-d", out, "--shard", "0/3").returncode == 0
    assert set(outputs(out)) == {"clip0.h5", "clip3.h5"}
    assert tracekit("filter", "--manifest", manifest, "-d", out, "--shard", "1/3").returncode == 0
    assert tracekit("filter", "--manifest", manifest, "-d", out, "--shard", "2/3").returncode == 0
    assert len(outputs(out)) == 4
    assert tracekit("filter", "--manifest", manifest, "-d", out, "--shard", "3/3").returncode == 2


def test_a_part_of_an_array_that_is_submitted_again_keeps_its_assignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = name_items([f"clip{i}.mp4" for i in range(10)])

    def submitted(task: int, first: int, last: int, count: int) -> None:
        for name, value in {"ID": task, "MIN": first, "MAX": last, "COUNT": count}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))

    first_time = {}
    for task in range(1, 5):
        submitted(task, 1, 4, 4)
        first_time[task] = take_shard(items, "slurm", tmp_path)
    assert sorted(item.id for shard in first_time.values() for item in shard) == sorted(item.id for item in items)
    for task in (2, 3):
        submitted(task, 2, 3, 2)
        assert take_shard(items, "slurm", tmp_path) == first_time[task]
    submitted(3, 3, 9, 2)
    with pytest.raises(UsageError, match="gaps"):
        take_shard(items, "slurm", tmp_path / "other")
    assert take_shard(items, "slurm/5", tmp_path / "other") == items[3::5]


def test_a_shard_outside_an_array_job_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    with pytest.raises(UsageError, match="SLURM_ARRAY_TASK_ID"):
        take_shard(name_items(["a.mp4"]), "slurm", tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "no JSON"), ("[1, 4]", "no JSON object"), ('{"first": 1}', "how long"), ('{"first": "1", "count": 4}', "how long")],
)
def test_a_memory_of_shards_that_is_damaged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    (tmp_path / "shards.json").write_text(content)
    with pytest.raises(BadDataError, match=rf"shards\.json .*{said}"):
        take_shard(name_items(["a.mp4"]), "slurm", tmp_path)


def test_ids_do_not_depend_on_what_else_is_there() -> None:
    assert [item.id for item in name_items(["a/x.mp4", "b/y.mp4"])] == ["x", "y"]
    same = name_items(["a/x.mp4", "b/x.mp4", "c/y.mp4"])
    assert len({item.id for item in same}) == 3 and same[2].id == "y"
    assert name_items(["b/x.mp4", "a/x.mp4"])[0].id == same[1].id
    with pytest.raises(UsageError, match="listed twice"):
        name_items(["a/x.mp4", "a/../a/x.mp4"])
    with pytest.raises(MissingInputError):
        name_items([])


def test_manifests(tmp_path: Path, episode_file: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4\n\n sub/b c.mp4 \n/abs/d.mp4\n")
    assert read_manifest(str(tmp_path / "list.txt"), "path") == [str(tmp_path / "a.mp4"), str(tmp_path / "sub/b c.mp4"), "/abs/d.mp4"]
    (tmp_path / "list.csv").write_text('id,video\n1,"a,b.mp4"\n2,c.mp4\n')
    assert read_manifest(str(tmp_path / "list.csv"), "video") == [str(tmp_path / "a,b.mp4"), str(tmp_path / "c.mp4")]
    with pytest.raises(BadDataError, match="no column 'path'"):
        read_manifest(str(tmp_path / "list.csv"), "path")
    assert read_manifest(str(episode_file), "captions/event_text") == [str(tmp_path / "A block slides.")]
    with pytest.raises(MissingInputError):
        read_manifest(str(tmp_path / "no.txt"), "path")


def test_usage(tmp_path: Path, sources: list[Path]) -> None:
    assert tracekit("filter", *sources).returncode == 2
    assert tracekit("filter", *sources, "-o", tmp_path / "x.h5").returncode == 2
    done = tracekit("filter", "-dash.h5", "-o", tmp_path / "x.h5")  # -d ash.h5
    assert done.returncode == 2 and b"-o and -d exclude each other" in done.stderr and b"./-NAME" in done.stderr
    done = tracekit("filter", *sources, "-d", tmp_path / "out", "-n")
    assert done.returncode == 0 and not (tmp_path / "out").exists() and done.stderr.count(b"would write motion to") == 4


PLUGIN = """
import os, time
import numpy as np
from tracekit.backends.captioning.template import Template

class Troubled(Template):
    name = "troubled"
    def describe(self, request):
        if request.episode.clip_id == "clip1":
            os.abort()
        if request.episode.clip_id == "clip2":
            time.sleep(1000)
        if request.episode.clip_id == "clip3" and os.environ.get("SLOW"):
            time.sleep(float(os.environ["SLOW"]))
        return super().describe(request)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """Another package that adds a backend by an entry point; returns the environment in which it is installed."""
    site = tmp_path / "site"
    (site / "troubled-1.0.dist-info").mkdir(parents=True)
    (site / "troubled.py").write_text(PLUGIN)
    (site / "troubled-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: troubled\nVersion: 1.0\n")
    (site / "troubled-1.0.dist-info" / "entry_points.txt").write_text("[tracekit.backends]\ncaptioning.troubled = troubled:Troubled\n")
    return {"PYTHONPATH": str(site)}


def test_row_28_a_process_that_crashes_or_hangs_costs_its_source_only(tmp_path: Path, sources: list[Path], plugin: dict[str, str]) -> None:
    out = tmp_path / "out"
    started = time.monotonic()
    done = tracekit("caption", *sources, "-d", out, "--captioner", "troubled", "--stall-timeout", 4, env=plugin)
    assert done.returncode == 70, done.stderr
    assert b"SIGABRT" in done.stderr and b"no progress for 4 s" in done.stderr
    assert failures(out) == {"clip1": 70, "clip2": 70}
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".fail")) == ["clip0.h5", "clip3.h5", "failures.jsonl"]
    assert time.monotonic() - started < 60
    with open_records(out / "clip3.h5") as file:
        assert file.read("captions").captioner == "troubled" and file.steps()[-1].backend == "troubled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_row_14_told_to_stop_and_resumed(tmp_path: Path, sources: list[Path], plugin: dict[str, str], number: int) -> None:
    out = tmp_path / "out"
    arguments = ["caption", str(sources[0]), str(sources[3]), "-d", str(out), "--captioner", "troubled"]
    process = subprocess.Popen([*PROGRAM, *arguments], env=environment({**plugin, "SLOW": "100"}), stderr=subprocess.PIPE)
    while not (out / "clip0.h5").exists():
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert b"stopped after 1 of 2 sources" in error and b"Traceback" not in error
    assert [path.name for path in out.iterdir()] == ["clip0.h5"], "no temporaries"
    assert tracekit(*arguments, env=plugin).returncode == 0
    assert len(list(out.glob("*.h5"))) == 2
    straight = tmp_path / "straight"
    assert tracekit(*[str(straight) if word == str(out) else word for word in arguments], env=plugin).returncode == 0
    for name in ("clip0.h5", "clip3.h5"):
        with open_records(out / name) as one, open_records(straight / name) as other:
            assert one.read("captions").event_text == other.read("captions").event_text
            np.testing.assert_array_equal(one.read("tracks").uv, other.read("tracks").uv)


def test_interrupt_ends_with_130(tmp_path: Path, sources: list[Path], plugin: dict[str, str]) -> None:
    out = tmp_path / "out"
    arguments = ["caption", str(sources[0]), str(sources[3]), "-d", str(out), "--captioner", "troubled"]
    process = subprocess.Popen(
        [*PROGRAM, *arguments], env=environment({**plugin, "SLOW": "100"}), stderr=subprocess.PIPE, start_new_session=True
    )
    while not (out / "clip0.h5").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in error
    assert [path.name for path in out.iterdir()] == ["clip0.h5"]


def test_a_file_that_is_something_else_is_not_replaced(tmp_path: Path, sources: list[Path]) -> None:
    """`-d` names outputs after sources: a whole file of that name which this stage did not make stays."""
    out = tmp_path / "out"
    out.mkdir()
    other = write_episode(
        out / "clip0.h5", dataclasses.replace(small_episode(), clip_id="precious"), without=("motion", "events", "captions")
    )
    before = other.read_bytes()
    done = tracekit("filter", *sources[:2], "-d", out)
    assert done.returncode == 73 and b"was not made by tracekit filter" in done.stderr
    assert other.read_bytes() == before


def test_outputs_of_other_parameters_are_kept_and_named(tmp_path: Path, sources: list[Path]) -> None:
    out = tmp_path / "out"
    assert tracekit("filter", *sources[:2], "-d", out).returncode == 0
    done = tracekit("filter", *sources[:2], "-d", out, "--threshold", 7)
    assert done.returncode == 0 and b"made with other parameters" in done.stderr
    assert set(outputs(out).values()) == {40.0}
