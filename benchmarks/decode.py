"""Sequential decoding of 640 x 480 H.264 to RGB in chunks of 60 frames, opening included, against what users write."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import av
import cv2
import numpy as np

from tracekit import video

NUM_FRAMES, ROUNDS, GOAL = 600, 5, 0.9


def moving_texture(num_frames: int) -> list[np.ndarray]:
    """Pictures with something of what cameras see: edges on several scales that move, and a little grain."""
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 255, (side, side, 3), np.uint8) for side in (8, 40, 200)]
    scales = [cv2.resize(image, (1280, 1280), interpolation=cv2.INTER_CUBIC) for image in noise]
    canvas = sum(weight * scale.astype(np.float32) for weight, scale in zip((0.5, 0.3, 0.2), scales, strict=True))
    grain = generator.normal(0, 6, (8, 480, 640, 1)).astype(np.float32)
    pictures = []
    for number in range(num_frames):
        x, y = int(300 + 300 * np.sin(number / 60)), int(400 + 390 * np.cos(number / 90))
        pictures.append(np.clip(canvas[y : y + 480, x : x + 640] + grain[number % 8], 0, 255).astype(np.uint8))
    return pictures


def ours(path: str) -> int:
    _, frames = video.open_clip(path)
    return sum(len(frames[start : start + 60]) for start in range(0, len(frames), 60))


def opencv(path: str) -> int:
    capture, number = cv2.VideoCapture(path), 0
    while (image := capture.read()[1]) is not None:
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        number += 1
    return number


def pyav(path: str, threads: str) -> int:
    with av.open(path) as container:
        container.streams.video[0].thread_type = threads
        return sum(frame.to_ndarray(format="rgb24") is not None for frame in container.decode(video=0))


def decord(path: str) -> int:
    from decord import VideoReader

    reader = VideoReader(path, num_threads=0)
    return sum(reader[index].asnumpy() is not None for index in range(len(reader)))


def main() -> list[dict]:
    peers: dict[str, Callable[[str], int]] = {
        "OpenCV": opencv,
        "PyAV, slice threads": lambda path: pyav(path, "SLICE"),
        "PyAV, frame threads": lambda path: pyav(path, "AUTO"),
        "decord": decord,
    }
    if importlib.util.find_spec("decord") is None:
        del peers["decord"]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "video.mp4")
        video.write_video(path, moving_texture(NUM_FRAMES), 30, crf=23, gop=250)
        seconds: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
        for _ in range(ROUNDS):
            for name, decode in {"ours": ours, **peers}.items():
                start = time.perf_counter()
                if decode(path) != NUM_FRAMES:
                    raise SystemExit(f"{name} did not give {NUM_FRAMES} frames")
                seconds[name].append(time.perf_counter() - start)
    rate = {name: NUM_FRAMES / median(times) for name, times in seconds.items()}
    fastest = max(rate[name] for name in peers)
    return [
        {
            "work": f"decode, frames/s, against {name}",
            "ours": rate["ours"],
            "peer": rate[name],
            "ratio": rate["ours"] / rate[name],
            "goal": GOAL if rate[name] == fastest else None,
        }
        for name in peers
    ]


if __name__ == "__main__":
    from table import print_table

    print_table(main())
