"""Which points to follow: a fixed budget of keypoints a chunk, shared out between the things in view (paper 2.1, A.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.backends.protocols import FeaturesBackend
from tracekit.errors import BadDataError
from tracekit.extract.chunks import chunk_bounds
from tracekit.extract.entities import Entity, dissolve_outlines, group_patches, recognise, split_regions, unit_features, variety
from tracekit.extract.farthest_points import farthest_points
from tracekit.extract.quota import share_budget
from tracekit.parameters import check, parameter
from tracekit.records import Frames, Keypoints
from tracekit.report import Report


@dataclass(frozen=True)
class KeypointsParameters:
    """How entities are found and how keypoints are placed on them."""

    budget: int = parameter(256, "keypoints per chunk", minimum=1)
    minimum_quota: int = parameter(6, "keypoints that even the smallest entity gets, where the budget allows", minimum=0)
    chunk: int = parameter(60, "frames per chunk", minimum=1)
    representative_frames: int = parameter(5, "frames per chunk on which entities are found", minimum=1)
    clusters: int = parameter(16, "groups of patch features per chunk, before alike ones are merged", minimum=1)
    position_weight: float = parameter(0.3, "weight of a patch's place against its features when patches are grouped", minimum=0)
    merge_similarity: float = parameter(0.65, "groups at least this similar are one (1: equal, 0: as two patches at random)", maximum=1)
    minimum_patches: int = parameter(4, "a region of fewer patches is counted to its neighbour", minimum=1)
    match_similarity: float = parameter(0.5, "a region that scores less against every known entity is a new entity", maximum=1)
    match_overlap_weight: float = parameter(0.4, "weight of spatial overlap against feature similarity in that score", minimum=0, maximum=1)
    border: int = parameter(8, "keypoints keep this far from the edge of the image, px", minimum=0)


# The release clusters every fifth frame into 12 groups, with no regard to where patches lie.
PRESETS: dict[str, dict[str, object]] = {"release": {"clusters": 12, "representative_frames": 12, "position_weight": 0.0}}

# Where a keypoint would lie, from best to worst. A point on an outline slides to what is behind; one without texture drifts,
# but mostly along its own entity; one without depth never becomes a trace.
IDEAL, FLAT, OUTLINE, NO_DEPTH, BORDER = range(5)
COMPROMISES = {
    FLAT: "keypoints where the image has little texture",
    OUTLINE: "keypoints near the outline of their entity",
    NO_DEPTH: "keypoints on a hole or an edge of the measured depth",
    BORDER: "keypoints near the edge of the image",
}
TEXTURE_WINDOW = 7
"""Side of the window, in pixels, over which the structure tensor is summed: about what a tracker compares."""
LEAST_TEXTURE = 0.01
"""Fraction of the best eigenvalue of a frame below which a point counts as flat."""
OUTLINE_MARGIN = 4.0
"""Distance in pixels from the outline of an entity from which most of what a tracker compares is the entity."""
SMALLEST_CELL = 4.0
"""Keypoints closer than this, in pixels, say the same: cells shrink below it only where there is no other room."""
DEPTH_EDGE = 0.05
"""Relative jump of depth between neighbouring pixels that counts as an edge."""


@dataclass(frozen=True)
class _Places:
    """The best place for a keypoint in each cell of one frame; a cell is a patch or an even part of it."""

    uv: np.ndarray
    """(n, 2) float32 px."""
    entity: np.ndarray
    """(n,) int32."""
    compromise: np.ndarray
    """(n,) int: IDEAL to BORDER."""
    score: np.ndarray
    """(n,) float32."""


def select_keypoints(
    frames: Frames,
    features: FeaturesBackend,
    parameters: KeypointsParameters,
    *,
    seed: int,
    report: Report,
    sensor_depth: Frames | None = None,
) -> Keypoints:
    """Choose `parameters.budget` keypoints for every chunk of `frames` (T, H, W, 3) uint8 RGB, and say which entity each is on.

    Entities are groups of patches that look alike and hang together, with one identity through the clip; each gets a share of
    the budget by the patches it covers, placed on the representative frame that shows most of it, at pixels that can be
    tracked. `sensor_depth` (T, h, w), 0 where there was no return, on any grid that covers the frame: its holes and edges
    are avoided where the entity offers anything else. Only the representative frames of one chunk are in memory at a time.
    The result depends on the input and `seed` alone. Raises BadDataError where the backend's features are not finite.
    """
    check(parameters)
    bounds = chunk_bounds(len(frames), parameters.chunk)
    known: list[Entity] = []
    label_frames: list[int] = []
    labels: list[np.ndarray] = []
    placed: list[tuple[int, int, int, np.ndarray, np.ndarray]] = []
    for number, (start, stop) in enumerate(bounds):
        representative = _representative(start, stop, parameters.representative_frames)
        pictures = np.concatenate([np.asarray(frames[index : index + 1]) for index in representative])
        entities = _find_entities(pictures, representative, features, known, parameters, seed, report)
        label_frames += representative
        labels += list(entities)

        visible = np.stack([np.bincount(shown.ravel(), minlength=len(known)) for shown in entities])
        quotas = share_budget(visible.sum(axis=0), parameters.budget, parameters.minimum_quota)
        for shown, index in enumerate(representative):
            # Each entity is placed on the frame that shows most of it; of equals, on the first.
            here = np.flatnonzero((quotas > 0) & (visible.argmax(axis=0) == shown))
            if len(here):
                depth = None if sensor_depth is None else np.asarray(sensor_depth[index : index + 1])[0]
                for entity, uv, score in _place(pictures[shown], entities[shown], depth, here, quotas[here], parameters.border, report):
                    placed.append((number, index, entity, uv, score))
        report.progress(stop, len(frames))
    return _record(frames, features.name, parameters.budget, bounds, known, label_frames, labels, placed)


def _representative(start: int, stop: int, count: int) -> list[int]:
    """Evenly spaced, from the first frame of the chunk to its last: neighbouring chunks meet, and identities pass on."""
    return np.unique(np.linspace(start, stop - 1, min(count, stop - start)).round().astype(int)).tolist()


def _find_entities(
    pictures: np.ndarray,
    representative: list[int],
    features: FeaturesBackend,
    known: list[Entity],
    parameters: KeypointsParameters,
    seed: int,
    report: Report,
) -> np.ndarray:
    """The entity of each patch of each picture, (R, gh, gw) indices into `known`, which grows and learns where they are now."""
    described = features.describe(pictures).features
    broken = np.flatnonzero(~np.isfinite(described).all(axis=(1, 2, 3)))
    if len(broken):
        raise BadDataError(
            f"keypoints: the features of frame {representative[broken[0]]} from backend {features.name!r} are not finite",
            hint="check the backend's weights, or choose another with --features",
        )
    described = unit_features(described)
    groups = group_patches(
        described,
        num_clusters=parameters.clusters,
        position_weight=parameters.position_weight,
        merge_similarity=parameters.merge_similarity,
        seed=seed,
    )
    yardstick = variety(described)
    entities = np.empty(groups.shape, np.int32)
    for shown, picture in enumerate(pictures):
        regions, num_absorbed = split_regions(groups[shown], described[shown], minimum_patches=parameters.minimum_patches)
        report.count("patches of regions too small to be an entity, counted to a neighbour", num_absorbed)
        regions, num_given = dissolve_outlines(regions, picture)
        report.count("patches across an outline, counted to one side", num_given)
        entities[shown] = recognise(
            regions,
            described[shown],
            known,
            yardstick=yardstick,
            overlap_weight=parameters.match_overlap_weight,
            least=parameters.match_similarity,
        )
        _add_colours(picture, entities[shown], known)
    return entities


def _add_colours(picture: np.ndarray, entities: np.ndarray, known: list[Entity]) -> None:
    import cv2

    colours = cv2.resize(picture, entities.shape[::-1], interpolation=cv2.INTER_AREA)
    for entity in np.unique(entities):
        known[entity].rgb_sum += colours[entities == entity].sum(axis=0)


def _place(
    picture: np.ndarray, entities: np.ndarray, depth: np.ndarray | None, wanted: np.ndarray, quotas: np.ndarray, border: int, report: Report
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Places for `quotas` keypoints on each of the `wanted` entities of one frame: (entity, uv (quota, 2), score (quota,))."""
    trackability, compromise = _survey(picture, entities, depth, border)
    places = {1: _best_places(trackability, compromise, entities, 1)}
    found = []
    for entity, quota in zip(wanted, quotas, strict=True):
        parts = 1
        while _too_coarse(places[parts], entity, quota, parts, picture.shape[1] / entities.shape[1]):
            parts *= 2
            if parts not in places:
                places[parts] = _best_places(trackability, compromise, entities, parts)
        candidates = np.flatnonzero(places[parts].entity == entity)
        chosen = _spread(places[parts], candidates, int(min(quota, len(candidates))))
        report.count("keypoints of the budget with no pixel left to lie on", quota - len(chosen))
        for kind, name in COMPROMISES.items():
            report.count(name, int(np.count_nonzero(places[parts].compromise[chosen] == kind)))
        found.append((int(entity), places[parts].uv[chosen], places[parts].score[chosen]))
    return found


