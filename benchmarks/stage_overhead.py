"""What every stage costs besides its network: starting, decoding an mp4, the algorithms around the network, the journal, the HDF5 file.

Networks sleep for as long as they take on a GPU (sleeping_networks.py), and answer in their true shapes. What their adapters cost is in
worker_overhead.py and network_overhead.py.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sleeping_networks import install
from synthetic_clip import write_clip

NUM_FRAMES = 600
"""A minute at 10 frames per second."""
GOAL = "<= 0.10"


def main() -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = install(folder / "site")
        clip, _ = write_clip(folder, NUM_FRAMES)
        short, _ = write_clip(folder, 120)
        last: dict[Path, Path] = {}

        def stage(work: str, command: str, source: Path, *flags: str, **more: str) -> None:
            output = folder / f"{source.stem}-{command}-{len(rows)}.h5"
            total, asleep = timed([command, "-q", str(last.get(source, source)), "-o", str(output), *flags], {**env, **more}, folder)
            last[source] = output
            rows.append(row(work, total, asleep))

        stage(f"keypoints, DINOv2-B, {NUM_FRAMES} frames 640x480, features 28x37x768", "keypoints", clip, "--features", "sleeping")
        stage(f"reconstruct, VGGT, {NUM_FRAMES} frames, depth 518x392", "reconstruct", clip, "--backend", "sleeping")
        chain = last[clip]
        stage(f"track, CoTracker3, {NUM_FRAMES} frames, 256 points", "track", clip, "--tracker", "sleeping", TRACKER="cotracker3")
        for command in ("filter", "segment"):
            timed([command, "-q", str(last[clip]), "-o", str(folder / f"{command}.h5")], env, folder)
            last[clip] = folder / f"{command}.h5"
        stage(f"caption, SmolVLM2-2.2B, {NUM_FRAMES} frames", "caption", clip, "--captioner", "sleeping")
        for command, flag in (("keypoints", "--features"), ("reconstruct", "--backend")):
            stage("", command, short, flag, "sleeping")
            rows.pop()
        stage("track, TAPIP3D, 120 frames, 256 points", "track", short, "--tracker", "sleeping")
        assert chain.exists()
    return rows


def timed(arguments: list[str], env: dict[str, str], folder: Path) -> tuple[float, float]:
    """Seconds of the whole command, and of the network."""
    slept = folder / "slept"
    slept.write_text("0")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tracekit", *arguments], env={**env, "SLEPT": str(slept)}, check=True)
    return time.perf_counter() - start, float(slept.read_text())


def row(work: str, total: float, asleep: float) -> dict:
    outside = total - asleep
    return {
        "work": work,
        "ours": f"{outside:.2f} s outside",
        "peer": f"{asleep:.2f} s in the network",
        "ratio": outside / asleep,
        "goal": GOAL,
    }


if __name__ == "__main__":
    from table import print_table

    print_table(main())
