"""Writing videos: H.264 with short groups of pictures, so that any frame of them is quickly read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from typing import IO, Any

import av
import numpy as np

from tracekit.errors import BadDataError


def write_video(target: str | os.PathLike | IO[bytes], frames: Iterable[np.ndarray], fps: float, *, crf: int = 18, gop: int = 2) -> int:
    """Write frames, each (H, W, 3) uint8 RGB, as an MP4 and return their number.

    Odd sides grow by one pixel, a copy of the last: H.264 in 4:2:0 knows even sizes only. A stream that cannot seek gets a
    fragmented MP4. `crf` is x264's quality (0 lossless to 51), `gop` the distance between keyframes.
    Raises BadDataError when there is no frame.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise BadDataError("there are no frames to write")
    height, width = first.shape[:2]
    rate = Fraction(fps).limit_denominator(30000)
    with av.open(*_opened(target), mode="w", format="mp4", options=_container_options(target)) as container:
        codec_options = {"crf": str(crf), "preset": "veryfast", "x264-params": "scenecut=0:log-level=none"}
        stream = container.add_stream("libx264", rate=rate, options=codec_options)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.time_base = gop, 1 / rate
        number = 0
        for image in chain([first], frames):
            if image.shape != (height, width, 3) or image.dtype != np.uint8:
                raise ValueError(f"frame {number} is {image.dtype} {image.shape}, not uint8 {(height, width, 3)}")
            padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else image
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
            number += 1
        container.mux(stream.encode(None))
    return number


def _opened(target: str | os.PathLike | IO[bytes]) -> tuple[Any]:
    return (f"file:{os.path.abspath(target)}",) if isinstance(target, (str, os.PathLike)) else (target,)


def _container_options(target: Any) -> dict[str, str]:
    if isinstance(target, (str, os.PathLike)) or target.seekable():
        return {}
    return {"movflags": "frag_keyframe+empty_moov"}
