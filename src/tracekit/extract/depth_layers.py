"""What measured depth says about things: unbroken surfaces, which of them each patch shows, and which parts of the view are flat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.extract.cells import cell_of_pixel
from tracekit.extract.clustering import cluster

BREAK = 0.02
"""Deviation of 1/z from a straight line over three neighbouring pixels, as a fraction, at which a surface ends. A plane has none,
however steep, because 1/z of a plane is linear in the image."""

FRONT = 0.125
"""Share of a patch from which a surface in front of the others stands for the patch: a finger is narrower than a patch."""

LEAST_KNOWN = 0.25
"""Share of a patch that must have depth."""

FLAT = 0.01
"""Root mean square deviation of 1/z from a plane, as a fraction, up to which a region is flat."""

LOG_DEPTH = 1.1
"""Focal length in widths of the image that is assumed to compare depth with places in the image: that of an ordinary camera."""

NOTHING = -1
"""The surface of patches without depth."""


@dataclass(frozen=True)
class Layers:
    """One frame's depth, as surfaces that end where depth jumps."""

    surface: np.ndarray
    """(h, w) int32: number of the surface of each depth pixel; NOTHING at holes and edges and on specks."""
    patch_surface: np.ndarray
    """(gh, gw) int32: the surface that each patch shows; NOTHING where there is no depth."""
    patch_inverse_depth: np.ndarray
    """(gh, gw) float32, 1/m: mean 1/z of that surface in the patch; 0 where there is none."""

    def standing_out(self) -> np.ndarray:
        """(gh, gw) bool: patches in front of at least half of those around them: the tip of a finger, not the side of an arm."""
        height, width = self.patch_surface.shape
        surface, inverse = np.pad(self.patch_surface, 1, constant_values=NOTHING), np.pad(self.patch_inverse_depth, 1, mode="edge")
        behind = np.zeros((height, width), int)
        for down in range(3):
            for across in range(3):
                around = np.s_[down : down + height, across : across + width]
                behind += (surface[around] != self.patch_surface) & (inverse[around] < self.patch_inverse_depth)
        return (behind >= 4) & (self.patch_surface != NOTHING)


def find_layers(depth: np.ndarray, grid: tuple[int, int]) -> Layers:
    """Split `depth` (h, w), metres and 0 where unknown, into surfaces, and tell which of them each patch of `grid` (gh, gw) shows.

    The nearest surface that fills FRONT of a patch stands for it, else the one that fills most.
    """
    import cv2

    depth = cv2.medianBlur(np.where(np.isfinite(depth), depth, 0).astype(np.float32), 3)  # specks are noise
    known = depth > 0
    inverse = np.zeros(depth.shape, np.float32)
    np.divide(1, depth, out=inverse, where=known, dtype=np.float32)
    broken = ~known | ~cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    for axis in (0, 1):
        bend = np.abs(np.diff(inverse, 2, axis=axis)) > BREAK * np.delete(np.delete(inverse, 0, axis), -1, axis)
        broken |= np.pad(bend, [(1, 1) if side == axis else (0, 0) for side in (0, 1)])
    num_surfaces, surface = cv2.connectedComponents((~broken).astype(np.uint8), connectivity=4)

    num_patches = grid[0] * grid[1]
    patch_of_pixel = cell_of_pixel(depth.shape[0], grid[0])[:, None] * grid[1] + cell_of_pixel(depth.shape[1], grid[1])
    pixels = np.bincount(patch_of_pixel.ravel(), minlength=num_patches)
    sizes = np.bincount(surface.ravel(), minlength=num_surfaces)
    lasting = (sizes >= 0.5 * depth.size / num_patches) & (np.arange(num_surfaces) > 0)
    surface = np.where(lasting, np.cumsum(lasting) - 1, NOTHING).astype(np.int32)[surface]
    num_surfaces = int(lasting.sum())

    on = surface >= 0
    place = surface[on].astype(np.int64) * num_patches + patch_of_pixel[on]
    count = np.bincount(place, minlength=num_surfaces * num_patches).reshape(num_surfaces, num_patches)
    total = np.bincount(place, weights=inverse[on], minlength=num_surfaces * num_patches).reshape(num_surfaces, num_patches)
    mean = total / np.maximum(count, 1)
    share = count / np.maximum(pixels, 1)
    patches = np.arange(num_patches)
    shown = np.full(num_patches, NOTHING, np.int32)
    if num_surfaces:
        front = np.where(share >= FRONT, mean, -1)
        shown = np.where(front.max(axis=0) > 0, front.argmax(axis=0), count.argmax(axis=0)).astype(np.int32)
        shown[(count.max(axis=0) == 0) | (np.bincount(patch_of_pixel[known], minlength=num_patches) < LEAST_KNOWN * pixels)] = NOTHING
    inverse_depth = np.where(shown >= 0, mean[shown, patches], 0) if num_surfaces else np.zeros(num_patches)
    return Layers(surface, shown.reshape(grid), inverse_depth.reshape(grid).astype(np.float32))


def split_parts(regions: np.ndarray, layers: Layers, part_patches: float, most: int, seed: int) -> np.ndarray:
    """Split the regions (gh, gw) that are neither flat nor small into compact parts of about `part_patches` patches each.

    An arm of one colour is not one thing: its links move against each other. A table is, however large it is. Parts are groups
    of patches that lie together in space, so that a fold in depth divides more than a seam in the picture. There are fewer and
    larger ones where there would be more than `most` regions in the end.
    """
    row, column = np.mgrid[: regions.shape[0], : regions.shape[1]]
    scale = LOG_DEPTH * max(regions.shape)
    wanted: dict[int, int] = {}
    for region in np.unique(regions).tolist():
        mine = (regions == region) & (layers.patch_surface >= 0)
        number = round(np.count_nonzero(mine) / part_patches)
        if number >= 2 and not _is_flat(column[mine], row[mine], layers.patch_inverse_depth[mine]):
            wanted[region] = number - 1
    room = most - (int(regions.max()) + 1)
    share = min(1.0, max(room, 0) / max(sum(wanted.values()), 1))
    split = regions.copy()
    for region, more in wanted.items():
        number = 1 + int(share * more)
        if number < 2:
            continue
        mine = (regions == region) & (layers.patch_surface >= 0)
        depth = -scale * np.log(layers.patch_inverse_depth[mine])
        parts = cluster(np.stack([column[mine], row[mine], depth], axis=1), number, seed=seed).labels
        split[mine] = np.where(parts > 0, split.max() + parts, region)
    return np.unique(split, return_inverse=True)[1].reshape(regions.shape).astype(np.int32)


def _is_flat(column: np.ndarray, row: np.ndarray, inverse_depth: np.ndarray) -> bool:
    """Whether a plane, linear in 1/z, fits nine tenths of the patches; the rest may be of something else."""
    unknowns = np.stack([column, row, np.ones_like(column)], axis=1).astype(np.float64)
    kept = np.ones(len(column), bool)
    for _ in range(3):
        plane = np.linalg.lstsq(unknowns[kept], inverse_depth[kept], rcond=None)[0]
        off = np.abs(unknowns @ plane / inverse_depth - 1)
        kept = off <= np.quantile(off, 0.9)
    return bool(np.sqrt(np.mean(off[kept] ** 2)) <= FLAT)
