"""Memory is bounded by a chunk, not by the clip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_command import PROGRAM, environment

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from synthetic_clip import write_clip


def peak_kilobytes(*arguments: object) -> int:
    process = subprocess.Popen([*PROGRAM, *map(str, arguments)], env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


@pytest.mark.slow
def test_peak_memory_of_2000_frames_is_that_of_400(tmp_path: Path) -> None:
    """Every stage of the chain with measured depth, at most 1.3 times."""
    peaks: dict[int, dict[str, int]] = {}
    for num_frames in (400, 2000):
        clip, sensor = write_clip(tmp_path, num_frames, 320, 240)
        peaks[num_frames] = {}
        previous: list[object] = [clip, "--sensor", sensor]
        for stage in ("keypoints", "reconstruct", "track", "filter", "segment", "caption", "fit-bspline"):
            output = tmp_path / f"{num_frames}-{stage}.h5"
            arguments = ["--every", "60"] if stage == "fit-bspline" else []
            peaks[num_frames][stage] = peak_kilobytes(stage, "-q", *previous, *arguments, "-o", output)
            previous = [output]
    ratios = {stage: peaks[2000][stage] / peaks[400][stage] for stage in peaks[400]}
    assert max(ratios.values()) <= 1.3, (ratios, peaks)
