"""Truth and flawless extraction of a rendered scene whose every point is known, to be spoiled in known ways."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
from conftest import write_episode
from extract.moving_scene import HEIGHT, INTRINSICS, WIDTH, MovingScene, keypoints

from tracekit.evaluation.extraction import EvaluateParameters, ExtractionScores, evaluate_extraction
from tracekit.extract.filter import FilterParameters, filter_moving
from tracekit.format.file import open_records
from tracekit.format.schema import EPISODE
from tracekit.geometry import cameras
from tracekit.ground_truth import Scene, follow, surface_points
from tracekit.records import CameraSensor, Clip, DepthSensor, Episode, Events, Keypoints, Tracks, Truth
from tracekit.report import Report

NUM_FRAMES, CHUNK, FPS = 24, 12, 10.0
BODIES = ["wall", "board", "card"]
CUTS = [8, 17]


@functools.cache
def scene() -> MovingScene:
    return MovingScene(NUM_FRAMES)


def clip() -> Clip:
    return Clip(
        uri="/nowhere/scene.mp4",
        sha256="5" * 64,
        fps=FPS,
        width=WIDTH,
        height=HEIGHT,
        source_width=WIDTH,
        source_height=HEIGHT,
        rotation=0,
        decoder="images",
        num_source_frames=NUM_FRAMES,
        num_missing_frames=0,
        pts=3.0 + np.arange(NUM_FRAMES) / FPS,
        source_frame=np.arange(NUM_FRAMES),
    )


def events(cuts: list[int]) -> Events:
    nothing = np.zeros(NUM_FRAMES, np.float32)
    return Events(nothing, nothing, np.zeros(0, np.int32), np.array([0, *cuts], np.int32), np.array([*cuts, NUM_FRAMES], np.int32))


def true_record() -> Truth:
    return Truth(
        simulator="moving_scene",
        environment="boards before a wall",
        camera="handheld",
        seed=0,
        seconds_per_frame=1 / FPS,
        body_at_pixel=scene().surface.astype(np.int16),
        body_name=BODIES,
        body_rigid_group=np.arange(3),
        body_is_robot=np.array([0, 1, 0]),
        world_from_body=np.stack([board.world_from_board for board in scene().boards], axis=1),
    )


def truth() -> Episode:
    return Episode(
        clip_id="scene",
        video=clip(),
        depth_sensor=DepthSensor(scene().depth),
        camera_sensor=CameraSensor(INTRINSICS, scene().world_from_camera),
        events=events(CUTS),
        truth=true_record(),
    )


def known_scene() -> Scene:
    """The same without a file: depth is not rounded to millimetres."""
    return Scene(true_record(), scene().depth, INTRINSICS, scene().world_from_camera)


def chosen_keypoints() -> Keypoints:
    """Thirty-six corners of frame 2 and twenty-four of the first frame of the second chunk, on all boards alike."""
    first, second = scene().corners(2, 36), scene().corners(CHUNK, 24)
    frame = np.repeat([2, CHUNK], [len(first), len(second)])
    return keypoints(np.concatenate([first, second]), frame, NUM_FRAMES, CHUNK)


def true_tracks(chosen: Keypoints) -> Tracks:
    """Paths from the rays and planes of the scene; every position is known from the chunk of selection on."""
    xyz = np.concatenate([scene().path_of(chosen.uv[chosen.frame == frame], frame) for frame in np.unique(chosen.frame)], axis=1)
    uv = np.stack([cameras.project(xyz[t], INTRINSICS, scene().world_from_camera[t])[0] for t in range(NUM_FRAMES)])
    valid = np.arange(NUM_FRAMES)[:, None] >= chosen.chunk_start[chosen.chunk]
    seen = follow(known_scene(), surface_points(known_scene(), chosen.uv, chosen.frame)).visible
    return Tracks(
        tracker="known",
        xyz_world=np.where(valid[..., None], xyz, np.nan).astype(np.float32),
        uv=np.where(valid[..., None], uv, np.nan).astype(np.float32),
        visible=(seen & valid).astype(np.uint8),
        valid=valid.astype(np.uint8),
        keypoint=np.arange(len(chosen.uv), dtype=np.int32),
        entity=chosen.entity,
        born=chosen.frame,
        chunk=chosen.chunk,
    )


@functools.cache
def extraction() -> Episode:
    """What a flawless tracker would hand over."""
    chosen, geometry = chosen_keypoints(), scene().geometry()
    tracks = true_tracks(chosen)
    motion = filter_moving(tracks, geometry, WIDTH, HEIGHT, FilterParameters(), report=Report())
    return Episode(clip_id="scene", video=clip(), keypoints=chosen, geometry=geometry, tracks=tracks, motion=motion, events=events(CUTS))


def changed(episode: Episode, group: str, **fields: object) -> Episode:
    return replace(episode, **{group: replace(getattr(episode, group), **fields)})


def score(folder: Path, found: Episode, true: Episode | None = None, **parameters: float) -> ExtractionScores:
    """Both through files, as a user would."""
    paths = write_episode(folder / "found.h5", found), write_episode(folder / "true.h5", true or truth())
    with open_records(paths[0], EPISODE) as one, open_records(paths[1], EPISODE) as other:
        return evaluate_extraction(one, other, EvaluateParameters(**parameters))
