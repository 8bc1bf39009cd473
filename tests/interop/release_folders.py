"""An episode that a camera films in motion, and the folder that the release's infer.py would write of it, made from its documentation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from conftest import small_episode
from corpus_clips import captions

from tracekit.geometry import se3
from tracekit.records import Episode

T, N, WIDTH, HEIGHT = 48, 12, 160, 120
FOCAL = 150.0
FUTURE_LEN, HISTORY_LEN = 128, 32
LEAVES, NOT_BORN, STATIC = 3, 5, (10, 11)
"""A track that leaves the image for some frames and returns, one that begins late, and two that do not move."""


def moving_camera_episode() -> Episode:
    """48 frames; the camera travels and turns; tracks 0 to 9 move. Track 5 begins at frame 20, track 3 is out of the image for a while."""
    base = small_episode()
    assert base.geometry is not None and base.tracks is not None and base.motion is not None
    time = np.arange(T)
    angle = 0.004 * time
    rotation = np.zeros((T, 3, 3))
    rotation[:, 0, 0] = rotation[:, 2, 2] = np.cos(angle)
    rotation[:, 0, 2], rotation[:, 2, 0] = np.sin(angle), -np.sin(angle)
    rotation[:, 1, 1] = 1
    poses = se3.from_rotation_translation(rotation, np.stack([0.004 * time, 0.002 * time, 0.003 * time], axis=1))
    random = np.random.default_rng(3)
    start = np.stack([random.uniform(-0.4, 0.4, N), random.uniform(-0.3, 0.3, N), random.uniform(1.2, 1.8, N)], axis=1)
    amplitude = random.uniform(0.05, 0.15, (N, 3))
    amplitude[list(STATIC)] = 0
    xyz = start + amplitude * np.sin(0.15 * time[:, None, None] + random.uniform(0, 6, (N, 3)))
    xyz[:, LEAVES, 0] += 1.5 * np.exp(-(((time - 24) / 5) ** 2))  # to the right and back
    valid = np.ones((T, N), np.uint8)
    valid[:20, NOT_BORN] = 0
    intrinsics = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
    camera = se3.transform_points(se3.inverse(poses), xyz)
    uv = camera[..., :2] / camera[..., 2:] * FOCAL + intrinsics[:2, 2]
    inside = (uv >= -0.5).all(axis=2) & (uv <= [WIDTH - 0.5, HEIGHT - 0.5]).all(axis=2)
    xyz[valid == 0] = np.nan
    uv[valid == 0] = np.nan
    index = np.arange(N, dtype=np.int32)
    depth = np.round(random.uniform(0.5, 4, (T, HEIGHT, WIDTH)), 3).astype(np.float32)
    depth[:, :4] = 0
    return Episode(
        clip_id="walk",
        video=dataclasses.replace(
            base.video,
            width=WIDTH,
            height=HEIGHT,
            source_width=WIDTH,
            source_height=HEIGHT,
            num_source_frames=T,
            fps=12.5,
            pts=time / 12.5,
            source_frame=time,
            frames=random.integers(0, 256, (T, HEIGHT, WIDTH, 3), dtype=np.uint8),
        ),
        geometry=dataclasses.replace(
            base.geometry,
            intrinsics=intrinsics,
            world_from_camera=poses,
            frame_confidence=np.ones(T),
            anchor_frame=np.array([0, T - 1]),
            chunk_stop=np.array([T]),
            depth=depth,
        ),
        tracks=dataclasses.replace(
            base.tracks,
            xyz_world=xyz.astype(np.float32),
            uv=uv,
            visible=(valid & inside).astype(np.uint8),
            valid=valid,
            keypoint=index,
            entity=index % 3,
            born=valid.argmax(axis=0),
            chunk=0 * index,
        ),
        motion=dataclasses.replace(
            base.motion, diameter_px=np.full(N, 50.0), reference_frame=0 * index, moving=(~np.isin(index, STATIC)).astype(np.uint8)
        ),
        captions=captions(T),
    )


def write_by_the_book(folder: Path, episode: Episode) -> Path:
    """The folder, written in plain loops from docs/output_structure.md of TraceExtract: nothing of tracekit's own writer is used.

    Pixels count from the edge of the image, so the principal point of this camera is the middle of the image.
    """
    geometry, tracks, motion = episode.geometry, episode.tracks, episode.motion
    assert geometry is not None and tracks is not None and motion is not None
    samples = folder / "samples"
    samples.mkdir(parents=True)
    np.save(folder / "images.npy", np.asarray(episode.video.frames))
    np.save(folder / "depth.npy", np.asarray(geometry.depth).astype(np.float16))
    intrinsics = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], np.float32)
    extrinsics = np.linalg.inv(geometry.world_from_camera).astype(np.float32)
    np.savez(
        folder / "cameras.npz",
        intrinsics=np.tile(intrinsics, (T, 1, 1)),
        extrinsics=extrinsics,
        height=np.int32(HEIGHT),
        width=np.int32(WIDTH),
    )
    columns: dict[str, list[np.ndarray]] = {}
    frame_indices, offsets = [], [0]
    for t in range(T - 1):
        count = 0
        for n in range(N):
            if not motion.moving[n] or not tracks.valid[t, n]:
                continue
            future = np.full((FUTURE_LEN, 3), -np.inf)
            history = np.full((HISTORY_LEN, 3), -np.inf)
            for k in range(T):
                xyz = tracks.xyz_world[k, n].astype(np.float64)
                if not tracks.valid[k, n]:
                    continue
                seen = intrinsics @ (extrinsics[t, :3, :3] @ xyz + extrinsics[t, :3, 3])
                uvz = np.array([seen[0] / (seen[2] + 1e-8), seen[1] / (seen[2] + 1e-8), seen[2]])
                if 0 <= k - t < FUTURE_LEN:
                    future[k - t] = uvz
                if 0 <= t - k < HISTORY_LEN:
                    history[t - k] = uvz
            if not (0 <= future[0, 0] <= WIDTH and 0 <= future[0, 1] <= HEIGHT):
                continue
            row = {
                "keypoints": future[0, :2].astype(np.float16),
                "cluster_ids": np.int32(tracks.entity[n]),
                "is_moving": np.True_,
                "visibs": np.float16(tracks.visible[t, n]),
                "raw_traj": future.astype(np.float16),
                "raw_traj_history": history.astype(np.float16),
                "raw_valid_steps": np.isfinite(future).all(axis=1),
                "raw_valid_steps_history": np.isfinite(history).all(axis=1),
            }
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
            count += 1
        if count:
            frame_indices.append(t)
            offsets.append(offsets[-1] + count)
    for name, values in columns.items():
        np.save(samples / f"{name}.npy", np.stack(values))
    np.save(samples / "frame_indices.npy", np.array(frame_indices, np.int32))
    np.save(samples / "offsets.npy", np.array(offsets, np.int64))
    return folder
