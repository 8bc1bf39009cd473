"""Which frames a video has: exactly those, in that order, that a full decode with PyAV yields.

The packets tell it without decoding, where that is proven to say the same; otherwise everything is decoded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from tracekit.errors import BadDataError
from tracekit.video_container import is_cover, open_video, seconds, video_stream

_LISTS_ITS_FRAMES = ("mp4", "matroska")
_ONE_FRAME_A_PACKET = ("h264", "hevc", "vp9", "av1", "libdav1d", "libvpx-vp9", "mjpeg")
_NUM_CHECKED = 16


@dataclass(frozen=True)
class VideoIndex:
    """Which frames a video has, as a full decode yields them."""

    pts: np.ndarray
    """(T,) float64, seconds, strictly increasing; every frame that the decoder yields."""
    whole: np.ndarray
    """(T',) int32: which of them were decoded whole. Of the others the decoder had to invent a part."""
    rate: float
    """Frames per second that the container claims; 25 when it claims none."""
    width: int
    height: int
    """Before the rotation is applied."""
    rotation: int
    """Clockwise degrees, 0, 90, 180 or 270."""
    num_missing: int
    counting: bool
    """The container's timestamps are unusable: `pts` is made from the rate, and frames are known by their count."""
    container: str
    codec: str
    edited: bool
    """An edit list hides some of the frames."""
    notes: tuple[str, ...]


def index_video(path: Path, *, allow_partial: bool = False) -> VideoIndex:
    """List the frames of a video file.

    Raises BadDataError when it is no video, when no frame can be decoded, and, without `allow_partial`, when the container
    promises more frames than there are.
    """
    packets = _list_packets(path)
    decoded = None
    if packets.can_be_trusted and not allow_partial:
        # The first frames show whether this decoder and this muxer mean the same by a timestamp.
        expected = sorted(packets.ticks)
        with open_video(path) as container:
            beginning = _decode(container, stop_after=_NUM_CHECKED)
        if (beginning.ticks, beginning.broken, beginning.num_errors) == (expected[:_NUM_CHECKED], [], 0):
            decoded = replace(beginning, ticks=expected)
    if decoded is None:
        with open_video(path) as container:
            decoded = _decode(container)
    num_whole = len(decoded.ticks) - len(decoded.broken)
    num_missing = _num_missing(packets, decoded)
    if not num_whole:
        raise BadDataError(f"no frame of {path} could be decoded", hint="the file is damaged, or its encoding is not supported")
    if num_missing and not allow_partial:
        raise damaged(path, num_whole + num_missing, num_whole)
    return _describe(path, packets, decoded, num_missing)


def count_frames(path: Path) -> tuple[int, int]:
    """How many frames a video promises, and how many of them can be decoded."""
    packets = _list_packets(path)
    with open_video(path) as container:
        decoded = _decode(container)
    num_whole = len(decoded.ticks) - len(decoded.broken)
    return num_whole + _num_missing(packets, decoded), num_whole


def damaged(path: Path, num_promised: int, num_decoded: int) -> BadDataError:
    """The error for a video of which only a part can be decoded."""
    return BadDataError(
        f"{path} has {num_promised} frames but only {num_decoded} could be decoded",
        hint="repair the file, or take what there is with --allow-partial",
    )


@dataclass(frozen=True)
class _Packets:
    """What the packets of a video say, before anything is decoded."""

    ticks: list
    """Presentation times of the packets that are shown, in order of decoding; None where a packet has none."""
    num_promised: int
    can_be_trusted: bool
    edited: bool
    container: str
    codec: str
    rate: float
    time_base: Fraction
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Decoded:
    """What a decoder yields."""

    ticks: list
    """Presentation times of the frames in order; None where a frame has none."""
    broken: list[int]
    """Which of the frames the decoder had to invent in part."""
    num_errors: int
    picture: tuple[int, int, int]
    """Width and height before rotation, and the clockwise rotation in degrees that the first frame asks for."""


def _list_packets(path: Path) -> _Packets:
    """Read all packets. Frames before the first keyframe belong to a picture that the file does not hold: they are not promised."""
    ticks: list[int | None] = []
    first_key: int | None = None
    num_before, num_faults, edited = 0, 0, False
    with open_video(path) as container:
        stream = video_stream(container)
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue  # the empty packet that ends a stream
                if first_key is None and packet.is_keyframe:
                    first_key = packet.pts
                num_faults += packet.is_corrupt
                edited |= packet.is_discard
                if not packet.is_discard:
                    ticks.append(packet.pts)
        except av.error.FFmpegError:
            num_faults += 1
        known = [tick for tick in ticks if tick is not None]
        if first_key is not None:
            num_before = sum(tick < first_key for tick in known)
        # An MP4 lists its samples, hidden ones included; Matroska states how long the stream lasts.
        num_listed = len(stream.index_entries) - _num_hidden(stream) if "mp4" in container.format.name else 0
        num_lasting = _num_frames_of_duration(stream, known)
        num_promised = max(len(ticks), num_listed, num_lasting) - num_before
        can_be_trusted = (
            num_faults == 0
            and num_before == 0
            and num_promised == len(ticks) == len(known) == len(set(known)) > 0
            and stream.codec_context.name in _ONE_FRAME_A_PACKET
            and any(name in container.format.name for name in _LISTS_ITS_FRAMES)
        )
        return _Packets(
            ticks=ticks,
            num_promised=num_promised,
            can_be_trusted=can_be_trusted,
            edited=edited,
            container=container.format.name,
            codec=stream.codec_context.name,
            rate=float(stream.average_rate or stream.guessed_rate or 25),
            time_base=stream.time_base or Fraction(1),
            notes=tuple(_peculiarities(path, container, stream)),
        )


def _peculiarities(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[str]:
    """What a user should know of a container that is no fault."""
    aspect = stream.codec_context.sample_aspect_ratio
    if aspect and aspect != 1:
        yield f"the pixels of {path} are not square ({aspect.numerator}:{aspect.denominator}); they are taken as stored"
    num_streams = sum(not is_cover(other) for other in container.streams.video)
    if num_streams > 1:
        yield f"{path} holds {num_streams} video streams; the first is used"


def _num_hidden(stream: VideoStream) -> int:
    return sum(entry.is_discard for entry in stream.index_entries)


def _num_frames_of_duration(stream: VideoStream, ticks: list[int]) -> int:
    """How many frames there would be if the stream lasted as long as its DURATION tag (Matroska) says; 0 without a tag."""
    tag = stream.metadata.get("DURATION", "")
    if len(ticks) < 2 or tag.count(":") != 2 or stream.time_base is None:
        return 0
    hours, minutes, seconds = tag.split(":")
    promised = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    times = np.sort(ticks) * float(stream.time_base)
    interval = float(np.median(np.diff(times)))
    # Two frames of leeway: the last one's duration is the writer's choice.
    return round((promised - times[0]) / interval) if promised - times[-1] > 3 * interval > 0 else 0


def _decode(container: InputContainer, *, stop_after: int | None = None) -> _Decoded:
    """Decode a video from its start, going on behind what cannot be decoded."""
    ticks: list[int | None] = []
    broken: list[int] = []
    num_errors, picture = 0, (0, 0, 0)
    stream = video_stream(container)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None or (stop_after is not None and len(ticks) >= stop_after):
                break
            for frame in stream.codec_context.decode(packet):
                if not ticks:
                    picture = frame.width, frame.height, -frame.rotation % 360
                if frame.is_corrupt:
                    broken.append(len(ticks))
                ticks.append(frame.pts)
        except av.error.FFmpegError:
            # A packet that cannot be decoded; when the file itself ends too early, there is no packet after this.
            num_errors += 1
    return _Decoded(ticks[:stop_after], broken, num_errors, picture)


def _num_missing(packets: _Packets, decoded: _Decoded) -> int:
    """Frames that were promised and did not come whole. Where nothing went wrong, a packet without a frame is the codec's way."""
    num_absent = packets.num_promised - len(decoded.ticks)
    if not decoded.num_errors and packets.num_promised <= len(packets.ticks):
        num_absent = 0
    return max(0, num_absent) + len(decoded.broken)


def _describe(path: Path, packets: _Packets, decoded: _Decoded, num_missing: int) -> VideoIndex:
    ticks, notes = decoded.ticks, list(packets.notes)
    counting = None in ticks or any(after <= before for before, after in pairwise(ticks))
    if counting:
        notes.append(f"{path} has no usable timestamps: {packets.rate:g} frames per second are assumed")
        pts = np.arange(len(ticks)) / packets.rate
    else:
        pts = seconds(np.array(ticks, np.int64), packets.time_base)
    width, height, rotation = decoded.picture
    if rotation % 90:
        notes.append(f"{path} asks for a rotation by {rotation} degrees, which is ignored")
        rotation = 0
    return VideoIndex(
        pts=pts,
        whole=np.delete(np.arange(len(ticks), dtype=np.int32), decoded.broken),
        rate=packets.rate,
        width=width,
        height=height,
        rotation=rotation,
        num_missing=num_missing,
        counting=counting,
        container=packets.container,
        codec=packets.codec,
        edited=packets.edited,
        notes=tuple(notes),
    )
