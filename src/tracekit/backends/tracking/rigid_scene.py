"""What moves as one rigid thing in an RGB-D video with known cameras: bodies, their motion from frame to frame, and who belongs to whom.

A glossy arm has too little texture to follow point by point, but its links are rigid, and depth shows their shape. Nodes on a
grid cover all surfaces; everything begins as part of the static world. In each frame

1. dense flow (DIS: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", 2016) and depth *measure* a step of every node;
2. the motion of every body is *fitted* to all its nodes at once: to their flow where there is texture, then to the looks they had
   some frames ago, so that errors of the flow do not add up, and to the measured surface (point-to-plane, Chen and Medioni 1992).
   Places are fixed in the body: what the surface determines cannot drift;
3. every node *decides*, with the nodes around it, which body explains its last steps best. What none explains is free;
4. free nodes that moved rigidly together *found* a body, which then has a past: its motion in the steps that revealed it.
   Bodies that move alike merge; those that only seemed to move (a shadow, flow that an outline dragged along) dissolve.

All sizes are metres and pixels; bodies are columns of arrays, the static world the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy.spatial import cKDTree

from tracekit.backends.tracking.scene_nodes import FREE, LOOKS_NOISE, NO_KEY, STATIC, STEPS, Nodes, replayed, where_textured
from tracekit.backends.tracking.scene_view import SceneView, read_at
from tracekit.geometry import se3
from tracekit.geometry.rigid_motion import derivative_by_twist, fit_rigid, motion_about

SPACING = 10
"""Pixels from node to node."""

MAX_BODIES = 24

SMALLEST_FOR_FLOW = 12
"""Longer side of the smallest image that OpenCV works out dense flow for, pixels."""

FLOW_SIGMA, FLOW_SHARE = 0.25, 0.05
"""Standard deviation of the flow, pixels, and what each pixel of its length adds."""

FLOW_TEXTURE = 60.0
"""Squared gradient, (grey levels / px)^2, at which the flow is believed by half."""

FIT_TEXTURE, FIT_SHARE = 500.0, 0.12
"""What FLOW_TEXTURE and FLOW_SHARE are to the fit of a motion. The shading of a glossy link is faint texture that does not go all the way
with it; thousands of such pixels would hold the link back."""

FLOW_AFTER_KEY = 0.15
"""Weight that flow keeps once the motion is near enough to compare looks."""

KEY_FRAMES = 15
"""Frames for which a node is compared with the same key patch."""

LEAST_TO_FIT, LEAST_TO_FOUND = 4, 6
"""Nodes that a motion is fitted to, and that found a body."""

CAP = 30.0
"""Chi square beyond which a node is no worse off."""

UNEXPLAINED = 3.0
"""Chi square from which a motion does not explain a node."""

SWITCH = 0.6
"""By how much another body must be better."""

SAME_SLOPE = 0.35
"""How steeply, against the normals of both, the way from a node to another of the same surface may lead."""

LEAST_SAY = 0.02
"""Weight of a node that all bodies explain alike, against one that tells them apart."""

HOLD, SPREADING = 0.25, 12
"""Weight of each neighbour on the same surface, and how many nodes far what one tells may reach."""

JOINT = 0.004
"""By how much two bodies that hang together slide along each other in a step, metres: links of an arm do so hardly at all at their joint."""

MERGE = 0.15
"""By how much worse another body may explain all nodes of one to take it over."""

STILL = 0.8
"""Share of the steps of a body that need no motion, from which it has none."""

LEFT, PROVEN = 0.15, 3
"""Share of the places of a body, STEPS frames ago, through which one looks now; frames in which it is exceeded that prove a body."""

ROBUST = 0.004
"""Residual at which a step counts half when a body is founded, metres."""

HIDDEN_FRAMES = 60
"""Frames for which a hidden node is kept."""


@dataclass(frozen=True)
class SceneFrame:
    """What is known of one frame: B bodies, n nodes."""

    body: np.ndarray
    """(B,) identities, ascending; the static world is 0."""
    steps: np.ndarray
    """(STEPS, B, 4, 4) motions in the world from frame to frame, the one into this frame first."""
    serial: np.ndarray
    """(n,) identities of the nodes, ascending."""
    node: np.ndarray
    """(n, 3) their places in the world."""
    node_body: np.ndarray
    """(n,) identity of the body of each, FREE where none explains it."""
    shown: np.ndarray
    """(n,) bool, seen in this frame."""

    def columns(self, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns of `steps` for bodies (P,), and which of them are known here; the others get the static world."""
        column = np.minimum(np.searchsorted(self.body, body), len(self.body) - 1)
        known = self.body[column] == body
        return np.where(known, column, STATIC), known


