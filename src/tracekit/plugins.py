"""What other packages add by entry points."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any


@functools.cache
def added(group: str) -> dict[str, Any]:
    """Entry points of a group by name; `.load()` gives the object."""
    if not _is_mentioned(group):
        return {}
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=group)}


def _is_mentioned(group: str) -> bool:
    """Whether importlib.metadata is worth its import, which alone costs a third of `tracekit --help`."""
    for folder in filter(os.path.isdir, sys.path):
        for entry in os.scandir(folder):
            path = os.path.join(entry.path, "entry_points.txt")
            if entry.name.endswith((".dist-info", ".egg-info")) and os.path.isfile(path):
                with open(path, encoding="utf-8", errors="replace") as stream:
                    if f"[{group}]" in stream.read():
                        return True
    return False
