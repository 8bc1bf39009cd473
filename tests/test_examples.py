"""The scripts of examples/, as a user runs them, at their tiny sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulator import simulator  # noqa: F401

from tracekit.mu0.checkpoint import save, stored_weights
from tracekit.mu0.presets import PRESETS, build
from tracekit.mu0.statistics import CorpusStatistics

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script: str, *arguments: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SCALE": "tiny"}
    return subprocess.run([EXAMPLES / script, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.usefixtures("simulator")
def test_videos_become_a_world_model_and_its_score(tmp_path: Path) -> None:
    done = run("video_to_world_model.sh", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert "static" in (tmp_path / "run" / "scores.txt").read_text()
    assert [Path(file["file"]).name for file in scores["files"]] == ["predictions.h5", "swapped.h5"]
    for file in scores["files"]:
        assert set(file["methods"]) == {"predictions", "static", "constant-velocity"} and file["num_clips"] == 2
        assert all(row["mean"] > 0 for rows in file["methods"].values() for row in rows)
    assert (tmp_path / "run" / "traces.png").stat().st_size > 10_000
    episodes = sorted(path.name for path in (tmp_path / "run" / "episodes").rglob("*.h5"))
    assert len(episodes) == 6 and all(name.startswith("drawer-") for name in episodes)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.h5") if path.parent.name in ("train", "test")}
    again = run("video_to_world_model.sh", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == made, "what is there is not made again"


@pytest.mark.slow
@pytest.mark.usefixtures("simulator")
def test_demonstrations_become_policies_and_their_successes(tmp_path: Path) -> None:
    config = PRESETS["tiny-random"]
    statistics = CorpusStatistics((0.3, 0.3, 0.1), (-1.0, 1.0), 0.1, retargeted=False, metric=True)
    world = tmp_path / "mu0"
    save(world, config, stored_weights(build(config), embed_frozen=True), statistics)
    folder = tmp_path / "run"
    done = run("demos_to_policy.sh", folder, world)
    assert done.returncode == 0, done.stderr
    lines = (folder / "scores.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["scripted", "random", "pico", "pico-no-trace"]
    scripted = json.loads((folder / "scores" / "scripted.json").read_text())
    assert set(scripted["tasks"]) == {"metaworld/drawer-open-v3", "metaworld/drawer-close-v3"} and scripted["num_episodes"] == 2
    learnt = json.loads((folder / "scores" / "pico.json").read_text())
    assert learnt["failed_to_run"] == 0 and learnt["num_plans"] >= 2 * 24 // 8
    assert [e["seed"] for t in learnt["tasks"].values() for e in t["episodes"]] == [
        e["seed"] for t in scripted["tasks"].values() for e in t["episodes"]
    ], "all act from the same starts"
    made = (folder / "policies" / "pico" / "log.jsonl").stat().st_mtime_ns
    again = run("demos_to_policy.sh", folder, world)
    assert again.returncode == 0, again.stderr
    assert (folder / "policies" / "pico" / "log.jsonl").stat().st_mtime_ns == made, "what is there is not made again"


@pytest.mark.parametrize("script", ["video_to_world_model.sh", "demos_to_policy.sh"])
def test_a_script_without_a_folder_says_how_it_is_used(script: str, tmp_path: Path) -> None:
    done = subprocess.run([EXAMPLES / script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "usage:" in done.stderr and not list(tmp_path.iterdir())
