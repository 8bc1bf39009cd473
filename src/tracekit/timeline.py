"""When things happen: the motion signal and the events of an episode on an axis in seconds, and the video with it underneath."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np

from tracekit.drawing import INK, PAPER, draw_text, draw_traces, oklch, text_size, text_width, wrapped
from tracekit.errors import BadDataError
from tracekit.records import Captions, Episode, Events, Frames

GREY = (150, 154, 162)
CURSOR = (214, 40, 57)
FRAMES_AT_A_TIME = 16
LINES_IN_VIDEO = 3
LINE_HEIGHT = 1.25
"""Distance of two lines of text, in letter heights."""


def draw_timeline(episode: Episode, width: int, *, text: float | None = None) -> np.ndarray:
    """The events (h, width, 3): spans in colour, the signal thin, the smoothed signal bold, peaks marked, all captions below.

    `text` is the height of letters in pixels; by default they follow the width, and everything else follows them.

    Raises BadDataError when the episode has no events.
    """
    text = text or max(8.0, 15.0 * (width / 640) ** 0.6)
    strip = _Strip(episode, width, text)
    if episode.captions is None:
        return strip.picture
    rows = [_caption_row(episode.captions, event, width, text) for event in range(len(episode.captions.event_text))]
    return np.concatenate([strip.picture, *rows, np.full((round(0.5 * text), width, 3), PAPER, np.uint8)])


def render_view(frames: Frames, episode: Episode, tail: int = 15) -> Iterator[np.ndarray]:
    """Each frame with its traces, over the timeline with a cursor where we are: (h, w, 3) with even h and w, as videos need.

    Under the timeline stands the caption of the event that is on. Reads a few frames at a time. Without events there is no
    timeline, without tracks there are no traces.
    """
    height, width = frames.shape[1:3]
    text = 0.85 * text_size(np.empty((height, width, 3), np.uint8))
    strip = _Strip(episode, width, text) if episode.events is not None else None
    for start in range(0, len(frames), FRAMES_AT_A_TIME):
        for t, frame in enumerate(frames[start : start + FRAMES_AT_A_TIME], start):
            parts = [draw_traces(frame, episode, t, tail) if episode.tracks is not None else frame]
            if strip is not None:
                parts.append(strip.at(t))
                if episode.captions is not None:
                    parts.append(_caption_at(episode.captions, t, width, text))
            picture = np.concatenate(parts)
            yield np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")


def event_colour(event: int) -> tuple[int, int, int]:
    """A pale colour for the span of an event, that differs from its neighbours'."""
    return oklch(0.90, 0.055, 250.0 + 137.50776 * event)


def _caption_at(captions: Captions, t: int, width: int, text: float) -> np.ndarray:
    on = np.flatnonzero((captions.event_start <= t) & (t < captions.event_stop))
    if len(on) == 0:
        return np.full((_row_height(text, LINES_IN_VIDEO), width, 3), PAPER, np.uint8)
    return _caption_row(captions, int(on[0]), width, text, LINES_IN_VIDEO)


def _caption_row(captions: Captions, event: int, width: int, text: float, num_lines: int | None = None) -> np.ndarray:
    """The caption of an event beside its number; as high as it needs to be, or `num_lines` lines."""
    words = captions.event_text[event] if captions.event_ok[event] else "(no caption)"
    margin = round(0.8 * text)
    box = round(text_width("00", text) + 0.5 * text)
    left = margin + box + round(0.6 * text)
    lines = wrapped(words, text, width - margin - left, num_lines or 4)
    picture = np.full((_row_height(text, num_lines or max(1, len(lines))), width, 3), PAPER, np.uint8)
    middle = 0.9 * text
    picture[round(middle - 0.62 * text) : round(middle + 0.62 * text), margin : margin + box] = event_colour(event)
    draw_text(picture, str(event + 1), margin + box / 2, middle, text, anchor="centre")
    for index, line in enumerate(lines):
        draw_text(picture, line, left, middle + index * LINE_HEIGHT * text, text)
    return picture


def _row_height(text: float, num_lines: int) -> int:
    return round((LINE_HEIGHT * num_lines + 0.4) * text)


