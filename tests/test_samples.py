"""The sample clip that comes with tracekit: simulated, with its truth, and extracted well."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from run_command import shell
from run_command import tracekit as run
from tracekit.commands.demo import SAMPLE

import tracekit
from tracekit import video
from tracekit.format.file import open_records
from tracekit.format.schema import EPISODE

SAMPLES = Path(tracekit.__file__).parent / "samples"
MOVIE, TRUTH = SAMPLES / f"{SAMPLE}.mp4", SAMPLES / f"{SAMPLE}.truth.h5"


def test_the_samples_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 3_000_000


def test_truth_is_valid_and_about_the_video() -> None:
    clip, frames = video.open_clip(MOVIE, max_size=0)
    with open_records(TRUTH, EPISODE) as file:
        file.validate_everything()
        assert file.read("video").sha256 == clip.sha256
        assert file.read("truth").body_at_pixel.shape == frames.shape[:3] == file.read("depth_sensor").depth.shape
        assert file.clip_id == SAMPLE and file.read("video").task
        assert not file.read("video").uri.startswith(("/home", "/root", "/work", "/tmp")), "no place of anybody's machine"


def test_the_readme_tells_the_command_that_made_it() -> None:
    with open_records(TRUTH, EPISODE) as file:
        (step,) = file.steps()
    assert f"tracekit {shlex.join(step.argv)}" in (SAMPLES / "README.md").read_text()


def test_the_camera_moves_and_so_does_the_robot() -> None:
    with open_records(TRUTH, EPISODE) as file:
        poses, truth, motion = file.read("camera_sensor").world_from_camera, file.read("truth"), file.read("motion")
    assert np.linalg.norm(poses[-1, :3, 3] - poses[0, :3, 3]) > 0.3
    travelled = np.linalg.norm(np.ptp(truth.world_from_body[:, :, :3, 3], axis=0), axis=1)
    assert travelled[np.array(truth.body_name) == "hand"].item() > 0.1 and motion.moving.sum() >= 20


@pytest.mark.parametrize(("options", "camera_error"), [("", 1e-9), ("--sensor-poses no", 0.003)])
def test_the_chain_extracts_it_well(tmp_path: Path, options: str, camera_error: float) -> None:
    stages = ["reconstruct", "track", "filter --threshold-fraction 0.05", f"segment -o {tmp_path}/out.h5"]
    done = shell(" | ".join(f"tracekit {stage}" for stage in [f"keypoints {MOVIE} --sensor {TRUTH} {options}", *stages]))
    assert done.returncode == 0, done.stderr.decode()
    done = run("evaluate", "--extraction", tmp_path / "out.h5", "--truth", TRUTH, "--json")
    scores = json.loads(done.stdout)
    assert scores["ate_rmse_m"] <= camera_error and scores["depth_absrel"] < 1e-3
    assert scores["track_error_median_m"] < 0.005 and scores["delta_avg"] > 0.7
    assert scores["moving_precision"] > 0.85 and scores["moving_recall"] > 0.7
