"""Names of exported folders come from names of files, never from what a file says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest
from release_episodes import write_moving_episode
from run_command import tracekit


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_episode(tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize("name", ["...h5", ".hidden.h5", "..h5"])
def test_names_that_lead_out_of_the_folder_are_refused(source: Path, tmp_path: Path, name: str) -> None:
    """The stem of "...h5" is "..", the folder above."""
    shutil.copy(source, tmp_path / name)
    (tmp_path / "out").mkdir()
    done = tracekit("export", "traceextract", tmp_path / name, "-d", tmp_path / "out", "--force")
    assert done.returncode == 65 and b"cannot name a folder" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_the_clip_id_of_a_file_names_nothing(source: Path, tmp_path: Path) -> None:
    shutil.copy(source, tmp_path / "walk.h5")
    with h5py.File(tmp_path / "walk.h5", "r+") as file:
        file.attrs["clip_id"] = "../../outside"
    done = tracekit("export", "traceextract", tmp_path / "walk.h5", "--future-len", "9", "-d", tmp_path / "a" / "b")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "outside").exists() and (tmp_path / "a" / "b" / "walk").is_dir()
    assert json.loads((tmp_path / "a" / "b" / "walk" / "curated_training_texts.json").read_text())["video_id"] == "walk"
