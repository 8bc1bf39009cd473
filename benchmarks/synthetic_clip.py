"""A clip of any length for benchmarks: textured squares that circle before a textured wall, with its depth and camera."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from tracekit import video
from tracekit.format.file import Target, write_records
from tracekit.format.schema import EPISODE
from tracekit.records import CameraSensor

WALL, SQUARE = 2.0, 1.5
"""Distance of the wall and of the squares, in metres."""


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Coloured noise with detail at several scales."""
    layers = [
        cv2.resize(rng.random((height // s + 2, width // s + 2, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        for s in (4, 12, 40)
    ]
    return np.clip(255 * (np.mean(layers, axis=0) * 1.6 - 0.3), 0, 255).astype(np.uint8)


def scene(num_frames: int, width: int, height: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames (H, W, 3) and depth (H, W) in metres, one after the other."""
    rng = np.random.default_rng(0)
    wall = texture(rng, height, width)
    side = height // 4
    squares = [texture(rng, side, side) for _ in range(3)]
    for t in range(num_frames):
        frame, depth = wall.copy(), np.full((height, width), WALL, np.float32)
        for number, square in enumerate(squares):
            angle = 2 * np.pi * (t / 150 + number / 3)
            row = round((height - side) / 2 * (1 + 0.7 * np.sin(angle)))
            column = round((width - side) / 2 * (1 + 0.8 * np.cos(angle)))
            frame[row : row + side, column : column + side] = square
            depth[row : row + side, column : column + side] = SQUARE
        yield frame, depth


def write_clip(folder: Path, num_frames: int, width: int = 640, height: int = 480) -> tuple[Path, Path]:
    """Write clip.mp4 and sensor.h5 (depth and intrinsics, no poses) into `folder`."""
    clip_path, sensor_path = folder / f"clip{num_frames}.mp4", folder / f"sensor{num_frames}.h5"
    video.write_video(clip_path, (frame for frame, _ in scene(num_frames, width, height)), 30.0, crf=23, gop=30)
    clip, _ = video.open_clip(clip_path)
    intrinsics = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    with write_records(Target(sensor_path), EPISODE, "sensor") as writer:
        writer.put(clip)
        writer.put(CameraSensor(intrinsics))
        sink = writer.depth_sink("depth_sensor", num_frames, metric=True)
        for t, (_, depth) in enumerate(scene(num_frames, width, height)):
            sink(t, depth[None])
    return clip_path, sensor_path
