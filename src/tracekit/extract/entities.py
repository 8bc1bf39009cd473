"""Which patches belong to one thing, and which thing is which from frame to frame (paper 2.1, A.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tracekit.extract.assignment import best_assignment
from tracekit.extract.clustering import cluster

NO_VARIETY = 1e-3
"""Mean squared distance of unit features below which a view shows one thing only: what differs is noise."""

SAMPLES = 4
"""Pixels per side of a patch that are looked at to see whether it lies across an outline."""


@dataclass
class Entity:
    """What is remembered of one thing while a clip is read."""

    feature: np.ndarray
    """(F,) mean unit feature where it was last seen."""
    patches: np.ndarray
    """(gh, gw) bool: where it was last seen."""
    num_patches: int = 0
    num_frames: int = 0
    rgb_sum: np.ndarray = field(default_factory=lambda: np.zeros(3))


def unit_features(features: np.ndarray) -> np.ndarray:
    """Scaled to length 1, so that backends compare by angle and share one set of thresholds."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return (features / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)


def variety(features: np.ndarray) -> float:
    """Mean squared distance between two patches of `features` (..., F) drawn at random: the yardstick of `similarity`."""
    flat = features.reshape(-1, features.shape[-1])
    return max(2 * float(flat.var(axis=0, dtype=np.float64).sum()), NO_VARIETY)


def similarity(left: np.ndarray, right: np.ndarray, yardstick: float) -> np.ndarray:
    """(n, m) for features (n, F) and (m, F): 1 when equal, 0 when as far apart as two patches drawn at random, below when farther.

    A cosine would do the same only after a threshold was tuned for each backend: DINOv2 puts two things at a cosine of 0.3
    where colour statistics put them at 0.9.
    """
    squared = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
    return 1 - np.maximum(squared, 0) / yardstick


def group_patches(features: np.ndarray, *, num_clusters: int, position_weight: float, merge_similarity: float, seed: int) -> np.ndarray:
    """Group the patches of a few frames by looks: unit features (R, gh, gw, F) -> (R, gh, gw) int32.

    k-means on features and place makes more groups than there are things, most of them in a large background; groups that
    look alike are then merged, most similar first, so that what remains tells things apart.
    """
    num_frames, rows, columns, num_features = features.shape
    yardstick = variety(features)
    flat = features.reshape(-1, num_features)
    row, column = np.mgrid[:rows, :columns]
    place = np.stack([row, column], axis=-1) * (position_weight * np.sqrt(yardstick) / max(rows, columns))
    place = np.broadcast_to(place.reshape(1, -1, 2), (num_frames, rows * columns, 2)).reshape(-1, 2)
    described = np.concatenate([flat, place.astype(np.float32)], axis=1)
    labels = cluster(described, min(num_clusters, len(described)), seed=seed).labels
    return _merge_alike(labels, flat, merge_similarity, yardstick).reshape(num_frames, rows, columns)


def _merge_alike(labels: np.ndarray, features: np.ndarray, least: float, yardstick: float) -> np.ndarray:
    sizes = np.bincount(labels).astype(np.float64)
    centres = mean_features(features, labels, len(sizes))
    names = np.arange(len(sizes))
    while True:
        alike = similarity(centres, centres, yardstick)
        alike[sizes == 0] = alike[:, sizes == 0] = -np.inf
        np.fill_diagonal(alike, -np.inf)
        kept, gone = np.unravel_index(int(alike.argmax()), alike.shape)
        if alike[kept, gone] < least:
            return names[labels].astype(np.int32)
        centres[kept] = (sizes[kept] * centres[kept] + sizes[gone] * centres[gone]) / (sizes[kept] + sizes[gone])
        sizes[kept] += sizes[gone]
        sizes[gone] = 0
        names[names == gone] = kept


