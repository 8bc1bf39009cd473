"""Pictures of an episode: keypoints and entities, traces, before and after the motion filter, contact sheets.

Pure functions from records and RGB uint8 images to RGB uint8 images; nothing is read, written or changed. Line widths and
letters grow with the picture. Traces over frame t are the reference-frame traces of the paper (2.2): world positions seen by
the camera of frame t, so that with a moving camera a tail stays on the thing that left it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracekit.errors import BadDataError
from tracekit.geometry import cameras
from tracekit.records import Episode, Geometry, Keypoints, Motion, Tracks

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""
INK = (32, 36, 44)
"""Colour of text and axes on paper."""
PAPER = (255, 255, 255)
SHADOW = (16, 18, 24)
_SUBPIXEL_BITS = 4
_FAR = 1e6
"""Pixels farther out than this are not drawn: OpenCV's coordinates are 32-bit integers."""


@functools.cache
def entity_colour(entity: int) -> Colour:
    """An RGB colour for an entity; neighbouring numbers get hues that are far apart, all equally bright and vivid to the eye."""
    # The golden angle: however many entities there are, hues never crowd. Two lightness levels help the colour-blind.
    return oklch(0.78 if entity % 2 == 0 else 0.70, 0.15, 40.0 + 137.50776 * entity)


