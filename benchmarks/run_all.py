"""Run every benchmark and write docs/benchmarks.md. Each runs in a process of its own, one after the other."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from table import table

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
NOT_BENCHMARKS = {"run_all", "table", "synthetic_clip", "turns", "sleeping_networks", "gpu_networks"}  # the last needs a GPU and checkouts

INTRODUCTION = """<!-- Made by `make bench`. -->
# Benchmarks

Each row is one script of `benchmarks/` (run it with `python benchmarks/NAME.py`): ours and the fastest peer that we know run in
turns in one process on the same inputs, medians of at least five rounds. Look at the ratio: absolute times differ from machine to
machine.
"""


def main() -> None:
    sections = [INTRODUCTION, f"This page: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.\n"]
    for script in sorted(HERE.glob("*.py")):
        if script.stem in NOT_BENCHMARKS:
            continue
        print(f"{script.stem} ...", file=sys.stderr, flush=True)
        code = f"import json; import {script.stem}; print('ROWS ' + json.dumps({script.stem}.main(), default=str))"
        done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True)
        rows = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("ROWS "))[5:])
        sections.append(f"## {script.stem}\n\n{table(rows)}\n")
    PAGE.write_text("\n".join(sections), "utf-8")


if __name__ == "__main__":
    main()
