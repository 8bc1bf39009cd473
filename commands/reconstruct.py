"""tracekit reconstruct: recover depth and cameras of every frame in one global frame."""

from __future__ import annotations

from tracekit.extract.reconstruct import PRESETS, ReconstructParameters, reconstruct
from tracekit.stage import Stage, Work


def run(work: Work) -> None:
    depth = work.read_or_none("depth_sensor")
    camera = work.read_or_none("camera_sensor")
    has_sensor = depth is not None and camera is not None
    backend = work.backend(None if has_sensor else [name for name in work.backend_names() if name != "sensor"])
    sink = work.depth_sink("geometry", metric=backend.metric)
    geometry = reconstruct(
        work.frames(),
        backend,
        work.parameters,
        report=work.report,
        depth=depth.depth if depth else None,
        camera=camera,
        write_depth=sink,
    )
    work.put(geometry)
    if not backend.metric:
        work.report.note("lengths are relative: no metres are claimed (metric = 0)")
    if geometry.depth is None and not sink.was_called:
        work.report.note("no depth is claimed: traces are two-dimensional; tracekit import rgbd brings in measured depth")


command = Stage(
    name="reconstruct",
    about="Recover depth and cameras of every frame in one global frame (paper 2.2, A.3).",
    run=run,
    parameters=ReconstructParameters,
    presets=PRESETS,
    reads=("video",),
    writes=("geometry",),
    example="tracekit reconstruct keypoints.h5 -o geometry.h5",
    backend_kind="reconstruction",
    looks_at_frames=True,
)
