"""--preset paper and --preset release: a whole stage, its backend included."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from run_command import tracekit

from tracekit.backends.registry import BUILT_IN, PAPERS_CHOICE, RELEASES_CHOICE
from tracekit.cli import find_command
from tracekit.format.file import open_records
from tracekit.format.provenance import Step
from tracekit.parameters import check
from tracekit.stage import BackendOptions

STAGES = {name: find_command(name) for name in ("keypoints", "reconstruct", "track", "filter", "segment", "caption")}
WITH_BACKEND = {name: stage for name, stage in STAGES.items() if stage.backend_kind}


def last_step(path: Path) -> Step:
    with open_records(path) as file:
        return file.steps()[-1]


@pytest.mark.parametrize("name", STAGES)
def test_what_a_preset_says_is_an_option_of_its_stage(name: str) -> None:
    stage = STAGES[name]
    own = {field.name for field in dataclasses.fields(stage.parameters)}
    shared = {field.name for field in dataclasses.fields(BackendOptions)} if stage.backend_kind else set()
    for preset, values in stage.presets.items():
        assert values.keys() <= own | shared, preset
        check(stage.parameters(**{key: value for key, value in values.items() if key in own}))


def test_both_presets_set_the_backend_of_every_stage_that_has_one() -> None:
    for name, stage in WITH_BACKEND.items():
        assert stage.presets["release"]["backend"] == RELEASES_CHOICE[stage.backend_kind]
        assert stage.presets["paper"]["backend"] == PAPERS_CHOICE[stage.backend_kind], name
    chosen = {name: stage.presets["release"]["backend"] for name, stage in WITH_BACKEND.items()}
    assert chosen == {"keypoints": "dinov2", "reconstruct": "vggt4track", "track": "tapip3d", "caption": "api"}
    for stage in WITH_BACKEND.values():
        for preset in stage.presets.values():
            assert preset["backend"] in BUILT_IN[stage.backend_kind]


def test_a_run_that_chose_no_preset_claims_none(episode_file: Path, tmp_path: Path) -> None:
    for flags, recorded in (((), "none"), (("--preset", "paper"), "paper"), (("--preset", "release"), "release")):
        done = tracekit("filter", episode_file, "-o", tmp_path / "out.h5", "--force", *flags)
        assert done.returncode == 0, done.stderr
        assert last_step(tmp_path / "out.h5").parameters["preset"] == recorded


@pytest.mark.parametrize("preset", ["paper", "release"])
@pytest.mark.parametrize("name", WITH_BACKEND)
def test_a_preset_whose_backend_is_not_here_says_how_to_get_it_and_how_to_do_without(
    name: str, preset: str, episode_file: Path, tmp_path: Path
) -> None:
    backend = WITH_BACKEND[name].presets[preset]["backend"]
    nothing = {"HF_HUB_CACHE": str(tmp_path / "hub"), "OPENAI_API_KEY": "", "TRACEKIT_CHECKOUTS": ""}
    done = tracekit(name, episode_file, "--preset", preset, "-o", tmp_path / "out.h5", env=nothing)
    assert done.returncode == 69, done.stderr
    assert not (tmp_path / "out.h5").exists()
    said = done.stderr.decode()
    assert f"backend {backend} cannot run here" in said and f"--preset {preset} asks for it" in said and "--backend auto" in said


def test_flags_win_over_a_preset_and_the_rest_of_it_holds(episode_file: Path, tmp_path: Path) -> None:
    done = tracekit("track", episode_file, "--preset", "release", "--backend", "auto", "--chunk", 90, "-o", tmp_path / "out.h5")
    assert done.returncode == 0, done.stderr
    step = last_step(tmp_path / "out.h5")
    assert step.backend == "klt" and step.parameters["chunk"] == 90 and step.parameters["least_tracks"] == 0
    (tmp_path / "tracekit.toml").write_text("[track]\nbackend = 'klt'\npreset = 'release'\n")
    done = tracekit("track", episode_file, "-o", tmp_path / "file.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert last_step(tmp_path / "file.h5").parameters["chunk"] == 360


def test_a_flag_puts_away_what_the_preset_says_instead_of_it(episode_file: Path, tmp_path: Path) -> None:
    """--threshold-fraction wins over --threshold, but not the preset's over the user's."""
    done = tracekit("filter", episode_file, "--preset", "release", "--threshold", 33, "-o", tmp_path / "out.h5")
    assert done.returncode == 0, done.stderr
    parameters = last_step(tmp_path / "out.h5").parameters
    assert parameters["threshold"] == 33 and parameters["threshold_fraction"] is None and parameters["first_frames"] == 64


def test_the_users_longest_event_puts_away_the_releases_number_of_events(episode_file: Path, tmp_path: Path) -> None:
    done = tracekit("segment", episode_file, "--preset", "release", "--max-duration", 30, "-o", tmp_path / "out.h5")
    assert done.returncode == 0, done.stderr
    parameters = last_step(tmp_path / "out.h5").parameters
    assert parameters["max_duration"] == 30 and parameters["max_events"] is None and parameters["max_moving"] == 300


def test_the_release_measures_durations_in_frames_of_its_ten_a_second() -> None:
    release = STAGES["segment"].presets["release"]
    fps = STAGES["keypoints"].presets["release"]["fps"]
    assert (release["min_duration"] * fps, release["max_duration"] * fps) == (25, 200)
    assert STAGES["keypoints"].presets["release"]["chunk"] == STAGES["track"].presets["release"]["chunk"] == 360


@pytest.mark.parametrize("name", WITH_BACKEND)
def test_a_dry_run_promises_nothing_that_cannot_run(name: str, tmp_path: Path) -> None:
    source = tmp_path / "there.h5"
    source.write_bytes(b"")
    environment = {
        "HF_HUB_CACHE": str(tmp_path / "none"),
        "TRACEKIT_CHECKOUTS": str(tmp_path),
        "TRACEKIT_API_KEY": "",
        "OPENAI_API_KEY": "",
    }
    done = tracekit(name, source, "--preset", "paper", "-n", env=environment)
    assert done.returncode == 69 and b"cannot run here" in done.stderr and b"would run" not in done.stderr
    assert b"would run" in tracekit(name, source, "-n", env=environment).stderr
