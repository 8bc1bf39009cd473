"""Single pictures as bytes and as the square that a network sees: JPEG for colour, 16-bit PNG for depth."""

from __future__ import annotations

import cv2
import numpy as np

from tracekit.errors import BadDataError

MILLIMETRES = 1000.0


def encode_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB as JPEG, (n,) uint8. `quality` is libjpeg's, 1 to 100."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.ravel()


def decode_jpeg(encoded: np.ndarray, where: str) -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB of a JPEG (n,) uint8. Raises BadDataError naming `where` it came from."""
    picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if len(encoded) else None
    if picture is None:
        raise BadDataError(f"the picture of {where} cannot be decoded: {len(encoded)} bytes that are no JPEG")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture)


def encode_depth(millimetres: np.ndarray) -> np.ndarray:
    """Depth (h, w) uint16 in millimetres, 0 where unknown, as PNG, (n,) uint8."""
    _, encoded = cv2.imencode(".png", millimetres)
    return encoded.ravel()


def decode_depth(encoded: np.ndarray, where: str) -> np.ndarray:
    """Depth (h, w) uint16 in millimetres of a PNG (n,) uint8. Raises BadDataError naming `where` it came from."""
    depth = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if len(encoded) else None
    if depth is None or depth.dtype != np.uint16 or depth.ndim != 2:
        raise BadDataError(f"the depth of {where} cannot be decoded: no 16-bit PNG of one channel")
    return depth


def to_square(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture (H, W, 3) stretched to (size, size, 3), so that u and v keep their meaning; nothing is cut off or padded.

    Pixels are averaged where the picture shrinks, interpolated linearly where it grows.
    """
    height, width = picture.shape[:2]
    if (height, width) == (size, size):
        return picture
    shrinks = min(height, width) >= size
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def depth_to_square(depth: np.ndarray, size: int) -> np.ndarray:
    """Depth (h, w), or its colours (h, w, 3), on a grid of (size, size). Nearest pixels: an average over an edge is the depth of nothing."""
    return cv2.resize(depth, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
