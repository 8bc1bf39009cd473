"""Videos and folders of images as exact frames: `open_clip` the first time, `open_frames` for a clip from an episode file.

Which frame is which never depends on how it was reached: frame ids count the frames in order of presentation as a full decode
yields them, and every read is checked against the presentation times that were recorded.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from tracekit import image_folder, video_decord, video_pyav
from tracekit.errors import BadDataError, ConfigurationError, MissingInputError, StorageError
from tracekit.image_folder import list_images
from tracekit.records import Clip, Frames
from tracekit.report import Report
from tracekit.video_index import index_video
from tracekit.video_writer import write_video

__all__ = ["ClipFrames", "list_images", "open_clip", "open_frames", "write_video"]

_CACHE_BYTES = 16 << 20
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def open_clip(
    path: str | os.PathLike,
    *,
    fps: float | None = None,
    max_size: int = 0,
    source_fps: float = 10.0,
    decoder: str = "auto",
    allow_partial: bool = False,
    report: Report | None = None,
) -> tuple[Clip, ClipFrames]:
    """Open a video file, or a folder of images taken at `source_fps`.

    `fps` keeps the frames nearest to a uniform grid of time, none of them twice; None keeps all. `max_size` bounds the longest
    side of the processed grid in pixels, which is never larger than the video; 0 keeps the video's size, made even. `decoder`
    is "auto" (PyAV), "pyav", or "decord" for plain H.264. With `allow_partial` what can be decoded of a damaged video is
    taken, and the clip says how many frames are missing.

    Raises MissingInputError (no such file), BadDataError (no video, damaged, images of different sizes), ConfigurationError
    (an argument out of range, or decord for a video that it may get wrong) and UnavailableError (no decord).
    """
    for value, flag in ((fps, "--fps"), (source_fps, "--source-fps")):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigurationError(f"{flag} is {value}, but must be above 0")
    if max_size < 0:
        raise ConfigurationError(f"--max-size is {max_size}, but must not be negative")
    if decoder not in ("auto", "pyav", "decord"):
        raise ConfigurationError(f"--decoder is {decoder!r}", hint="choose one of: auto, pyav, decord")
    report = report or Report()
    path = Path(os.path.abspath(path))
    if path.is_dir():
        clip = _clip_of_folder(path, source_fps, allow_partial)
        report.note(f"a folder of images does not tell its rate: {source_fps:g} frames per second taken (--source-fps)")
    else:
        clip = _clip_of_video(path, decoder, allow_partial, report)
    if clip.num_missing_frames:
        report.count("frames of the video that could not be decoded", clip.num_missing_frames)
    clip = _on_grid(_thinned(clip, fps, report), max_size)
    return clip, ClipFrames(clip, path)


def open_frames(clip: Clip, *, search: Sequence[Path] = ()) -> Frames:
    """The frames of a clip that was read from an episode file: embedded ones, or those of the video at `clip.uri` or, under the
    same name, in one of the folders in `search` (a path of the video itself will do, too).

    Raises MissingInputError when the video is in none of these places, BadDataError when its content has changed.
    """
    if clip.frames is not None:
        return clip.frames
    name = Path(clip.uri).name
    candidates = [Path(clip.uri), *(place for folder in search for place in (Path(folder) / name, Path(folder)))]
    of_images = clip.decoder.startswith("images")
    found = [path for path in candidates if (path.is_dir() if of_images else path.is_file())]
    changed = []
    for path in found:
        if of_images and path != Path(clip.uri) and path.name != name:
            continue
        if _sha256(path) == clip.sha256:
            return ClipFrames(clip, path)
        changed.append(path)
    if changed:
        raise BadDataError(
            f"the video has changed since the episode was made: {changed[0]} has another content",
            hint="bring the old video back, name it with --video, or run the pipeline again from `tracekit keypoints`",
        )
    places = ", ".join(dict.fromkeys(str(path.parent.absolute()) for path in candidates[:1] + candidates[1::2]))
    raise MissingInputError(f"the video {name} is not there; looked in {places}", hint="say where it is with --video PATH")


def _clip_of_folder(path: Path, source_fps: float, allow_partial: bool) -> Clip:
    index = image_folder.index_folder(path, allow_partial=allow_partial)
    return Clip(
        uri=str(path),
        sha256=index.sha256,
        fps=source_fps,
        width=index.width,
        height=index.height,
        source_width=index.width,
        source_height=index.height,
        rotation=0,
        decoder=image_folder.NAME,
        num_source_frames=index.num_images,
        num_missing_frames=index.num_images - len(index.readable),
        pts=index.readable / source_fps,
        source_frame=index.readable,
    )


def _clip_of_video(path: Path, decoder: str, allow_partial: bool, report: Report) -> Clip:
    if not path.exists():
        raise MissingInputError(f"there is no file {path}", hint="check the name")
    if not path.is_file():
        raise BadDataError(f"{path} is neither a file nor a folder of images")
    if path.stat().st_size == 0:
        raise BadDataError(f"{path} is empty (0 bytes)")
    index = index_video(path, allow_partial=allow_partial)
    for note in index.notes:
        report.note(note)
    name = video_pyav.COUNTING if index.counting else video_pyav.NAME
    if decoder == "decord":
        if reason := video_decord.why_not(index):
            raise ConfigurationError(f"decord may get {path} wrong: {reason}", hint="leave --decoder at auto")
        name = video_decord.name()
    turned = index.rotation in (90, 270)
    width, height = (index.height, index.width) if turned else (index.width, index.height)
    return Clip(
        uri=str(path),
        sha256=_sha256(path),
        fps=index.rate,
        width=width,
        height=height,
        source_width=width,
        source_height=height,
        rotation=index.rotation,
        decoder=name,
        num_source_frames=len(index.pts),
        num_missing_frames=index.num_missing,
        pts=index.pts[index.whole],
        source_frame=index.whole,
    )


def _sha256(path: Path) -> str:
    """Digest of a video file, or of a folder of images."""
    if path.is_dir():
        return image_folder.hash_folder(path)
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except PermissionError:
        raise MissingInputError(f"{path} cannot be opened: permission denied") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from None


def _thinned(clip: Clip, fps: float | None, report: Report) -> Clip:
    """Keep the frames nearest to the times t0 + i / fps, the earlier one of two that are as near."""
    pts, source_rate = clip.pts, _mean_rate(clip.pts, clip.fps)
    kept = np.arange(len(pts))
    if fps is not None and fps > source_rate * (1 + 1e-6):
        report.note(f"{fps:g} frames per second were asked for; the video has {source_rate:g}, and all are kept")
    elif fps is not None:
        # The last frame is shown for half an interval more, as every frame is before and after its time.
        shown_until = pts[-1] + 0.5 / source_rate - 1e-9
        times = pts[0] + np.arange(int((shown_until - pts[0]) * fps) + 1) / fps
        later = np.clip(np.searchsorted(pts, times), 1, max(1, len(pts) - 1))
        # A nanosecond in favour of the earlier frame, so that rounding never decides between two that are as near.
        earlier_is_near = times - pts[later - 1] <= pts[np.minimum(later, len(pts) - 1)] - times + 1e-9
        kept = np.unique(np.minimum(np.where(earlier_is_near, later - 1, later), len(pts) - 1))
    rate = _mean_rate(pts[kept], fps if fps is not None and fps < source_rate else source_rate)
    return dataclasses.replace(clip, fps=rate, pts=pts[kept], source_frame=clip.source_frame[kept])


def _mean_rate(pts: np.ndarray, otherwise: float) -> float:
    """Frames per second; a single frame has no rate of its own."""
    return float((len(pts) - 1) / (pts[-1] - pts[0])) if len(pts) > 1 else float(otherwise)


def _on_grid(clip: Clip, max_size: int) -> Clip:
    """Set the processed grid: the source's shape, no side above `max_size` or the source's own, both even."""
    longest = max(clip.source_width, clip.source_height)
    limit = min(max_size or longest, longest)

    def side(length: int) -> int:
        return max(2, min(2 * round(length * limit / longest / 2), 2 * (min(length, limit) // 2)))

    return dataclasses.replace(clip, width=side(clip.source_width), height=side(clip.source_height))


class _Reader(Protocol):
    """Yields source frames by their index in the clip, before rotation and resizing."""

    def read(self, index: int) -> np.ndarray: ...

    def close(self) -> None: ...


class ClipFrames:
    """The frames of a clip on its processed grid, (T, H, W, 3) uint8 RGB, decoded when they are asked for.

    `frames[t]` and `frames[start:stop]` work as on an array. Chunks that follow or overlap each other decode each frame about
    once: the decoder stays where it is, and the last frames (16 MB of them) are kept. It may be pickled, and a forked or
    spawned process opens the file for itself; it is not for several threads at a time.
    """

    def __init__(self, clip: Clip, path: Path) -> None:
        """`path` is where the content of `clip.uri` lies now. Nothing is opened before the first read."""
        self._clip, self._path = clip, path
        self._forget()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self._clip.pts), self._clip.height, self._clip.width, 3

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self._clip.pts)

    def __getitem__(self, index: Any) -> np.ndarray:
        """One frame (H, W, 3) for an int, (n, H, W, 3) for a slice or a sequence of ints. Raises BadDataError if one cannot be decoded."""
        if isinstance(index, (int, np.integer)):
            return self._frame(range(len(self))[index]).copy()
        wanted = np.arange(len(self))[index]
        if wanted.ndim != 1:
            raise IndexError("frames are indexed by an int, a slice or a one-dimensional sequence of ints")
        frames = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        # In order of time, whatever order was asked for: going back costs a seek.
        for place in np.argsort(wanted, kind="stable"):
            frames[place] = self._frame(int(wanted[place]))
        return frames

    def close(self) -> None:
        """Let go of the decoder; the next read opens it anew."""
        if self._reader is not None and self._pid == os.getpid():
            self._reader.close()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"_clip": self._clip, "_path": self._path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_clip"], state["_path"])  # type: ignore[misc]

    def __del__(self) -> None:
        if self._pid != os.getpid():
            self._abandon()

    def _abandon(self) -> None:
        """Neither touch nor free a decoder that was open when the process was forked: it would wait for threads that are not here."""
        if self._reader is not None:
            # One reference too many keeps it alive even while the interpreter shuts down.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._reader))

    def _forget(self) -> None:
        self._reader: _Reader | None = None
        self._pid = os.getpid()
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()

    def _frame(self, index: int) -> np.ndarray:
        """A frame of the processed grid; the caller must not write to it."""
        if self._pid != os.getpid():
            self._abandon()
            self._forget()
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        if self._reader is None:
            self._reader = self._open_reader()
        frame = self._cache[index] = self._processed(self._reader.read(index), index)
        while len(self._cache) > max(1, _CACHE_BYTES // frame.nbytes):
            self._cache.popitem(last=False)
        return frame

    def _open_reader(self) -> _Reader:
        clip = self._clip
        if clip.decoder.startswith("images"):
            return image_folder.FolderReader(self._path, clip.source_frame)
        if clip.decoder.startswith("decord"):
            return video_decord.DecordReader(self._path, clip.pts, clip.source_frame, clip.num_source_frames)
        return video_pyav.PyavReader(self._path, clip.pts, clip.source_frame, counting="counting" in clip.decoder)

    def _processed(self, image: np.ndarray, index: int) -> np.ndarray:
        clip = self._clip
        turned = clip.rotation in (90, 270)
        height, width = (clip.source_width, clip.source_height) if turned else (clip.source_height, clip.source_width)
        if image.shape != (height, width, 3):
            raise BadDataError(
                f"frame {clip.source_frame[index]} of {self._path} is {image.shape[1]} x {image.shape[0]} pixels, "
                f"but the first one is {width} x {height}",
                hint="convert the video to one size",
            )
        size = (clip.height, clip.width) if turned else (clip.width, clip.height)
        if size != (width, height):
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return cv2.rotate(image, _TURNS[clip.rotation]) if clip.rotation else image
