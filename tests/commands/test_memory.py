"""Memory is bounded by a chunk, not by the clip."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from run_command import peak_kilobytes

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from synthetic_clip import write_clip


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
