"""How the camera moves, from the pictures: with depth in six degrees of freedom, without depth as a rotation.

Every frame is compared with a *keyframe*, not with the frame before it, so that errors do not add up while the view stays
the same. Corners of the keyframe are followed into the frame (pyramidal Lucas-Kanade), and the rigid motion that most of
them agree on is the camera's: what moves by itself (an arm, an animal) disagrees and is left out. A camera at rest is a
hypothesis of its own, preferred while it explains the background to about a pixel, so that a tripod yields one pose exactly.

Every point has a trust: how well it has agreed with the camera so far. Background is what has earned trust, so that something
large that starts to move, or that comes in front, does not take the camera with it; new keyframes inherit the trust of the old.

A new keyframe is taken only when the view no longer overlaps enough with the old one; an earlier keyframe is taken up again
when the camera returns to it.

With depth, corners are only the beginning: the whole surface of a *reference* frame is aligned with the frame from what the
corners say, from where the camera should be by now and from where it was (`dense_alignment`), and the motion that explains most
of the surface, by its trust, holds. That is ten to a hundred times as exact, and it goes on where corners are few.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np

from tracekit.geometry import cameras, se3
from tracekit.geometry.dense_alignment import LEAST_TRUST, TRUST_RATE, Surface, View, agreement, align, learn_trust, surface_of, view_of

WORKING_SIDE = 640
"""Frames are reduced to this many pixels on the longer side: corners are located to a tenth of a pixel, which is enough."""
INLIER_PX = 1.5
"""Points this close to where a motion puts them agree with it."""
FIT_PX = 0.75
"""Width of the robust fit, in the end: half of what still counts as agreement."""
REST_PX = 1.0
"""A camera at rest leaves it when the background has moved by this much (median) ..."""
RETURN_PX = 0.25
"""... and one that moves is at the keyframe's pose again only when it has come this close: the gap keeps it from flickering."""
MIN_INLIERS = 12
"""Fewer points than this tell nothing: twice what a motion needs, and again as many to bear it out."""
MIN_OVERLAP = 0.6
MIN_AGREEMENT = 0.5
"""A keyframe is given up when less of it is in view, or less of what is in view agrees (both counted by trust)."""
MIN_SURFACE_AGREEMENT = 0.4
"""Share of the surface in view that must lie where, and look as, a motion says, for the motion to be believed."""
MIN_SURFACE_OVERLAP = 0.4
"""Share of a reference's surface, by trust, that must be seen where the pose puts it, or another frame becomes the reference."""
AT_REST = 0.95
"""Share of the surface that bears out a camera at rest without a look at other motions."""
CONVINCING = 0.85
"""Share from which no other motion is looked for."""
BETTER = 0.02
"""Share of the surface by which one motion must explain more than another to be preferred."""
NEIGHBOURHOOD_PX = 15.0
"""How far the word of a point carries when a new keyframe is taken."""
MAX_KEYFRAMES = 48
"""Keyframes that are remembered, the latest ones: this bounds the memory (about 0.3 MB each)."""
LOST_FRAMES = 5
"""After so many frames without an estimate a new keyframe starts at the pose that was held."""

_UNTIL_SETTLED = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 0.02)


@dataclass(frozen=True)
class CameraEstimate:
    """The camera of one frame."""

    world_from_camera: np.ndarray
    """(4, 4) float64; the world is the camera of the first frame."""
    confidence: float
    """Share of the points found, each counted by its trust, that agree with the pose; 0 when nothing could be estimated and the last
    pose was held. Halved by every break in the chain: what follows is right in itself, but its place in the world is a guess."""


@dataclass(frozen=True)
class _Keyframe:
    grey: np.ndarray
    pixels: np.ndarray
    """(P, 2) float32 corners."""
    points: np.ndarray
    """(P, 3) float64 the same in the keyframe's camera: by depth, or on z = 1 when only rotations are sought."""
    world_from_camera: np.ndarray
    trust: np.ndarray
    """(P,) how well each point has agreed with the camera so far, 0 to 1. It is its say in what is background, and is updated in place."""

    @property
    def is_usable(self) -> bool:
        return len(self.pixels) >= MIN_INLIERS


@dataclass(frozen=True)
class _Reference:
    """The frame whose whole surface later ones are aligned with."""

    surface: Surface
    world_from_camera: np.ndarray


