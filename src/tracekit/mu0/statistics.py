"""What a trained network must know of the corpus it learned from: scales, and what a step is."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from tracekit.errors import BadDataError


@dataclass(frozen=True)
class CorpusStatistics:
    """The same as the attributes of that name of `records.Corpus`."""

    delta_scale: tuple[float, float, float]
    """s_delta of Eq. 3, in (1, 1, m): what predicted targets are multiplied by."""
    depth_log_range: tuple[float, float]
    """Log metres between which depth is coloured."""
    stride_seconds: float
    """Time between two steps; 0 where steps are lengths of path."""
    retargeted: bool
    metric: bool

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def statistics_from_json(content: Any, where: str) -> CorpusStatistics:
    """Raises BadDataError naming what is missing, unknown or no number."""
    names = [field.name for field in dataclasses.fields(CorpusStatistics)]
    if not isinstance(content, dict) or set(content) != set(names):
        raise BadDataError(f"{where} does not hold exactly the fields {', '.join(names)}")
    for name, length in (("delta_scale", 3), ("depth_log_range", 2)):
        values = content[name]
        if not isinstance(values, list) or len(values) != length or not all(_is_number(value) for value in values):
            raise BadDataError(f"{where}: {name} is {values!r}, but {length} numbers are expected")
    if not _is_number(content["stride_seconds"]):
        raise BadDataError(f"{where}: stride_seconds is {content['stride_seconds']!r}, but a number is expected")
    for name in ("retargeted", "metric"):
        if not isinstance(content[name], bool):
            raise BadDataError(f"{where}: {name} is {content[name]!r}, but true or false is expected")
    if min(content["delta_scale"]) <= 0:
        raise BadDataError(f"{where}: delta_scale is {content['delta_scale']}, but positive numbers are expected")
    return CorpusStatistics(
        tuple(map(float, content["delta_scale"])),  # type: ignore[arg-type]
        tuple(map(float, content["depth_log_range"])),  # type: ignore[arg-type]
        float(content["stride_seconds"]),
        content["retargeted"],
        content["metric"],
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
