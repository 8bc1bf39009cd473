"""Files of earlier versions stay readable. tests/golden/vN holds small ones, written by tracekit when N was current.

They are never written anew; a new format version adds a folder.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import small_episode
from run_command import tracekit

from tracekit.format.file import open_records
from tracekit.format.schema import CORPUS, EPISODE

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_episode_reads_as_it_was_written(version: str) -> None:
    expected = small_episode()
    with open_records(GOLDEN / version / "episode.h5", EPISODE) as file:
        file.validate_everything()
        found = file.episode()
        assert [step.command for step in file.steps()] == ["keypoints"]
        assert found.clip_id == expected.clip_id
        assert found.captions.event_interaction == ["It slides – à droite."]
        np.testing.assert_allclose(found.tracks.xyz_world, expected.tracks.xyz_world, rtol=1e-6)
        np.testing.assert_array_equal(found.video.frames[:], expected.video.frames)
        np.testing.assert_array_equal(found.geometry.depth[:], expected.geometry.depth)
        for field in dataclasses.fields(expected.keypoints):
            value = getattr(expected.keypoints, field.name)
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(getattr(found.keypoints, field.name), value, rtol=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_corpus_reads_and_is_what_the_command_makes_today(version: str, tmp_path: Path) -> None:
    with open_records(GOLDEN / version / "corpus.h5", CORPUS) as file:
        file.validate_everything()
        old = file.read("")
    done = tracekit(
        "fit-bspline", GOLDEN / version / "episode.h5", "--horizon", 4, "--control-points", 4, "--every", 1, "-o", tmp_path / "corpus.h5"
    )
    assert done.returncode == 0, done.stderr
    with open_records(tmp_path / "corpus.h5", CORPUS) as file:
        new = file.read("")
    for field in dataclasses.fields(old):
        one, other = getattr(old, field.name), getattr(new, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6, err_msg=field.name)
        else:
            assert other == one, field.name


@pytest.mark.parametrize("version", VERSIONS)
def test_info_accepts_them(version: str) -> None:
    done = tracekit("info", "--validate", *sorted((GOLDEN / version).glob("*.h5")))
    assert done.returncode == 0 and done.stdout.count(b"valid") >= 2
