"""A corpus that is small enough to train on in a test: four clips of two things that drift apart, drawn and with depth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from conftest import small_episode, write_episode

from tracekit.cli import run
from tracekit.records import Episode

NUM_FRAMES, NUM_TRACKS = 60, 8
WIDTH, HEIGHT = 64, 48


def drifting_clip(number: int, num_frames: int = NUM_FRAMES, speed: float = 0.4) -> Episode:
    """Two strips of four tracks each, one to the left and one to the right, at a pace of the clip's own."""
    base = small_episode()
    assert base.video is not None and base.geometry is not None and base.tracks is not None and base.motion is not None
    time = np.arange(num_frames)
    entity = np.arange(NUM_TRACKS) % 2
    start = np.stack([np.linspace(-0.5, 0.5, NUM_TRACKS), np.linspace(-0.3, 0.3, NUM_TRACKS), np.full(NUM_TRACKS, 2.0)], axis=1)
    pace = speed * (1 + 0.3 * number) / num_frames
    xyz = start[None].repeat(num_frames, axis=0)
    xyz[:, :, 0] += pace * time[:, None] * np.where(entity, 1, -1)
    intrinsics = base.geometry.intrinsics
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    frames = np.full((num_frames, HEIGHT, WIDTH, 3), 40 + 20 * number, np.uint8)
    for frame in range(num_frames):
        frames[frame, :, (20 - frame // 4) % WIDTH] = (200, 60, 60)
        frames[frame, :, (40 + frame // 4) % WIDTH] = (60, 200, 60)
    ones = np.ones((num_frames, NUM_TRACKS), np.uint8)
    index = np.arange(NUM_TRACKS, dtype=np.int32)
    return Episode(
        clip_id=f"drift-{number}",
        video=dataclasses.replace(
            base.video,
            uri=f"/nowhere/drift-{number}.mp4",
            sha256=f"{number:064d}",
            num_source_frames=num_frames,
            pts=time / 10,
            source_frame=time,
            frames=frames,
        ),
        geometry=dataclasses.replace(
            base.geometry,
            world_from_camera=poses,
            frame_confidence=np.ones(num_frames),
            anchor_frame=np.array([0, num_frames - 1]),
            chunk_stop=np.array([num_frames]),
            depth=np.full((num_frames, HEIGHT // 2, WIDTH // 2), 2.0 + 0.1 * number, np.float32),
        ),
        tracks=dataclasses.replace(
            base.tracks,
            xyz_world=xyz,
            uv=xyz[..., :2] / xyz[..., 2:] * intrinsics[0, 0] + intrinsics[:2, 2],
            visible=ones,
            valid=ones,
            keypoint=index,
            entity=entity.astype(np.int32),
            born=0 * index,
            chunk=0 * index,
        ),
        motion=dataclasses.replace(
            base.motion, diameter_px=np.full(NUM_TRACKS, 50.0), reference_frame=0 * index, moving=np.ones(NUM_TRACKS, np.uint8)
        ),
    )


def make_corpus(folder: Path, num_clips: int = 4, **clip: float) -> Path:
    """FOLDER/corpus.h5, through the commands that make one."""
    folder.mkdir(parents=True, exist_ok=True)
    episodes = [write_episode(folder / f"drift-{number}.h5", drifting_clip(number, **clip)) for number in range(num_clips)]
    corpus = folder / "corpus.h5"
    assert run(["fit-bspline", "-q", "--embed-images", "--embed-depth", *map(str, episodes), "-o", str(corpus)]) == 0
    return corpus
