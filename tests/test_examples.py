"""The scripts of examples/, as a user runs them, at their tiny sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulator import simulator  # noqa: F401

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script: str, folder: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SCALE": "tiny"}
    return subprocess.run([EXAMPLES / script, folder], env=environment, capture_output=True, text=True, check=False)


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


def test_a_script_without_a_folder_says_how_it_is_used(tmp_path: Path) -> None:
    done = subprocess.run([EXAMPLES / "video_to_world_model.sh"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "usage:" in done.stderr and not list(tmp_path.iterdir())
