"""Which points to follow: a fixed budget of keypoints a chunk, shared out between the things in view (paper 2.1, A.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.backends.protocols import FeaturesBackend
from tracekit.errors import BadDataError
from tracekit.extract.cells import cell_of_pixel
from tracekit.extract.chunks import chunk_bounds
from tracekit.extract.depth_layers import NOTHING, Layers, find_layers, split_parts
from tracekit.extract.entities import Entity, dissolve_outlines, group_patches, recognise, split_regions, unit_features, variety
from tracekit.extract.farthest_points import farthest_points
from tracekit.extract.motion_pass import MotionPass, smooth
from tracekit.extract.quota import share_between_frames, share_budget, share_by_motion
from tracekit.geometry.depth_lookup import doubtful_depth
from tracekit.parameters import check, parameter
from tracekit.records import CameraSensor, Frames, Keypoints
from tracekit.report import Report


@dataclass(frozen=True)
class KeypointsParameters:
    """How entities are found and how keypoints are placed on them."""

    budget: int = parameter(256, "keypoints per chunk", minimum=1)
    points_per_entity: int | None = parameter(
        None, "keypoints for every entity in view of a chunk; wins over --budget and --quota", minimum=1, wins_over=("budget", "quota")
    )
    quota: str = parameter(
        "coverage",
        "what the budget is shared by: the patches that entities cover, or those of them that move",
        choices=("coverage", "motion"),
    )
    minimum_quota: int = parameter(8, "keypoints that even the smallest entity gets, where the budget allows", minimum=0)
    still_quota: int = parameter(3, "keypoints of an entity that does not move, with --quota motion", minimum=0)
    still_share: float = parameter(
        0.15, "share of the budget that all entities together get that do not move, with --quota motion", minimum=0, maximum=1
    )
    least_motion: float = parameter(
        0.1, "share of an entity's patches that must be seen to move, with --quota motion", minimum=0, maximum=1
    )
    chunk: int = parameter(60, "frames per chunk", minimum=1)
    representative_frames: int = parameter(5, "frames per chunk on which entities are found", minimum=1)
    representative_every: int | None = parameter(
        None,
        "find entities on every N-th frame of a chunk instead; wins over --representative-frames",
        minimum=1,
        wins_over=("representative_frames",),
    )
    clusters: int = parameter(16, "groups of patch features per chunk, before alike ones are merged", minimum=1)
    position_weight: float = parameter(0.3, "weight of a patch's place against its features when patches are grouped", minimum=0)
    merge_similarity: float = parameter(0.65, "groups at least this similar are one (1: equal, 0: as two patches at random)", maximum=1)
    connected: bool = parameter(True, "what does not hang together is different entities, however alike it looks")
    minimum_patches: int = parameter(4, "a region of fewer patches is counted to its neighbour", minimum=1)
    part_size: float = parameter(
        0.02, "with measured depth: share of the image that a part of a thing covers; larger things are split unless flat", minimum=0.001
    )
    match_similarity: float = parameter(0.5, "a region that scores less against every known entity is a new entity", maximum=1)
    match_overlap_weight: float = parameter(0.4, "weight of spatial overlap against feature similarity in that score", minimum=0, maximum=1)
    border: int = parameter(8, "keypoints keep this far from the edge of the image, px", minimum=0)


# `backend` and `fps` are options of the command. The release (infer.py, run_traceextract.sh, utils/dino) looks at every fifth frame of a
# tracking chunk of 360 and clusters patches into 12 groups by looks alone, which are neither merged nor split; a patch is of a new group where its
# cosine with all others is below 0.2, which is -0.14 of our measure where patches of DINOv2 drawn at random have 0.3.
PRESETS: dict[str, dict[str, object]] = {
    "paper": {"backend": "dinov2"},
    "release": {
        "backend": "dinov2",
        "fps": 10.0,
        "chunk": 360,
        "representative_every": 5,
        "points_per_entity": 48,
        "clusters": 12,
        "position_weight": 0.0,
        "connected": False,
        "merge_similarity": 1.0,
        "match_similarity": -0.14,
        "match_overlap_weight": 0.0,
    },
}

# Where a keypoint would lie, from best to worst. A point on an outline slides to what is behind; one without texture drifts,
# but mostly along its own entity; one without depth never becomes a trace.
IDEAL, FLAT, NEAR_OUTLINE, OUTLINE, NO_DEPTH, BORDER = range(6)
COMPROMISES = {
    FLAT: "keypoints where the image has little texture",
    NEAR_OUTLINE: "keypoints near the outline of their entity",
    OUTLINE: "keypoints on the outline of their entity",
    NO_DEPTH: "keypoints on a hole or an edge of the measured depth",
    BORDER: "keypoints near the edge of the image",
}
TEXTURE_WINDOW = 7
"""Side of the window, in pixels, over which the structure tensor is summed: about what a tracker compares."""
LEAST_TEXTURE = 0.01
"""Fraction of the best eigenvalue of a frame below which a point counts as flat."""
OUTLINE_MARGIN = 4.0
"""Distance in pixels from the outline of an entity from which most of what a tracker compares is the entity."""
OUTLINE_WIDTH = 2.0
"""Distance in pixels within which an outline may be somewhere else than it seems."""
ALIKE = 8.0
"""Difference in CIELAB below which neighbouring entities show no outline between them."""
MOSTLY = 0.5
"""Share of a neighbourhood of patches that moves, from which it is taken for another thing than what rests beside it."""
SMALLEST_CELL = 4.0
"""Keypoints closer than this, in pixels, say the same: cells shrink below it only where there is no other room."""
DEPTH_EDGE = 0.05
"""Relative jump of depth between neighbouring pixels that counts as an edge."""


@dataclass(frozen=True)
class _Places:
    """The best place for a keypoint of one entity in each cell of one frame; a cell is a patch or an even part of it."""

    uv: np.ndarray
    """(n, 2) float32 px."""
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
    camera_sensor: CameraSensor | None = None,
) -> Keypoints:
    """Choose keypoints for every chunk of `frames` (T, H, W, 3) uint8 RGB, and say which entity each is on.

    They are `parameters.budget` a chunk, or `parameters.points_per_entity` for each entity in it.

    Entities are groups of patches that look alike and hang together, with one identity through the clip; each gets a share of
    the budget by the patches it covers (or, with quota "motion", by those of them that move), placed for the most part on the
    first representative frame that shows nearly all of it, at pixels that can be tracked. `sensor_depth` (T, h, w), 0 where
    there was no return, on any grid that covers the frame: surfaces that end where it jumps are different things, what has no
    depth gets no share, and holes and edges are avoided where the entity offers anything else. `camera_sensor` helps to tell
    what moves. Only the representative frames of one chunk are in memory at a time; only quota "motion" may read others.
    The result depends on the input and `seed` alone. Raises BadDataError where the backend's features are not finite.
    """
    check(parameters)
    bounds = chunk_bounds(len(frames), parameters.chunk)
    known: list[Entity] = []
    label_frames: list[int] = []
    labels: list[np.ndarray] = []
    placed: list[tuple[int, int, int, np.ndarray, np.ndarray]] = []
    by_motion = parameters.quota == "motion" and parameters.points_per_entity is None
    motion = MotionPass(frames, sensor_depth, camera_sensor, seed=seed) if by_motion else None
    asked_for = 0
    for number, (start, stop) in enumerate(bounds):
        representative = _representative(start, stop, parameters)
        pictures = _read(frames, representative)
        depth = None if sensor_depth is None else _read(sensor_depth, representative)
        entities, layers, moving = _find_entities(pictures, depth, representative, features, motion, known, parameters, seed, report)
        label_frames += representative
        labels += list(entities)

        visible = _coverage(entities, layers, len(known), report)
        quotas = _quotas(visible, entities, moving, parameters, report)
        asked_for = max(asked_for, int(quotas.sum()))
        shares = share_between_frames(visible, quotas, parameters.minimum_quota)
        for shown, index in enumerate(representative):
            here = np.flatnonzero(shares[shown])
            if len(here):
                survey = _survey(
                    pictures[shown],
                    entities[shown],
                    None if depth is None else depth[shown],
                    layers[shown] if layers else None,
                    parameters.border,
                )
                for entity, uv, score in _place(survey, here, shares[shown][here], report):
                    placed.append((number, index, entity, uv, score))
        report.progress(stop, len(frames))
    budget = parameters.budget if parameters.points_per_entity is None else asked_for
    return _record(frames, features.name, budget, bounds, known, label_frames, labels, placed)


def _read(frames: Frames, indices: list[int]) -> np.ndarray:
    return np.concatenate([np.asarray(frames[index : index + 1]) for index in indices])


def _representative(start: int, stop: int, parameters: KeypointsParameters) -> list[int]:
    """Evenly spaced, from the first frame of the chunk to its last: neighbouring chunks meet, and identities pass on."""
    if parameters.representative_every is not None:
        return list(range(start, stop, parameters.representative_every))
    count = parameters.representative_frames
    return np.unique(np.linspace(start, stop - 1, min(count, stop - start)).round().astype(int)).tolist()


def _find_entities(
    pictures: np.ndarray,
    depth: np.ndarray | None,
    representative: list[int],
    features: FeaturesBackend,
    motion: MotionPass | None,
    known: list[Entity],
    parameters: KeypointsParameters,
    seed: int,
    report: Report,
) -> tuple[np.ndarray, list[Layers] | None, np.ndarray | None]:
    """The entity of each patch of each picture, (R, gh, gw) indices into `known`, which grows and learns where they are now.

    With them the surfaces of the measured depth, None where there is none, and the share of each patch that moves, None unless asked for.
    """
    described = features.describe(pictures).features
    broken = np.flatnonzero(~np.isfinite(described).all(axis=(1, 2, 3)))
    if len(broken):
        raise BadDataError(
            f"keypoints: the features of frame {representative[broken[0]]} from backend {features.name!r} are not finite",
            hint="check the backend's weights, or choose another with --features",
        )
    described = unit_features(described)
    yardstick = variety(described)
    groups = group_patches(
        described,
        num_clusters=parameters.clusters,
        position_weight=parameters.position_weight,
        merge_similarity=parameters.merge_similarity,
        seed=seed,
    )
    grid = (groups.shape[1], groups.shape[2])
    layers = None if depth is None else [find_layers(picture, grid) for picture in depth]
    if layers and all((layer.patch_surface == NOTHING).all() for layer in layers):
        layers = None
    moving = motion.moving_share(pictures, depth if layers else None, representative, grid) if motion else None
    if moving is not None:
        # Where a part of a thing moves and the rest does not, they are two.
        groups = 2 * groups + (smooth(moving) > MOSTLY)
    entities = np.empty(groups.shape, np.int32)
    for shown, picture in enumerate(pictures):
        layer = layers[shown] if layers else None
        if parameters.connected:
            regions = _hanging_together(groups[shown], described[shown], picture, layer, yardstick, parameters, seed, report)
        else:
            regions = np.unique(groups[shown], return_inverse=True)[1].reshape(grid).astype(np.int32)
        entities[shown] = recognise(
            regions,
            described[shown],
            known,
            yardstick=yardstick,
            overlap_weight=parameters.match_overlap_weight,
            least=parameters.match_similarity,
        )
        _add_colours(picture, entities[shown], known)
    return entities, layers, moving


def _hanging_together(
    groups: np.ndarray,
    features: np.ndarray,
    picture: np.ndarray,
    layer: Layers | None,
    yardstick: float,
    parameters: KeypointsParameters,
    seed: int,
    report: Report,
) -> np.ndarray:
    """The connected parts of the groups of one frame, (gh, gw) from 0; measured depth tells surfaces apart, and parts of a thing."""
    surface = layer.patch_surface if layer else None
    regions, num_absorbed = split_regions(
        groups,
        features,
        minimum_patches=parameters.minimum_patches,
        yardstick=yardstick,
        surface=surface,
        standing_out=layer.standing_out() if layer else None,
    )
    report.count("patches of regions too small to be an entity, counted to a neighbour", num_absorbed)
    regions, num_given = dissolve_outlines(regions, picture, surface)
    report.count("patches across an outline, counted to one side", num_given)
    if layer:
        most_parts = parameters.budget // max(parameters.minimum_quota, 1)
        regions = split_parts(regions, layer, parameters.part_size * regions.size, most_parts, seed)
    return regions


def _coverage(entities: np.ndarray, layers: list[Layers] | None, num_entities: int, report: Report) -> np.ndarray:
    """Patches that each entity covers in each frame, (R, M); those without depth do not count where depth was measured."""
    usable = np.ones(entities.shape, bool) if layers is None else np.stack([layer.patch_surface != NOTHING for layer in layers])
    if layers is not None:
        report.count("patches without measured depth, which get no share of the budget", int(np.count_nonzero(~usable)))
    return np.stack([np.bincount(shown[kept], minlength=num_entities) for shown, kept in zip(entities, usable, strict=True)])


def _quotas(
    visible: np.ndarray, entities: np.ndarray, moving: np.ndarray | None, parameters: KeypointsParameters, report: Report
) -> np.ndarray:
    """Keypoints for each entity (M,): the budget, shared by coverage or by motion; or as many for each that is in view."""
    coverage = visible.sum(axis=0)
    if parameters.points_per_entity is not None:
        return np.where(coverage > 0, parameters.points_per_entity, 0)
    if moving is None:
        return share_budget(coverage, parameters.budget, parameters.minimum_quota)
    moved = np.bincount(entities.ravel(), weights=moving.ravel(), minlength=len(coverage))
    moved = np.where((coverage > 0) & (moved > parameters.least_motion * coverage), moved, 0)
    report.count("entities that move", int(np.count_nonzero(moved)))
    if not moved.any():
        report.note("nothing was seen to move in a chunk: its budget is shared by coverage")
        return share_budget(coverage, parameters.budget, parameters.minimum_quota)
    return share_by_motion(coverage, moved, parameters.budget, parameters.minimum_quota, parameters.still_quota, parameters.still_share)


def _add_colours(picture: np.ndarray, entities: np.ndarray, known: list[Entity]) -> None:
    import cv2

    colours = cv2.resize(picture, entities.shape[::-1], interpolation=cv2.INTER_AREA)
    for entity in np.unique(entities):
        known[entity].rgb_sum += colours[entities == entity].sum(axis=0)


def _place(survey: _Survey, wanted: np.ndarray, quotas: np.ndarray, report: Report) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Places for `quotas` keypoints on each of the `wanted` entities of one frame: (entity, uv (quota, 2), score (quota,))."""
    found = []
    for entity, quota in zip(wanted, quotas, strict=True):
        parts = 1
        places = _best_places(survey, entity, parts)
        while _too_coarse(places, quota, parts, survey.trackability.shape[1] / survey.grid[1]):
            parts *= 2
            places = _best_places(survey, entity, parts)
        chosen = _spread(places, int(min(quota, len(places.uv))))
        report.count("keypoints of the budget with no pixel left to lie on", quota - len(chosen))
        for kind, name in COMPROMISES.items():
            report.count(name, int(np.count_nonzero(places.compromise[chosen] == kind)))
        found.append((int(entity), places.uv[chosen], places.score[chosen]))
    return found


