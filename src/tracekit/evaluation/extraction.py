"""How good an extraction is, stage by stage, against the ground truth of a simulator."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracekit.errors import BadDataError
from tracekit.evaluation.camera_accuracy import CameraAccuracy, camera_accuracy
from tracekit.evaluation.depth_accuracy import DepthAccuracy, depth_accuracy
from tracekit.evaluation.event_boundaries import EventAgreement, event_agreement, inner_boundaries
from tracekit.evaluation.movement import MovingAgreement, moving_agreement, true_diameters
from tracekit.evaluation.placement import Placement, placement, sample_surfaces
from tracekit.evaluation.track_accuracy import TrackAccuracy, compare_paths, frames_in_reach, frames_that_count, track_accuracy
from tracekit.extract.alignment import align_poses
from tracekit.extract.filter import FilterParameters
from tracekit.format.file import RecordFile
from tracekit.geometry import cameras
from tracekit.ground_truth import Scene, SurfacePoints, TruePaths, follow, surface_points
from tracekit.parameters import check, parameter
from tracekit.records import Clip, Geometry, Keypoints, Motion, Tracks
from tracekit.report import Report


@dataclass(frozen=True)
class EvaluateParameters:
    """What counts as right."""

    event_tolerance: float = parameter(0.5, "seconds of video by which a boundary of an event may be off", minimum=0.0)


@dataclass(frozen=True)
class ExtractionScores:
    """All figures. One that cannot be told is None, and `notes` say why."""

    extraction: str
    truth: str
    num_frames: int
    tracks: TrackAccuracy = TrackAccuracy()
    cameras: CameraAccuracy = CameraAccuracy()
    depth: DepthAccuracy = DepthAccuracy()
    moving: MovingAgreement = MovingAgreement()
    placement: Placement = Placement()
    events: EventAgreement = EventAgreement()
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data, the figures of all stages side by side."""
        flat: dict[str, Any] = {"extraction": self.extraction, "truth": self.truth, "num_frames": self.num_frames}
        for stage in (self.tracks, self.cameras, self.depth, self.moving, self.placement, self.events):
            flat |= dataclasses.asdict(stage)
        return flat | {"notes": self.notes}


def evaluate_extraction(
    extraction: RecordFile, truth: RecordFile, parameters: EvaluateParameters | None = None, *, report: Report | None = None
) -> ExtractionScores:
    """Score the stages that an episode file holds against a truth file of the same video.

    Frames are matched by their index in the video, so the extraction may hold a part of them, on a smaller grid, in a world of its
    own: one rigid motion, without scale, maps its world onto the true one. It minimises the distance of all camera poses (Eq. 1,
    `align_poses`) and applies to cameras and tracks alike. Where lengths are no metres (metric = 0), figures in metres are None.

    Raises BadDataError when the files are about different videos, when the truth lacks a frame of the extraction, and when it
    holds no truth.
    """
    parameters = parameters or EvaluateParameters()
    check(parameters)
    report = report or Report()
    num_earlier_notes = len(report.notes)
    stages = _Stages(extraction, report)
    true_clip: Clip = truth.read("video")
    whole = true_scene(truth)
    frames = matching_frames(extraction, stages.clip, truth, true_clip)
    scene = whole.at(frames)
    alignment = _alignment(stages.geometry, scene, report)
    return ExtractionScores(
        extraction=extraction.name,
        truth=truth.name,
        num_frames=len(frames),
        cameras=_cameras(stages.geometry, alignment, scene),
        depth=_depth(stages.geometry, alignment, scene, report),
        events=_events(stages, truth, true_clip, frames, parameters, report),
        **_of_tracks(stages, alignment, scene, report),
        notes=report.notes[num_earlier_notes:],
    )


class _Stages:
    """The records of an extraction; what is missing is noted, once."""

    def __init__(self, file: RecordFile, report: Report) -> None:
        self.clip: Clip = file.read("video")
        self.keypoints: Keypoints | None = file.read_or_none("keypoints")
        self.geometry: Geometry | None = file.read_or_none("geometry")
        self.tracks: Tracks | None = file.read_or_none("tracks")
        self.motion: Motion | None = file.read_or_none("motion")
        self.events = file.read_or_none("events")
        for name in ("keypoints", "geometry", "tracks", "motion", "events"):
            if getattr(self, name) is None:
                report.note(f"the extraction has no {name}: figures that need it are left out")

    @property
    def size(self) -> tuple[int, int]:
        return int(self.clip.width), int(self.clip.height)


def true_scene(truth: RecordFile) -> Scene:
    """The scene of a truth file. Raises BadDataError when it lacks a part, or when parts are not on one grid."""
    record = truth.read("truth")
    camera, depth, clip = truth.read("camera_sensor"), truth.read("depth_sensor").depth, truth.read("video")
    if camera.world_from_camera is None:
        raise BadDataError(f"{truth.name} has no camera poses (camera_sensor/world_from_camera)", hint="`tracekit simulate` writes them")
    grid = (len(clip.pts), clip.height, clip.width)
    for name, shape in (("depth_sensor/depth", depth.shape), ("truth/body_at_pixel", record.body_at_pixel.shape)):
        if tuple(shape) != grid:
            raise BadDataError(f"{name} of {truth.name} has shape {tuple(shape)}, but its video {grid}")
    return Scene(record, depth, camera.intrinsics, camera.world_from_camera)


