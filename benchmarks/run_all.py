"""Run every benchmark, or those that are named, and write docs/benchmarks.md. Each runs in a process of its own, one after the other.

A section appears on the page as soon as its benchmark is done; those of others stay as they are.
"""

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


def main(names: list[str]) -> None:
    known = sorted(script.stem for script in HERE.glob("*.py") if script.stem not in NOT_BENCHMARKS)
    if unknown := set(names) - set(known):
        sys.exit(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    _, *parts = PAGE.read_text("utf-8").split("\n## ") if PAGE.exists() else [""]
    sections = {name: body for name, _, body in (part.partition("\n\n") for part in parts) if name in known}
    machine = f"This page: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}."
    for name in names or known:
        print(f"{name} ...", file=sys.stderr, flush=True)
        code = f"import json; import {name}; print('ROWS ' + json.dumps({name}.main(), default=str))"
        done = subprocess.run([sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True, check=True)
        rows = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("ROWS "))[5:])
        sections[name] = table(rows) + "\n"
        page = [f"{INTRODUCTION}\n{machine}\n", *(f"## {each}\n\n{sections[each].rstrip()}\n" for each in known if each in sections)]
        PAGE.write_text("\n".join(page), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
