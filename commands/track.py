"""tracekit track: follow the points through the clip in 3D."""

from __future__ import annotations

from tracekit.extract.track import PRESETS, TrackParameters, track
from tracekit.stage import Stage, Work


def run(work: Work) -> None:
    tracks = track(work.frames(), work.read("keypoints"), work.read("geometry"), work.backend(), work.parameters, report=work.report)
    work.put(tracks)


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
