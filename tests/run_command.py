"""Run the program as a user does: a process of its own, its exit code, what it wrote to both streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = [sys.executable, "-m", "tracekit"]


def tracekit(
    *arguments: object, stdin: bytes | None = None, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess:
    """`tracekit ARGUMENTS`, with `stdin` as standard input (nothing by default)."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        input=stdin if stdin is not None else b"",
        capture_output=True,
        env=environment(env),
        timeout=300,
        **options,
    )


def shell(script: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """A script for /bin/sh in which `tracekit` is the program under test."""
    program = " ".join(PROGRAM)
    script = f'tracekit() {{ {program} "$@"; }}\n{script}'
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, cwd=cwd, env=environment(env), timeout=300)


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    return {**{key: value for key, value in os.environ.items() if not key.startswith("TRACEKIT_")}, **(extra or {})}


def peak_kilobytes(*arguments: object) -> int:
    """The most memory that `tracekit ARGUMENTS` holds at a time."""
    process = subprocess.Popen([*PROGRAM, *map(str, arguments)], env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss
