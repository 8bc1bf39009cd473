"""Points that ride on the bodies of a rigid scene: where their body carries them, and which body that is."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from tracekit.backends.tracking.rigid_scene import SPACING, SceneFrame
from tracekit.backends.tracking.scene_nodes import FREE, replayed
from tracekit.backends.tracking.scene_view import SceneView
from tracekit.geometry import se3

VOTERS = 5
"""Nodes around a point that tell its body."""

NEAR = 2.5
"""How far from a point they may be, in spacings of the grid of nodes."""


def carried(frame: SceneFrame, body: np.ndarray, world: np.ndarray) -> np.ndarray:
    """Points (P, 3) of bodies (P,) a step later, in `frame`. Those of bodies that are gone stay."""
    column, _ = frame.columns(body)
    return se3.transform_points(frame.steps[0, column], world[:, None])[:, 0]


def carried_back(later: list[SceneFrame], body: np.ndarray, world: np.ndarray) -> np.ndarray:
    """Points (P, 3) of bodies (P,) a step before `later[0]`; the frames after it tell of bodies that were found later."""
    result, told = world.copy(), np.zeros(len(world), dtype=bool)
    for ago, frame in enumerate(later):
        column, known = frame.columns(body)
        now = known & ~told
        result[now] = se3.transform_points(se3.inverse(frame.steps[ago, column[now]]), world[now][:, None])[:, 0]
        told |= known
    return result


def nodes_around(frame: SceneFrame, view: SceneView, world: np.ndarray) -> np.ndarray:
    """Serials (P, VOTERS) of the nodes that are seen around points (P, 3), -1 where there are fewer."""
    shown = np.flatnonzero(frame.shown)
    if len(shown) < VOTERS or len(world) == 0:
        return np.full((len(world), VOTERS), -1)
    distance, near = cKDTree(frame.node[shown]).query(world, k=VOTERS)
    reach = NEAR * SPACING * view.see(world)[1] / view.focal_length
    return np.where(distance <= reach[:, None], frame.serial[shown][near], -1)


def elected(frame: SceneFrame, body: np.ndarray, voters: np.ndarray) -> np.ndarray:
    """Body (P,) that most of the nodes `voters` (P, VOTERS) have now; what it was, where two of them agree to that."""
    if len(frame.serial) == 0 or len(body) == 0:
        return body
    row = np.minimum(np.searchsorted(frame.serial, voters), len(frame.serial) - 1)
    says = np.where(frame.serial[row] == voters, frame.node_body[row], FREE)
    for_own = (says == body[:, None]).sum(axis=1)
    ballot = (says[:, :, None] == says[:, None]).sum(axis=2) * (says != FREE)
    winner = ballot.argmax(axis=1)[:, None]
    votes = np.take_along_axis(ballot, winner, axis=1)[:, 0]
    return np.where((votes > 0) & (for_own < np.minimum(2, votes)), np.take_along_axis(says, winner, axis=1)[:, 0], body)


def replay(frame: SceneFrame, body: np.ndarray, past: np.ndarray) -> np.ndarray:
    """Places now (P, 3) of points, had they always belonged to `body` (P,), from their oldest known place.

    `past` (P, STEPS + 1, 3) are their places, this frame's first, NaN where they were not seen; at least one is known.
    """
    known = np.isfinite(past).all(axis=2)
    ago = past.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1)
    return replayed(frame.steps, frame.columns(body)[0], past[np.arange(len(past)), ago], ago)


def adopted(frame: SceneFrame, view: SceneView, past: np.ndarray, ago: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bodies (P,) that take points onto a surface of their own, FREE for none, and where (P, 3).

    For points that are gone from where they should be: `past` like that of `replay`, last seen `ago` (P,) frames back.
    """
    number, num_bodies = len(past), len(frame.body)
    body, position = np.full(number, FREE), np.full((number, 3), np.nan)
    moving = frame.shown & (frame.node_body > 0)
    if number == 0 or not moving.any():
        return body, position
    was = np.repeat(past[np.arange(number), ago], num_bodies, axis=0)
    now = replayed(frame.steps, np.tile(np.arange(num_bodies), number), was, np.repeat(ago, num_bodies))
    off = np.abs(view.beyond(now, 0.01))
    distance, near = cKDTree(frame.node[moving]).query(now)
    with np.errstate(invalid="ignore"):
        fits = (off <= 1) & (distance <= 3 * SPACING * view.see(now)[1] / view.focal_length)
    fits &= frame.node_body[moving][near] == np.tile(frame.body, number)
    off = np.where(fits, off, np.inf).reshape(number, num_bodies)
    best = off.argmin(axis=1)
    taken = np.isfinite(off.min(axis=1))
    body[taken] = frame.body[best[taken]]
    position[taken] = now.reshape(number, num_bodies, 3)[taken, best[taken]]
    return body, position
