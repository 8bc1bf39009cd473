"""The pictures of an episode of a LeRobotDataset, one after the other: exact frames of a video, or images out of its rows."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from tracekit import video
from tracekit.errors import BadDataError, MissingInputError
from tracekit.interop.lerobot_layout import VideoPart
from tracekit.report import Report
from tracekit.video import ClipFrames

LARGEST_SIDE = 1 << 13
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Of images in rows. Pillow knows many more, some of which it hands to other programs: EPS to Ghostscript, which runs it."""
_LEAST_TOLERANCE = 1e-4
"""Seconds by which lerobot lets a frame and its row disagree."""


class EpisodeVideos:
    """One camera's videos. The last one stays open: episodes that follow each other often share it."""

    def __init__(self, fps: float, report: Report) -> None:
        self._fps, self._report = fps, report
        self._path: Path | None = None
        self._frames: ClipFrames | None = None
        self._times = np.zeros(0)

    def frames(self, part: VideoPart, timestamps: np.ndarray, name: str) -> Iterator[np.ndarray]:
        """The frames (H, W, 3) uint8 RGB shown at `timestamps` (T,), seconds after the beginning of the part. `name` is the episode's.

        Raises MissingInputError for a video that is not there, BadDataError for one that is damaged, or has no frame of its own for a row.
        """
        frames = self._opened(part.path, name)
        wanted = part.start + timestamps
        places = self._nearest(wanted)
        off = np.abs(self._times[places] - wanted)
        bad = off > max(_LEAST_TOLERANCE, 0.499 / self._fps)
        bad[1:] |= np.diff(places) <= 0
        if bad.any():
            row = int(np.argmax(bad))
            raise BadDataError(
                f"{part.path} has no frame for row {row} of {name}: at {wanted[row]:.3f} s, but its {len(self._times)} frames go from "
                f"{self._times[0]:.3f} to {self._times[-1]:.3f} s",
                hint="the video is shorter than the rows, or does not belong to them",
            )
        for place in places:
            yield frames[int(place)]

    def close(self) -> None:
        if self._frames is not None:
            self._frames.close()
        self._path = self._frames = None

    def _nearest(self, wanted: np.ndarray) -> np.ndarray:
        later = np.clip(np.searchsorted(self._times, wanted), 1, max(1, len(self._times) - 1))
        later = np.minimum(later, len(self._times) - 1)
        earlier = np.maximum(later - 1, 0)
        return np.where(wanted - self._times[earlier] <= self._times[later] - wanted, earlier, later)

    def _opened(self, path: Path, name: str) -> ClipFrames:
        if self._frames is not None and path == self._path:
            return self._frames
        self.close()
        if not path.is_file():
            raise MissingInputError(
                f"{path}, the video of {name}, does not exist", hint="the dataset is not complete: was all of it downloaded?"
            )
        try:
            clip, opened = video.open_clip(path, report=self._report)
        except BadDataError as error:
            raise BadDataError(f"the video of {name} cannot be used: {error.message}") from None
        opened.close()
        if max(clip.source_width, clip.source_height) > LARGEST_SIDE:
            raise BadDataError(f"{path} has {clip.source_width} x {clip.source_height} pixels; no side may be longer than {LARGEST_SIDE}")
        # The processed grid is even; a picture of odd sides is to stay what it is.
        self._frames = ClipFrames(dataclasses.replace(clip, width=clip.source_width, height=clip.source_height), path)
        self._path, self._times = path, clip.pts
        return self._frames


def packed_image(cell: Any, where: str) -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB in a cell {"bytes": ..., "path": ...} of a row, pyarrow's scalar. Raises BadDataError naming `where`."""
    try:
        content = cell["bytes"].as_py() if cell.is_valid else None
    except (KeyError, TypeError):  # no struct, or one of other parts
        content = None
    if not isinstance(content, bytes):
        raise BadDataError(f"{where} holds no image", hint="an image must lie in the row itself; a path to one will not do")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the next lines refuse what is too large
            with Image.open(io.BytesIO(content), formats=_IMAGE_FORMATS) as image:
                if max(image.size) > LARGEST_SIDE:
                    raise BadDataError(f"{where} has {image.size[0]} x {image.size[1]} pixels; no side may be longer than {LARGEST_SIDE}")
                return np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadDataError(f"{where} holds no image that can be read: {str(error)[:200]}") from None