def _too_coarse(places: _Places, entity: int, quota: int, parts: int, patch_size: float) -> bool:
    """Whether cells must be divided to give `entity` two places for each keypoint, at least one of them off its outline."""
    mine = places.entity == entity
    num_places, num_good = int(np.count_nonzero(mine)), int(np.count_nonzero(mine & (places.compromise < OUTLINE)))
    if patch_size / parts > SMALLEST_CELL:
        return num_places < 2 * quota or num_good < quota
    return patch_size / parts > 1 and num_places < quota


def _survey(picture: np.ndarray, entities: np.ndarray, depth: np.ndarray | None, border: int) -> tuple[np.ndarray, np.ndarray]:
    """How well each pixel can be tracked, (H, W) float32, and what speaks against it, (H, W) uint8 from IDEAL to BORDER."""
    import cv2

    height, width = picture.shape[:2]
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
    trackability = np.maximum(cv2.cornerMinEigenVal(grey, TEXTURE_WINDOW), 0)
    compromise = np.where(trackability < LEAST_TEXTURE * trackability.max(), FLAT, IDEAL).astype(np.uint8)

    rows, columns = _cell_of_pixel(height, entities.shape[0]), _cell_of_pixel(width, entities.shape[1])
    own, other = _distance_from_looks(picture, entities, rows, columns)
    inside = (own < other).astype(np.uint8)
    entity = entities[np.ix_(rows, columns)]
    inside[1:][entity[1:] != entity[:-1]] = 0
    inside[:, 1:][entity[:, 1:] != entity[:, :-1]] = 0
    compromise[cv2.distanceTransform(inside, cv2.DIST_L2, 3) < OUTLINE_MARGIN] = OUTLINE

    if depth is not None:
        doubtful = _doubtful_depth(depth)
        compromise[doubtful[np.ix_(_cell_of_pixel(height, depth.shape[0]), _cell_of_pixel(width, depth.shape[1]))]] = NO_DEPTH
    border = min(border, (min(height, width) - 1) // 4)
    edge = np.ones((height, width), bool)
    edge[border : height - border, border : width - border] = False
    compromise[edge] = BORDER
    return trackability, compromise


def _distance_from_looks(picture: np.ndarray, entities: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel's colour is from that of its own entity nearby, and of the others nearby: two (H, W) float32, CIELAB.

    Patches are coarse and outlines run through them. What a pixel of such a patch belongs to shows in its colour, compared with
    the mean of the patches around it that belong to its entity, and of those that do not.
    """
    import cv2

    lab = cv2.cvtColor(cv2.GaussianBlur(picture, (0, 0), 1.5).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    patches = cv2.resize(lab, entities.shape[::-1], interpolation=cv2.INTER_AREA)
    sums = np.zeros((2, *patches.shape), np.float32)
    counts = np.zeros((2, *entities.shape), np.float32)
    height, width = entities.shape
    padded_entities = np.pad(entities, 1, constant_values=-1)
    padded_patches = np.pad(patches, ((1, 1), (1, 1), (0, 0)))
    for down in range(3):
        for across in range(3):
            neighbour = padded_entities[down : down + height, across : across + width]
            looks = padded_patches[down : down + height, across : across + width]
            for which, counted in enumerate((neighbour == entities, (neighbour != entities) & (neighbour >= 0))):
                sums[which] += looks * counted[..., None]
                counts[which] += counted
    means = sums / np.maximum(counts, 1)[..., None]
    cell = np.ix_(rows, columns)
    own, other = (_length(lab - mean[cell]) for mean in means)
    return own, np.where(counts[1][cell] > 0, other, np.inf)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ijk,ijk->ij", vectors, vectors))


def _doubtful_depth(depth: np.ndarray) -> np.ndarray:
    """(h, w) bool: no return here or next to here, or a jump: interpolating there would invent a surface."""
    import cv2

    window = np.ones((3, 3), np.uint8)
    known = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    nearest, farthest = cv2.erode(known, window), cv2.dilate(known, window)
    return (nearest <= 0) | (farthest > (1 + DEPTH_EDGE) * nearest)


def _cell_of_pixel(num_pixels: int, num_cells: int) -> np.ndarray:
    """(num_pixels,): which of `num_cells` even cells the centre of each pixel lies in."""
    return ((np.arange(num_pixels) + 0.5) * (num_cells / num_pixels)).astype(int)


def _best_places(trackability: np.ndarray, compromise: np.ndarray, entities: np.ndarray, parts: int) -> _Places:
    """The best pixel of each cell, where every patch is cut into `parts` x `parts` cells; cells too small for a pixel have none."""
    height, width = trackability.shape
    rows = _cell_of_pixel(height, entities.shape[0] * parts)
    columns = _cell_of_pixel(width, entities.shape[1] * parts)
    # In one number: less of a compromise first, then easier to track.
    preference = trackability / max(float(trackability.max()), np.finfo(np.float32).tiny) - 2.0 * compromise
    _, first_row, row_cell = np.unique(rows, return_index=True, return_inverse=True)
    _, first_column, column_cell = np.unique(columns, return_index=True, return_inverse=True)
    best = np.maximum.reduceat(np.maximum.reduceat(preference, first_row, axis=0), first_column, axis=1)
    v, u = np.nonzero(preference == best[np.ix_(row_cell, column_cell)])
    _, first = np.unique(row_cell[v] * len(first_column) + column_cell[u], return_index=True)
    u, v = u[first], v[first]
    return _Places(
        uv=np.stack([u, v], axis=1).astype(np.float32),
        entity=entities[rows[v] // parts, columns[u] // parts],
        compromise=compromise[v, u],
        score=trackability[v, u],
    )


def _spread(places: _Places, candidates: np.ndarray, count: int) -> np.ndarray:
    """`count` of the `candidates`, far from each other: all that needs no compromise before any that does."""
    chosen = [candidates[:0]]
    for kind in range(BORDER + 1):
        pool = candidates[places.compromise[candidates] == kind]
        take = min(count - sum(map(len, chosen)), len(pool))
        if take:
            start = int(places.score[pool].argmax())
            chosen.append(pool[farthest_points(places.uv[pool], take, start=start)])
    return np.concatenate(chosen)


def _record(
    frames: Frames,
    features: str,
    budget: int,
    bounds: list[tuple[int, int]],
    known: list[Entity],
    label_frames: list[int],
    labels: list[np.ndarray],
    placed: list[tuple[int, int, int, np.ndarray, np.ndarray]],
) -> Keypoints:
    counts = [len(uv) for *_, uv, _ in placed]
    chunk, frame, entity = np.array([key[:3] for key in placed], np.int32).reshape(-1, 3).repeat(counts, axis=0).T
    return Keypoints(
        patch_size=frames.shape[2] / labels[0].shape[1] if labels else 0.0,
        budget=budget,
        features=features,
        uv=np.concatenate([np.zeros((0, 2), np.float32), *(uv for *_, uv, _ in placed)]),
        frame=frame,
        entity=entity,
        chunk=chunk,
        score=np.concatenate([np.zeros(0, np.float32), *(score for *_, score in placed)]),
        chunk_start=np.array([start for start, _ in bounds], np.int32),
        chunk_stop=np.array([stop for _, stop in bounds], np.int32),
        entity_id=np.arange(len(known), dtype=np.int32),
        entity_num_patches=np.array([entity.num_patches for entity in known], np.int32),
        entity_num_frames=np.array([entity.num_frames for entity in known], np.int32),
        entity_rgb=np.array([(entity.rgb_sum / entity.num_patches).round() for entity in known], np.uint8).reshape(-1, 3),
        label_frame=np.array(label_frames, np.int32),
        labels=np.stack(labels) if labels else np.zeros((0, 0, 0), np.int32),
    )
