"""decord, an optional decoder: right for plain H.264 only, so it is taken only where that is proven.

decord 0.6 returns wrong frames without a word for edit lists, MPEG-TS and some HEVC, fails on AV1 and hangs in a process that
was forked while it was in use. It decodes no faster than PyAV with frame threads, so `auto` never takes it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.errors import BadDataError, UnavailableError
from tracekit.video_index import VideoIndex


def why_not(index: VideoIndex) -> str | None:
    """What makes a video one that decord may get wrong; None when it is safe."""
    if index.codec != "h264":
        return f"it is encoded as {index.codec}, not H.264"
    if "mp4" not in index.container and "matroska" not in index.container:
        return f"its container is {index.container}, not MP4 or MKV"
    if index.edited:
        return "it has an edit list"
    if index.rotation:
        return "it has a rotation tag"
    if index.counting or index.pts[0] < 0:
        return "its timestamps do not start at zero and increase strictly"
    if index.num_missing:
        return "it is damaged"
    return None


def name() -> str:
    """What is recorded as the decoder."""
    return f"decord {_decord().__version__}"


def _decord() -> Any:
    try:
        import decord
    except (ImportError, OSError):
        raise UnavailableError("decord is not installed", hint="pip install decord, or leave --decoder at auto") from None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


class DecordReader:
    """Reads chosen frames of a plain H.264 video in any order."""

    def __init__(self, path: Path, pts: np.ndarray, source_frame: np.ndarray, num_source_frames: int) -> None:
        """Raises BadDataError when decord counts other frames than PyAV did."""
        decord = _decord()
        self._path, self._source_frame = path, source_frame
        try:
            self._video = decord.VideoReader(f"file:{os.path.abspath(path)}", num_threads=0)
        except (decord.DECORDError, RuntimeError):
            raise self._disagrees("cannot open it") from None
        if len(self._video) != num_source_frames:
            raise self._disagrees(f"counts {len(self._video)} frames, PyAV {num_source_frames}")
        times = self._video.get_frame_timestamp(source_frame)[:, 0]
        # decord counts time from the first frame on.
        if not np.allclose(times - times[0], pts - pts[0], rtol=0, atol=1e-3):
            raise self._disagrees("gives other timestamps than PyAV")

    def read(self, index: int) -> np.ndarray:
        """Frame `index` as (height, width, 3) uint8 RGB."""
        try:
            return self._video[int(self._source_frame[index])].asnumpy()
        except (RuntimeError, IndexError):
            raise self._disagrees(f"cannot decode frame {self._source_frame[index]}") from None

    def close(self) -> None:
        """Let go of the file."""
        del self._video

    def _disagrees(self, how: str) -> BadDataError:
        return BadDataError(f"decord does not agree with PyAV on {self._path}: it {how}", hint="use --decoder pyav")
