"""Tracker `klt`: pyramidal Lucas-Kanade on the image, lifted by depth (Lucas and Kanade 1981; Shi and Tomasi 1994).

In each frame every point takes four steps, all points at once:

1. *Follow* it from the frame before with pyramidal Lucas-Kanade, starting where its last position in the world is seen from
   the camera.
2. *Refine* against its key patch, the looks it had when it was last registered: errors do not add up from frame to frame.
3. *Compare* looks. While they are those of the key patch, the point has been followed back to where it was registered. When
   they have changed, it must lead back to its place in the frame before (forward-backward check), and its first patch is
   fitted again by an affine map, which allows for turning and approaching but not for sliding to another surface: either
   that fits, and the point is registered anew, or it is lost.
4. *Lift* it: depth must go on where it was. A jump means that something is in front, or that the point slid off.

A lost point is searched for in every later frame, where its last position in the world would be seen; it resumes when depth and
looks agree there. What the tracker knows of each identity stays with it between calls, so cutting a clip does not matter.

With depth, as soon as a point is lost that should be seen, the rigid bodies of the scene are followed as well (`rigid_scene`), and
every point rides on one: its body carries it, from an anchor that does not drift, and steps 1 to 4 only have to confirm or correct
that. A point without texture goes where its body goes; it is seen when the measured surface is there. One that slid along an outline
is put back. One that was hidden comes back with its body. One on the static world stays exactly where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import cv2
import numpy as np

from tracekit.backends.protocols import BackendSetup, Facts
from tracekit.backends.tracking import riding
from tracekit.backends.tracking.rigid_scene import SceneClip, SceneFrame
from tracekit.backends.tracking.scene_nodes import FREE, STATIC, STEPS
from tracekit.backends.tracking.scene_view import SceneView
from tracekit.geometry import cameras
from tracekit.geometry.depth_lookup import SAME_SURFACE, lookup_depth, nearest_depth, surface_depth

WINDOW = 15
"""Side of the patch that is followed and compared, pixels. Larger ones hold better on faint texture and reach across edges more."""

LEVELS = 3
"""Halvings of the image on which a point is followed: 2**3 * 7 pixels between frames are within reach."""

TILE = WINDOW + 4
"""Side of the piece of image that is kept of a key patch: the window, the half pixel by which a point is off-centre, gradients."""

RETURN_ERROR = 1.0
"""A point followed forth and back comes back this close to its start, pixels, or is lost."""

REFINE_REACH = 2.0
"""How far the key patch may correct what following gave, pixels."""

SEARCH_REACH = 4.0
"""How far from where it should be a lost point may be found, pixels."""

ALIKE = 0.95
"""Correlation with the key patch from which looks count as unchanged."""

SAME_THING = 0.85
"""Correlation with the first patch, mapped to fit, from which a changed patch is still the same thing."""

FOUND = 0.85
"""Correlation with the key patch at which a lost point is found again: mistaking another place for it is worse than losing it."""

BRIGHTNESS = 30.0
"""Grey levels by which the mean of a patch may differ when a lost point is found again: correlation is blind to it."""

GREY_NOISE = 3.0
"""Standard deviation of a camera's grey levels: variation below it is no likeness and no difference."""

FORECAST_FRAMES = 5
"""Frames for which a point seen in the image keeps its depth while the depth image has a hole there."""

APPROACH = 0.25
"""Fraction by which depth may change between two frames when the looks have not: then nothing came in front, the thing itself moved."""

WEIGHT_REACH = 5.0
"""Standard deviation of the weight of a patch's pixels, pixels from its centre."""

UNCOVERED = 0.5
"""Part of a patch, by weight, that must not be covered."""

FIT_STEPS = 10
"""Gauss-Newton steps of the affine fit, at most."""

CONVERGED = 0.02
"""Step of the affine fit, pixels, from which another one would change nothing."""

STRETCH = 3.0
"""Factor by which a patch may have grown or shrunk in any direction since it was first seen."""

CLOSE = 1.5
"""Distance between where a point was found and where its body carried it that is no contradiction, pixels."""

BACK_TO_SURFACE = 0.015
"""A moving body is known less well than the world: its points count as shown this far off the surface (and as much per metre), and are
put back onto it."""

UNMOVED = 0.5
"""Correlation of two frames where a static point is, from which nothing slid along there."""

AS_ALIKE = 0.02
"""Correlation that a point may lose when it changes to another body."""

PATIENCE = 4
"""Frames for which a point may be followed away from a place of the static world while the surface there has not moved."""

UNSTRAYED = 1e-4
"""Distance from the place that it strayed from at which a point is there, metres: more than rounding, less than any step."""

OWN_ADVANCE = 5.0
"""How far before such a place a surface may have come, in tolerances of ON_SURFACE, that is not something else in front."""

BODY_TOLERANCE = 0.01
"""Like ON_SURFACE, for where another body would have brought a point."""

TROUBLE = 0.0
"""Share of points lost in the midst of the image from which the rigid scene is worth its time."""

TERMINATION = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 0.01)
NEAR_TERMINATION = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 8, 0.02)
"""Where the start is close already: what has not converged by then is not there."""