class RigidScene:
    """Follows the bodies of a scene frame by frame; the same frames give the same bodies. Memory does not grow with time."""

    def __init__(self) -> None:
        self._body = np.array([0])
        self._next_body = 1
        self._pose = np.eye(4)[None]
        """(B, 4, 4) world from body; a body's own frame is the world at its founding."""
        self._steps = np.tile(np.eye(4), (STEPS, 1, 1, 1))
        self._proof = np.zeros(1, dtype=np.int64)
        """(B,) frames in which a body had left its place."""
        self._nodes = Nodes.new(np.zeros(0, dtype=np.int64), np.zeros((0, 3)))
        self._next_serial = 0
        self._before: SceneView | None = None
        self._dense_flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def advance(self, view: SceneView) -> SceneFrame:
        """Take in the next frame."""
        if self._before is not None:
            self._measure(self._before, view)
            self._move(view)
            self._decide(view)
            self._found(view)
            self._merge()
            self._dissolve(view)
            self._clean(view)
        self._cover(view)
        self._before = view
        nodes = self._nodes
        node_body = np.where(nodes.body == FREE, FREE, self._body[nodes.body])
        return SceneFrame(self._body, self._steps, nodes.serial, nodes.position.copy(), node_body, nodes.shown)

    def _measure(self, before: SceneView, view: SceneView) -> None:
        """Where flow and depth take the nodes that were seen in the frame before."""
        nodes = self._nodes
        flow = self._flow(before, view)
        uv, z = before.see(nodes.position)
        there, smooth = before.depth_at(uv)
        with np.errstate(invalid="ignore"):
            chosen = np.flatnonzero(nodes.shown & smooth & (np.abs(there - z) < 0.02 + 0.01 * z))
        uv, there = uv[chosen], there[chosen]
        flowed = uv + read_at(flow, uv)
        end, normal, z, smooth = view.surface_at(flowed)
        with np.errstate(invalid="ignore"):
            good = smooth & np.isfinite(normal).all(axis=1) & (np.abs(z - there) < 0.02 + 0.05 * z)
        chosen, uv, there, flowed, end, normal, z = (part[good] for part in (chosen, uv, there, flowed, end, normal, z))
        start = before.lift(uv, there)
        length = np.linalg.norm(flowed - uv, axis=1)
        sigma, fit_sigma = FLOW_SIGMA + FLOW_SHARE * length, FLOW_SIGMA + FIT_SHARE * length
        tensor = read_at(before.structure, uv)[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
        nodes.next_step()
        nodes.start[chosen, 0], nodes.end[chosen, 0], nodes.normal[chosen, 0] = start, end, normal
        nodes.image_by_world[chosen, 0] = view.image_by_world(end)
        nodes.image_weight[chosen, 0] = where_textured(tensor, FLOW_TEXTURE) / sigma[:, None, None] ** 2
        nodes.fit_weight[chosen] = where_textured(tensor, FIT_TEXTURE) / fit_sigma[:, None, None] ** 2
        nodes.depth_weight[chosen, 0] = 1 / (0.0025 + 0.002 * z) ** 2
        nodes.still[chosen, 0] = _may_be_still(before, view, start, uv, flowed)

    def _flow(self, before: SceneView, view: SceneView) -> np.ndarray:
        """(H, W, 2) pixels."""
        if max(view.grey.shape) < SMALLEST_FOR_FLOW:
            return np.zeros((*view.grey.shape, 2), dtype=np.float32)
        return np.asarray(self._dense_flow.calc(before.grey, view.grey, None))

    def _move(self, view: SceneView) -> None:
        """Move all bodies, and their nodes with them; free nodes go with the flow."""
        nodes = self._nodes
        motion = self._fitted(view)
        self._steps = np.concatenate([motion[None], self._steps[:-1]])
        self._pose = motion @ self._pose
        owned = np.flatnonzero(nodes.body != FREE)
        nodes.position[owned] = se3.transform_points(self._pose[nodes.body[owned]], nodes.local[owned][:, None])[:, 0]
        with np.errstate(invalid="ignore"):
            contradicted = nodes.measured() & ~(np.abs(view.beyond(nodes.position, 0.01)) <= 1)
        nodes.body[contradicted] = FREE
        free = (nodes.body == FREE) & nodes.measured()
        nodes.position[free] = nodes.end[free, 0]
        nodes.past = np.concatenate([nodes.position[:, None], nodes.past[:, :-1]], axis=1)
        nodes.see(view)

    def _fitted(self, view: SceneView) -> np.ndarray:
        """Motions (B, 4, 4) of all bodies in this step: Gauss-Newton with Cauchy weights, all bodies in one sweep."""
        nodes, number = self._nodes, len(self._pose)
        motion = self._steps[0].copy()
        chosen = np.flatnonzero((nodes.body > STATIC) & nodes.shown)
        enough = np.bincount(nodes.body[chosen], minlength=number) >= LEAST_TO_FIT
        motion[~enough] = np.eye(4)
        chosen = chosen[enough[nodes.body[chosen]]]
        if len(chosen) == 0:
            return motion
        body = nodes.body[chosen]
        member = (body == np.arange(number)[:, None]).astype(np.float64)
        share = member / np.maximum(member.sum(axis=1, keepdims=True), 1)
        flowed, flow_weight = view.see(nodes.end[chosen, 0])[0], nodes.fit_weight[chosen]
        joint, beyond_joint = _joints(view, nodes.position[chosen], body)
        prior = np.diag([1 / 0.1**2] * 3 + [1 / 0.03**2] * 3)  # hardly turns, hardly moves: only for what nothing tells
        for iteration in range(7):
            now = se3.transform_points(motion[body], nodes.position[chosen][:, None])[:, 0]
            centre = share @ now
            arm = now - centre[body]
            uv, z = view.see(now)
            apart = np.where(nodes.measured()[chosen, None] & np.isfinite(uv), flowed - uv, 0)
            weight = _cauchy(apart, flow_weight)
            if iteration >= 2:
                shift, key_weight = nodes.shift_to_key(view, chosen, uv)
                flow_part, key_part = FLOW_AFTER_KEY * weight, _cauchy(shift, key_weight)
                weight = flow_part + key_part + 1e-9 * np.eye(2)
                apart = np.linalg.solve(weight, flow_part @ apart[..., None] + key_part @ shift[..., None])[..., 0]
            by_twist = derivative_by_twist(view.image_by_world(now), arm[:, None])
            weighted = np.swapaxes(by_twist, 1, 2) @ weight
            hessian, gradient = weighted @ by_twist, (weighted @ apart[..., None])[..., 0]
            reach = max(0.05 / 2**iteration, 0.01) + 0.005 * z
            off, normal, plane_weight = _to_surface(view, now, uv, z, reach)
            by_twist_plane = derivative_by_twist(normal, arm)
            hessian += plane_weight[:, None, None] * by_twist_plane[:, :, None] * by_twist_plane[:, None, :]
            gradient += (plane_weight * off)[:, None] * by_twist_plane
            # At a joint a node goes where the other body would take it.
            apart_there = se3.transform_points(motion[beyond_joint], nodes.position[chosen[joint]][:, None])[:, 0] - now[joint]
            by_twist_there = derivative_by_twist(np.broadcast_to(np.eye(3), (len(joint), 3, 3)), arm[joint, None])
            weighted = np.swapaxes(by_twist_there, 1, 2) / JOINT**2
            np.add.at(hessian, joint, weighted @ by_twist_there)
            np.add.at(gradient, joint, (weighted @ apart_there[..., None])[..., 0])
            of_bodies = (member @ hessian.reshape(-1, 36)).reshape(-1, 6, 6) + prior
            step = np.linalg.solve(of_bodies, (member @ gradient)[..., None])[..., 0]
            step[~enough] = 0
            motion = motion_about(centre, step) @ motion
            if iteration > 2 and np.abs(step[:, :3]).max() < 2e-4 and np.abs(step[:, 3:]).max() < 1e-4:
                break
        motion[STATIC] = np.eye(4)
        return motion

    def _decide(self, view: SceneView) -> None:
        """Which body each node belongs to, by its last steps and those of the nodes around it."""
        nodes = self._nodes
        seen = np.flatnonzero(nodes.measured())
        if len(seen) < 2:
            return
        cost = np.minimum(nodes.cost(seen, self._steps), CAP)
        position, body = nodes.position[seen], nodes.body[seen]
        distance, near = cKDTree(position).query(position, k=min(9, len(seen)))
        weight = (distance <= 1.8 * _spacing(view, position)[:, None]).astype(np.float64)
        weight[:, 0] = 2
        around = np.zeros(cost.shape, dtype=bool)
        around[:, STATIC] = True
        node, neighbour = np.nonzero((weight > 0) & (body[near] != FREE))
        around[node, body[near[node, neighbour]]] = True
        holds = (weight > 0) & _same_surface(position, nodes.normal[seen, 0], near)
        spread, around = _spread(cost, around, near, holds)
        cost = (weight[:, None] @ cost[near])[:, 0] / weight.sum(axis=1, keepdims=True)
        every = np.arange(len(seen))
        best = np.where(around, spread, np.inf).argmin(axis=1)
        least = cost[every, best]
        own, own_spread = (np.where(body == FREE, np.inf, one[every, body]) for one in (cost, spread))
        switch = (best != body) & (least < UNEXPLAINED) & (own_spread > spread[every, best] + SWITCH)
        self._assign(seen[switch], best[switch])
        nodes.body[seen[(least >= UNEXPLAINED) & (own >= UNEXPLAINED)]] = FREE

    def _assign(self, chosen: np.ndarray, body: np.ndarray) -> None:
        """Move nodes to other bodies, as if they had belonged to them for as long as they were followed."""
        nodes = self._nodes
        if len(chosen) == 0:
            return
        known = nodes.depth_weight[chosen] > 0
        ago = np.where(known.all(axis=1), STEPS, known.argmin(axis=1))
        ago = np.where(np.isfinite(nodes.past[chosen, ago]).all(axis=1), ago, 0)
        position = replayed(self._steps, body, nodes.past[chosen, ago], ago)
        nodes.body[chosen] = body
        nodes.position[chosen] = nodes.past[chosen, 0] = position
        nodes.local[chosen] = se3.transform_points(se3.inverse(self._pose[body]), position[:, None])[:, 0]
        nodes.key_age[chosen] = NO_KEY

    def _found(self, view: SceneView) -> None:
        """Found bodies of free nodes: the motion of a node and its neighbours that explains most of the others (RANSAC, every seed)."""
        nodes = self._nodes
        for _ in range(3):
            free = np.flatnonzero((nodes.body == FREE) & nodes.measured(3))
            if len(free) < LEAST_TO_FOUND or len(self._pose) >= MAX_BODIES:
                return
            position = nodes.position[free]
            distance = np.linalg.norm(position[:, None] - position, axis=-1)
            near = np.argsort(distance, axis=1, kind="stable")[:, :10]
            close = np.take_along_axis(distance, near, axis=1) < 4 * _spacing(view, position)[:, None]
            texture = np.trace(nodes.image_weight[free, 0], axis1=1, axis2=2) + 0.1
            known = nodes.depth_weight[free] > 0
            weight = (close * texture[near])[:, None] * np.swapaxes(known[near], 1, 2)
            start, end = nodes.start[free], nodes.end[free]
            motions = _robust_motions(np.swapaxes(start[near], 1, 2), np.swapaxes(end[near], 1, 2), weight, rounds=2)
            fits = (nodes.cost(free, np.swapaxes(motions, 0, 1), trust_still=False) < UNEXPLAINED / 2) & (distance < 0.4)
            founders = fits[:, int(fits.sum(axis=0).argmax())]
            if founders.sum() < LEAST_TO_FOUND:
                return
            weight = known[founders].T * texture[founders]
            steps = _robust_motions(np.swapaxes(start[founders], 0, 1), np.swapaxes(end[founders], 0, 1), weight, rounds=3)
            self._steps = np.concatenate([self._steps, steps[:, None]], axis=1)
            self._pose = np.concatenate([self._pose, np.eye(4)[None]])
            self._body = np.append(self._body, self._next_body)
            self._proof = np.append(self._proof, 0)
            self._next_body += 1
            self._assign(free[founders], np.full(founders.sum(), len(self._pose) - 1))

    def _merge(self) -> None:
        """One body at a time becomes part of a neighbour that explains its nodes as well."""
        nodes, number = self._nodes, len(self._pose)
        chosen = np.flatnonzero((nodes.body > STATIC) & nodes.measured(4))
        if number < 3 or len(chosen) == 0:
            return
        body = nodes.body[chosen]
        member = (body == np.arange(number)[:, None]).astype(np.float64)
        size = member.sum(axis=1)
        cost = member @ np.minimum(nodes.cost(chosen, self._steps), CAP) / np.maximum(size, 1)[:, None]
        for small in np.argsort(size, kind="stable"):
            others = [other for other in range(1, number) if other != small and size[other] >= size[small] > 0]
            if not others:
                continue
            other = min(others, key=lambda other: cost[small, other])
            gap = cKDTree(nodes.position[chosen[body == other]]).query(nodes.position[chosen[body == small]])[0].min()
            if cost[small, other] < cost[small, small] + MERGE and gap < 0.1:
                members = np.flatnonzero(nodes.body == small)
                self._assign(members, np.full(len(members), other))
                return

    def _dissolve(self, view: SceneView) -> None:
        """Bodies that claim to move, though nearly all their nodes could as well stand still, return to the world.

        Plain surfaces can always stand still for a step or two. A body that was seen to leave its place is one for good.
        """
        nodes, number = self._nodes, len(self._pose)
        chosen = np.flatnonzero((nodes.body > STATIC) & nodes.measured(4))
        if len(chosen) == 0:
            return
        body = nodes.body[chosen]
        size = np.maximum(np.bincount(body, minlength=number), 1)
        still = np.bincount(body, nodes.still[chosen, :4].mean(axis=1), minlength=number) / size
        travelled = (nodes.image_by_world[chosen, :4] @ (nodes.end - nodes.start)[chosen, :4][..., None])[..., 0]
        moved = np.bincount(body, np.linalg.norm(travelled, axis=-1).mean(axis=1), minlength=number) / size
        was = nodes.position[chosen]
        for step in se3.inverse(self._steps):
            was = se3.transform_points(step[body], was[:, None])[:, 0]
        with np.errstate(invalid="ignore"):
            left = np.bincount(body, view.beyond(was) > 1, minlength=number) / size
        self._proof += left > LEFT
        for column in np.flatnonzero((still > STILL) & (moved > 0.2) & (self._proof < PROVEN)):
            members = np.flatnonzero(nodes.body == column)
            self._assign(members, np.full(len(members), STATIC))

    def _clean(self, view: SceneView) -> None:
        """Drop nodes that are wrong, hidden for long or crowded, and bodies without nodes; renew old key patches."""
        nodes = self._nodes
        uv, _ = view.see(nodes.position)
        cell = np.where(nodes.shown[:, None], np.nan_to_num(uv) // SPACING, -1 - np.arange(len(uv))[:, None]).astype(np.int64)
        oldest = np.zeros(len(uv), dtype=bool)
        oldest[np.unique(np.column_stack([cell, nodes.body]), axis=0, return_index=True)[1]] = True
        too_long = np.select([nodes.body == STATIC, nodes.body == FREE], [4, 1], HIDDEN_FRAMES)
        self._nodes = nodes = nodes.rows(oldest & (nodes.astray <= 4) & (nodes.unseen <= too_long))
        kept = np.bincount(nodes.body[nodes.body != FREE], minlength=len(self._pose)) > 0
        kept[STATIC] = True
        nodes.body = np.where(nodes.body == FREE, FREE, (np.cumsum(kept) - 1)[nodes.body])
        self._body, self._pose, self._steps = self._body[kept], self._pose[kept], self._steps[:, kept]
        self._proof = self._proof[kept]
        nodes.key_age += 1
        nodes.take_keys(view, np.flatnonzero((nodes.body > STATIC) & nodes.shown & (nodes.key_age > KEY_FRAMES)))

    def _cover(self, view: SceneView) -> None:
        """New nodes where the image shows none; they begin with the body of the nearest node around."""
        nodes = self._nodes
        height, width = view.depth.shape
        uv, _ = view.see(nodes.position)
        shown = nodes.shown & view.contains(uv)
        column, row = (uv[shown] // SPACING).astype(np.int64).T
        covered = np.zeros((-(-height // SPACING), -(-width // SPACING)), dtype=bool)
        covered[row, column] = True
        row, column = np.nonzero(~covered)
        position, _, _, smooth = view.surface_at(np.stack([column, row], axis=1) * SPACING + SPACING / 2)
        position = position[smooth]
        new = Nodes.new(self._next_serial + np.arange(len(position)), position)
        self._next_serial += len(position)
        known = np.flatnonzero(shown & (nodes.body != FREE))
        if len(known) and len(position):
            distance, near = cKDTree(nodes.position[known]).query(position)
            around = distance < 2.5 * _spacing(view, position)
            new.body[around] = nodes.body[known][near[around]]
            new.local = se3.transform_points(se3.inverse(self._pose[new.body]), position[:, None])[:, 0]
        self._nodes = nodes.joined(new)


class SceneClip:
    """The rigid motions in a run of frames, worked out as far as they are asked for, once something woke it."""

    def __init__(self, views: list[SceneView], earlier: SceneClip | None) -> None:
        """`earlier` ended with the first of these views: its bodies go on. None begins anew."""
        self.views = views
        self._frames: list[SceneFrame | None] = [None] * len(views)
        self._scene: RigidScene | None = None
        self._begin = 0
        self._lead: list[SceneView] = []
        """The views before the first: a run-up."""
        if earlier is not None:
            self._frames[0] = earlier.at(len(earlier.views) - 1)
            self._scene = earlier._scene
            self._lead = (earlier._lead + earlier.views)[:-1][-STEPS:]

    def wake(self, frame: int) -> None:
        """Begin, with a run-up of STEPS frames, unless it has begun."""
        if self._scene is None:
            self._begin, self._scene = max(0, frame - STEPS), RigidScene()
            for view in self._lead[max(0, len(self._lead) + frame - STEPS) :]:
                self._scene.advance(view)

    def at(self, frame: int) -> SceneFrame | None:
        """None before the beginning."""
        if self._scene is None or frame < self._begin:
            return None
        for index in range(self._begin, frame + 1):
            if self._frames[index] is None:
                self._frames[index] = self._scene.advance(self.views[index])
        return self._frames[frame]

    def after(self, frame: int) -> list[SceneFrame]:
        """The next STEPS frames: they tell what bodies did before they were found."""
        following = (self.at(index) for index in range(frame + 1, min(frame + 1 + STEPS, len(self.views))))
        return [one for one in following if one is not None]


def _may_be_still(before: SceneView, view: SceneView, start: np.ndarray, uv: np.ndarray, flowed: np.ndarray) -> np.ndarray:
    """Whether points (n, 3) at pixels `uv` may have stayed in the world: depth is the same, and looks fit as well as where flow went."""
    stay, _ = view.see(start)
    was, stayed, moved = before.patches(uv), view.patches(stay), view.patches(flowed)
    stayed_error, moved_error = (was - stayed).var(axis=1), (was - moved).var(axis=1)
    column, row = np.rint(uv).astype(np.int64).T
    with np.errstate(invalid="ignore"):
        same_depth = np.abs(view.beyond(start, 0.004)) < 1
    return same_depth & (before.behind_an_edge[row, column] | (stayed_error < 2 * moved_error + LOOKS_NOISE**2))


def _same_surface(position: np.ndarray, normal: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Whether the ways from nodes (n, 3) to nodes `near` (n, k), the first of them itself, lead along one surface: (n, k) bool, no for itself."""
    way = position[near] - position[:, None]
    rise = np.maximum(np.abs(np.einsum("nki,ni->nk", way, normal)), np.abs(np.einsum("nki,nki->nk", way, normal[near])))
    along = rise <= SAME_SLOPE * np.linalg.norm(way, axis=2)
    along[:, 0] = False
    return along


def _spread(cost: np.ndarray, around: np.ndarray, near: np.ndarray, holds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What nodes say about bodies, `cost` (n, B), carried along surfaces: that of nodes that tell bodies apart to those that do not.

    A plain part of a link could stand still or move, for all that can be seen there; that it moves is seen at a screw some nodes away.
    `around` (n, B) bool are the bodies that come into question, `near` (n, k) the neighbours and `holds` (n, k) those on the same
    surface. Returns the costs, and `around` with what is near along the surface.
    """
    for _ in range(3):
        around = around | (holds[:, :, None] & around[near]).any(axis=1)
    difference = np.where(around, cost, -np.inf).max(axis=1) - np.where(around, cost, np.inf).min(axis=1)
    say = np.clip(difference / UNEXPLAINED, LEAST_SAY, 1)[:, None]
    hold = HOLD * holds
    spread = cost
    for _ in range(SPREADING):
        spread = (say * cost + (hold[:, None] @ spread[near])[:, 0]) / (say + hold.sum(axis=1, keepdims=True))
    return spread, around


def _joints(view: SceneView, position: np.ndarray, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where nodes (n, 3) of bodies (n,) meet: indices (m,) of nodes, and for each the body (m,) of a node next to it that is another."""
    distance, near = cKDTree(position).query(position, k=min(6, len(position)))
    node, neighbour = np.nonzero((body[near] != body[:, None]) & (distance <= 1.8 * _spacing(view, position)[:, None]))
    return node, body[near[node, neighbour]]


def _cauchy(apart: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weights (n, 2, 2) of residuals (n, 2), less where they are far out."""
    chi_square = (apart[:, None] @ weight @ apart[..., None])[:, 0, 0]
    return weight / (1 + chi_square / 2)[:, None, None]


def _to_surface(
    view: SceneView, position: np.ndarray, uv: np.ndarray, z: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances (n,) of points to the measured surface along its normals (n, 3), and their weights: 0 beyond `reach` (n,)."""
    surface, normal, _, smooth = view.surface_at(uv)
    with np.errstate(invalid="ignore"):
        off = np.einsum("ni,ni->n", normal, surface - position)
        use = smooth & (np.abs(off) < reach)
    off, normal = np.where(use, off, 0), np.where(use[:, None], normal, 0)
    sigma = 0.002 + 0.002 * z
    return off, normal, use / sigma**2 / (1 + (off / (2 * sigma)) ** 2)


def _robust_motions(start: np.ndarray, end: np.ndarray, weight: np.ndarray, rounds: int) -> np.ndarray:
    """Rigid motions (..., 4, 4) of points (..., P, 3) by reweighted least squares; none where no point counts."""
    motion = fit_rigid(start, end, weight)
    for _ in range(rounds):
        error = np.linalg.norm(se3.transform_points(motion, start) - end, axis=-1)
        motion = fit_rigid(start, end, weight / (1 + (error / ROBUST) ** 2))
    motion[weight.sum(axis=-1) == 0] = np.eye(4)
    return motion


def _spacing(view: SceneView, position: np.ndarray) -> np.ndarray:
    """Metres (n,) between nodes of the grid at points (n, 3)."""
    return SPACING * view.see(position)[1] / view.focal_length
