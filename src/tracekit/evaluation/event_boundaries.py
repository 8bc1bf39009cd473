"""Are the events cut where the truth cuts them?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.evaluation.figures import figure, ratio
from tracekit.extract.assignment import best_assignment
from tracekit.records import Events

ROUNDING = 1e-6
"""Seconds by which a distance of exactly the tolerance may exceed it in floating point."""


@dataclass(frozen=True)
class EventAgreement:
    """Inner boundaries of events against the true ones."""

    event_precision: float | None = figure("boundaries that are true")
    event_recall: float | None = figure("true boundaries that are found")
    event_f1: float | None = figure("F1")
    num_boundaries: int | None = figure("boundaries")
    num_true_boundaries: int | None = figure("true boundaries")


def inner_boundaries(events: Events, pts: np.ndarray) -> np.ndarray:
    """Times (b,) in seconds, ascending, at which events begin or end, but for the two ends of the clip; `pts` (T,) of its frames."""
    frames = np.unique(np.concatenate([events.start, events.stop]))
    return pts[frames[(frames > 0) & (frames < len(pts))]]


def event_agreement(found: np.ndarray, true: np.ndarray, tolerance: float) -> EventAgreement:
    """Precision, recall and F1 of boundaries `found` (a,) against `true` (b,), both in seconds.

    Boundaries are paired one to one so that as many as possible lie within `tolerance` seconds of each other (the maximum
    bipartite matching). F1 = 2 pairs / (a + b). Without any boundary on either side all three are 1; a share of nothing is None.
    """
    if len(found) == 0 and len(true) == 0:
        return EventAgreement(1.0, 1.0, 1.0, 0, 0)
    near = (np.abs(found[:, None] - true[None, :]) <= tolerance + ROUNDING).astype(np.float64)
    pairs = int(near[best_assignment(near)].sum())
    return EventAgreement(
        event_precision=ratio(pairs, len(found)),
        event_recall=ratio(pairs, len(true)),
        event_f1=ratio(2 * pairs, len(found) + len(true)),
        num_boundaries=len(found),
        num_true_boundaries=len(true),
    )
