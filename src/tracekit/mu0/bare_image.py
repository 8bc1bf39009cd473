"""A picture on its own, and where on it the query keypoints are: given as pixels, or on a grid."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import cv2
import numpy as np

from tracekit.errors import BadDataError, MissingInputError
from tracekit.extract.reference_traces import normalise

MOST_POINTS = 4096
_MOST_BYTES_OF_POINTS = 1 << 20
_MOST_BYTES_OF_PICTURE = 1 << 28


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB. Raises MissingInputError when it is not there, BadDataError when it is none."""
    content = _bytes(path, _MOST_BYTES_OF_PICTURE)
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error:  # more pixels than OpenCV takes from one file
        picture = None
    if picture is None:
        raise BadDataError(f"{path} is no picture that can be read", hint="PNG, JPEG, WebP, BMP and TIFF can")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def read_points(path: str | os.PathLike, size: tuple[int, int]) -> np.ndarray:
    """Points (N, 2) float32 in [-1, 1] of a CSV of pixels on a picture of `size` (width, height).

    A line is u,v, a first line that says so may stand above; the centre of the top-left pixel is 0,0. Raises MissingInputError when
    the file is not there, BadDataError naming the line for what is no point or lies outside the picture, and for no or too many points.
    """
    width, height = size
    try:
        lines = list(csv.reader(io.StringIO(_bytes(path, _MOST_BYTES_OF_POINTS).decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadDataError(f"{path} is no CSV: {error}") from None
    pixels = []
    for number, cells in enumerate(lines, start=1):
        texts = [cell.strip() for cell in cells]
        if not any(texts) or (number == 1 and [text.lower() for text in texts] == ["u", "v"]):
            continue
        pixels.append(_pixel(texts, f"line {number} of {path}", width, height))
    if not 0 < len(pixels) <= MOST_POINTS:
        raise BadDataError(f"{path} holds {len(pixels)} points, but 1 to {MOST_POINTS} are expected")
    return normalise(np.array(pixels), size).astype(np.float32)


def grid_points(side: int) -> np.ndarray:
    """Centres of `side` x `side` equal cells, (side * side, 2) float32 in [-1, 1], row by row."""
    centres = (2 * np.arange(side) + 1) / side - 1
    v, u = np.meshgrid(centres, centres, indexing="ij")
    return np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float32)


def _pixel(texts: list[str], where: str, width: int, height: int) -> tuple[float, float]:
    try:
        u, v = map(float, texts)
    except ValueError:
        raise BadDataError(f"{where} is {','.join(texts)[:60]!r}, but two numbers u,v are expected") from None
    # Pixels are squares around whole numbers. What is not a number is not inside either.
    if not (-0.5 <= u <= width - 0.5 and -0.5 <= v <= height - 0.5):
        raise BadDataError(f"{where}: the point {u:g},{v:g} is outside the picture, which has {width} x {height} pixels")
    return u, v


def _bytes(path: str | os.PathLike, most: int) -> bytes:
    if not Path(path).is_file():
        raise MissingInputError(f"{path} does not exist" if not Path(path).exists() else f"{path} is no file")
    with open(path, "rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise BadDataError(f"{path} has more than {most:,} bytes")
    return content
