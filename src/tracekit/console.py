"""What a command shows while it works: on stderr only, progress only on a terminal."""

from __future__ import annotations

import sys
from typing import Any

from tracekit.printable import printable
from tracekit.report import Report


class ConsoleReport(Report):
    """A report that speaks to the user: notes as they come, a progress bar on a terminal, the counts at the end."""

    def __init__(self, command: str, *, quiet: bool = False, verbose: bool = False, item: str = "") -> None:
        super().__init__()
        self._prefix = f"tracekit {command}: " + (f"{item}: " if item else "")
        self._quiet = quiet
        self._verbose = verbose
        self._bar: Any = None

    def note(self, text: str) -> None:
        super().note(text)
        if not self._quiet:
            self._write(text)

    def say(self, text: str) -> None:
        if not self._quiet:
            self._write(text)

    def progress(self, done: int, total: int, unit: str = "frames") -> None:
        if self._quiet or not sys.stderr.isatty():
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=f" {unit}", desc=self._prefix.rstrip(": "), leave=False, file=sys.stderr)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def describe(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def finish(self) -> None:
        """Clear the bar and say what was left out."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        shown = {name: number for name, number in self.counts.items() if number or self._verbose}
        if shown and not self._quiet:
            self._write(", ".join(f"{number:,} {name}" for name, number in shown.items()))

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        print(printable(self._prefix + text), file=sys.stderr)
