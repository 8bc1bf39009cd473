"""PyAV, the reference decoder: any frame of a video, exactly.

A frame is known by its presentation time. Every frame that is read is checked against the list that `video_index` made, by
its time and by the count of frames since the last one, so a frame is never mistaken for another.

The fast decoder uses several threads for several frames, and gives up a frame at the first fault in it: with threads like
these FFmpeg would otherwise pass off damaged pictures as good ones. What it misses, the reference decoder is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from tracekit.errors import BadDataError
from tracekit.video_container import open_video, to_ticks, video_stream
from tracekit.video_index import count_frames, damaged

NAME = f"pyav {av.__version__}"
COUNTING = f"{NAME}, counting frames"
"""Recorded for a video without usable timestamps: its frames are known by their count alone, so every seek starts over."""

_NEAR = 8
"""Frames that are sooner decoded than skipped by a seek."""
_LONG_RUN = 64
"""So many frames in order are a sequential read, and a seek this far is worth a try where keyframes are not known."""
_SHORT_GROUP = 32
"""Frames in a group of pictures in which one thread finds a frame sooner than many: they all start, and most work is thrown away."""
_NUM_SEEKS = 8
_LOST = np.iinfo(np.int64).max


class _Mode(Enum):
    """How a decoder is set up."""

    REFERENCE = "as plain PyAV does"
    SEQUENTIAL = "several frames at a time"
    SEEKING = "one frame at a time"


def decoded_frames(stream: VideoStream, packets: Iterable[Packet], skip_before: int | None = None) -> Iterator[VideoFrame]:
    """Decode packets. Frames before `skip_before` (ticks) may be left out where no other frame needs them.

    What cannot be decoded is passed over: the reader misses it by its tick or by the count.
    """
    codec = stream.codec_context
    for packet in packets:
        codec.skip_frame = "NONREF" if skip_before is not None and packet.pts is not None and packet.pts < skip_before else "DEFAULT"
        try:
            frames = codec.decode(packet)
        except av.error.InvalidDataError:
            frames = []
        yield from frames


class PyavReader:
    """Reads chosen frames of a video in any order, quickest forwards. Every frame is checked: by its tick, and by the count
    of frames since the last one read."""

    def __init__(self, path: Path, pts: np.ndarray, source_frame: np.ndarray, *, counting: bool = False) -> None:
        """`pts` (T,) seconds and `source_frame` (T,) of the frames that can be asked for."""
        self._path = path
        self._counting = counting
        self._source_frame = source_frame
        self._reformatter = VideoReformatter()
        # Where frames are known by their count, the decoder must yield just those that the reference yields.
        self._open(_Mode.REFERENCE if counting else _Mode.SEQUENTIAL)
        self._ticks = to_ticks(pts, self._stream.time_base or Fraction(1))
        if not counting and "matroska" in self._container.format.name:
            # It reads its index at the first seek.
            self._container.seek(self._stream.start_time or 0, stream=self._stream)
            self._frames = decoded_frames(self._stream, self._container.demux(self._stream))
        self._keyframes = np.array([entry.timestamp for entry in self._stream.index_entries if entry.is_keyframe], np.int64)
        self._groups_are_short = len(self._keyframes) > 1 and source_frame[-1] / len(self._keyframes) <= _SHORT_GROUP

    def _open(self, mode: _Mode) -> None:
        """Start over, before the first frame."""
        self._container = open_video(self._path)
        self._stream = video_stream(self._container)
        self._mode = mode
        if mode is not _Mode.REFERENCE:
            self._stream.codec_context.thread_type = "AUTO" if mode is _Mode.SEQUENTIAL else "SLICE"
            self._stream.codec_context.options = {"err_detect": "explode"}
        self._frames = decoded_frames(self._stream, self._container.demux(self._stream))
        self._last = -1
        """Source index of the frame that was decoded last."""
        self._run = 0
        """Frames decoded in order since the last seek."""

    def read(self, index: int) -> np.ndarray:
        """Frame `index` as (height, width, 3) uint8 RGB, before rotation. Raises BadDataError when it cannot be decoded."""
        behind = self._source_frame[index] <= self._last
        frame = None
        if not self._counting and (behind or self._jump_pays(index)):
            frame = self._jump(index)
        elif not behind:
            frame = self._advance(index)
        if frame is None:
            # The arbiter: the whole video from its start, as the reference decode goes.
            self._open(_Mode.REFERENCE)
            frame = self._advance(index)
        if frame is None:
            self._last = _LOST
            raise self._damaged(index)
        self._last = int(self._source_frame[index])
        return self._rgb(frame)

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def _advance(self, index: int) -> VideoFrame | None:
        """Decode on to the frame; None if another one is in its place."""
        num_ahead = int(self._source_frame[index]) - self._last
        self._run += num_ahead
        if self._mode is _Mode.SEEKING and self._run > _LONG_RUN:
            run = self._run
            self._open(_Mode.SEQUENTIAL)
            self._run = run
            return self._jump(index)
        try:
            frame = next(islice(self._frames, num_ahead - 1, None), None)
        except av.error.FFmpegError:
            return None
        if frame is None or frame.is_corrupt or not (self._counting or frame.pts == self._ticks[index]):
            return None
        return frame

    def _jump_pays(self, index: int) -> bool:
        """Whether a keyframe lies between here and there, and saves more frames than a seek costs."""
        num_ahead = int(self._source_frame[index]) - self._last
        if num_ahead <= _NEAR:
            return False
        if len(self._keyframes) <= 1 and "mp4" not in self._container.format.name:
            return num_ahead > _LONG_RUN
        ticks, frames = self._ticks, self._source_frame
        ticks_a_frame = max(1.0, (ticks[-1] - ticks[0]) / max(1, frames[-1] - frames[0]))
        keyframe = self._keyframes[max(0, np.searchsorted(self._keyframes, ticks[index], side="right") - 1)]
        return bool(num_ahead - (ticks[index] - keyframe) / ticks_a_frame > _NEAR)

    def _jump(self, index: int) -> VideoFrame | None:
        """Seek to a keyframe at or before the frame, and decode from there; back off to earlier ones until the tick is exact."""
        target = aim = int(self._ticks[index])
        if self._mode is _Mode.SEQUENTIAL and self._groups_are_short and self._run < _LONG_RUN:
            self._open(_Mode.SEEKING)
        self._run = 0
        for attempt in range(_NUM_SEEKS):
            try:
                self._container.seek(aim, stream=self._stream)
                packets = self._container.demux(self._stream)
                # What precedes the first keyframe cannot be decoded, and what it leads in may lack its references.
                first = next((packet for packet in packets if packet.is_keyframe), None)
                if first is None or first.pts is None:
                    return None
                if first.pts <= target:
                    self._frames = decoded_frames(self._stream, chain([first], packets), skip_before=target if attempt == 0 else None)
                    frame = next((frame for frame in self._frames if frame.pts is None or frame.pts >= target), None)
                    if frame is not None and frame.pts == target and not frame.is_corrupt:
                        return frame
            except av.error.FFmpegError:
                return None
            landed = first.pts if first.dts is None else min(first.pts, first.dts)
            # Formats without an index (MPEG-TS) may land behind the aim: step back ever further.
            aim = min(aim, landed) - 1 - (4**attempt - 1) * int(max(1, round(0.1 / float(self._stream.time_base or 1))))
        return None

    def _rgb(self, frame: VideoFrame) -> np.ndarray:
        # One thread: libswscale's own threads cost more than they bring beside the decoder's.
        plane = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        return rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)

    def _damaged(self, index: int) -> BadDataError:
        num_promised, num_decoded = count_frames(self._path)
        if num_decoded < num_promised:
            return damaged(self._path, num_promised, num_decoded)
        return BadDataError(
            f"frame {self._source_frame[index]} of {self._path} is not where its timestamp says",
            hint="run `tracekit keypoints` on the video again",
        )
