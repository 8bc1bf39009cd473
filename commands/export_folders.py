"""What the kinds of tracekit export have in common that write folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tracekit.errors import UsageError


def refuse_inputs_inside(target: Path, inputs: Sequence[str | None]) -> None:
    """Raise UsageError where a folder that would be replaced holds what is read, or what the episode was made from."""
    for source in inputs:
        if source and Path(source).resolve().is_relative_to(target.resolve()):
            raise UsageError(f"{target} holds {source}, which the episode comes from; inputs are never changed", hint="use another -d")
