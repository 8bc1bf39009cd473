"""An episode with a moving camera, and an episode folder written by hand as the authors' documentation describes it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from conftest import write_episode
from corpus_clips import HEIGHT, NUM_MOVING, WIDTH, clip

from tracekit.geometry import cameras, se3
from tracekit.records import Episode

NUM_FRAMES = 40
FOCAL = 90.0


def moving_episode(folder: Path, number: int = 0) -> Episode:
    """`corpus_clips.clip` of 40 frames whose camera turns and drifts. Track 0 leaves the image and returns; track 1 has a gap, track 2
    ends in the middle, track 3 is occluded in frames 5 to 9, tracks 9 and later rest."""
    base = clip(folder, number, num_frames=NUM_FRAMES)
    assert base.geometry is not None and base.tracks is not None
    time = np.linspace(0.0, 1.0, NUM_FRAMES)
    angle = 0.1 * np.sin(4 * time)
    rotation = np.stack([[[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]] for a in angle])
    poses = se3.from_rotation_translation(rotation, np.stack([0.2 * time, 0.05 * np.sin(5 * time), 0.3 * time], axis=1))
    xyz = base.tracks.xyz_world.copy()
    xyz[:, 0] = np.stack([1.6 * np.sin(np.pi * time), 0.1 + 0 * time, 2.5 + 0 * time], axis=1)
    visible = base.tracks.visible.copy()
    visible[5:10, 3] = 0
    uv = np.stack([cameras.project(xyz[t], base.geometry.intrinsics, poses[t])[0] for t in range(NUM_FRAMES)])
    return dataclasses.replace(
        base,
        geometry=dataclasses.replace(base.geometry, world_from_camera=poses),
        tracks=dataclasses.replace(base.tracks, xyz_world=xyz.astype(np.float32), uv=uv.astype(np.float32), visible=visible),
    )


def write_moving_episode(folder: Path, number: int = 0) -> Path:
    return write_episode(folder / f"clip-{number}.h5", moving_episode(folder, number))


def moving_tracks() -> np.ndarray:
    """Numbers of the tracks that move."""
    return np.arange(NUM_MOVING)


def write_release_folder(folder: Path, future_len: int = 12, history_len: int = 6) -> np.ndarray:
    """Twenty frames of two points that the camera, which moves along x, sees for the whole time, written without our code: positions (T, 2, 3)
    in the world are returned. Principal point in the middle of the image, in the pixels of the release (0 at the edge)."""
    num_frames = 20
    time = np.arange(num_frames)
    extrinsics = np.tile(np.eye(4, dtype=np.float32), (num_frames, 1, 1))
    extrinsics[:, 0, 3] = -0.01 * time  # camera from world: the camera itself goes to the right
    world = np.stack(
        [
            np.stack([-0.3 + 0.03 * time, 0.1 + 0 * time, 2 + 0 * time], axis=1),
            np.stack([0.2 + 0 * time, -0.2 + 0.02 * time, 1.5 + 0.01 * time], axis=1),
        ],
        axis=1,
    )
    focal, centre = FOCAL, np.array([WIDTH / 2, HEIGHT / 2])
    columns: dict[str, list] = {name: [] for name in ("keypoints", "cluster_ids", "is_moving", "visibs")}
    for name in ("traj", "traj_history"):
        columns |= {f"{kind}{name}": [] for kind in ("", "raw_")}
        columns |= {f"{kind}valid_steps{name.removeprefix('traj')}": [] for kind in ("", "raw_")}
    for t in range(num_frames - 1):
        for point in range(2):
            for name, length, direction in (("traj", future_len, 1), ("traj_history", history_len, -1)):
                path, valid = np.full((length, 3), -np.inf), np.zeros(length, bool)
                for step in range(length):
                    if 0 <= t + direction * step < num_frames:
                        x, y, z = world[t + direction * step, point] + extrinsics[t, :3, 3]
                        path[step] = [focal * x / z + centre[0], focal * y / z + centre[1], z]
                        valid[step] = True
                for kind in ("", "raw_"):
                    columns[f"{kind}{name}"].append(path)
                    columns[f"{kind}valid_steps{name.removeprefix('traj')}"].append(valid)
            columns["keypoints"].append(columns["raw_traj"][-1][0, :2])
            columns["cluster_ids"].append([7, 3][point])
            columns["is_moving"].append(True)
            columns["visibs"].append(0.0 if (t, point) == (4, 1) else 1.0)
    samples = folder / "samples"
    samples.mkdir(parents=True)
    for name, values in columns.items():
        dtype = {"cluster_ids": np.int32, "is_moving": bool}.get(name, bool if "valid" in name else np.float16)
        np.save(samples / f"{name}.npy", np.array(values, dtype))
    np.save(samples / "frame_indices.npy", np.arange(num_frames - 1, dtype=np.int32))
    np.save(samples / "offsets.npy", 2 * np.arange(num_frames, dtype=np.int64))
    np.save(folder / "images.npy", np.arange(num_frames * HEIGHT * WIDTH * 3).reshape(num_frames, HEIGHT, WIDTH, 3).astype(np.uint8))
    depth = np.full((num_frames, HEIGHT, WIDTH), 2.5, np.float16)
    depth[:, 0], depth[:, 1] = np.nan, np.inf
    np.save(folder / "depth.npy", depth)
    intrinsics = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]], np.float32)
    np.savez(
        folder / "cameras.npz",
        intrinsics=np.tile(intrinsics, (num_frames, 1, 1)),
        extrinsics=extrinsics,
        height=np.int32(HEIGHT),
        width=np.int32(WIDTH),
    )
    (folder / "description.txt").write_text("put the cup away\nstore the cup\n", "utf-8")
    (folder / "curated_training_texts.json").write_text(
        json.dumps(
            {
                "chunk_texts": [
                    {"start_idx": 0, "end_idx": 9, "instruction_1": "reach", "instruction_2": "go there", "instruction_3": "approach"},
                    {"start_idx": 10, "end_idx": 19, "instruction_1": "lift", "instruction_2": "", "instruction_3": "raise"},
                ],
                "merged_texts": [
                    {"start_idx": 0, "end_idx": 19, "source_chunk_ids": [0, 1], "instruction_1": "reach and lift", "instruction_2": "both"}
                ],
            }
        ),
        "utf-8",
    )
    return world
