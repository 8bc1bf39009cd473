"""tracekit filter: mark which tracks move."""

from __future__ import annotations

from tracekit.extract.filter import PRESETS, FilterParameters, filter_moving
from tracekit.stage import Stage, Work


def run(work: Work) -> None:
    clip = work.read("video")
    work.put(filter_moving(work.read("tracks"), work.read("geometry"), clip.width, clip.height, work.parameters, report=work.report))


command = Stage(
    name="filter",
    about="Mark which tracks move, camera motion taken out (paper A.2).",
    run=run,
    parameters=FilterParameters,
    presets=PRESETS,
    reads=("video", "geometry", "tracks"),
    writes=("motion",),
    example="tracekit filter tracks.h5 -o moving.h5",
)