def mean_features(features: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(num_labels, F): the mean of `features` (n, F) under each of `labels` (n,); zero where there is none."""
    members = np.zeros((num_labels, len(labels)), np.float32)
    members[labels, np.arange(len(labels))] = 1
    return (members @ features) / np.maximum(members.sum(axis=1, keepdims=True), 1)


def split_regions(
    groups: np.ndarray,
    features: np.ndarray,
    *,
    minimum_patches: int,
    yardstick: float = np.inf,
    surface: np.ndarray | None = None,
    standing_out: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Connected parts of each group of one frame: groups (gh, gw), unit features (gh, gw, F) -> regions (gh, gw), patches absorbed.

    Two animals of one colour are two things, and so are an arm and the curtain behind it when `surface` (gh, gw) tells them
    apart: the number of the unbroken surface that each patch shows, negative where it is not known. A part of fewer than
    `minimum_patches` joins the neighbour that looks most like it, smallest first: it is a highlight or the mixture along an
    outline more often than a thing. Neighbours on its own surface come before all others, and what has a surface never joins
    what has none. Half of `minimum_patches` is enough for what looks like none of its neighbours (`similarity` below 0, given
    `yardstick`; a mixture is like both its sides) and for what stands out in depth: `standing_out` (gh, gw) bool, for most of
    its patches. Regions are numbered from 0.
    """
    import cv2

    surface = np.zeros(groups.shape, np.int32) if surface is None else surface
    _, groups = np.unique(np.stack([groups.ravel(), surface.ravel()]), axis=1, return_inverse=True)
    groups = groups.reshape(surface.shape)
    regions = np.zeros(groups.shape, np.int32)
    num_regions = 0
    for group in range(int(groups.max()) + 1):
        count, parts = cv2.connectedComponents((groups == group).astype(np.uint8), connectivity=4)
        regions += np.where(parts > 0, parts - 1 + num_regions, 0).astype(np.int32)
        num_regions += count - 1

    sizes = np.bincount(regions.ravel()).astype(np.float64)
    looks = mean_features(features.reshape(-1, features.shape[-1]), regions.ravel(), num_regions)
    surface_of = np.zeros(num_regions, np.int32)
    surface_of[regions] = surface
    alone = np.zeros(num_regions, bool)
    least = np.full(num_regions, float(minimum_patches))
    if standing_out is not None:
        least[np.bincount(regions[standing_out], minlength=num_regions) > sizes / 2] /= 2
    num_absorbed = 0
    while np.count_nonzero(sizes) > 1:
        smallest = int(np.where((sizes > 0) & (sizes < least) & ~alone, sizes, np.inf).argmin())
        if alone[smallest] or not 0 < sizes[smallest] < least[smallest]:
            break
        part = regions == smallest
        neighbours = _neighbours(regions, part, surface_of, int(surface_of[smallest]))
        if len(neighbours) == 0:
            alone[smallest] = True
            continue
        apart = ((looks[neighbours] - looks[smallest]) ** 2).sum(axis=1)
        nearest = int(neighbours[apart.argmin()])
        if sizes[smallest] >= minimum_patches / 2 and apart.min() > yardstick:
            alone[smallest] = True
            continue
        looks[nearest] = (sizes[nearest] * looks[nearest] + sizes[smallest] * looks[smallest]) / (sizes[nearest] + sizes[smallest])
        regions[part] = nearest
        num_absorbed += int(sizes[smallest])
        sizes[nearest] += sizes[smallest]
        sizes[smallest] = 0
    return np.searchsorted(np.flatnonzero(sizes), regions).astype(np.int32), num_absorbed


def _neighbours(regions: np.ndarray, part: np.ndarray, surface_of: np.ndarray, surface: int) -> np.ndarray:
    """The regions next to `part` that it may join: those on its own surface, else any, but none without a surface if it has one."""
    import cv2

    around = cv2.dilate(part.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~part
    neighbours = np.unique(regions[around])
    same = neighbours[surface_of[neighbours] == surface]
    if len(same):
        return same
    return neighbours[surface_of[neighbours] >= min(surface, 0)]


def dissolve_outlines(regions: np.ndarray, picture: np.ndarray, surface: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Give the patches that lie across an outline to one side: regions (gh, gw), RGB picture -> regions from 0, patches given away.

    Patches half of one thing and half of another look like neither and alike, so they make up a region of their own, one patch
    wide, with nothing inside that could be tracked. Its pixels give it away: each is nearer in colour to one of the neighbours
    than to the region's mean. A thin thing, a wire or a handle, has a colour of its own and stays, and so does what has no
    neighbour on its own `surface` (gh, gw; see `split_regions`).
    """
    import cv2

    rows, columns = regions.shape
    samples = cv2.resize(picture, (columns * SAMPLES, rows * SAMPLES), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(samples.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    pixels = lab.reshape(rows, SAMPLES, columns, SAMPLES, 3).swapaxes(1, 2).reshape(rows, columns, SAMPLES**2, 3)
    num_regions = int(regions.max()) + 1
    colours = mean_features(pixels.mean(axis=2).reshape(-1, 3), regions.ravel(), num_regions)
    surface_of = np.zeros(num_regions, np.int32)
    surface_of[regions] = 0 if surface is None else surface
    given = regions.copy()
    for region in range(num_regions):
        part = regions == region
        if cv2.erode(part.astype(np.uint8), np.ones((2, 2), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0).any():
            continue
        around = cv2.dilate(part.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~part
        neighbours = np.unique(regions[around])
        sides = np.flatnonzero(surface_of[neighbours] == surface_of[region])
        if len(neighbours) < 2 or len(sides) == 0:
            continue
        own = np.linalg.norm(pixels[part] - colours[region], axis=-1)
        others = np.linalg.norm(pixels[part][:, :, None] - colours[neighbours], axis=-1)
        if others.min(axis=-1).mean() < own.mean():
            given[part] = neighbours[sides[others[:, :, sides].mean(axis=1).argmin(axis=-1)]]
    names = np.unique(given)
    return np.searchsorted(names, given).astype(np.int32), int(np.count_nonzero(given != regions))


def recognise(
    regions: np.ndarray, features: np.ndarray, known: list[Entity], *, yardstick: float, overlap_weight: float, least: float
) -> np.ndarray:
    """Name the regions of a frame: (gh, gw) regions from 0 -> (gh, gw) indices into `known`, which grows by what is new.

    The best bipartite matching between regions and known entities, by a score of feature similarity and of overlap with where
    the entity was last seen; a pair that scores below `least` is no match, and its region a new entity (paper A.1).
    """
    num_regions = int(regions.max()) + 1
    looks = mean_features(features.reshape(-1, features.shape[-1]), regions.ravel(), num_regions)
    names = np.full(num_regions, -1, np.int32)
    if known:
        masks = regions.ravel() == np.arange(num_regions)[:, None]
        seen = np.stack([entity.patches.ravel() for entity in known])
        shared = masks.astype(np.float32) @ seen.T.astype(np.float32)
        overlap = shared / (masks.sum(axis=1)[:, None] + seen.sum(axis=1) - shared)
        alike = similarity(looks, np.stack([entity.feature for entity in known]), yardstick)
        score = (1 - overlap_weight) * alike + overlap_weight * overlap
        # A pair that cannot match must not keep a good pair apart for the sake of the sum.
        rows, columns = best_assignment(np.maximum(score, least))
        matched = score[rows, columns] >= least
        names[rows[matched]] = columns[matched]
    for region in np.flatnonzero(names < 0).tolist():
        names[region] = len(known)
        known.append(Entity(looks[region], regions == region))
    for region, name in enumerate(names.tolist()):
        known[name].feature = looks[region]
        known[name].patches = regions == region
        known[name].num_patches += int(known[name].patches.sum())
        known[name].num_frames += 1
    return names[regions]
