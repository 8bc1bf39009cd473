"""Which tracks move and which are background (paper A.2): the largest distance that each covers, seen from one camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tracekit.geometry import cameras
from tracekit.geometry.diameter import diameter
from tracekit.parameters import check, parameter
from tracekit.records import Geometry, Motion, Tracks
from tracekit.report import Report


@dataclass(frozen=True)
class FilterParameters:
    """What counts as motion."""

    threshold: float = parameter(40.0, "a track moves when its diameter exceeds this, in pixels of the processed grid", minimum=0.0)
    threshold_fraction: float | None = parameter(
        None,
        "the threshold as a fraction of the image diagonal; wins over --threshold",
        minimum=0.0,
        maximum=1.0,
        wins_over=("threshold",),
    )
    lambda_z: float = parameter(0.1, "pixels that a change of depth by one unit of length counts", minimum=0.0)
    first_frames: int | None = parameter(
        None, "judge each track by this many frames from where it is first seen; all when not given", minimum=1
    )


PRESETS: dict[str, dict[str, object]] = {
    # sqrt((H/20)^2 + (W/20)^2) is a twentieth of the diagonal.
    "release": {"threshold_fraction": 0.05, "first_frames": 64},
}


def diameter_seen(xyz_world: np.ndarray, intrinsics: np.ndarray, world_from_camera: np.ndarray, lambda_z: float) -> tuple[float, int]:
    """Largest distance, in pixels, between two of the positions (n, 3) seen as (u, v, lambda_z z) from one camera (4, 4).

    Positions behind the camera are left out; their number comes second. NaN where none is left.
    """
    uv, z = cameras.project(xyz_world, intrinsics, world_from_camera)
    in_front = z > 0
    return diameter(np.column_stack([uv, lambda_z * z])[in_front]), int((~in_front).sum())


def filter_moving(
    tracks: Tracks, geometry: Geometry, clip_width: int, clip_height: int, parameters: FilterParameters, *, report: Report
) -> Motion:
    """Mark the tracks whose diameter exceeds the threshold.

    Each track is seen from its reference camera, that of the frame in which it was born, as (u, v, lambda_z z): a moving camera
    moves nothing. The diameter is the largest distance between any two of its visible positions, exactly. A track that is
    never visible has diameter NaN and does not move; those are counted. Lengths are pixels of the processed grid.
    """
    check(parameters)
    threshold = parameters.threshold
    if parameters.threshold_fraction is not None:
        threshold = parameters.threshold_fraction * math.hypot(clip_width, clip_height)
    used = tracks.visible.astype(bool) & np.isfinite(tracks.xyz_world).all(axis=-1)
    if parameters.first_frames is not None and len(used):
        frame = np.arange(len(used))[:, None]
        used &= frame < used.argmax(axis=0) + parameters.first_frames

    diameter_px = np.full(len(tracks.born), np.nan, dtype=np.float32)
    num_behind = 0
    for done, track in enumerate(np.argsort(tracks.born, kind="stable")):
        xyz = tracks.xyz_world[used[:, track], track].astype(np.float64)
        camera = geometry.world_from_camera[tracks.born[track]]
        diameter_px[track], behind = diameter_seen(xyz, geometry.intrinsics, camera, parameters.lambda_z)
        num_behind += behind
        report.progress(done + 1, len(tracks.born), "tracks")
    moving = diameter_px > threshold  # NaN compares as False

    report.count("tracks that move", int(moving.sum()))
    if len(moving) and not moving.any():
        report.note(f"none of {len(moving)} tracks moves by more than {threshold:.0f} px: lower --threshold if something did")
    report.count("tracks that are never visible (diameter NaN)", int(np.isnan(diameter_px).sum()))
    report.count("positions behind the reference camera, left out of the diameter", num_behind)
    return Motion(
        threshold_px=float(threshold),
        lambda_z=float(parameters.lambda_z),
        diameter_px=diameter_px,
        reference_frame=tracks.born.astype(np.int32),
        moving=moving.astype(np.uint8),
    )