@functools.cache
def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """sRGB (0 to 255) of a colour in OKLCH, the hue in degrees; colours out of gamut are clipped."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    clipped = [min(1.0, max(0.0, value)) for value in linear]
    red, green, blue = (12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055 for value in clipped)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_traces(
    frame: np.ndarray, episode: Episode, t: int, tail: int = 15, *, colour_by: str = "entity", static: bool = True
) -> np.ndarray:
    """Frame t (H, W, 3) with the last `tail` frames of every moving track as a fading trace.

    A trace ends in a dot where the point is visible and in a faint ring where it is only known. Tracks that do not move are
    small faint dots (none with `static` False). `colour_by` is "entity" or "age" (of the trace, turbo). Positions that are not
    valid, and those behind the camera of frame t, leave a gap. Without motion in the episode all tracks are drawn as moving.

    Raises BadDataError when the episode has no tracks or no cameras.
    """
    tracks, geometry = _tracks_and_geometry(episode)
    moving = _moving(tracks, episode.motion)
    unit = line_unit(frame)
    layer = Layer(frame)
    if static:
        still = np.flatnonzero(~moving & tracks.valid[t].astype(bool))
        uv = trace_pixels(tracks, geometry, t, [t], still)[0]
        layer.dots(uv, 1.6 * unit, _colours(tracks, still), np.where(tracks.visible[t, still], 0.8, 0.3))

    which = np.flatnonzero(moving)
    uv = trace_pixels(tracks, geometry, t, np.arange(max(0, t - tail), t + 1), which)
    draw_tails(layer, uv, _colours(tracks, which), colour_by, unit)
    seen = tracks.visible[t, which].astype(bool)
    layer.rings(uv[-1, ~seen], 2.1 * unit, _colours(tracks, which[~seen]), 0.5)
    layer.dots(uv[-1, seen], 3.4 * unit, SHADOW, 0.5)
    layer.dots(uv[-1, seen], 2.8 * unit, PAPER)
    layer.dots(uv[-1, seen], 2.0 * unit, _colours(tracks, which[seen]))
    return layer.blended()


def trace_pixels(
    tracks: Tracks, geometry: Geometry, t: int, times: np.ndarray | Sequence[int], which: np.ndarray | None = None
) -> np.ndarray:
    """Pixels (len(times), n, 2) float64 at which the camera of frame t sees the tracks `which` (n,) at their positions at `times`.

    NaN where a position is not valid or lies behind that camera; pixels outside the image are kept.
    """
    which = np.arange(tracks.valid.shape[1]) if which is None else which
    index = np.ix_(np.asarray(times), which)
    xyz = np.where(tracks.valid[index].astype(bool)[..., None], tracks.xyz_world[index].astype(np.float64), np.nan)
    uv, _ = cameras.project(xyz, geometry.intrinsics, geometry.world_from_camera[t])
    return uv


def draw_keypoints(frame: np.ndarray, keypoints: Keypoints, t: int) -> np.ndarray:
    """Frame t (H, W, 3) under the entities of the nearest representative frame, with the candidates selected at t."""
    unit = line_unit(frame)
    height, width = frame.shape[:2]
    picture = frame.copy()
    if len(keypoints.label_frame):
        nearest = int(np.argmin(np.abs(keypoints.label_frame - t)))
        labels = cv2.resize(keypoints.labels[nearest], (width, height), interpolation=cv2.INTER_NEAREST)
        known, place = np.unique(labels, return_inverse=True)
        palette = np.array([entity_colour(int(entity)) for entity in known], dtype=np.uint8)
        tint = palette[place.reshape(labels.shape)]
        # Hue from the entity, light and dark from the frame: the things under the tint stay recognisable.
        grey = np.repeat(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
        shaded = cv2.multiply(tint, cv2.addWeighted(grey, 0.6, grey, 0.0, 102.0), scale=1 / 255)
        picture = cv2.addWeighted(frame, 0.45, shaded, 0.55, 0.0)
        edge = np.zeros(labels.shape, np.uint8)
        edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        edge[1:] |= labels[1:] != labels[:-1]
        thickness = max(1, round(0.8 * unit))
        edge = cv2.dilate(edge, np.ones((thickness, thickness), np.uint8)).astype(bool)
        picture[edge] = PAPER
    layer = Layer(picture)
    here = keypoints.frame == t
    layer.dots(keypoints.uv[here], 3.6 * unit, SHADOW, 0.6)
    layer.dots(keypoints.uv[here], 2.9 * unit, PAPER)
    layer.dots(keypoints.uv[here], 2.0 * unit, [entity_colour(int(entity)) for entity in keypoints.entity[here]])
    return layer.blended()


def draw_before_after(frame: np.ndarray, episode: Episode, t: int = 0) -> np.ndarray:
    """Frame t twice, side by side: with the whole trace of every track, and of only those that the motion filter calls moving.

    Raises BadDataError when the episode has no tracks, cameras or motion.
    """
    tracks, geometry = _tracks_and_geometry(episode)
    if episode.motion is None:
        raise BadDataError("the episode does not say which tracks move", hint="run `tracekit filter` first")
    moving = _moving(tracks, episode.motion)
    unit = line_unit(frame)
    panels = []
    for which in (np.arange(len(moving)), np.flatnonzero(moving)):
        layer = Layer(frame)
        uv = trace_pixels(tracks, geometry, t, np.arange(len(tracks.valid)), which)
        colours = _colours(tracks, which)
        draw_tails(layer, uv, colours, "entity", 0.75 * unit, faintest=0.45)
        layer.dots(uv[t], 1.8 * unit, colours)
        panels.append(layer.blended())
    titles = (f"{len(moving)} tracks", f"{int(moving.sum())} that move (diameter > {episode.motion.threshold_px:.0f} px)")
    return contact_sheet(panels, columns=2, titles=titles)


def contact_sheet(images: Sequence[np.ndarray], columns: int | None = None, titles: Sequence[str] | None = None) -> np.ndarray:
    """Images of one size in a grid on white, each under its title; as near to square as can be when `columns` is None.

    Raises ValueError for no images, or images of different sizes.
    """
    if len({image.shape for image in images}) != 1:
        raise ValueError("a contact sheet needs at least one image, and all of one size")
    height, width = images[0].shape[:2]
    columns = columns or math.ceil(math.sqrt(len(images) * height / width))
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    gap = max(2, round(0.012 * max(height, width)))
    size = text_size(images[0])
    head = round(1.6 * size) if titles else 0
    sheet = np.full((rows * (height + head + gap) + gap, columns * (width + gap) + gap, 3), PAPER, np.uint8)
    for index, image in enumerate(images):
        top = gap + index // columns * (height + head + gap)
        left = gap + index % columns * (width + gap)
        sheet[top + head : top + head + height, left : left + width] = image
        if titles:
            draw_text(sheet, fitted(titles[index], size, width), left, top + head / 2, size)
    return sheet


def text_size(picture: np.ndarray) -> float:
    """Height of letters, in pixels, that can be read on a picture of this size."""
    return max(8.0, 15.0 * line_unit(picture) ** 0.8)


def draw_text(picture: np.ndarray, text: str, x: float, y: float, size: float, colour: Colour = INK, *, anchor: str = "left") -> None:
    """Write one line into `picture`, in place: `y` is its vertical middle, `x` its left, centre or right (`anchor`)."""
    if not text:
        return
    ink = _lettering(text, round(size))
    left = round(x - {"left": 0.0, "centre": 0.5, "right": 1.0}[anchor] * ink.shape[1])
    top = round(y - ink.shape[0] / 2)
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(picture.shape[1], left + ink.shape[1]), min(picture.shape[0], top + ink.shape[0])
    if x0 < x1 and y0 < y1:
        alpha = ink[y0 - top : y1 - top, x0 - left : x1 - left, None].astype(np.float32) / 255
        patch = picture[y0:y1, x0:x1]
        patch[:] = np.round(patch + alpha * (np.array(colour, np.float32) - patch)).astype(np.uint8)


def text_width(text: str, size: float) -> float:
    """Pixels that a line of text takes."""
    return _font(round(size)).getlength(text)


def fitted(text: str, size: float, width: float) -> str:
    """The text, or as many of its first letters as fit into `width` with an ellipsis."""
    if text_width(text, size) <= width:
        return text
    fits = [stop for stop in range(len(text)) if text_width(text[:stop].rstrip() + "…", size) <= width]
    return text[: fits[-1]].rstrip() + "…" if fits else ""


def wrapped(text: str, size: float, width: float, num_lines: int) -> list[str]:
    """The text in at most `num_lines` lines of at most `width`, broken between words, the last one cut short if need be."""
    words = text.split()
    lines: list[str] = []
    while words and len(lines) < num_lines - 1:
        count = len(words)
        while count > 1 and text_width(" ".join(words[:count]), size) > width:
            count -= 1
        lines.append(fitted(" ".join(words[:count]), size, width))
        words = words[count:]
    return [*lines, fitted(" ".join(words), size, width)] if words and num_lines > 0 else lines


@functools.lru_cache(maxsize=16)
def _font(size: int) -> Any:
    """DejaVu Sans, which comes with matplotlib and knows more letters than OpenCV's; without it, the one in Pillow."""
    from PIL import ImageFont

    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=512)