def _too_coarse(places: _Places, quota: int, parts: int, patch_size: float) -> bool:
    """Whether cells must be divided to give an entity two places for each keypoint, at least one of them away from its outline."""
    num_places, num_good = len(places.uv), int(np.count_nonzero(places.compromise < NEAR_OUTLINE))
    if patch_size / parts > SMALLEST_CELL:
        return num_places < 2 * quota or num_good < quota
    return patch_size / parts > 1 and num_places < quota


@dataclass(frozen=True)
class _Survey:
    """One frame, pixel by pixel."""

    grid: tuple[int, int]
    """Patches down and across."""
    entity: np.ndarray
    """(H, W) int32: the entity that each pixel belongs to; NOTHING where measured depth tells that it is none of those nearby."""
    trackability: np.ndarray
    """(H, W) float32: the smaller eigenvalue of the structure tensor."""
    compromise: np.ndarray
    """(H, W) uint8 from IDEAL to BORDER: what speaks against a keypoint here."""


def _survey(picture: np.ndarray, entities: np.ndarray, depth: np.ndarray | None, layers: Layers | None, border: int) -> _Survey:
    """What each pixel of a frame belongs to, how well it can be tracked, and what speaks against it."""
    import cv2

    height, width = picture.shape[:2]
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
    trackability = np.maximum(cv2.cornerMinEigenVal(grey, TEXTURE_WINDOW), 0)
    compromise = np.where(trackability < LEAST_TEXTURE * trackability.max(), FLAT, IDEAL).astype(np.uint8)

    rows, columns = cell_of_pixel(height, entities.shape[0]), cell_of_pixel(width, entities.shape[1])
    entity = entities[np.ix_(rows, columns)]
    own, other, contrast = _distance_from_looks(picture, entities, rows, columns)
    if layers is None:
        inside = (own < other).astype(np.uint8)
        inside[1:][entity[1:] != entity[:-1]] = 0
        inside[:, 1:][entity[:, 1:] != entity[:, :-1]] = 0
    else:
        # Depth shows the outlines of what stands before something else, and colour those of what lies against it. Between the
        # parts of one thing there is nothing to see, and no harm in a keypoint.
        patchwise, entity = entity, _entity_by_depth(entities, layers, rows, columns)
        inside = ((entity >= 0) & ((entity != patchwise) | (own < other) | (contrast < ALIKE))).astype(np.uint8)
    clearance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    compromise[clearance < OUTLINE_MARGIN] = NEAR_OUTLINE
    compromise[clearance < OUTLINE_WIDTH] = OUTLINE

    if depth is not None:
        doubtful = doubtful_depth(depth, DEPTH_EDGE)
        compromise[doubtful[np.ix_(cell_of_pixel(height, depth.shape[0]), cell_of_pixel(width, depth.shape[1]))]] = NO_DEPTH
    border = min(border, (min(height, width) - 1) // 4)
    edge = np.ones((height, width), bool)
    edge[border : height - border, border : width - border] = False
    compromise[edge] = BORDER
    return _Survey((entities.shape[0], entities.shape[1]), entity, trackability, compromise)


def _entity_by_depth(entities: np.ndarray, layers: Layers, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The entity of each pixel (H, W): that of the patch around it or, where another surface shows there, of a patch next to it.

    NOTHING where no patch nearby is of the pixel's surface. Patches without depth keep their pixels.
    """
    surface = layers.surface[
        np.ix_(cell_of_pixel(len(rows), layers.surface.shape[0]), cell_of_pixel(len(columns), layers.surface.shape[1]))
    ]
    cell = np.ix_(rows, columns)
    entity = entities[cell]
    elsewhere = surface != layers.patch_surface[cell]
    v, u = np.nonzero(elsewhere & (surface != NOTHING))
    row, column, wanted = rows[v], columns[u], surface[v, u]
    found = np.full(len(v), NOTHING, np.int32)
    # Those beside the patch come last and win over those at its corners.
    for down, across in ((-1, -1), (-1, 1), (1, -1), (1, 1), (-1, 0), (1, 0), (0, -1), (0, 1)):
        beside = (row + down).clip(0, entities.shape[0] - 1), (column + across).clip(0, entities.shape[1] - 1)
        found = np.where(layers.patch_surface[beside] == wanted, entities[beside], found)
    entity[elsewhere] = NOTHING
    entity[v, u] = found
    return entity


def _distance_from_looks(
    picture: np.ndarray, entities: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far each pixel's colour is from that of its own entity nearby, from the others nearby, and they from each other.

    Three (H, W) float32, CIELAB; infinite where there are no others.

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
    alone = counts[1][cell] == 0
    return own, np.where(alone, np.inf, other), np.where(alone, np.inf, _length(means[0] - means[1])[cell])


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ijk,ijk->ij", vectors, vectors))


def _best_places(survey: _Survey, entity: int, parts: int) -> _Places:
    """The best pixel of `entity` in each cell, where every patch is cut into `parts` x `parts` cells; many cells have none."""
    height, width = survey.trackability.shape
    mine = survey.entity == entity
    down, across = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
    if len(down) == 0:
        return _Places(np.zeros((0, 2), np.float32), np.zeros(0, np.uint8), np.zeros(0, np.float32))
    box = np.s_[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
    mine, compromise, trackability = mine[box], survey.compromise[box], survey.trackability[box]
    # In one number: less of a compromise first, then easier to track.
    preference = trackability / max(float(survey.trackability.max()), np.finfo(np.float32).tiny) - 2.0 * compromise
    preference = np.where(mine, preference, -np.inf)
    _, first_row, row_cell = np.unique(cell_of_pixel(height, survey.grid[0] * parts)[box[0]], return_index=True, return_inverse=True)
    _, first_column, column_cell = np.unique(cell_of_pixel(width, survey.grid[1] * parts)[box[1]], return_index=True, return_inverse=True)
    best = np.maximum.reduceat(np.maximum.reduceat(preference, first_row, axis=0), first_column, axis=1)
    v, u = np.nonzero(mine & (preference == best[np.ix_(row_cell, column_cell)]))
    _, first = np.unique(row_cell[v] * len(first_column) + column_cell[u], return_index=True)
    u, v = u[first], v[first]
    return _Places(
        uv=np.stack([u + across[0], v + down[0]], axis=1).astype(np.float32), compromise=compromise[v, u], score=trackability[v, u]
    )


def _spread(places: _Places, count: int) -> np.ndarray:
    """`count` of the places, far from each other: all that needs no compromise before any that does."""
    chosen = [np.zeros(0, int)]
    for kind in range(BORDER + 1):
        pool = np.flatnonzero(places.compromise == kind)
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