@dataclass(frozen=True)
class _Match:
    """Points of a keyframe found in a frame, and the motion they agree on."""

    camera_from_keyframe: np.ndarray
    resting: bool
    uv: np.ndarray
    """(P, 2) where each point of the keyframe was found; where it was not, the place that the motion puts it."""
    followed: np.ndarray
    """(P,) bool: found, reliably."""
    agrees: np.ndarray
    """(P,) bool: found where the motion puts it."""
    visible: np.ndarray
    """(P,) bool: put inside the frame by the motion."""

    def agreement(self, trust: np.ndarray) -> float:
        """Share of the points in view that agree, each counted by its trust (P,)."""
        return float(trust[self.agrees].sum() / max(trust[self.agrees | self.visible].sum(), 1e-9))


class Odometry:
    """Follows one camera through its frames, in order.

    `intrinsics` (3, 3) and `size` (width, height) describe the frames. With `rotation_only` no depth is needed and camera
    centres stay at the origin; otherwise `track` needs the depth of each frame and poses are in its unit.
    """

    def __init__(self, intrinsics: np.ndarray, size: tuple[int, int], *, rotation_only: bool = False, seed: int = 0) -> None:
        reduction = min(1.0, WORKING_SIDE / max(size))
        self._size = (max(1, round(size[0] * reduction)), max(1, round(size[1] * reduction)))
        self._intrinsics = cameras.scale_intrinsics(intrinsics, size, self._size)
        self._rotation_only = rotation_only
        self._seed = seed
        self._keyframes: list[_Keyframe] = []
        self._resting = True
        self._lost = 0
        self._certainty = 1.0
        self._pose = np.eye(4)
        self._previous_pose = np.eye(4)
        self._reference: _Reference | None = None

    def track(self, frame: np.ndarray, depth: np.ndarray | None = None) -> CameraEstimate:
        """The camera of the next frame (H, W, 3) uint8 RGB with depth (h, w), 0 where unknown (None with `rotation_only`)."""
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        if grey.shape[::-1] != self._size:
            grey = cv2.resize(grey, self._size, interpolation=cv2.INTER_AREA)
        view = None if self._rotation_only or depth is None else view_of(grey, depth, self._intrinsics)
        if not self._keyframes:
            self._keyframes.append(self._keyframe(grey, depth))
            self._refer_to(view)
            return CameraEstimate(self._pose, 1.0)

        keyframe = self._keyframes[-1]
        match = self._match(keyframe, grey, depth)
        if match is None:
            return self._without_corners(grey, depth, view)

        self._lost = 0
        self._resting = match.resting and not self._moves_after_all(keyframe.world_from_camera, view)
        pose = keyframe.world_from_camera
        if not self._resting:
            pose = self._refined(pose @ se3.inverse(match.camera_from_keyframe), view)
        self._previous_pose, self._pose = self._pose, pose
        confidence = self._certainty * float(keyframe.trust[match.agrees].sum() / keyframe.trust[match.followed].sum())
        keyframe.trust[match.followed] += TRUST_RATE * (match.agrees[match.followed] - keyframe.trust[match.followed])
        if self._view_has_changed(match, keyframe):
            self._change_keyframe(grey, depth, match)
        if view is not None:
            self._update_reference(view)
        return CameraEstimate(pose, confidence)

    # The whole surface

    def _refer_to(self, view: View | None) -> None:
        if view is not None:
            self._reference = _Reference(surface_of(view), self._pose)

    def _aligned(self, pose: np.ndarray, view: View) -> tuple[np.ndarray, float]:
        """The pose near this one that puts the reference's surface where the view shows it, and the share of it that agrees."""
        assert self._reference is not None
        motion, share = align(self._reference.surface, view, se3.inverse(pose) @ self._reference.world_from_camera)
        return self._reference.world_from_camera @ se3.inverse(motion), share

    def _update_reference(self, view: View) -> None:
        """What of the reference's surface agrees with the pose that was found; and this frame in its place when little of it is seen."""
        assert self._reference is not None
        surface = self._reference.surface
        trust, share = learn_trust(surface, view, se3.inverse(self._pose) @ self._reference.world_from_camera)
        if share < MIN_SURFACE_OVERLAP:
            self._reference = _Reference(surface_of(view, trust), self._pose)

    def _moves_after_all(self, pose: np.ndarray, view: View | None) -> bool:
        """Whether the surface contradicts corners that say that the camera rests: they may all lie on something that goes along with it."""
        if view is None or self._reference is None:
            return False
        at_rest = agreement(self._reference.surface, view, se3.inverse(pose) @ self._reference.world_from_camera)
        return at_rest < AT_REST and self._aligned(pose, view)[1] > at_rest + BETTER

    def _refined(self, pose: np.ndarray, view: View | None) -> np.ndarray:
        """The pose that corners have found, after the whole picture has had its say.

        Corners can lie mostly on something that moves, so the prediction and a camera that held still are tried first: what the
        corners say must explain clearly more of the surface than these.
        """
        if view is None or self._reference is None:
            return pose
        best, best_share = pose, MIN_SURFACE_AGREEMENT
        for guess in (self._predicted_pose(), self._pose, pose):
            found, share = self._aligned(guess, view)
            if share > best_share + BETTER:
                best, best_share = found, share
            if best_share > CONVINCING:
                break
        return best

    def _without_corners(self, grey: np.ndarray, depth: np.ndarray | None, view: View | None) -> CameraEstimate:
        """Too few corners were found again: surfaces may still tell where the camera went, if it went on as before."""
        fresh = self._keyframe(grey, depth)
        if fresh.is_usable and self._keyframes[-1].is_usable and view is not None and self._reference is not None and self._lost == 0:
            pose, share = self._aligned(self._predicted_pose(), view)
            if share >= MIN_SURFACE_AGREEMENT:
                self._resting = False
                self._previous_pose, self._pose = self._pose, pose
                self._keyframes.append(dataclasses.replace(fresh, world_from_camera=pose))
                del self._keyframes[:-MAX_KEYFRAMES]
                self._update_reference(view)
                return CameraEstimate(self._pose, self._certainty * share)
        return self._hold(grey, depth, view)

    def _hold(self, grey: np.ndarray, depth: np.ndarray | None, view: View | None) -> CameraEstimate:
        """Nothing is known of this frame. When that lasts, start afresh, and say by a lower confidence that the chain is broken."""
        self._previous_pose = self._pose
        self._lost += 1
        begun = self._keyframes[-1].is_usable
        if not begun or self._lost >= LOST_FRAMES:
            fresh = self._keyframe(grey, depth)
            # After darkness the old view may come back: it is given up only for one that can be followed.
            if fresh.is_usable:
                self._lost = 0
                self._certainty *= 0.5 if begun else 1.0
                self._keyframes.append(fresh)
                self._refer_to(view)
        return CameraEstimate(self._pose, 0.0)

    # Keyframes

    def _keyframe(self, grey: np.ndarray, depth: np.ndarray | None, match: _Match | None = None) -> _Keyframe:
        """The frame as a keyframe at the current pose. A corner inherits the trust of the old keyframe's points around it."""
        pixels = find_corners(grey)
        if self._rotation_only:
            z = np.ones(len(pixels))
        else:
            assert depth is not None
            z = sample_depth(depth, pixels, self._size)
            pixels, z = pixels[z > 0], z[z > 0]
        points = cameras.unproject(pixels.astype(np.float64), z, self._intrinsics, np.eye(4))
        trust = np.full(len(pixels), 0.5) if match is None else self._inherited_trust(pixels, match)
        return _Keyframe(grey, pixels, points, self._pose, trust)

    def _inherited_trust(self, pixels: np.ndarray, match: _Match) -> np.ndarray:
        """What the old keyframe says of corners (P, 2): a point that should be here and is not witnesses that something hides it."""
        witness = match.followed | match.visible
        said = np.where(match.followed, self._keyframes[-1].trust, 0.0)[witness]
        apart = np.linalg.norm(pixels[:, None] - match.uv[witness][None], axis=-1)
        # Weights fall with the distance, and a witness of no opinion stands one neighbourhood away, for corners that have none.
        closeness = np.exp(-0.5 * (apart / NEIGHBOURHOOD_PX) ** 2)
        nobody = np.exp(-2.0)
        return np.maximum(LEAST_TRUST, (closeness @ said + 0.5 * nobody) / (closeness.sum(axis=1) + nobody))

    def _view_has_changed(self, match: _Match, keyframe: _Keyframe) -> bool:
        if match.resting:
            return False
        # Points that left the picture, or that cannot be followed any more because perspective has changed their surroundings.
        return keyframe.trust[match.visible].sum() < MIN_OVERLAP * keyframe.trust.sum() or match.agreement(keyframe.trust) < MIN_AGREEMENT

    def _change_keyframe(self, grey: np.ndarray, depth: np.ndarray | None, match: _Match) -> None:
        """Go back to an earlier keyframe that shows the same view, or take this frame as a new one."""
        best, best_overlap = None, 0.8
        for index, candidate in enumerate(self._keyframes[:-1]):
            overlap = self._overlap(candidate)
            if overlap > best_overlap:
                best, best_overlap = index, overlap
        if best is not None:
            candidate = self._keyframes[best]
            again = self._match(candidate, grey, depth)
            if again is not None and again.agreement(candidate.trust) >= MIN_AGREEMENT:
                self._keyframes.append(self._keyframes.pop(best))
                return
        fresh = self._keyframe(grey, depth, match)
        if fresh.is_usable:
            self._keyframes.append(fresh)
            del self._keyframes[:-MAX_KEYFRAMES]

    def _overlap(self, keyframe: _Keyframe) -> float:
        """Share of a keyframe's points that the current pose puts inside the picture."""
        if len(keyframe.pixels) < 4 * MIN_INLIERS:
            return 0.0
        camera_from_keyframe = se3.inverse(self._pose) @ keyframe.world_from_camera
        uv, _ = cameras.project(keyframe.points, self._intrinsics, se3.inverse(camera_from_keyframe))
        return float(self._inside(uv).mean())

    def _inside(self, uv: np.ndarray) -> np.ndarray:
        inside: np.ndarray = np.logical_and(uv > 0, uv < np.array(self._size) - 1)
        return inside[..., 0] & inside[..., 1]

    # One frame against one keyframe

    def _match(self, keyframe: _Keyframe, grey: np.ndarray, depth: np.ndarray | None) -> _Match | None:
        if not keyframe.is_usable:
            return None
        guess = se3.inverse(self._predicted_pose()) @ keyframe.world_from_camera
        match = self._match_from(guess, keyframe, grey, depth)
        if match is None or match.agreement(keyframe.trust) < 0.3:
            # The picture jumped further than Lucas-Kanade can follow: look for the corners anywhere.
            jump = self._match_descriptors(keyframe, grey, depth)
            if jump is not None:
                second = self._match_from(jump, keyframe, grey, depth)
                if second is not None and (match is None or second.agrees.sum() > match.agrees.sum()):
                    match = second
        return match

    def _predicted_pose(self) -> np.ndarray:
        if self._resting:
            return self._pose
        return self._pose @ se3.inverse(self._previous_pose) @ self._pose

    def _match_from(self, guess: np.ndarray, keyframe: _Keyframe, grey: np.ndarray, depth: np.ndarray | None) -> _Match | None:
        """Follow the keyframe's corners from where `guess` (camera_from_keyframe) expects them, and estimate the motion."""
        expected, _ = cameras.project(keyframe.points, self._intrinsics, se3.inverse(guess))
        expected = np.where(self._inside(expected)[:, None], expected, keyframe.pixels).astype(np.float32)
        found, followed = _follow(keyframe.grey, grey, keyframe.pixels, expected)
        followed &= self._inside(found)
        if followed.sum() < MIN_INLIERS:
            return None
        points, trust, uv = keyframe.points[followed], keyframe.trust[followed], found[followed].astype(np.float64)

        def conclude(motion: np.ndarray, resting: bool, agreeing: np.ndarray) -> _Match:
            agrees = np.zeros(len(followed), bool)
            agrees[followed] = agreeing
            projected, _ = cameras.project(keyframe.points, self._intrinsics, se3.inverse(motion))
            return _Match(motion, resting, np.where(followed[:, None], found, projected), followed, agrees, self._inside(projected))

        shift = np.linalg.norm(uv - keyframe.pixels[followed], axis=1)
        still = shift < INLIER_PX
        at_rest = still.sum() >= MIN_INLIERS and np.median(shift[still]) < (REST_PX if self._resting else RETURN_PX)
        if at_rest and still.sum() >= 0.9 * len(uv):
            return conclude(np.eye(4), True, still)

        z = None if depth is None else sample_depth(depth, found[followed], self._size)
        motion, error = self._solve(points, uv, z, trust, guess)
        agreeing = error < INLIER_PX
        # Something that moves by itself cannot be explained together with the background, a moving camera explains both near
        # and far: rest loses only against a motion that clearly accounts for more points.
        if at_rest and trust[still].sum() >= 0.8 * _support(error, trust):
            return conclude(np.eye(4), True, still)
        if agreeing.sum() < MIN_INLIERS:
            return None
        return conclude(motion, False, agreeing)

    def _solve(
        self, points: np.ndarray, uv: np.ndarray, z: np.ndarray | None, trust: np.ndarray, guess: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The motion that the trusted points agree on, and the error of each point in pixels.

        Found from the prediction, and by random sampling where that convinces few of them.
        """
        motion, error = self._refine(points, uv, z, trust, guess)
        if _support(error, trust) < 0.8 * trust.sum():
            trusted = trust >= np.median(trust)
            sampled = self._sample(points[trusted], uv[trusted])
            if sampled is not None:
                candidate, candidate_error = self._refine(points, uv, z, trust, sampled)
                if _support(candidate_error, trust) > _support(error, trust):
                    return candidate, candidate_error
        return motion, error

    def _refine(
        self, points: np.ndarray, uv: np.ndarray, z: np.ndarray | None, trust: np.ndarray, guess: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return refine_motion(points, uv, z, self._intrinsics, guess, trust=trust, rotation_only=self._rotation_only)

    def _sample(self, points: np.ndarray, uv: np.ndarray) -> np.ndarray | None:
        if self._rotation_only:
            rotation = sample_rotation(points, uv, self._intrinsics, self._seed)
            return se3.from_rotation_translation(rotation, np.zeros(3))
        cv2.setRNGSeed(self._seed)
        found, rotation_vector, translation, _ = cv2.solvePnPRansac(
            points, uv, self._intrinsics, None, reprojectionError=1.0, iterationsCount=200, confidence=0.999, flags=cv2.SOLVEPNP_AP3P
        )
        if not found or not np.isfinite(rotation_vector).all() or not np.isfinite(translation).all():
            return None
        return se3.from_rotation_translation(cv2.Rodrigues(rotation_vector)[0], translation[:, 0])

    def _match_descriptors(self, keyframe: _Keyframe, grey: np.ndarray, depth: np.ndarray | None) -> np.ndarray | None:
        """camera_from_keyframe by comparing descriptors of corners anywhere in the two pictures."""
        key_index, key_descriptors = _describe(keyframe.grey, keyframe.pixels)
        pixels = find_corners(grey)
        index, descriptors = _describe(grey, pixels)
        if len(key_index) < MIN_INLIERS or len(index) < MIN_INLIERS:
            return None
        pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(key_descriptors, descriptors)
        pairs = [pair for pair in pairs if pair.distance < 64]
        if len(pairs) < MIN_INLIERS:
            return None
        matched = key_index[[pair.queryIdx for pair in pairs]]
        points = keyframe.points[matched]
        uv = pixels[index[[pair.trainIdx for pair in pairs]]].astype(np.float64)
        sampled = self._sample(points, uv)
        if sampled is None:
            return None
        z = None if depth is None else sample_depth(depth, uv, self._size)
        motion, error = self._refine(points, uv, z, keyframe.trust[matched], sampled)
        return motion if (error < INLIER_PX).sum() >= MIN_INLIERS else None


def find_corners(grey: np.ndarray, per_cell: int = 7, cell: int = 64) -> np.ndarray:
    """Corners (P, 2) float32 of a grey image: the strongest local maxima of each cell of a grid, so that no one object has them all."""
    width = grey.shape[1]
    strength = cv2.cornerMinEigenVal(grey, 5)
    peak = (strength == cv2.dilate(strength, np.ones((9, 9), np.uint8))) & (strength > max(1e-4, 0.01 * float(strength.max())))
    border = 8
    peak[:border] = peak[-border:] = False
    peak[:, :border] = peak[:, -border:] = False
    v, u = np.nonzero(peak)
    if len(u) == 0:
        return np.zeros((0, 2), np.float32)
    cell_of = (v // cell) * (width // cell + 1) + u // cell
    order = np.lexsort((-strength[v, u], cell_of))
    cell_of = cell_of[order]
    rank = np.arange(len(order)) - np.searchsorted(cell_of, cell_of)
    chosen = order[rank < per_cell]
    return np.stack([u[chosen], v[chosen]], axis=1).astype(np.float32)


def sample_depth(depth: np.ndarray, uv: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Depth (P,) at pixels (P, 2) of an image of `size` (width, height) that shows the same view as `depth` (h, w).

    0 where it is not known or lies on an edge: there a pixel may belong to the near or to the far side.
    """
    height, width = depth.shape
    column, row = np.rint(cameras.resize_pixels(uv.astype(np.float64), size, (width, height))).astype(int).T
    inside = (column >= 1) & (column < width - 1) & (row >= 1) & (row < height - 1)
    column, row = np.where(inside, column, 0), np.where(inside, row, 0)
    steps = np.array([(dv, du) for dv in (-1, 0, 1) for du in (-1, 0, 1)])
    around = depth[np.clip(row[:, None] + steps[:, 0], 0, height - 1), np.clip(column[:, None] + steps[:, 1], 0, width - 1)]
    seen = around > 0
    count = seen.sum(axis=1)
    lowest, highest = np.where(seen, around, np.inf).min(axis=1), around.max(axis=1)
    # Sensors leave isolated gaps on a surface, and broad ones along its edges.
    known = inside & (count >= 6) & (highest - lowest < 0.05 * highest)
    # The mean of what is around, not the middle pixel: away from edges it has a third of the noise.
    return np.where(known, around.sum(axis=1, dtype=np.float64) / np.maximum(count, 1), 0.0)


def sample_rotation(points: np.ndarray, uv: np.ndarray, intrinsics: np.ndarray, seed: int, trials: int = 200) -> np.ndarray:
    """The rotation (3, 3) that maps most directions `points` (P, 3) onto their pixels (P, 2): two random pairs fix each trial."""
    source = points / np.linalg.norm(points, axis=1, keepdims=True)
    target = np.concatenate([uv, np.ones((len(uv), 1))], axis=1) @ np.linalg.inv(intrinsics).T
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    pick = np.random.default_rng(seed).integers(len(points), size=(trials, 2))
    rotations = se3.nearest_rotation(np.swapaxes(target[pick], 1, 2) @ source[pick])
    # The chord between two unit vectors is their angle, and the angle times the focal length is pixels.
    chord = np.linalg.norm(source @ np.swapaxes(rotations, 1, 2) - target, axis=2)
    support = (chord * intrinsics[0, 0] < 2.0).sum(axis=1)
    return rotations[int(support.argmax())]


def refine_motion(
    points: np.ndarray,
    uv: np.ndarray,
    z: np.ndarray | None,
    intrinsics: np.ndarray,
    guess: np.ndarray,
    *,
    trust: np.ndarray | None = None,
    rotation_only: bool = False,
    iterations: int = 12,
) -> tuple[np.ndarray, np.ndarray]:
    """The rigid motion (4, 4) that brings points (P, 3) onto pixels (P, 2), and the distances (P,) in pixels that remain.

    Gauss-Newton on the reprojection error and, where the depth `z` (P,) was measured (> 0), on that too. The weights are those
    of Geman and McClure, whose width shrinks from what the guess leaves to the noise: points that move by themselves lose
    their say. `trust` (P,) weights the points from the start. One per cent of depth counts as much as a pixel.
    """
    motion = np.array(guess, dtype=np.float64)
    # Products of rotations drift off orthonormality, and a prediction from two poses triples what the last one had.
    motion[:3, :3] = se3.nearest_rotation(motion[:3, :3])
    num_unknowns = 3 if rotation_only else 6
    measured = np.zeros(len(points), bool) if z is None or rotation_only else z > 0
    width = 0.0
    for iteration in range(iterations + 1):
        moved = se3.transform_points(motion, points)
        in_front = moved[:, 2] > 1e-6
        x, y, depth = moved[:, 0], moved[:, 1], np.where(in_front, moved[:, 2], 1.0)
        normalised = np.stack([x / depth, y / depth], axis=1)
        error = uv - (normalised @ intrinsics[:2, :2].T + intrinsics[:2, 2])
        distance = np.where(in_front, np.linalg.norm(error, axis=1), np.inf)
        if iteration == iterations or in_front.sum() < MIN_INLIERS:
            break
        width = max(FIT_PX, 3.0 * float(np.median(distance[in_front])) if iteration == 0 else 0.6 * width)
        weight = np.where(in_front, 1.0 / (1.0 + (distance / width) ** 2) ** 2, 0.0)
        if trust is not None:
            weight = weight * trust

        # Derivative of (x/z, y/z) and z by a small rotation, then translation, in front of the motion.
        jacobian = np.zeros((len(points), 3, 6))
        a, b = normalised[:, 0], normalised[:, 1]
        jacobian[:, 0, :3] = np.stack([-a * b, 1 + a * a, -b], axis=1)
        jacobian[:, 1, :3] = np.stack([-1 - b * b, a * b, a], axis=1)
        jacobian[:, 0, 3], jacobian[:, 0, 5] = 1 / depth, -a / depth
        jacobian[:, 1, 4], jacobian[:, 1, 5] = 1 / depth, -b / depth
        jacobian[:, 2, 0], jacobian[:, 2, 1], jacobian[:, 2, 5] = y, -x, 1.0
        rows = np.concatenate([intrinsics[:2, :2] @ jacobian[:, :2], jacobian[:, 2:]], axis=1)[..., :num_unknowns]
        residual = np.concatenate([error, np.zeros((len(points), 1))], axis=1)
        weights = np.repeat(weight[:, None], 3, axis=1)
        weights[:, 2] = 0.0
        if measured.any():
            assert z is not None
            per_cent = 100.0 / depth
            residual[:, 2] = (z - moved[:, 2]) * per_cent
            rows[:, 2] *= per_cent[:, None]
            depth_weight = weight / (1.0 + (residual[:, 2] / width) ** 2) ** 2
            weights[:, 2] = np.where(measured, depth_weight, 0.0)
        flat = rows.reshape(-1, num_unknowns)
        weighted = flat * weights.reshape(-1, 1)
        normal = weighted.T @ flat
        # The damping is far below any observable direction's weight; it keeps a degenerate set of points from blowing up.
        normal[np.diag_indices(num_unknowns)] += 1e-9 * np.trace(normal) + 1e-12
        step = np.linalg.solve(normal, weighted.T @ residual.reshape(-1))
        update = np.eye(4)
        update[:3, :3] = cv2.Rodrigues(step[:3])[0]
        if not rotation_only:
            update[:3, 3] = step[3:]
        motion = update @ motion
    return motion, distance


def _support(error: np.ndarray, trust: np.ndarray) -> float:
    """How much trust a motion earns: that of the points that agree with it, less the more they deviate.

    A bare count would prefer a compromise, between the background and something that hardly moves, to either of the two.
    """
    return float((trust * np.maximum(0.0, 1.0 - (error / INLIER_PX) ** 2)).sum())


def _follow(key_grey: np.ndarray, grey: np.ndarray, pixels: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where corners (P, 2) are now, and whether following them back leads to where they came from."""
    found, ahead = _lucas_kanade(key_grey, grey, pixels, expected)
    # The way back starts from the same displacement, so that large ones are not lost.
    back, behind = _lucas_kanade(grey, key_grey, found, pixels + found - expected)
    return found, ahead & behind & (np.linalg.norm(back - pixels, axis=1) < 0.5)


def _lucas_kanade(first: np.ndarray, second: np.ndarray, pixels: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        first,
        second,
        pixels,
        expected.astype(np.float32),  # a copy: the flow is written over it
        winSize=(15, 15),
        maxLevel=3,
        criteria=_UNTIL_SETTLED,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return np.asarray(found), np.asarray(status)[:, 0] > 0


def _describe(grey: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Binary descriptors of those corners that are far enough from the border, and their indices."""
    keypoints = [cv2.KeyPoint(float(u), float(v), 31.0, 0.0, 1.0, 0, index) for index, (u, v) in enumerate(pixels)]
    kept, descriptors = cv2.ORB.create().compute(grey, keypoints)
    if descriptors is None:
        return np.zeros(0, int), np.zeros((0, 32), np.uint8)
    return np.array([keypoint.class_id for keypoint in kept], int), descriptors
