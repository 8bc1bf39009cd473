"""Opening a video file with FFmpeg, by way of PyAV: from this one file only, and without a word on the terminal."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from tracekit.errors import BadDataError, MissingInputError

# Only containers of video and audio: a playlist could make FFmpeg open other files than the one we were given.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,gif,apng,h264,hevc,m4v,mxf,nut,ivf,obu,av1,"
    "rm,wtv,dv,yuv4mpegpipe,mjpeg,vc1,wav,mp3,flac,aac,aiff"
)


def open_video(path: Path) -> InputContainer:
    """Open a video file; its name is never taken for an address."""
    try:
        container = av.open(f"file:{os.path.abspath(path)}", options={"protocol_whitelist": "file", "format_whitelist": _CONTAINERS})
    except (FileNotFoundError, PermissionError) as error:
        raise MissingInputError(f"{path} cannot be opened: {error.strerror}") from None
    except (av.error.FFmpegError, ValueError, UnicodeError) as error:
        log = getattr(error, "log", None)
        reason = log[2].strip() if log else "its content is no container of video that FFmpeg knows"
        raise BadDataError(f"{path} cannot be read as a video: {reason}", hint="check that the file is complete") from None
    try:
        video_stream(container)
    except LookupError:
        container.close()
        raise BadDataError(f"{path} holds no video stream", hint="give a file with pictures in it") from None
    return container


def is_cover(stream: VideoStream) -> bool:
    """Whether the stream is the picture on the cover of a song."""
    return bool(stream.disposition & Disposition.attached_pic)


def video_stream(container: InputContainer) -> VideoStream:
    """The first video stream that is not the cover of a song, decoded by as many threads as help. Raises LookupError without one."""
    for stream in container.streams.video:
        if not is_cover(stream) and stream.codec_context is not None:
            if not stream.codec_context.is_open:
                stream.thread_type = "AUTO"
            return stream
    raise LookupError("no video stream")


def seconds(ticks: np.ndarray, time_base: Fraction) -> np.ndarray:
    """Ticks to seconds; `to_ticks` inverts it exactly."""
    return ticks * time_base.numerator / time_base.denominator


def to_ticks(pts: np.ndarray, time_base: Fraction) -> np.ndarray:
    """Seconds to ticks."""
    return np.rint(pts * time_base.denominator / time_base.numerator).astype(np.int64)
