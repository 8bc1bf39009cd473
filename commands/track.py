"""tracekit track: follow the points through the clip in 3D."""

from __future__ import annotations

from tracekit.extract.track import PRESETS, TrackParameters, follow
from tracekit.stage import Stage, Work


def run(work: Work) -> None:
    keypoints, geometry = work.read("keypoints"), work.read("geometry")
    with follow(work.frames(), keypoints, geometry, work.backend(), work.parameters, report=work.report) as tracks:
        work.put_in_blocks("tracks", tracks.small_fields, tracks.shapes, tracks.blocks(work.report))


command = Stage(
    name="track",
    about="Follow the points through the clip in 3D; identities never change (paper A.4).",
    run=run,
    parameters=TrackParameters,
    presets=PRESETS,
    reads=("video", "keypoints", "geometry"),
    writes=("tracks",),
    example="tracekit track geometry.h5 -o tracks.h5",
    backend_kind="tracking",
    backend_flag="--tracker",
    looks_at_frames=True,
)
