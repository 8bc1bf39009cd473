"""tracekit segment: cut the clip into events."""

from __future__ import annotations

from tracekit.extract.segment import PRESETS, SegmentParameters, segment
from tracekit.stage import Stage, Work


def run(work: Work) -> None:
    work.put(segment(work.read("tracks"), work.read("motion"), work.read("video").fps, work.parameters, report=work.report))


command = Stage(
    name="segment",
    about="Cut the clip into events where the motion is lowest between two peaks (paper 2.3, A.5).",
    run=run,
    parameters=SegmentParameters,
    presets=PRESETS,
    reads=("video", "tracks", "motion"),
    writes=("events",),
    example="tracekit segment moving.h5 -o events.h5",
)