def matching_frames(extraction: RecordFile, clip: Clip, truth: RecordFile, true_clip: Clip) -> np.ndarray:
    """The frame of the truth (T,) for every frame of the extraction. Raises BadDataError where there is none."""
    if clip.sha256 != true_clip.sha256:
        raise BadDataError(
            f"{extraction.name} is about another video than {truth.name}: {clip.uri} against {true_clip.uri}",
            hint="their contents differ (video/sha256); evaluate each extraction with the truth that was simulated with its video",
        )
    frame_of = {int(source): frame for frame, source in enumerate(true_clip.source_frame)}
    missing = [int(source) for source in clip.source_frame if int(source) not in frame_of]
    if missing:
        raise BadDataError(f"{truth.name} lacks frame {missing[0]} of the video ({len(missing)} frames of {extraction.name} in all)")
    return np.array([frame_of[int(source)] for source in clip.source_frame], int)


def _alignment(geometry: Geometry | None, scene: Scene, report: Report) -> np.ndarray | None:
    """True world from estimated world (4, 4); None where lengths are not comparable."""
    if geometry is None or len(geometry.world_from_camera) == 0:
        return None
    if not geometry.metric:
        report.note(
            "lengths of the extraction are no metres (metric = 0): errors in space, of the trajectory and of depth are left out,"
            " and groups are judged in the image"
        )
        return None
    return align_poses(geometry.world_from_camera, scene.world_from_camera)


def _cameras(geometry: Geometry | None, alignment: np.ndarray | None, scene: Scene) -> CameraAccuracy:
    return CameraAccuracy() if geometry is None else camera_accuracy(geometry.world_from_camera, scene.world_from_camera, alignment)


def _depth(geometry: Geometry | None, alignment: np.ndarray | None, scene: Scene, report: Report) -> DepthAccuracy:
    if geometry is None or alignment is None:
        return DepthAccuracy()
    if geometry.depth is None:
        report.note("the extraction claims no depth: its error is left out")
        return DepthAccuracy()
    return depth_accuracy(geometry.depth, scene.depth)


def _events(
    stages: _Stages, truth: RecordFile, true_clip: Clip, frames: np.ndarray, parameters: EvaluateParameters, report: Report
) -> EventAgreement:
    true_events = truth.read_or_none("events")
    if true_events is None:
        report.note("the truth has no events: those of the extraction are not judged")
    if true_events is None or stages.events is None:
        return EventAgreement()
    # Both on the clock of the truth: two decoders may begin to count at different times.
    found = inner_boundaries(stages.events, true_clip.pts[frames])
    return event_agreement(found, inner_boundaries(true_events, true_clip.pts), parameters.event_tolerance)


def _of_tracks(stages: _Stages, alignment: np.ndarray | None, scene: Scene, report: Report) -> dict[str, Any]:
    """Everything that follows from the true paths of the keypoints, and of points sampled on all bodies."""
    tracks, keypoints = stages.tracks, stages.keypoints
    if tracks is None or keypoints is None:
        return {}
    height, width = scene.depth.shape[1:]
    surfaces = sample_surfaces(scene)
    uv = cameras.resize_pixels(keypoints.uv[tracks.keypoint].astype(np.float64), stages.size, (width, height))
    points = surface_points(scene, uv, keypoints.frame[tracks.keypoint])
    known = np.flatnonzero(points.body >= 0)
    points = SurfacePoints(points.body[known], points.local[known])
    paths, sampled_paths = _split(follow(scene, _joined(points, surfaces.points)), len(known))

    rule = stages.motion or FilterParameters()
    threshold = rule.threshold_px if isinstance(rule, Motion) else rule.threshold
    if stages.motion is None:
        report.note(f"what truly moves is judged by the default threshold of filter, {threshold:g} px")
    intrinsics = cameras.scale_intrinsics(scene.intrinsics, (width, height), stages.size)
    could_follow = frames_in_reach(keypoints, tracks) | (tracks.valid == 1)  # a position before its chunk counts for what it is
    followed = paths.visible & could_follow[:, known]
    view = intrinsics, scene.world_from_camera, rule.lambda_z
    moves = true_diameters(paths.xyz_world, followed, tracks.born[known], *view) > threshold
    surface_diameters = true_diameters(sampled_paths.xyz_world, sampled_paths.visible, surfaces.frame, *view)

    comparison = compare_paths(
        _columns(tracks, known), stages.size, alignment, paths, scene, frames_that_count(keypoints, tracks)[:, known]
    )
    group = scene.truth.body_rigid_group[points.body]
    called = None if stages.motion is None else stages.motion.moving[known].astype(bool)
    return {
        "tracks": track_accuracy(comparison, len(tracks.born) - len(known)),
        "moving": MovingAgreement() if called is None else moving_agreement(called, moves),
        "placement": placement(scene, surfaces, surface_diameters, threshold, comparison, group, len(tracks.born)),
    }


def _joined(one: SurfacePoints, other: SurfacePoints) -> SurfacePoints:
    return SurfacePoints(np.concatenate([one.body, other.body]), np.concatenate([one.local, other.local]))


def _split(paths: TruePaths, number: int) -> tuple[TruePaths, TruePaths]:
    """The first `number` paths, and the others."""
    one, other = (
        TruePaths(paths.xyz_world[:, part], paths.uv[:, part], paths.visible[:, part]) for part in (slice(number), slice(number, None))
    )
    return one, other


def _columns(tracks: Tracks, which: np.ndarray) -> Tracks:
    """Some tracks of all."""
    over_time = {name: getattr(tracks, name)[:, which] for name in ("xyz_world", "uv", "visible", "valid")}
    per_track = {name: getattr(tracks, name)[which] for name in ("keypoint", "entity", "born", "chunk")}
    return Tracks(tracks.tracker, **over_time, **per_track)
