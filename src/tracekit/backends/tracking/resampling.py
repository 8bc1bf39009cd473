"""Frames and depth on the grid that a network wants, and cameras and pixels with them.

Two conventions are in use. "Corner-aligned": the centres of the outermost pixels stay where they are, u' = u (new - 1) / (old - 1); a network
that scales its pixels so expects its images resampled so, too, or everything shifts by up to half a pixel. "Edge-aligned": the edges of the
image stay, u' = (u + 1/2) new / old - 1/2, as `tracekit.geometry.cameras` has it and OpenCV resizes.
"""

from __future__ import annotations

import cv2
import numpy as np

from tracekit.geometry import cameras

Size = tuple[int, int]
"""Width and height."""


def corner_aligned_scale(old: Size, new: Size) -> np.ndarray:
    """(2,) factors of pixels (x, y)."""
    return np.array([(after - 1) / max(before - 1, 1) for before, after in zip(old, new, strict=True)])


def corner_aligned_intrinsics(intrinsics: np.ndarray, old: Size, new: Size) -> np.ndarray:
    """K (3, 3) after the image is resampled corner-aligned."""
    result = np.array(intrinsics, dtype=np.float64)
    result[:2] *= corner_aligned_scale(old, new)[:, None]
    return result


def corner_aligned_frames(frames: np.ndarray, new: Size) -> np.ndarray:
    """Frames (n, H, W, 3) uint8 on a grid (width, height), each pixel of which is interpolated where it lies in the old one.

    Where it has less than half as many pixels each way, blocks of old pixels are averaged first: nothing flickers.
    """
    old = (frames.shape[2], frames.shape[1])
    if old == new:
        return frames
    block = tuple(max(1, before // after) for before, after in zip(old, new, strict=True))
    averaged = (old[0] // block[0], old[1] // block[1])
    at = [np.linspace(0, before - 1, after) for before, after in zip(old, new, strict=True)]
    # The averages have their centres in the middle of their blocks; what is left over at the right and at the bottom belongs to no block.
    x, y = (((place + 0.5) / side - 0.5).astype(np.float32) for place, side in zip(at, block, strict=True))
    columns, rows = np.meshgrid(x, y)
    result = np.empty((len(frames), new[1], new[0], 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        whole = frame[: averaged[1] * block[1], : averaged[0] * block[0]]
        if block != (1, 1):
            whole = cv2.resize(whole, averaged, interpolation=cv2.INTER_AREA)
        result[index] = cv2.remap(np.ascontiguousarray(whole), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return result


def edge_aligned_frames(frames: np.ndarray, new: Size) -> np.ndarray:
    """Frames (n, H, W, 3) uint8 on a grid (width, height), as OpenCV resizes: averaged where there are fewer pixels."""
    old = (frames.shape[2], frames.shape[1])
    if old == new:
        return frames
    how = cv2.INTER_AREA if new[0] < old[0] or new[1] < old[1] else cv2.INTER_LINEAR
    result = np.empty((len(frames), new[1], new[0], 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        result[index] = cv2.resize(np.ascontiguousarray(frame), new, interpolation=how)
    return result


def depth_at(depth: np.ndarray, x: np.ndarray, y: np.ndarray, image_size: Size) -> np.ndarray:
    """Depth (n, len(y), len(x)) float32 at the columns x and rows y (pixels of the image of this size): 0 where it is unknown.

    `depth` (n, h, w) covers that image on a grid of its own. Known depths around a pixel are averaged by their weights in bilinear
    interpolation.
    """
    grid = (depth.shape[2], depth.shape[1])
    columns = cameras.resize_pixels(np.stack([x, np.zeros_like(x)], axis=1), image_size, grid)[:, 0]
    rows = cameras.resize_pixels(np.stack([np.zeros_like(y), y], axis=1), image_size, grid)[:, 1]
    at = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    result = np.empty((len(depth), len(y), len(x)), dtype=np.float32)
    for index, image in enumerate(depth):
        known = (image > 0).astype(np.float32)
        if known.all():
            result[index] = cv2.remap(image.astype(np.float32), *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            continue
        weight = cv2.remap(known, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        total = cv2.remap(np.where(known > 0, image, 0).astype(np.float32), *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        result[index] = np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), 0)
    return result
