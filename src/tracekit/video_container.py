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
    except (av.error.FFmpegError, ValueError):
        raise BadDataError(f"{path} cannot be read as a video: {_why_unreadable(path)}", hint="check that the file is complete") from None
    try:
        video_stream(container)
    except LookupError:
        container.close()
        raise BadDataError(f"{path} holds no video stream", hint="give a file with pictures in it") from None
    return container


def _why_unreadable(path: Path) -> str:
    """FFmpeg's own reason goes to its log, which is off; the commonest one is a recording that was never closed."""
    boxes = set()
    with path.open("rb") as stream:
        while len(header := stream.read(16)) >= 8:
            size, name = int.from_bytes(header[:4], "big"), header[4:8]
            size = int.from_bytes(header[8:16], "big") if size == 1 else size
            boxes.add(name)
            if name not in (b"ftyp", b"mdat", b"free", b"skip", b"wide", b"moov", b"uuid") or size < 8:
                break
            stream.seek(size - len(header), os.SEEK_CUR)
    if b"ftyp" in boxes and b"moov" not in boxes:
        return "it is an MP4 whose index (moov) is missing, as when a recording was cut off"
    return "its content is no kind of video file that we know"


def is_cover(stream: VideoStream) -> bool:
    """Whether the stream is the picture on the cover of a song."""
    return bool(stream.disposition & Disposition.attached_pic)


def video_stream(container: InputContainer) -> VideoStream:
    """The first video stream that is not the cover of a song. Raises LookupError without one."""
    for stream in container.streams.video:
        if not is_cover(stream) and stream.codec_context is not None:
            return stream
    raise LookupError("no video stream")


def seconds(ticks: np.ndarray, time_base: Fraction) -> np.ndarray:
    """Ticks to seconds; `to_ticks` inverts it exactly."""
    return ticks * time_base.numerator / time_base.denominator


def to_ticks(pts: np.ndarray, time_base: Fraction) -> np.ndarray:
    """Seconds to ticks."""
    return np.rint(pts * time_base.denominator / time_base.numerator).astype(np.int64)
