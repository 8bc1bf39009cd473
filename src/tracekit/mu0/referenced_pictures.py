"""Pictures that a corpus names by video and frame instead of holding them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracekit.errors import BadDataError, MissingInputError
from tracekit.video import ClipFrames, open_clip

_NUM_OPEN = 8
_NUM_KNOWN = 4096  # a list of times each, and no decoder


@dataclass
class _Video:
    frames: ClipFrames
    source_frame: np.ndarray


class ReferencedPictures:
    """Frames of many videos. A few decoders stay open, those used last; each opens in the process that reads. May be pickled."""

    def __init__(self, folders: Sequence[Path], num_open: int = _NUM_OPEN) -> None:
        """`folders` are where a video is looked for, by its name, that is no longer where it was."""
        self._folders = list(folders)
        self._num_open = num_open
        self._known: OrderedDict[str, _Video] = OrderedDict()
        self._open: OrderedDict[str, _Video] = OrderedDict()

    def read(self, uri: str, sha256: str, source_frame: int) -> np.ndarray:
        """Frame `source_frame` (in order of presentation) of the video or folder of images `uri`, (H, W, 3) uint8 RGB.

        Raises MissingInputError when it is in none of the places, BadDataError when its content is not that of `sha256`.
        """
        video = self._known.get(uri) or self._indexed(uri, sha256)
        for table, room in ((self._known, _NUM_KNOWN), (self._open, self._num_open)):
            table[uri] = video
            table.move_to_end(uri)
            while len(table) > room:
                table.popitem(last=False)[1].frames.close()
        place = int(np.searchsorted(video.source_frame, source_frame))
        if place == len(video.source_frame) or video.source_frame[place] != source_frame:
            raise BadDataError(f"frame {source_frame} of {uri} cannot be decoded")
        return video.frames[place]

    def close(self) -> None:
        for video in self._open.values():
            video.frames.close()
        self._known.clear()
        self._open.clear()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_known": OrderedDict(), "_open": OrderedDict()}

    def _indexed(self, uri: str, sha256: str) -> _Video:
        places = [Path(uri), *(folder / Path(uri).name for folder in self._folders)]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise MissingInputError(
                f"the video {Path(uri).name} is not there; looked in {', '.join(dict.fromkeys(str(place.parent) for place in places))}",
                hint="give its folder with --videos, or make the corpus with `tracekit fit-bspline --embed-images`",
            )
        clip, frames = open_clip(found, allow_partial=True)
        if clip.sha256 != sha256:
            raise BadDataError(
                f"{found} has another content than when the corpus was made", hint="bring the old video back, or make the corpus again"
            )
        return _Video(frames, clip.source_frame)
