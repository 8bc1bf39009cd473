"""32 random frames of 3000, opening included, for long, middling and short groups of pictures."""

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
from decode import moving_texture

from tracekit import video

NUM_FRAMES, NUM_WANTED, ROUNDS, GOAL = 3000, 32, 5, 0.9


def ours(path: str, wanted: np.ndarray) -> np.ndarray:
    return video.open_clip(path)[1][wanted]


def opencv(path: str, wanted: np.ndarray) -> np.ndarray:
    capture, pictures = cv2.VideoCapture(path), []
    for index in wanted:
        capture.set(cv2.CAP_PROP_POS_FRAMES, int(index))
        pictures.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    return np.stack(pictures)


def pyav(path: str, wanted: np.ndarray) -> np.ndarray:
    pictures = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        ticks_a_frame = 1 / (stream.average_rate * stream.time_base)
        for index in wanted:
            target = round(index * ticks_a_frame)
            container.seek(target, stream=stream)
            pictures.append(next(frame for frame in container.decode(stream) if frame.pts >= target).to_ndarray(format="rgb24"))
    return np.stack(pictures)


def decord(path: str, wanted: np.ndarray) -> np.ndarray:
    from decord import VideoReader

    return VideoReader(path, num_threads=0).get_batch(wanted).asnumpy()


def main() -> list[dict]:
    peers: dict[str, Callable[[str, np.ndarray], np.ndarray]] = {"OpenCV": opencv, "PyAV": pyav, "decord": decord}
    if importlib.util.find_spec("decord") is None:
        del peers["decord"]
    wanted = np.sort(np.random.default_rng(0).choice(NUM_FRAMES, NUM_WANTED, replace=False))
    pictures, rows = moving_texture(NUM_FRAMES // 10) * 10, []
    for gop in (250, 30, 2):
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "video.mp4")
            video.write_video(path, pictures, 30, crf=23, gop=gop)
            expected = video.open_clip(path)[1][wanted]
            seconds: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
            for _ in range(ROUNDS):
                for name, read in {"ours": ours, **peers}.items():
                    start = time.perf_counter()
                    given = read(path, wanted)
                    seconds[name].append(time.perf_counter() - start)
                    if np.abs(given.astype(np.int16) - expected).mean() > 2:
                        raise SystemExit(f"{name} gave other frames")
        milliseconds = {name: 1000 * median(times) for name, times in seconds.items()}
        fastest = min(milliseconds[name] for name in peers)
        rows += [
            {
                "work": f"32 of 3000 frames, GOP {gop}, ms, against {name}",
                "ours": milliseconds["ours"],
                "peer": milliseconds[name],
                "ratio": milliseconds[name] / milliseconds["ours"],
                "goal": GOAL if milliseconds[name] == fastest else None,
            }
            for name in peers
        ]
    return rows


if __name__ == "__main__":
    from table import print_table

    print_table(main())
