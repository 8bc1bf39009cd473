"""Take the smeared pixels out of a depth image: those on an edge between two surfaces, which belong to neither."""

from __future__ import annotations

import cv2
import numpy as np

NEIGHBOURS = np.array([(-1, 0), (0, -1), (1, 0), (0, 1)])
"""Rows and columns of the pixels next to one, in turn around it: two after each other span the surface."""

AROUND = np.array([(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)])


def without_edges(depth: np.ndarray, intrinsics: np.ndarray, jump: float, bend_degrees: float) -> np.ndarray:
    """`depth` (h, w) with edge pixels replaced by the nearest that are none; 0 stays unknown.

    A pixel is on an edge where depth varies by more than the fraction `jump` among it and its eight neighbours, and where in its
    neighbourhood the surface's normal turns by more than `bend_degrees` from a pixel to the next: a steep plane is no edge.
    """
    known = depth > 0
    window = np.ones((3, 3), np.uint8)
    farthest = cv2.dilate(np.where(known, depth, 0).astype(np.float32), window)
    nearest = cv2.erode(np.where(known, depth, np.inf).astype(np.float32), window)
    with np.errstate(invalid="ignore"):
        jumps = known & (farthest - nearest > jump * depth)
    if not jumps.any():
        return depth
    edge = jumps & _bends(depth, known, intrinsics, jumps, np.cos(np.deg2rad(bend_degrees)))
    if not edge.any() or not (known & ~edge).any():
        return depth
    good = (known & ~edge).astype(np.uint8)
    _, label = cv2.distanceTransformWithLabels(1 - good, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    of_label = np.zeros(label.max() + 1, dtype=depth.dtype)
    of_label[label[good > 0]] = depth[good > 0]
    return np.where(edge, of_label[label], depth)


def _bends(depth: np.ndarray, known: np.ndarray, intrinsics: np.ndarray, at: np.ndarray, least_cosine: float) -> np.ndarray:
    """(h, w) bool, right where `at` is: the normal turns too much here or next to here. Few pixels are at edges: only there is it computed."""
    window = np.ones((3, 3), np.uint8)
    compared = cv2.dilate(at.astype(np.uint8), window)
    needed = cv2.dilate(compared, window)
    normal, has_normal = _normals(depth, known, intrinsics, needed > 0)
    row, column = np.nonzero(np.pad(compared, 1))
    own = normal[row, column]
    turns = np.zeros(len(row), dtype=bool)
    for down, right in AROUND:
        other = row + down, column + right
        turns |= has_normal[other] & ((own * normal[other]).sum(axis=1) < least_cosine)
    bent = np.zeros_like(known, dtype=np.uint8)
    bent[row - 1, column - 1] = turns
    return cv2.dilate(bent, window) > 0


def _normals(depth: np.ndarray, known: np.ndarray, intrinsics: np.ndarray, needed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (h + 2, w + 2, 3) at the pixels `needed`, with a border around the image, and where there is one."""
    padded, there = np.pad(depth, 1).astype(np.float64), np.pad(known, 1)
    row, column = np.nonzero(np.pad(needed & known, 1))
    to_rays = np.linalg.inv(intrinsics).T

    def point(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        pixels = np.stack([columns - 1.0, rows - 1.0, np.ones(len(rows))], axis=1)
        return pixels @ to_rays * padded[rows, columns, None]

    centre = point(row, column)
    sides = [point(row + down, column + right) - centre for down, right in NEIGHBOURS]
    side_known = [there[row + down, column + right] for down, right in NEIGHBOURS]
    total, any_known = np.zeros_like(centre), np.zeros(len(row), dtype=bool)
    for one, other in zip(range(4), (1, 2, 3, 0), strict=True):
        both = side_known[one] & side_known[other]
        total += np.where(both[:, None], _unit(np.cross(sides[one], sides[other])), 0)
        any_known |= both
    normal, has_normal = np.zeros((*padded.shape, 3)), np.zeros(padded.shape, dtype=bool)
    normal[row, column] = np.where(any_known[:, None], _unit(total), 0)
    has_normal[row, column] = any_known
    return normal, has_normal


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-12)