@dataclass
class _Points:
    """All that is known of P points at one frame."""

    identity: np.ndarray
    """(P,) their numbers for the caller."""
    live: np.ndarray
    """(P,) bool, followed right now; the others are lost."""
    uv: np.ndarray
    """(P, 2) float32, where each live point is in the image."""
    world: np.ndarray
    """(P, 3) where each was last seen in the world."""
    without_depth: np.ndarray
    """(P,) frames since depth was last known."""
    tile: np.ndarray
    """(P, TILE, TILE) uint8, the piece of image around the key patch."""
    tile_uv: np.ndarray
    """(P, 2) float32, where the point lies in its tile."""
    key: np.ndarray
    """(P, WINDOW^2) float32, the key patch: grey levels minus their mean, times their weights."""
    key_mean: np.ndarray
    """(P,) float32, that mean; NaN as long as there are no looks."""
    key_variance: np.ndarray
    """(P,) float32, weighted."""
    key_weight: np.ndarray
    """(P, WINDOW^2) float32, how much each pixel of the key patch counts; sums to 1."""
    first: np.ndarray
    """(P, (WINDOW + 2)^2) float32, the first patch with a margin of one pixel."""
    first_weight: np.ndarray
    """(P, WINDOW^2) float32, like key_weight."""
    warp: np.ndarray
    """(P, 2, 2) affine map from the first patch to the key patch."""
    body: np.ndarray
    """(P,) rigid body of the scene that each rides on."""
    voters: np.ndarray
    """(P, VOTERS) nodes of the scene around each when it was last seen: they tell its body."""
    anchor: np.ndarray
    """(P, 3) where its body has carried each."""
    away: np.ndarray
    """(P,) frames since each was last seen."""
    past: np.ndarray
    """(P, STEPS + 1, 3) anchors of the last frames, newest first; NaN where the point was not seen."""
    strayed: np.ndarray
    """(P,) frames since each was followed away from a place of the static world that is still there, 0 for those that were not; beyond
    PATIENCE it will not be again."""
    home: np.ndarray
    """(P, 3) that place."""
    uncovered: np.ndarray
    """(P,) part of the first patch that could be compared when the key patch was registered. When more comes to light, the
    point is fitted anew: half a patch does not hold an affine map."""

    def __len__(self) -> int:
        return len(self.identity)

    def rows(self, index: np.ndarray) -> _Points:
        return _Points(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def put(self, index: np.ndarray, other: _Points) -> None:
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(other, field.name)

    @staticmethod
    def lost(identities: np.ndarray, world: np.ndarray) -> _Points:
        """Points without looks: placeholders for what is not yet born."""
        number = len(identities)
        return _Points(
            identity=np.asarray(identities),
            live=np.zeros(number, dtype=bool),
            uv=np.full((number, 2), np.nan, dtype=np.float32),
            world=np.array(world, dtype=np.float64),
            without_depth=np.zeros(number, dtype=np.int64),
            tile=np.zeros((number, TILE, TILE), dtype=np.uint8),
            tile_uv=np.zeros((number, 2), dtype=np.float32),
            key=np.zeros((number, WINDOW**2), dtype=np.float32),
            key_mean=np.full(number, np.nan, dtype=np.float32),
            key_variance=np.zeros(number, dtype=np.float32),
            key_weight=np.zeros((number, WINDOW**2), dtype=np.float32),
            first=np.zeros((number, (WINDOW + 2) ** 2), dtype=np.float32),
            first_weight=np.zeros((number, WINDOW**2), dtype=np.float32),
            warp=np.tile(np.eye(2), (number, 1, 1)),
            body=np.full(number, STATIC),
            voters=np.full((number, riding.VOTERS), -1),
            anchor=np.array(world, dtype=np.float64),
            away=np.zeros(number, dtype=np.int64),
            past=np.full((number, STEPS + 1, 3), np.nan),
            strayed=np.zeros(number, dtype=np.int64),
            home=np.array(world, dtype=np.float64),
            uncovered=np.ones(number),
        )


class _View:
    """One frame as the tracker sees it."""

    def __init__(self, frame: np.ndarray, depth: np.ndarray | None, intrinsics: np.ndarray, world_from_camera: np.ndarray) -> None:
        self.grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        self.depth = depth
        self.intrinsics, self.world_from_camera = intrinsics, world_from_camera
        self.size = (self.grey.shape[1], self.grey.shape[0])
        self.scene: SceneView | None = None if depth is None else SceneView(self.grey, depth, intrinsics, world_from_camera)

    def contains(self, uv: np.ndarray) -> np.ndarray:
        return np.all((uv >= 0) & (uv <= [self.size[0] - 1, self.size[1] - 1]), axis=-1)  # False for NaN

    def see(self, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return cameras.project(world, self.intrinsics, self.world_from_camera)

    def lift(self, uv: np.ndarray, z: np.ndarray) -> np.ndarray:
        return cameras.unproject(uv.astype(np.float64), z, self.intrinsics, self.world_from_camera)


class KLT:
    """A TrackingBackend on OpenCV; see the module. Needs no weights. In planar mode (no depth) it tracks in the image alone."""

    name: ClassVar[str] = "klt"
    facts: ClassVar[Facts] = Facts("Lucas-Kanade, and rigid bodies where there is depth", code="tracekit", code_licence="Apache-2.0")

    def __init__(self, setup: BackendSetup) -> None:
        self._remembered = _Points.lost(np.zeros(0, dtype=np.int64), np.zeros((0, 3)))
        self._scene: SceneClip | None = None
        self._ends: tuple[np.ndarray, np.ndarray] | None = None
        """The first and the last frame of that clip."""
        self._last_frame: np.ndarray | None = None
        """The frame to which the remembered points belong."""

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        return None

    def weights_sha256(self) -> str:
        return ""

    def track(
        self,
        frames: np.ndarray,
        depth: np.ndarray | None,
        intrinsics: np.ndarray,
        world_from_camera: np.ndarray,
        queries_world: np.ndarray,
        query_frames: np.ndarray,
        identities: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See TrackingBackend.track.

        An identity that an earlier call ended with goes on from there when this clip starts with that call's last frame; in
        any other clip it is looked for at its query by its remembered looks. A new identity is taken as it looks at its query.
        """
        query_frames, identities = np.asarray(query_frames), np.asarray(identities)
        xyz_world = np.full((len(frames), len(identities), 3), np.nan, dtype=np.float32)
        visible = np.zeros((len(frames), len(identities)), dtype=bool)
        if len(frames) == 0:
            return xyz_world, visible
        views = [_View(frame, None if depth is None else depth[i], intrinsics, world_from_camera[i]) for i, frame in enumerate(frames)]
        goes_on = self._last_frame is not None and np.array_equal(self._last_frame, frames[0])
        points = _Points.lost(identities, queries_world)
        known, where = self._recall(identities)
        points.put(known, self._remembered.rows(where))
        if not goes_on:
            points.live[:] = False
            points.world[:] = points.anchor[:] = queries_world
            points.body[:] = STATIC
            points.strayed[:] = 0

        scene = self._scene_of(views, frames, goes_on)
        continuing = np.isin(np.arange(len(points)), known) & goes_on
        earlier = np.setdiff1d(np.flatnonzero(query_frames > 0), known)
        past = points.rows(earlier)
        everything = np.arange(len(points))
        _follow_all(views, scene, range(len(frames)), points, queries_world, query_frames, everything, xyz_world, visible, continuing)
        if len(earlier):
            backwards = range(int(query_frames[earlier].max()), -1, -1)
            _follow_all(
                views,
                scene,
                backwards,
                past,
                queries_world[earlier],
                query_frames[earlier],
                earlier,
                xyz_world,
                visible,
                continuing[earlier],
            )
        self._remember(points, frames[-1])
        return xyz_world, visible

    def _scene_of(self, views: list[_View], frames: np.ndarray, goes_on: bool) -> SceneClip | None:
        """What is known of the scene in these frames: from the call before, if it was about the same frames, or going on from there."""
        if views[0].scene is None:
            return None
        ends = frames[0], frames[-1]
        same = (
            self._ends is not None
            and self._scene is not None
            and len(self._scene.views) == len(frames)
            and all(map(np.array_equal, self._ends, ends))
        )
        if not same:
            earlier = self._scene if goes_on else None
            self._scene = SceneClip([view.scene for view in views if view.scene is not None], earlier)
            self._ends = np.array(ends[0]), np.array(ends[1])
        return self._scene

    def _recall(self, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the identities are remembered, and in which rows."""
        row_of = {int(identity): row for row, identity in enumerate(self._remembered.identity)}
        known = np.array([i for i, identity in enumerate(identities) if int(identity) in row_of], dtype=np.intp)
        return known, np.array([row_of[int(identities[i])] for i in known], dtype=np.intp)

    def _remember(self, points: _Points, last_frame: np.ndarray) -> None:
        """Keep the points; and those of another call, if it ended with the same frame."""
        if self._last_frame is not None and np.array_equal(self._last_frame, last_frame):
            others = self._remembered.rows(~np.isin(self._remembered.identity, points.identity))
            points = _Points(**{f.name: np.concatenate([getattr(others, f.name), getattr(points, f.name)]) for f in fields(_Points)})
        self._remembered = points
        self._last_frame = np.array(last_frame)


def _follow_all(
    views: list[_View],
    scene: SceneClip | None,
    order: range,
    points: _Points,
    queries: np.ndarray,
    query_frames: np.ndarray,
    columns: np.ndarray,
    xyz_world: np.ndarray,
    visible: np.ndarray,
    continuing: np.ndarray,
) -> None:
    """Follow points through the frames in this order, each from its query on; write what is seen into the columns of the results."""
    started = np.zeros(len(points), dtype=bool)
    before: _View | None = None
    forwards = order.step > 0
    for frame in order:
        view = views[frame]
        seen = np.zeros(len(points), dtype=bool)
        now = None if scene is None else scene.at(frame)
        if before is not None and started.any():
            index = np.flatnonzero(started)
            later = [] if scene is None or forwards else scene.after(frame)
            if now is None or not (forwards or later):
                seen[index] = _step(before, view, points, index)
                if scene is not None:
                    _hold(view, points, index, seen[index])
            else:
                was, body = points.anchor[index], points.body[index]
                carried = riding.carried(now, body, was) if forwards else riding.carried_back(later, body, was)
                points.world[index] = carried
                seen[index], home = _settle(before, view, points, index, was, carried, _step(before, view, points, index))
                _put_right(xyz_world, visible, columns[index[home]], points.home[index[home]], frame, order)
        beginning = np.flatnonzero(query_frames == frame)
        if len(beginning):
            fresh = beginning if before is not None or scene is None else beginning[~continuing[beginning]]
            seen[beginning] = points.away[beginning] == 0
            seen[fresh] = _begin(view, points, fresh, queries[fresh])
            started[beginning] = True
        if scene is not None:
            index = np.flatnonzero(started if before is not None else started & ~continuing)
            if now is None and forwards and _in_trouble(view, points, index, seen[index]):
                scene.wake(frame)
                now = scene.at(frame)
            _ride(now, view, points, index, seen, forwards)
        xyz_world[frame, columns[seen]] = points.world[seen]
        visible[frame, columns[seen]] = True
        before = view


def _hold(view: _View, points: _Points, index: np.ndarray, seen: np.ndarray) -> None:
    """While nobody asks what is rigid, a point counts as fixed in the world until it is seen to have left."""
    uv, _ = view.see(points.anchor[index])
    with np.errstate(invalid="ignore"):
        moved = index[seen & ~(np.hypot(*(points.uv[index] - uv).T) <= CLOSE)]
    strays = moved[points.strayed[moved] == 0]
    points.strayed[strays], points.home[strays] = 1, points.anchor[strays]
    points.anchor[moved] = points.world[moved]


def _in_trouble(view: _View, points: _Points, index: np.ndarray, seen: np.ndarray) -> bool:
    """Whether points are lost that should be in the image."""
    uv, _ = view.see(points.world[index])
    inside = view.contains(uv - WINDOW) & view.contains(uv + WINDOW)
    return int((inside & ~seen).sum()) > TROUBLE * len(index)


def _settle(
    before: _View, view: _View, points: _Points, index: np.ndarray, was: np.ndarray, carried: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bring together where the bodies `carried` the points (P, 3) and where those that were `found` (P,) are.

    `was` (P, 3) are their anchors in the frame before. Returns which points are seen, and which went back to where they had strayed from.
    """
    assert view.scene is not None
    moving = points.body[index] > STATIC
    home = _called_home(view.scene, points, index, moving)
    carried[home] = was[home] = points.home[index[home]]
    found = found & ~home
    uv, _ = view.see(carried)
    beyond = view.scene.beyond(carried)
    with np.errstate(invalid="ignore"):
        shown, covered = np.abs(beyond) <= 1, beyond < -1
        off = moving & ~shown & (np.abs(view.scene.beyond(carried, BACK_TO_SURFACE)) <= 1)
    carried[off] = view.lift(uv[off], view.scene.depth_at(uv[off])[0])
    shown |= off
    close = found & shown & (np.hypot(*(points.uv[index] - uv).T) <= CLOSE)

    by_body = np.zeros(len(index), dtype=bool)
    apart = np.flatnonzero(found & shown & ~close)
    at_carried, _ = _likeness(view, points, index[apart], uv[apart].astype(np.float32))
    at_found, _ = _likeness(view, points, index[apart], points.uv[index[apart]])
    by_body[apart] = (at_carried >= SAME_THING) | (at_found < ALIKE)
    by_body[apart] |= points.strayed[index[apart]] > PATIENCE
    points.live[index[by_body]] = False
    strays = apart[~by_body[apart] & ~moving[apart] & (points.strayed[index[apart]] == 0)]
    points.strayed[index[strays]], points.home[index[strays]] = 1, carried[strays]
    alone = np.flatnonzero(~found & shown)
    # What slides along its own plane leaves the depth as it was.
    by_body[alone] = moving[alone] | (_unchanged(before, view, was[alone], uv[alone]) >= UNMOVED)

    at_rest = close & ~moving
    corrected = found & ~by_body & ~at_rest & ~covered  # what covers a point may have dragged it along
    points.anchor[index] = np.where(corrected[:, None], points.world[index], carried)
    by_anchor = index[at_rest | by_body | ~found]
    points.world[by_anchor] = points.anchor[by_anchor]
    return found | by_body, home


def _called_home(scene: SceneView, points: _Points, index: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Which points (P,) bool have strayed from the static world for too long, and go back to where they left it.

    An outline or a shadow that passes may drag a point along. What really moves is known for a body before long, or its surface is
    gone from where it was or came a little forward; a place of which none of this can be said has not moved.
    """
    beyond = scene.beyond(points.home[index])
    with np.errstate(invalid="ignore"):
        gone, ahead = beyond > 1, (beyond < -1) & (beyond >= -OWN_ADVANCE)
    strayed = points.strayed[index]
    away = (strayed > 0) & (strayed <= PATIENCE)
    left = moving | gone | (away & ahead)
    points.strayed[index] = np.where(left, 0, strayed + away)
    return away & (points.strayed[index] > PATIENCE)


def _put_right(xyz_world: np.ndarray, visible: np.ndarray, columns: np.ndarray, home: np.ndarray, frame: int, order: range) -> None:
    """Points that strayed from `home` (n, 3) were there all the time before `frame`: rewrites the results back to where they left it."""
    away = np.ones(len(columns), dtype=bool)
    for earlier in reversed(order[: order.index(frame)]):
        at_home = np.linalg.norm(xyz_world[earlier, columns] - home, axis=1) < UNSTRAYED  # False for NaN
        away &= ~at_home
        if not away.any():
            return
        claimed = away & visible[earlier, columns]
        xyz_world[earlier, columns[claimed]] = home[claimed]


def _unchanged(before: _View, view: _View, was: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Correlation (P,) of the frame before, around the world points `was` (P, 3), with this frame around pixels `uv` (P, 2)."""
    one, other = (
        _sample(frame.grey, pixels.astype(np.float32), _grid(WINDOW)).astype(np.float32)
        for frame, pixels in ((before, before.see(was)[0]), (view, uv))
    )
    weight = np.broadcast_to(FALLOFF / FALLOFF.sum(), one.shape).astype(np.float32)
    (one, one_variance), (other, other_variance) = _centred(one, weight), _centred(other, weight)
    return _correlation(np.einsum("pn,pn,pn->p", weight, one, other), one_variance, other_variance)


def _ride(frame: SceneFrame | None, view: _View, points: _Points, index: np.ndarray, seen: np.ndarray, forwards: bool) -> None:
    """After a frame: which body carries each point on. One that changes to another is put where that one has brought it."""
    seen_now = np.where(seen[index][:, None], points.anchor[index], np.nan)
    past = np.concatenate([seen_now[:, None], points.past[index, :-1]], axis=1)
    points.past[index] = past
    points.away[index] = np.where(seen[index], 0, points.away[index] + 1)
    if frame is None or view.scene is None:
        return
    shown = index[seen[index]]
    points.voters[shown] = riding.nodes_around(frame, view.scene, points.world[shown])
    body = riding.elected(frame, points.body[index], points.voters[index])
    if not forwards:
        points.body[index] = body
        return
    beyond = view.scene.beyond(points.anchor[index])
    with np.errstate(invalid="ignore"):
        gone, covered = beyond > 1, beyond < -1
    unknown = np.isnan(beyond)

    # It changes when it is gone, or looks as good where it would be. One that is followed changes in any case, but only moves then.
    changes = np.flatnonzero(body != points.body[index])
    with_place = np.isfinite(past[changes]).all(axis=2).any(axis=1)
    stuck, changes = changes[~with_place], changes[with_place]
    place, followed = riding.replay(frame, body[changes], past[changes]), points.live[index[changes]]
    here, there = (np.nan_to_num(view.see(world)[0]) for world in (points.anchor[index[changes]], place))
    alike_here, alike_there = (_like_at_first(view, points, index[changes], uv) for uv in (here, there))
    likely = (alike_there >= SAME_THING) | (np.hypot(*(there - here).T) <= WINDOW)
    moves = (gone[changes] & ~followed) | (seen[index[changes]] & likely & (alike_there >= alike_here - AS_ALIKE))
    # Out of sight it may be covered where it was, or have come nearer: then the surface and the looks are those of the other place.
    with np.errstate(invalid="ignore"):
        fits = np.abs(view.scene.beyond(place, BODY_TOLERANCE)) <= 1
    moves |= ~seen[index[changes]] & ~followed & fits & (unknown[changes] | (covered[changes] & (alike_there >= SAME_THING)))
    stays_followed = followed & (~moves | (np.hypot(*(there - here).T) <= CLOSE))
    refused = np.concatenate([changes[~moves & ~followed], stuck[~gone[stuck] & ~points.live[index[stuck]]]])
    body[refused] = points.body[index[refused]]
    points.body[index] = body
    moved = index[changes[moves & ~stays_followed]]
    points.live[moved] = False
    _put(points, moved, place[moves & ~stays_followed])

    away = points.away[index]
    lost = np.flatnonzero((away > 0) & (away <= STEPS))
    lost = lost[np.isfinite(past[lost, away[lost]]).all(axis=1)]
    body, place = riding.adopted(frame, view.scene, past[lost], away[lost])
    alike = _like_at_first(view, points, index[lost], np.nan_to_num(view.see(place)[0]))
    taken = (body != FREE) & (gone[lost] | unknown[lost] | (covered[lost] & (alike >= SAME_THING)))
    lost, body, place = (part[taken] for part in (lost, body, place))
    points.body[index[lost]] = body
    points.voters[index[lost]] = riding.nodes_around(frame, view.scene, place)
    _put(points, index[lost], place)


def _put(points: _Points, index: np.ndarray, world: np.ndarray) -> None:
    points.world[index] = points.anchor[index] = world


def _begin(view: _View, points: _Points, index: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Start the points at their queries; returns which of them are seen."""
    remembered = np.isfinite(points.key_mean[index])
    seen = points.live[index] & (points.without_depth[index] <= FORECAST_FRAMES)  # they go on from an earlier call
    lost = remembered & ~points.live[index]
    seen[lost] = _step(None, view, points, index[lost])

    uv, _ = view.see(queries)
    fresh = ~remembered & view.contains(uv)
    new = index[fresh]
    points.live[new] = True
    points.uv[new] = uv[fresh]
    points.world[new] = points.anchor[new] = queries[fresh]
    points.first[new] = _sample(view.grey.astype(np.float32), uv[fresh], _grid(WINDOW + 2))
    _register(view, points, new)
    points.first_weight[new] = points.key_weight[new]
    return seen | fresh


def _step(before: _View | None, view: _View, points: _Points, index: np.ndarray) -> np.ndarray:
    """Bring the started points into a frame from the one before; returns which of them are seen. All must be lost if there is none."""
    expected, expected_z = view.see(points.world[index])
    live = points.live[index]
    start = expected.astype(np.float32)
    if before is not None:
        start[live], live[live] = _follow(before, view, points.uv[index[live]], start[live])
    due = np.flatnonzero(live | (view.contains(start) & np.isfinite(points.key_mean[index])))
    points.live[index] = live
    chosen, live, start, expected_z = index[due], live[due], start[due], expected_z[due]

    refined, fits = _refine(view, points, chosen, start)
    correction = np.hypot(*(refined - start).T)
    uv = np.where((fits & (correction <= REFINE_REACH) | ~live)[:, None], refined, start)
    likeness, brighter = _likeness(view, points, chosen, uv)
    unchanged = live & (likeness >= ALIKE)
    doubtful = np.flatnonzero(live & ~unchanged)
    if before is not None and len(doubtful):
        live[doubtful] = _returns(before, view, points.uv[chosen[doubtful]], start[doubtful])
    found = ~live & fits & (correction <= SEARCH_REACH) & (likeness >= FOUND) & (np.abs(brighter) <= BRIGHTNESS)
    # A point found again is registered anew, too: its key patch may date from when something was about to cover it.
    changed = found | (live & ~unchanged)
    partly = np.flatnonzero(unchanged & (points.uncovered[chosen] < 1))
    changed[partly] = _more_to_see(view, points.rows(chosen[partly]), uv[partly], expected_z[partly])
    changed = np.flatnonzero(changed)
    there = unchanged.copy()
    uv[changed], warp, points.uncovered[chosen[changed]], there[changed] = _fit_first(
        view, points.rows(chosen[changed]), uv[changed], expected_z[changed]
    )
    points.warp[chosen[changed]] = np.where(there[changed, None, None], warp, points.warp[chosen[changed]])

    z, elsewhere = _depth_there(view, points, chosen, uv, expected_z, may_approach=unchanged)
    there &= ~elsewhere & (live | np.isfinite(z))
    points.live[chosen[~there]] = False
    seen = np.zeros(len(index), dtype=bool)
    seen[due[there]] = _place(view, points, chosen[there], uv[there], z[there], expected_z[there])
    _register(view, points, chosen[changed[there[changed]]])
    return seen


def _follow(before: _View, view: _View, start: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lucas-Kanade from the frame before: positions (P, 2) and whether each converged.

    The guess is where a point that stays in the world is seen now: a moving camera is accounted for, the rest is to be found.
    """
    if len(start) == 0:
        return start, np.zeros(0, dtype=bool)
    if view.depth is None:
        guess = start
    forth, found = _lucas_kanade(before.grey, view.grey, start, np.where(np.isfinite(guess), guess, start), LEVELS)
    return forth, found & view.contains(forth)


def _returns(before: _View, view: _View, start: np.ndarray, forth: np.ndarray) -> np.ndarray:
    """Whether points (P, 2) followed to `forth` lead back to their start. It starts where they should return to."""
    back, found = _lucas_kanade(view.grey, before.grey, forth, start, levels=0)
    return found & (np.hypot(*(back - start).T) <= RETURN_ERROR)


def _lucas_kanade(one: np.ndarray, other: np.ndarray, start: np.ndarray, guess: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        one,
        other,
        np.ascontiguousarray(start, dtype=np.float32).reshape(-1, 1, 2),
        np.array(guess, dtype=np.float32, order="C").reshape(-1, 1, 2),  # a copy: OpenCV writes into it
        winSize=(WINDOW, WINDOW),
        maxLevel=levels,
        criteria=TERMINATION if levels else NEAR_TERMINATION,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return found[:, 0], status[:, 0].astype(bool)


def _refine(view: _View, points: _Points, index: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lucas-Kanade from the key patches: positions (P, 2) near `uv`, and whether each fits.

    All key patches are laid out as the tiles of one image, so that one call serves points registered in different frames.
    """
    if len(index) == 0:
        return uv, np.zeros(0, dtype=bool)
    width, height = view.size
    width = max(width, TILE)
    in_row = width // TILE
    num_rows = -(-len(index) // in_row)
    height = max(height, num_rows * TILE)
    tiles = np.zeros((num_rows * in_row, TILE, TILE), dtype=np.uint8)
    tiles[: len(index)] = points.tile[index]
    atlas = np.zeros((height, width), dtype=np.uint8)
    atlas[: num_rows * TILE, : in_row * TILE] = (
        tiles.reshape(num_rows, in_row, TILE, TILE).swapaxes(1, 2).reshape(num_rows * TILE, in_row * TILE)
    )
    grey = view.grey
    if grey.shape != atlas.shape:
        # OpenCV wants both images of one size; what is beyond the frame is not looked at.
        grey = cv2.copyMakeBorder(grey, 0, height - grey.shape[0], 0, width - grey.shape[1], cv2.BORDER_REPLICATE)
    row, column = np.divmod(np.arange(len(index)), in_row)
    start = points.tile_uv[index] + TILE * np.stack([column, row], axis=1)
    refined, found = _lucas_kanade(atlas, grey, start, uv, levels=0)
    return refined, found & view.contains(refined)


def _likeness(view: _View, points: _Points, index: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation (P,) of the patches at `uv` with the key patches, and by how much they are brighter."""
    patch = _sample(view.grey, uv, _grid(WINDOW)).astype(np.float32)
    weighted = points.key_weight[index] * patch
    mean = weighted.sum(axis=1)
    variance = np.maximum(np.einsum("pn,pn->p", weighted, patch) - mean**2, 0)
    covariance = np.einsum("pn,pn->p", points.key[index], patch)  # the key patch has no mean: that of the other falls out
    return _correlation(covariance, variance, points.key_variance[index]), mean - points.key_mean[index]


def _like_at_first(view: _View, points: _Points, index: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Correlation (P,) of the patches at `uv` with the first patches, as they were."""
    side = WINDOW + 2
    first = points.first[index].reshape(-1, side, side)[:, 1:-1, 1:-1].reshape(-1, WINDOW**2)
    weight = points.first_weight[index]
    first, first_variance = _centred(first, weight)
    patch, variance = _centred(_sample(view.grey, uv, _grid(WINDOW)).astype(np.float32), weight)
    return _correlation(np.einsum("pn,pn,pn->p", weight, patch, first), variance, first_variance)


def _correlation(covariance: np.ndarray, one_variance: np.ndarray, other_variance: np.ndarray) -> np.ndarray:
    """Normalised correlation, for which two patches of nothing but noise are alike."""
    noise = GREY_NOISE**2
    return (covariance + noise) / np.sqrt((one_variance + noise) * (other_variance + noise))


def _uncovered_weight(view: _View, points: _Points, uv: np.ndarray, expected_z: np.ndarray) -> np.ndarray:
    """Weights (P, WINDOW^2) of the first patches' pixels around `uv` (P, 2), 0 where they are outside the image or covered."""
    return points.first_weight * _on_surface(view, uv[:, None] + _grid(WINDOW) @ np.swapaxes(points.warp, 1, 2), expected_z)


def _more_to_see(view: _View, points: _Points, uv: np.ndarray, expected_z: np.ndarray) -> np.ndarray:
    """Whether more of the first patches is uncovered than when the key patches were registered."""
    return _uncovered_weight(view, points, uv, expected_z).sum(axis=1) > points.uncovered + 0.02


def _fit_first(
    view: _View, points: _Points, uv: np.ndarray, expected_z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit the first patches by affine maps around `uv` (P, 2).

    Returns positions, maps (P, 2, 2), what part of each patch nothing covers, and whether it shows the same thing as at first.

    Inverse compositional Gauss-Newton (Baker and Matthews 2004) on weighted patches of equal mean and contrast.
    """
    if len(uv) == 0:
        return uv, points.warp, points.uncovered, np.zeros(0, dtype=bool)
    side = WINDOW + 2
    grid = _grid(WINDOW)
    x, y = grid.T
    centre, warp = uv.astype(np.float64), points.warp.copy()
    # What has come in front since must not pull: those pixels do not count, and when they are many, the point is covered.
    weight = _uncovered_weight(view, points, uv, expected_z)
    uncovered = weight.sum(axis=1)
    weight = weight / np.maximum(uncovered, 1e-6)[:, None]

    first = points.first.reshape(-1, side, side)
    along_x = 0.5 * (first[:, 1:-1, 2:] - first[:, 1:-1, :-2]).reshape(-1, WINDOW**2)
    along_y = 0.5 * (first[:, 2:, 1:-1] - first[:, :-2, 1:-1]).reshape(-1, WINDOW**2)
    template, variance = _centred(first[:, 1:-1, 1:-1].reshape(-1, WINDOW**2), weight)
    descent = np.stack([along_x * x, along_x * y, along_y * x, along_y * y, along_x, along_y], axis=2)
    descent -= np.einsum("pn,pni->pi", weight, descent)[:, None]
    weighted = np.swapaxes(descent * weight[..., None], 1, 2)
    hessian = (weighted @ descent).astype(np.float64)
    # A prior that only noise would notice: along an edge or on a blank patch the map stays what it was.
    hessian += GREY_NOISE**2 / WINDOW**2 * np.diag([WINDOW**2] * 4 + [4.0] * 2)
    solve = np.linalg.inv(hessian)

    image = view.grey.astype(np.float32)
    for _ in range(FIT_STEPS):
        patch, contrast = _centred(_sample(image, centre[:, None] + grid @ np.swapaxes(warp, 1, 2)), weight)
        gain = np.sqrt((variance + GREY_NOISE**2) / (contrast + GREY_NOISE**2))
        step = (solve @ (weighted @ (patch * gain[:, None] - template)[..., None]))[..., 0]
        inverse = np.linalg.inv(np.eye(2) + np.clip(step[:, :4].reshape(-1, 2, 2), -0.2, 0.2))
        warp = warp @ inverse
        centre = centre - (warp @ np.clip(step[:, 4:, None], -1.0, 1.0))[..., 0]
        if np.abs(step[:, 4:]).max() < CONVERGED and np.abs(step[:, :4]).max() < CONVERGED / WINDOW:
            break
    patch, contrast = _centred(_sample(image, centre[:, None] + grid @ np.swapaxes(warp, 1, 2)), weight)
    likeness = _correlation(np.einsum("pn,pn,pn->p", weight, patch, template), contrast, variance)
    stretch = np.linalg.svd(warp, compute_uv=False)
    same = (
        (likeness >= SAME_THING)
        & (uncovered >= UNCOVERED)
        & (stretch[:, 0] <= STRETCH)
        & (stretch[:, 1] >= 1 / STRETCH)
        & (np.hypot(*(centre - uv).T) <= REFINE_REACH)
        & view.contains(centre)
    )
    return centre.astype(np.float32), warp, np.where(uncovered > 0.98, 1.0, uncovered), same


def _depth_there(
    view: _View, points: _Points, index: np.ndarray, uv: np.ndarray, expected: np.ndarray, may_approach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth (P,) of each point's surface, NaN where it cannot be told; and whether another surface is in its place.

    A point that `may_approach` looks as before: it may come nearer or go away faster than a surface is steep, and where depth
    contradicts even that, the depth image is wrong for a while, as it is around thin and fast things.
    """
    if view.depth is None:
        return np.ones(len(index)), np.zeros(len(index), dtype=bool)
    found = lookup_depth(view.depth, uv, view.size, expected)
    z, hidden = found.z, found.hidden
    jumped = np.flatnonzero(hidden & may_approach)
    if len(jumped):
        after = surface_depth(view.depth, uv[jumped], view.size)
        with np.errstate(invalid="ignore"):
            credible = np.abs(after - expected[jumped]) <= APPROACH * np.maximum(after, expected[jumped])
        z[jumped[credible]] = after[credible]
    return z, hidden & np.isnan(z) & (~may_approach | (points.without_depth[index] >= FORECAST_FRAMES))


def _place(view: _View, points: _Points, index: np.ndarray, uv: np.ndarray, z: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Put the points where they were found, in holes of the depth at the forecast; returns which of them have a position."""
    in_hole = np.isnan(z)
    points.without_depth[index] = np.where(in_hole, points.without_depth[index] + 1, 0)
    points.uv[index] = uv
    points.world[index] = view.lift(uv, np.where(in_hole, forecast, z))
    points.live[index] = True
    return points.without_depth[index] <= FORECAST_FRAMES


def _register(view: _View, points: _Points, index: np.ndarray) -> None:
    """Take the points' looks where they are now as their key patches."""
    if len(index) == 0:
        return
    uv = points.uv[index]
    whole = np.rint(uv)
    points.tile[index] = _sample(view.grey, whole, _grid(TILE)).reshape(-1, TILE, TILE)
    points.tile_uv[index] = uv - whole + TILE // 2
    weight = _weights(view, points, index)
    patch = _sample(view.grey, uv, _grid(WINDOW)).astype(np.float32)
    mean = np.einsum("pn,pn->p", weight, patch)
    key, variance = _centred(patch, weight)
    points.key[index] = key * weight
    points.key_mean[index], points.key_variance[index], points.key_weight[index] = mean, variance, weight


def _weights(view: _View, points: _Points, index: np.ndarray) -> np.ndarray:
    """How much the pixels of the patches around the points count: less farther out, and not at all on another surface."""
    around = points.uv[index][:, None] + _grid(WINDOW)
    weight = FALLOFF * _on_surface(view, around, view.see(points.world[index])[1])
    weight[:, WINDOW**2 // 2] = 1.0
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def _on_surface(view: _View, pixels: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Which of the pixels (P, n, 2) may belong to surfaces at depths z (P,): 1 or 0; in the image, those without depth may."""
    inside = view.contains(pixels).astype(np.float32)
    if view.depth is None:
        return inside
    there = nearest_depth(view.depth, pixels.reshape(-1, 2), view.size).reshape(pixels.shape[:2])
    with np.errstate(invalid="ignore"):
        return inside * ~(np.abs(there - z[:, None]) > SAME_SURFACE * np.maximum(there, z[:, None]))


def _centred(patch: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patches (P, n) without their weighted means, and their weighted variances (P,)."""
    patch = patch - np.einsum("pn,pn->p", weight, patch)[:, None]
    return patch, np.einsum("pn,pn,pn->p", weight, patch, patch)


def _grid(side: int) -> np.ndarray:
    """Pixels (side^2, 2) of a patch around its centre, as (x, y)."""
    return GRIDS[side]


def _square(side: int) -> np.ndarray:
    span = np.arange(side, dtype=np.float32) - side // 2
    return np.stack(np.meshgrid(span, span), axis=-1).reshape(-1, 2)


GRIDS = {side: _square(side) for side in (WINDOW, WINDOW + 2, TILE)}
FALLOFF = np.exp(-0.5 * (GRIDS[WINDOW] ** 2).sum(axis=1) / WEIGHT_REACH**2)


def _sample(image: np.ndarray, uv: np.ndarray, grid: np.ndarray | None = None) -> np.ndarray:
    """The image at pixels (P, n, 2), or around pixels (P, 2) on a grid (n, 2): (P, n), interpolated."""
    uv = uv.astype(np.float32)
    x, y = (uv[..., 0], uv[..., 1]) if grid is None else (uv[:, :1] + grid[:, 0], uv[:, 1:] + grid[:, 1])
    if len(uv) == 0:
        return np.zeros(x.shape, dtype=image.dtype)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