def _lettering(text: str, size: int) -> np.ndarray:
    """How much ink (0 to 255) a line of text leaves on its box; boxes of one size are equally high, whatever the letters."""
    from PIL import Image, ImageDraw

    face = _font(size)
    ascent, descent = face.getmetrics()
    image = Image.new("L", (max(1, math.ceil(face.getlength(text))), ascent + descent))
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=face)
    return np.asarray(image)


def line_unit(picture: np.ndarray) -> float:
    """The scale of line widths: 1 on a 640 x 480 picture."""
    return math.sqrt(picture.shape[0] * picture.shape[1] / (640 * 480))


def _tracks_and_geometry(episode: Episode) -> tuple[Tracks, Geometry]:
    if episode.tracks is None or episode.geometry is None:
        missing = "tracks" if episode.tracks is None else "cameras"
        raise BadDataError(f"the episode has no {missing} to draw", hint="run `tracekit reconstruct` and `tracekit track` first")
    return episode.tracks, episode.geometry


def _moving(tracks: Tracks, motion: Motion | None) -> np.ndarray:
    return np.ones(tracks.valid.shape[1], dtype=bool) if motion is None else motion.moving.astype(bool)


def _colours(tracks: Tracks, which: np.ndarray) -> list[Colour]:
    return [entity_colour(entity) for entity in tracks.entity[which].tolist()]


def draw_tails(layer: Layer, uv: np.ndarray, colours: Sequence[Colour], colour_by: str, unit: float, faintest: float = 0.08) -> None:
    """Traces uv (L, n, 2), the oldest position first and faintest, on a thin shadow that sets them off from any ground."""
    num_steps = len(uv) - 1
    if num_steps < 1:
        return
    turbo = cv2.applyColorMap(np.linspace(20, 235, num_steps).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1].tolist()
    newness = (np.arange(num_steps) + 1) / num_steps
    alpha = faintest + (1.0 - faintest) * newness**1.5
    thickness = (1.2 + 1.3 * newness) * unit
    drawable = (np.abs(np.nan_to_num(uv, nan=np.inf)) < _FAR).all(axis=-1)
    segments = np.stack([uv[:-1], uv[1:]], axis=2)
    drawable = drawable[:-1] & drawable[1:]
    index_of = {colour: [track for track, other in enumerate(colours) if other == colour] for colour in dict.fromkeys(colours)}
    for step in range(num_steps):
        layer.lines(segments[step, drawable[step]], thickness[step] + max(1.0, unit), SHADOW, 0.5 * alpha[step])
    for step in range(num_steps):
        if colour_by == "age":
            layer.lines(segments[step, drawable[step]], thickness[step], tuple(turbo[step]), alpha[step])
            continue
        for colour, tracks in index_of.items():
            layer.lines(segments[step, tracks][drawable[step, tracks]], thickness[step], colour, alpha[step])


