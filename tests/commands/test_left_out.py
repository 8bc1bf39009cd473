"""What is left out because it was made from what is written anew is said once the work is done."""

from __future__ import annotations

from pathlib import Path

from run_command import tracekit


def test_nothing_is_left_out_where_nothing_is_written(episode_file: Path, tmp_path: Path) -> None:
    done = tracekit("reconstruct", episode_file, "--backend", "vggt", "-o", tmp_path / "out.h5", env={"HF_HUB_CACHE": str(tmp_path)})
    assert done.returncode == 69 and b"left out" not in done.stderr and not (tmp_path / "out.h5").exists()
    done = tracekit("reconstruct", episode_file, "--backend", "planar", "-o", tmp_path / "out.h5")
    assert done.returncode == 0 and b"left out" in done.stderr
