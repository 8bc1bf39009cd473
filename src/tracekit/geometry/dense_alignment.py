"""Refine a camera's motion on the whole picture: where corners are few, surfaces and faint texture still tell it to a fraction of a pixel.

Points on a grid of one frame are moved into the camera of another. There, measured depth must lie on the plane through each point
(point to plane, Chen and Medioni 1992) and brightness must be what it was (direct alignment, Kerl et al. 2013). What moves by
itself fits neither and loses its say.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tracekit.geometry import cameras, se3
from tracekit.geometry.depth_lookup import doubtful_depth
from tracekit.geometry.rigid_motion import twist_to_motion

STEP = 4
"""Distance of the grid's points, pixels."""
EDGE = 0.04
"""Relative jump of depth within a grid cell's neighbourhood that makes a normal meaningless."""
DETAIL = 4.0
"""Brightness is compared after what is coarser than this (sigma, pixels) is taken out: light that comes with the camera, highlights, exposure."""
GREY_NOISE = (0.8, 3.0)
"""Grey levels that two pictures of the same place differ by, at least and at most; what it is shows in the pictures."""
DEPTH_NOISE = 0.002
"""Metres by which the depth of a surface one metre away is off; grows with the square of the distance, as it does in real sensors."""
HIDDEN = 10.0
"""Depths that differ by more than this many times the noise belong to two surfaces."""
ITERATIONS = 10
PRIOR_TURN, PRIOR_SHIFT = np.radians(1.0), 0.02
"""How far off (standard deviation, radians and metres) the first guess may be: what the scene does not tell stays as it was guessed."""
SMALLEST_STEP = 1e-6
LEAST_POINTS = 200
AGREES = 2.0
"""Standard deviations within which a point lies where, and looks as, the motion says."""
TRUST_RATE = 0.2
"""How fast a point gains or loses its say: in about five frames."""
LEAST_TRUST = 0.02
"""No point is silenced altogether: it may earn trust again."""
NEIGHBOURHOOD = 2.0
"""How far the trust of a point carries, in grid cells, when another frame inherits it."""


@dataclass(frozen=True)
class Surface:
    """Points on a grid of one frame, in its camera."""

    points: np.ndarray
    """(P, 3) float64 metres."""
    normals: np.ndarray
    """(P, 3) unit vectors."""
    detail: np.ndarray
    """(P,) brightness without what is coarse."""
    trust: np.ndarray
    """(P,) how well each point has agreed with the camera so far, 0 to 1: what moves by itself loses its say. Updated in place."""


@dataclass(frozen=True)
class View:
    """One frame that surfaces are aligned with."""

    detail: np.ndarray
    """(H, W) float32."""
    gradient: tuple[np.ndarray, np.ndarray]
    """Its derivatives along u and v, (H, W) float32 each."""
    depth: np.ndarray
    """(H, W) float32, 0 where unknown or on an edge."""
    intrinsics: np.ndarray


