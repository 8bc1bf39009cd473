"""Episodes with videos that lie on the disk, tracks that move, rest and have gaps, captions and depth: what corpora are made of in tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from conftest import small_episode, write_episode

from tracekit.records import Captions, Episode
from tracekit.video import open_clip, write_video

NUM_FRAMES, NUM_MOVING, NUM_STATIC = 64, 9, 5
WIDTH, HEIGHT = 96, 64


def pictures(number: int, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """(T, H, W, 3) uint8: a blurred texture that slides to the right by one pixel a frame."""
    noise = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    return np.stack([np.roll(texture, frame, axis=1) for frame in range(num_frames)])


def captions(num_frames: int) -> Captions:
    """Two events with two paraphrases each, a summary of both and a sentence about the clip."""
    middle = num_frames // 2
    return Captions(
        captioner="test",
        episode_text="tidy up",
        event_start=np.array([0, middle]),
        event_stop=np.array([middle, num_frames]),
        event_ok=np.array([1, 1]),
        event_before=["", ""],
        event_interaction=["", ""],
        event_after=["", ""],
        event_text=["reach", "grasp"],
        event_paraphrases=[["go there", "approach"], ["pick up", "grip"]],
        summary_start=np.array([0]),
        summary_stop=np.array([num_frames]),
        summary_level=np.array([2]),
        summary_text=["reach and grasp"],
    )


def clip(
    folder: Path, number: int, *, depth: bool = True, moving: bool = True, num_frames: int = NUM_FRAMES, captioned: bool = True
) -> Episode:
    """An episode whose video is FOLDER/clip-NUMBER.mp4. Tracks 0 to 8 move, the rest do not; track 1 has a gap, track 2 ends early."""
    base = small_episode()
    assert base.geometry is not None and base.tracks is not None and base.motion is not None
    path = folder / f"clip-{number}.mp4"
    if not path.exists():
        write_video(str(path), pictures(number, num_frames), 10, crf=10, gop=4)
    video, _ = open_clip(path)
    random = np.random.default_rng(100 + number)
    num_tracks = NUM_MOVING + NUM_STATIC
    time = np.arange(num_frames)[:, None, None] / 10
    start = np.stack(
        [random.uniform(-0.5, 0.5, num_tracks), random.uniform(-0.4, 0.4, num_tracks), random.uniform(1, 4, num_tracks)], axis=1
    )
    phase, amplitude = random.uniform(0, 6, (num_tracks, 3)), random.uniform(0.05, 0.3, (num_tracks, 3))
    amplitude[NUM_MOVING:] = 0
    xyz = start + amplitude * np.sin(time + phase)
    valid = np.ones((num_frames, num_tracks), np.uint8)
    valid[num_frames // 3 : num_frames // 3 + 3, 1] = 0
    valid[num_frames // 2 :, 2] = 0
    xyz[valid == 0] = np.nan
    index = np.arange(num_tracks, dtype=np.int32)
    is_moving = ((index < NUM_MOVING) & moving).astype(np.uint8)
    grid = np.linspace(0.8, 5.0, (HEIGHT // 2) * (WIDTH // 2), dtype=np.float32).reshape(1, HEIGHT // 2, WIDTH // 2)
    pixels = (grid + np.zeros((num_frames, 1, 1), np.float32)).copy()
    pixels[:, :3] = 0  # nothing is known there
    intrinsics = np.array([[90.0, 0, WIDTH / 2 - 0.5], [0, 90.0, HEIGHT / 2 - 0.5], [0, 0, 1]])
    return Episode(
        clip_id=f"clip-{number}",
        video=video,
        geometry=dataclasses.replace(
            base.geometry,
            intrinsics=intrinsics,
            world_from_camera=np.tile(np.eye(4), (num_frames, 1, 1)),
            frame_confidence=np.ones(num_frames),
            anchor_frame=np.array([0, num_frames - 1]),
            chunk_stop=np.array([num_frames]),
            depth=pixels if depth else None,
        ),
        tracks=dataclasses.replace(
            base.tracks,
            xyz_world=xyz,
            uv=np.where(valid[..., None], xyz[..., :2] / xyz[..., 2:] * 90 + intrinsics[:2, 2], np.nan),
            visible=valid,
            valid=valid,
            keypoint=index,
            entity=index % 3,
            born=0 * index,
            chunk=0 * index,
        ),
        motion=dataclasses.replace(base.motion, diameter_px=np.full(num_tracks, 50.0), reference_frame=0 * index, moving=is_moving),
        captions=captions(num_frames) if captioned else None,
    )


def write_clip(folder: Path, number: int, **changes: object) -> Path:
    """FOLDER/clip-NUMBER.h5 and its video."""
    return write_episode(folder / f"clip-{number}.h5", clip(folder, number, **changes))  # type: ignore[arg-type]
