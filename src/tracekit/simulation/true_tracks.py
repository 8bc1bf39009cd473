"""Tracks that are true: points on every body in view, carried by the body."""

from __future__ import annotations

import cv2
import numpy as np

from tracekit.extract.chunks import chunk_bounds
from tracekit.extract.farthest_points import farthest_points
from tracekit.extract.quota import share_budget
from tracekit.ground_truth import Scene, follow, surface_points
from tracekit.records import Keypoints, Tracks

BUDGET = 256
"""Points per chunk."""
MINIMUM_QUOTA = 8
"""Points for even the smallest body, where it has the room."""
CHUNK = 60
"""Frames after which new points are chosen, for what has come into view."""
PATCH = 16
"""Side of the patches of the label maps, px."""
MARGIN = 2
"""Points keep this many pixels away from the outline of their body, where it is that wide."""
NAME = "simulator"


def true_tracks(scene: Scene, pictures: list[np.ndarray], rng: np.random.Generator) -> tuple[Keypoints, Tracks]:
    """Points on all bodies seen in the first frame of every chunk, and their paths through the clip.

    Each body gets a share by the pixels that it covers, with a minimum; farthest-point sampling spreads them over it. `pictures`
    (one a chunk, (H, W, 3) RGB) give the bodies their colours. A label is a body; the number of bodies stands for none.
    """
    num_frames = len(scene.world_from_camera)
    bounds = chunk_bounds(num_frames, CHUNK)
    nothing = len(scene.truth.body_name)
    selected = [_choose(scene.truth.body_at_pixel[start], rng) for start, _ in bounds]
    counts = [len(uv) for uv in selected]
    chunk = np.repeat(np.arange(len(bounds)), counts)
    frame = np.array([start for start, _ in bounds])[chunk]
    uv = np.concatenate(selected)
    points = surface_points(scene, uv, frame)
    paths = follow(scene, points)
    maps = np.stack([np.asarray(scene.truth.body_at_pixel[start]) for start, _ in bounds])
    labels = _labels(np.where(maps < 0, nothing, maps))
    ids = np.union1d(labels, points.body)
    valid = np.isfinite(paths.uv).all(axis=-1)
    keypoints = Keypoints(
        patch_size=float(PATCH),
        budget=BUDGET,
        features=NAME,
        uv=uv.astype(np.float32),
        frame=frame.astype(np.int32),
        entity=points.body,
        chunk=chunk.astype(np.int32),
        score=np.ones(len(uv), np.float32),
        chunk_start=np.array([start for start, _ in bounds], np.int32),
        chunk_stop=np.array([stop for _, stop in bounds], np.int32),
        entity_id=ids.astype(np.int32),
        entity_num_patches=np.array([(labels == body).sum() for body in ids], np.int32),
        entity_num_frames=np.array([(labels == body).any(axis=(1, 2)).sum() for body in ids], np.int32),
        entity_rgb=np.array([_colour(maps, pictures, body if body < nothing else -1) for body in ids], np.uint8).reshape(-1, 3),
        label_frame=np.array([start for start, _ in bounds], np.int32),
        labels=labels.astype(np.int32),
    )
    tracks = Tracks(
        tracker=NAME,
        xyz_world=np.where(valid[..., None], paths.xyz_world, np.nan).astype(np.float32),
        uv=np.where(valid[..., None], paths.uv, np.nan).astype(np.float32),
        visible=(paths.visible & valid).astype(np.uint8),
        valid=valid.astype(np.uint8),
        keypoint=np.arange(len(uv), dtype=np.int32),
        entity=points.body,
        born=frame.astype(np.int32),
        chunk=chunk.astype(np.int32),
    )
    return keypoints, tracks


def _choose(body_at_pixel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pixels (n, 2) on all bodies of one frame."""
    shown = np.asarray(body_at_pixel)
    bodies, pixels = np.unique(shown[shown >= 0], return_counts=True)
    if len(bodies) == 0:
        return np.zeros((0, 2))
    quotas = np.minimum(share_budget(pixels, BUDGET, MINIMUM_QUOTA), pixels)
    quotas[np.argmax(pixels)] += BUDGET - quotas.sum()  # what small bodies have no room for
    chosen = []
    for body, quota in zip(bodies, quotas, strict=True):
        mask = np.pad((shown == body).astype(np.uint8), 1)
        inner = cv2.distanceTransform(mask, cv2.DIST_L2, 3)[1:-1, 1:-1] > MARGIN
        row, column = np.nonzero(inner if np.count_nonzero(inner) >= quota else shown == body)
        candidates = np.stack([column, row], axis=1).astype(np.float64)
        if len(candidates) > 20 * quota:
            candidates = candidates[np.sort(rng.choice(len(candidates), 20 * quota, replace=False))]
        take = min(int(quota), len(candidates))
        chosen.append(candidates[farthest_points(candidates, take, start=int(rng.integers(len(candidates))))])
    return np.concatenate(chosen)


def _labels(maps: np.ndarray) -> np.ndarray:
    """The body in the middle of each patch, (n, gh, gw)."""
    rows = ((np.arange(max(1, maps.shape[1] // PATCH)) + 0.5) * maps.shape[1] / max(1, maps.shape[1] // PATCH)).astype(int)
    columns = ((np.arange(max(1, maps.shape[2] // PATCH)) + 0.5) * maps.shape[2] / max(1, maps.shape[2] // PATCH)).astype(int)
    return maps[:, rows][:, :, columns]


def _colour(maps: np.ndarray, pictures: list[np.ndarray], body: int) -> np.ndarray:
    """Mean colour (3,) of a body over the pictures."""
    pixels = np.concatenate([picture[shown == body] for picture, shown in zip(pictures, maps, strict=True)])
    return pixels.mean(axis=0).round() if len(pixels) else np.zeros(3)