def view_of(grey: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray) -> View:
    """A frame, grey (H, W) uint8 with depth (h, w) of the same view, ready to be aligned with. `intrinsics` are those of `grey`."""
    height, width = grey.shape
    if depth.shape != grey.shape:
        # Nearest, not interpolated: between two surfaces there is none.
        depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0)
    detail = smooth - cv2.GaussianBlur(smooth, (0, 0), DETAIL)
    gradient = (cv2.Sobel(detail, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(detail, cv2.CV_32F, 0, 1, scale=0.125))
    return View(detail, gradient, np.where(doubtful_depth(depth, EDGE), 0, depth).astype(np.float32), intrinsics)


def surface_of(view: View, trust: np.ndarray | None = None) -> Surface:
    """Points of a frame on a grid, with the normals of the surface there. `trust` (H', W') is a map of any size; without it all are equal."""
    height, width = view.depth.shape
    reach = 2  # normals from a wide base: depth is kept in millimetres
    v, u = np.mgrid[reach : height - reach : STEP, reach : width - reach : STEP]
    u, v = u.ravel(), v.ravel()
    around = [view.depth[v, u - reach], view.depth[v, u + reach], view.depth[v - reach, u], view.depth[v + reach, u], view.depth[v, u]]
    known = np.all(np.stack(around) > 0, axis=0)
    u, v = u[known].astype(np.float64), v[known].astype(np.float64)
    left, right, above, below, here = (
        cameras.unproject(np.stack([u + du, v + dv], axis=1), z[known].astype(np.float64), view.intrinsics, np.eye(4))
        for (du, dv), z in zip([(-reach, 0), (reach, 0), (0, -reach), (0, reach), (0, 0)], around, strict=True)
    )
    normals = np.cross(right - left, below - above)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    own = np.full(len(u), 0.5)
    if trust is not None:
        own = trust[(v * trust.shape[0] / height).astype(int), (u * trust.shape[1] / width).astype(int)]
    return Surface(here, normals, view.detail[v.astype(int), u.astype(int)].astype(np.float64), own)


def learn_trust(surface: Surface, view: View, motion: np.ndarray) -> tuple[np.ndarray, float]:
    """Let the points of `surface` gain or lose trust by how they agree with `motion`.

    Returns the trust as `view` sees it, a coarse map, and the share of all points, by trust, that are seen where they should be.

    A point that should be seen and is not, because there is only something farther, has moved. One that something hides is not
    judged itself, but what hides it has moved there.
    """
    height, width = view.depth.shape
    said = np.zeros((2, -(-height // STEP), -(-width // STEP)), np.float32)
    compared = _compare(surface, view, motion, HIDDEN)
    share = 0.0
    if compared is not None:
        share = float(compared.trust[compared.agrees].sum() / max(surface.trust.sum(), 1e-9))
        gone = compared.gone[0]
        surface.trust[compared.index] += TRUST_RATE * (compared.agrees - surface.trust[compared.index])
        surface.trust[gone] -= TRUST_RATE * surface.trust[gone]
        np.maximum(surface.trust, LEAST_TRUST, out=surface.trust)
        witnesses = ((compared.uv, surface.trust[compared.index]), (compared.covered[1], np.zeros(len(compared.covered[0]))))
        for uv, trust in witnesses:
            column, row = (uv / STEP).astype(int).T
            np.add.at(said[0], (row, column), trust)
            np.add.at(said[1], (row, column), 1.0)
    total, number = (cv2.GaussianBlur(part, (0, 0), NEIGHBOURHOOD) for part in said)
    # A witness of no opinion stands everywhere, for places of which nobody knows.
    nobody = 0.02
    return np.maximum((total + 0.5 * nobody) / (number + nobody), LEAST_TRUST), share


def agreement(surface: Surface, view: View, motion: np.ndarray) -> float:
    """Share of what should be seen, by trust, that lies where `motion` (4, 4) puts it and looks as it did."""
    compared = _compare(surface, view, motion, HIDDEN)
    return compared.agreement if compared else 0.0


def align(surface: Surface, view: View, guess: np.ndarray) -> tuple[np.ndarray, float]:
    """The motion (4, 4) from the camera of `surface` to that of `view`, near `guess`, and the share of what is in view, by trust, that agrees.

    The guess and 0 where too little can be compared.
    """
    motion = np.array(guess, dtype=np.float64)
    motion[:3, :3] = se3.nearest_rotation(motion[:3, :3])
    start = motion.copy()
    prior = np.repeat([PRIOR_TURN**-2, PRIOR_SHIFT**-2], 3)
    scale = 3.0  # of the robust weights, in standard deviations; shrinks to 1 as the motion settles
    for _ in range(ITERATIONS):
        compared = _compare(surface, view, motion, HIDDEN * scale)
        if compared is None:
            return guess, 0.0
        normal, right = compared.equations(scale)
        off = motion @ se3.inverse(start)
        right = right - prior * np.concatenate([cv2.Rodrigues(off[:3, :3])[0][:, 0], off[:3, 3]])
        step = np.linalg.solve(normal + np.diag(prior), right)
        motion = twist_to_motion(step) @ motion
        if scale <= 1.0 and np.abs(step).max() < SMALLEST_STEP:
            break
        scale = max(1.0, 0.6 * scale)
    return motion, agreement(surface, view, motion)


@dataclass(frozen=True)
class _Comparison:
    """Residuals of the points in view, and their derivatives by a small rotation, then translation, in front of the motion."""

    index: np.ndarray
    """(P,) which points of the surface these are."""
    uv: np.ndarray
    """(P, 2) where they are seen."""
    trust: np.ndarray
    """(P,)."""
    gone: tuple[np.ndarray, np.ndarray]
    """Points of the surface (Q,), and their pixels (Q, 2), where only something farther is seen."""
    covered: tuple[np.ndarray, np.ndarray]
    """The same where something nearer is seen."""
    trust_in_view: float
    """Sum over all that should be seen."""
    distance: np.ndarray
    """(P,) of the measured points from the planes, in standard deviations."""
    by_distance: np.ndarray
    """(P, 6)."""
    difference: np.ndarray
    """(P,) of brightness, in standard deviations."""
    by_difference: np.ndarray
    """(P, 6)."""

    def equations(self, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Normal equations of one Gauss-Newton step, weighted as Geman and McClure do."""
        normal, right = np.zeros((6, 6)), np.zeros(6)
        for rows, residual in ((self.by_distance, self.distance), (self.by_difference, self.difference)):
            weighted = rows * (self.trust / (1.0 + (residual / scale) ** 2) ** 2)[:, None]
            normal += weighted.T @ rows
            right += weighted.T @ residual
        return normal, right

    @property
    def agrees(self) -> np.ndarray:
        near: np.ndarray = (np.abs(self.distance) < AGREES) & (np.abs(self.difference) < AGREES)
        return near

    @property
    def agreement(self) -> float:
        return float(self.trust[self.agrees].sum() / max(self.trust_in_view, 1e-9))


def _compare(surface: Surface, view: View, motion: np.ndarray, hidden: float) -> _Comparison | None:
    """The points of `surface` against `view`; depths that differ by `hidden` standard deviations are another surface's. None if too few."""
    points = se3.transform_points(motion, surface.points)
    uv, z = cameras.project(points, view.intrinsics, np.eye(4))
    height, width = view.depth.shape
    inside = np.flatnonzero((z > 0) & np.all((uv >= 1) & (uv <= [width - 2, height - 2]), axis=1))
    sample = uv[inside].astype(np.float32)
    if len(inside) < LEAST_POINTS:
        return None
    # Bilinear depth is right on a plane to the second order only; 1 / z is linear in the image, and edges have been cut out.
    measured = _inverse_depth(view.depth, sample)
    noise = DEPTH_NOISE * np.maximum(z[inside], 0.5) ** 2
    gap = (measured - z[inside]) / noise
    known = measured > 0
    seen = known & (np.abs(gap) < hidden)
    farther, nearer = known & (gap >= hidden), known & (gap <= -hidden)
    gone, covered = (inside[farther], sample[farther]), (inside[nearer], sample[nearer])
    trust_in_view = float(surface.trust[inside[seen | farther]].sum())
    if np.count_nonzero(seen) < LEAST_POINTS:
        return None
    index, sample, gap, noise = inside[seen], sample[seen], gap[seen], noise[seen]
    points, z = points[index], z[index]

    normals = surface.normals[index] @ motion[:3, :3].T
    ray = points / z[:, None]
    geometric = np.concatenate([np.cross(points, normals), normals], axis=1) / noise[:, None]

    along = np.stack([_bilinear(part, sample) for part in view.gradient], axis=1) @ view.intrinsics[:2, :2] / z[:, None]
    direction = np.concatenate([along, -np.einsum("pi,pi->p", along, ray[:, :2])[:, None]], axis=1)
    difference = surface.detail[index] - _bilinear(view.detail, sample)
    grey_noise = float(np.clip(1.4826 * np.median(np.abs(difference)), *GREY_NOISE))
    return _Comparison(
        index=index,
        uv=sample,
        trust=surface.trust[index],
        gone=gone,
        covered=covered,
        trust_in_view=trust_in_view,
        distance=gap * np.einsum("pi,pi->p", normals, ray),
        by_distance=geometric,
        difference=difference / grey_noise,
        by_difference=np.concatenate([np.cross(points, direction), direction], axis=1) / grey_noise,
    )


def _inverse_depth(depth: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Depth (P,) between pixels, 0 where one of the four around is not known."""
    known = (depth > 0).astype(np.float32)
    inverse = np.where(depth > 0, 1.0 / np.maximum(depth, 1e-6), 0.0).astype(np.float32)
    share, sampled = _bilinear(known, uv), _bilinear(inverse, uv)
    return np.where(share > 0.999, 1.0 / np.maximum(sampled, 1e-9), 0.0)


def _bilinear(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    return cv2.remap(image, uv[:, :1], uv[:, 1:], cv2.INTER_LINEAR)[:, 0].astype(np.float64)
