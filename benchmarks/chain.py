"""The whole chain on a clip of 300 frames of 640 x 480, through pipes, and the cost of starting it: a clip of 16 frames."""

from __future__ import annotations

import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from synthetic_clip import write_clip

NUM_ROUNDS = 5
PROGRAM = f"{shlex.quote(sys.executable)} -m tracekit"
STAGES = ("reconstruct", "track", "filter", "segment", "caption")


def main() -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, sensor = write_clip(folder, 300)
        for backend, extra in (("planar", []), ("sensor", ["--sensor", str(sensor)])):
            seconds, _ = measure(folder, clip, extra)
            rows.append(row(f"chain, lowlevel + {backend} + klt, 300 frames 640x480", f"{seconds:.1f} s", 300 / seconds, ">= 10 frames/s"))
        clip, _ = write_clip(folder, 16)
        _, cpu = measure(folder, clip, [])
        rows.append(row("six commands in a pipe, 16 frames 640x480", f"{cpu:.1f} s of CPU", 16 / cpu, "<= 4 s of CPU"))
    return rows


def measure(folder: Path, clip: Path, extra: list[str]) -> tuple[float, float]:
    """Medians of seconds and of CPU seconds."""
    first = f"{PROGRAM} keypoints -q {shlex.join([str(clip), *extra])}"
    script = " | ".join([first, *(f"{PROGRAM} {stage} -q" for stage in STAGES)]) + f" > {shlex.quote(str(folder / 'out.h5'))}"
    wall, cpu = [], []
    for _ in range(NUM_ROUNDS):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(["/bin/sh", "-c", script], check=True)
        wall.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(wall), statistics.median(cpu)


def row(work: str, ours: str, frames_per_second: float, goal: str) -> dict:
    return {"work": work, "ours": ours, "peer": "none", "ratio": f"{frames_per_second:.1f} frames/s", "goal": goal}


if __name__ == "__main__":
    from table import print_table

    print_table(main())
