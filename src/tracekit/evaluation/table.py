"""The scores of an extraction as a page for people."""

from __future__ import annotations

from typing import Any

from tracekit.evaluation.extraction import ExtractionScores
from tracekit.evaluation.figures import labelled
from tracekit.evaluation.placement import BodyScore

LABEL_WIDTH = 42
NAME_WIDTH = 32
METRE_DIGITS = 4
"""A tenth of a millimetre."""


def table(scores: ExtractionScores) -> str:
    """Figures by stage, one a line with its unit, then a line for every body. "-" is what cannot be told."""
    lines = [f"{scores.extraction} against {scores.truth}, {scores.num_frames} frames"]
    for title, stage in (
        ("tracks", scores.tracks),
        ("cameras", scores.cameras),
        ("depth", scores.depth),
        ("motion", scores.moving),
        ("placement", scores.placement),
        ("events", scores.events),
    ):
        lines += ["", title]
        for label, value, unit in labelled(stage):
            text = _text(value, METRE_DIGITS if unit == "m" else 3)
            lines.append(f"  {label:{LABEL_WIDTH}} {text:>7} {unit if value is not None else ''}".rstrip())
    if scores.placement.bodies:
        lines += ["", *_bodies(scores.placement.bodies)]
    return "\n".join(lines)


def _bodies(bodies: list[BodyScore]) -> list[str]:
    header = ("bodies", "moves", "path px", "pixels", "tracks", "at once", "covered", "error m", "recall")
    rows = [
        (
            _shortened(", ".join(body.bodies)),
            "yes" if body.moving else "no",
            _text(body.diameter_px, 0),
            _text(body.pixel_share),
            str(body.num_tracks),
            str(body.most_at_a_time),
            "yes" if body.covered else "no",
            _text(body.track_error_median_m, METRE_DIGITS),
            _text(body.recall),
        )
        for body in bodies
    ]
    name = max(len(row[0]) for row in [header, *rows])
    return [f"{row[0]:{name}} " + " ".join(f"{cell:>8}" for cell in row[1:]) for row in [header, *rows]]


def _text(value: Any, digits: int = 3) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return " ".join(_text(part) for part in value.values())
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _shortened(text: str) -> str:
    return text if len(text) <= NAME_WIDTH else text[: NAME_WIDTH - 3] + "..."