class Layer:
    """Marks that are see-through, over a frame.

    `ink` is the frame with all marks drawn on it at full strength, `strength` says how much of the ink shows at each pixel.
    Blending once at the end costs the same for ten marks or ten thousand.
    """

    def __init__(self, frame: np.ndarray) -> None:
        self.frame = frame
        self.ink = np.ascontiguousarray(frame).copy()
        self.strength = np.zeros(frame.shape[:2], np.uint8)

    def lines(self, segments: np.ndarray, thickness: float, colour: Colour, alpha: float) -> None:
        """Straight lines (n, 2, 2): from segments[:, 0] to segments[:, 1], px."""
        ends = list(np.round(segments * (1 << _SUBPIXEL_BITS)).astype(np.int32))
        width = max(1, round(thickness))
        cv2.polylines(self.ink, ends, False, colour, width, cv2.LINE_AA, _SUBPIXEL_BITS)
        # Wider than the ink, so that the smooth edge of the line, which is part frame already, shows in full.
        cv2.polylines(self.strength, ends, False, round(255 * alpha), width + 2, cv2.LINE_8, _SUBPIXEL_BITS)

    def dots(self, uv: np.ndarray, radius: float, colours: Colour | list[Colour], alpha: float | np.ndarray = 1.0) -> None:
        """Discs at uv (n, 2), px, in one colour and strength or one each. Points that are NaN or far out are left out."""
        # OpenCV's own small circles are crosses. Its smooth fill reaches half a pixel beyond the outline.
        for outline, reach, colour, strength in self._marks(uv, max(0.3, radius - 0.5), colours, alpha):
            cv2.fillConvexPoly(self.ink, outline, colour, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.fillConvexPoly(self.strength, reach, strength, cv2.LINE_8, _SUBPIXEL_BITS)

    def rings(self, uv: np.ndarray, radius: float, colours: Colour | list[Colour], alpha: float | np.ndarray = 1.0) -> None:
        """Circles at uv (n, 2), like `dots`."""
        for outline, reach, colour, strength in self._marks(uv, max(0.7, radius), colours, alpha):
            cv2.polylines(self.ink, [outline], True, colour, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.fillConvexPoly(self.strength, reach, strength, cv2.LINE_8, _SUBPIXEL_BITS)

    @staticmethod
    def _marks(
        uv: np.ndarray, radius: float, colours: Colour | list[Colour], alpha: float | np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Colour, int]]:
        """Outline, the outline of all pixels that it may touch, colour and strength of each mark that can be drawn."""
        drawable = (np.abs(np.nan_to_num(uv, nan=np.inf)) < _FAR).all(axis=-1)
        centres = uv[:, None].astype(np.float64)
        each = colours if isinstance(colours, list) else [colours] * len(uv)
        strengths = np.round(np.broadcast_to(255.0 * np.asarray(alpha), len(uv))).astype(int).tolist()
        with np.errstate(invalid="ignore", over="ignore"):
            outlines, reaches = (np.round((centres + _CIRCLE * r) * (1 << _SUBPIXEL_BITS)) for r in (radius, radius + 2.0))
        for index in np.flatnonzero(drawable).tolist():
            yield outlines[index].astype(np.int32), reaches[index].astype(np.int32), each[index], strengths[index]

    def blended(self) -> np.ndarray:
        result = self.frame.copy()
        marked = self.strength > 0
        below, above = self.frame[marked].astype(np.float32), self.ink[marked].astype(np.float32)
        weight = self.strength[marked, None].astype(np.float32) / 255
        result[marked] = np.round(below + weight * (above - below)).astype(np.uint8)
        return result


_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=-1)