class _Strip:
    """Spans, signal and axis, and where they lie. Drawn once; each frame only adds its cursor."""

    def __init__(self, episode: Episode, width: int, text: float) -> None:
        if episode.events is None:
            raise BadDataError("the episode has no events to draw", hint="run `tracekit segment` first")
        self.events = episode.events
        self.width = width
        self.text = text
        self.margin = round(0.8 * text)
        self.top = self.margin
        self.bottom = self.top + max(round(3.2 * text), round(0.13 * width))
        self.num_frames = len(self.events.signal)
        pts = np.asarray(episode.video.pts, dtype=np.float64)
        self.seconds = pts - pts[:1]
        self.picture = np.full((self.bottom + round(1.6 * text), width, 3), PAPER, np.uint8)
        self._draw_spans(self.picture, self.events)
        self._draw_signal(self.picture, self.events)
        self._draw_axis(self.picture)

    def x(self, frame: float) -> float:
        """Where frame `frame` begins: every frame takes up an equal part, so that the last has a width too."""
        return self.margin + (self.width - 2 * self.margin) * frame / max(1, self.num_frames)

    def at(self, t: int) -> np.ndarray:
        """The strip with the cursor at frame t."""
        picture = self.picture.copy()
        x = self.x(t + 0.5)
        thickness = max(1, round(self.text / 9))
        _line(picture, [(x, self.top - 0.3 * self.margin), (x, self.bottom)], CURSOR, thickness)
        return picture

    def _draw_spans(self, picture: np.ndarray, events: Events) -> None:
        for index, (start, stop) in enumerate(zip(events.start.tolist(), events.stop.tolist(), strict=True)):
            left, right = round(self.x(start)), round(self.x(stop))
            picture[self.top : self.bottom, left : max(left + 1, right - 1)] = event_colour(index)
            if right - left > text_width(str(index + 1), self.text) + 6:
                middle = self.top + 0.7 * self.text
                colour = oklch(0.55, 0.10, 250.0 + 137.50776 * index)
                draw_text(picture, str(index + 1), left + 0.35 * self.text, middle, 0.85 * self.text, colour)

    def _draw_signal(self, picture: np.ndarray, events: Events) -> None:
        values = np.concatenate([events.signal[np.isfinite(events.signal)], events.smoothed])
        high = float(np.abs(values).max()) if len(values) else 0.0
        if high <= 0 or self.num_frames < 2:
            return
        # A few spikes of a raw signal should not press the rest to the ground: what leaves the panel is cut off at its edge.
        ceiling = max(1.15 * float(events.smoothed.max()), min(high, 2.0 * float(np.percentile(values, 98)))) or high
        space = (self.bottom - self.top) - 0.6 * self.text

        def y(value: float) -> float:
            return self.bottom - 1 - space * min(1.0, max(0.0, value / ceiling))

        bold = max(1, round(self.text / 7))
        for values, colour, thickness in ((events.signal, GREY, max(1, bold // 2)), (events.smoothed, INK, bold)):
            points = [(self.x(t + 0.5), y(float(value))) if np.isfinite(value) else None for t, value in enumerate(values)]
            for a, b in pairwise(points):
                if a is not None and b is not None:
                    _line(picture, [a, b], colour, thickness)
        size = 0.34 * self.text
        for t in events.peak.tolist():
            x, above = self.x(t + 0.5), y(float(events.smoothed[t])) - 0.25 * self.text
            _fill(picture, [(x, above), (x - size, above - 1.6 * size), (x + size, above - 1.6 * size)], CURSOR)

    def _draw_axis(self, picture: np.ndarray) -> None:
        y = self.bottom
        _line(picture, [(self.margin, y), (self.width - self.margin, y)], INK, 1)
        if self.num_frames == 0:
            return
        size = 0.85 * self.text
        end = float(self.seconds[-1])
        unit = " s"
        step = _round_step(end, max(1.0, (self.width - 2 * self.margin) / (5.0 * size)))
        tick = 0.0
        while tick <= end + 1e-9:
            x = self.x(float(np.interp(tick, self.seconds, np.arange(self.num_frames))) + 0.5)
            _line(picture, [(x, y), (x, y + 0.25 * self.text)], INK, 1)
            label = f"{tick:g}" if step >= 1 else f"{tick:.{max(1, int(np.ceil(-np.log10(step))))}f}"
            half = text_width(label + unit, size) / 2 + 0.3 * self.margin
            draw_text(picture, label + unit, min(max(x, half), self.width - half), y + 0.95 * self.text, size, anchor="centre")
            tick += step


def _round_step(length: float, most: float) -> float:
    """The least of ..., 0.5, 1, 2, 5, 10, ... that cuts `length` into at most `most` parts."""
    if length <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(length / most))
    return float(next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor * most >= length))


def _line(picture: np.ndarray, points: list[tuple[float, float]], colour: tuple[int, int, int], thickness: int) -> None:
    (x0, y0), (x1, y1) = points
    cv2.line(picture, (round(x0 * 16), round(y0 * 16)), (round(x1 * 16), round(y1 * 16)), colour, thickness, cv2.LINE_AA, 4)


def _fill(picture: np.ndarray, points: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    cv2.fillPoly(picture, [np.round(np.array(points) * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
