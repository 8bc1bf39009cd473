"""True paths against rays and planes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evaluation.true_episode import known_scene, scene
from extract.moving_scene import HEIGHT, INTRINSICS, WIDTH

from tracekit import ground_truth
from tracekit.geometry import se3
from tracekit.ground_truth import follow, is_seen, surface_points


def pixels_away_from_edges(frame: int, number: int, whole: bool) -> np.ndarray:
    """Random pixels of a frame whose neighbours show the same board."""
    rng = np.random.default_rng(frame)
    surface = scene().surface[frame]
    found: list[np.ndarray] = []
    while len(found) < number:
        uv = rng.uniform(3, [WIDTH - 4, HEIGHT - 4])
        column, row = np.rint(uv).astype(int)
        if np.ptp(surface[row - 2 : row + 3, column - 2 : column + 3]) == 0:
            found.append(np.rint(uv) if whole else uv)
    return np.array(found)


def board_seen_at(frame: int, world: np.ndarray) -> tuple[int, float]:
    """Which board the ray towards a world point meets first, and at which share of the way: ray casting."""
    eye = scene().world_from_camera[frame][:3, 3]
    hits = []
    for number, board in enumerate(scene().boards):
        board_from_world = se3.inverse(board.world_from_board[frame])
        start, end = se3.transform_points(board_from_world, np.stack([eye, world]))
        share = start[2] / (start[2] - end[2])
        at = (start + share * (end - start))[:2]
        rows, columns = board.image.shape
        if share > 0 and (np.abs(at) <= np.array([columns - 1, rows - 1]) / 2 / 220).all():
            hits.append((share, number))
    share, number = min(hits)
    return number, share


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("frame", [0, 13])
def test_paths_are_those_of_the_planes(frame: int, whole: bool) -> None:
    uv = pixels_away_from_edges(frame, 60, whole)
    points = surface_points(known_scene(), uv, np.full(60, frame))
    paths = follow(known_scene(), points)
    np.testing.assert_allclose(paths.xyz_world, scene().path_of(uv, frame), atol=2e-6)
    np.testing.assert_allclose(paths.uv[frame], uv, atol=1e-3)
    assert paths.visible[frame].all()
    assert set(points.body) == {0, 1, 2}


def test_visible_is_what_the_ray_meets_first() -> None:
    uv = np.concatenate([pixels_away_from_edges(frame, 40, False) for frame in (0, 20)])
    paths = follow(known_scene(), surface_points(known_scene(), uv, np.repeat([0, 20], 40)))
    body = surface_points(known_scene(), uv, np.repeat([0, 20], 40)).body
    wrong = hidden = 0
    for t in range(scene().num_frames):
        for point in range(80):
            column, row = paths.uv[t, point]
            inside = -0.5 <= column < WIDTH - 0.5 and -0.5 <= row < HEIGHT - 0.5
            expected = inside and board_seen_at(t, paths.xyz_world[t, point])[0] == body[point]
            hidden += not expected
            wrong += expected != paths.visible[t, point]
    assert hidden > 100
    assert wrong <= 0.005 * 80 * scene().num_frames, "they may differ within a pixel of an outline"


def test_a_torn_surface_is_not_interpolated() -> None:
    """The near part of a body before its far part: a point between them lies on the nearer pixel's."""
    base = known_scene()
    depth = np.full((1, HEIGHT, WIDTH), 1.5, np.float32)
    depth[0, :, 100:] = 1.4
    one = replace(
        base,
        truth=replace(base.truth, body_at_pixel=np.zeros((1, HEIGHT, WIDTH), np.int16), world_from_body=np.tile(np.eye(4), (1, 3, 1, 1))),
        depth=depth,
        world_from_camera=np.eye(4)[None],
    )
    points = surface_points(one, np.array([[99.4, 50.0], [99.6, 50.0]]), np.zeros(2, int))
    np.testing.assert_allclose(points.local[:, 2], [1.5, 1.4], rtol=1e-6)


def test_pixels_that_show_nothing_or_lie_outside() -> None:
    base = known_scene()
    shown, depth = base.truth.body_at_pixel.copy(), np.array(base.depth)
    shown[0, 10, 10] = -1
    depth[0, 20, 20] = 0
    holed = replace(base, truth=replace(base.truth, body_at_pixel=shown), depth=depth)
    uv = np.array([[10, 10], [20, 20], [-1, 5], [5, HEIGHT], [WIDTH + 3, 5], [np.nan, 5], [40, 40]])
    points = surface_points(holed, uv, np.zeros(7, int))
    assert points.body.tolist()[:6] == [-1] * 6 and points.body[6] >= 0
    paths = follow(holed, points)
    assert np.isnan(paths.xyz_world[:, :6]).all() and not paths.visible[:, :6].any() and paths.visible[0, 6]
    nothing = follow(holed, surface_points(holed, uv[:2], np.zeros(2, int)))
    assert not nothing.visible.any() and np.isnan(nothing.uv).all()


def test_is_seen_by_hand() -> None:
    shown = np.array([[0, 1], [0, 1]])
    depth = np.array([[2.0, 1.0], [2.0, 1.02]], np.float32)

    def seen(body: int, u: float, v: float, z: float) -> bool:
        return bool(is_seen(shown, depth, np.array([body]), np.array([[u, v]]), np.array([z]))[0])

    assert seen(0, 0, 0.5, 2.0) and not seen(1, 0, 0.5, 2.0), "its own body must be there"
    assert not seen(0, 0, 0.5, 2.005) and seen(0, 0, 0.5, 2.003), "at its depth, give or take 4 mm"
    assert seen(1, 0.9, 0.4, 1.01), "between the depths of its own neighbours"
    assert not seen(1, 0.9, 0.4, 1.03) and not seen(1, 0.9, 0.4, 0.99)
    assert not seen(0, -0.6, 0, 2.0) and seen(0, -0.5, 0, 2.0) and not seen(1, 1.5, 0, 1.0), "pixels reach half a pixel beyond centres"
    assert not seen(0, 0, 0, -2.0) and not seen(0, np.nan, 0, 2.0)


def test_rounding_at_the_centre_of_a_pixel_changes_nothing() -> None:
    """The pixel to the left shows the point's body, the others around it do not."""
    shown, depth = np.array([[0, 1, 1]]), np.full((1, 3), 2.0)
    for u in (1 - 1e-9, 1.0, 1 + 1e-9):
        assert not is_seen(shown, depth, np.array([0]), np.array([[u, 0]]), np.array([2.0]))[0]


def test_a_part_of_a_scene() -> None:
    frames = np.array([3, 9, 20])
    part = known_scene().at(frames)
    uv = pixels_away_from_edges(9, 20, False)
    whole = follow(known_scene(), surface_points(known_scene(), uv, np.full(20, 9)))
    some = follow(part, surface_points(part, uv, np.full(20, 1)))
    np.testing.assert_array_equal(some.xyz_world, whole.xyz_world[frames])
    np.testing.assert_array_equal(some.visible, whole.visible[frames])
    np.testing.assert_array_equal(part.depth[1:], scene().depth[[9, 20]])
    assert part.depth.shape == (3, HEIGHT, WIDTH) and len(part.depth[:0]) == 0
    np.testing.assert_array_equal(part.intrinsics, INTRINSICS)


class Counted:
    """Frames that know how often they were read."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames, self.shape, self.num_reads = frames, frames.shape, 0

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> np.ndarray:
        self.num_reads += 1
        return self.frames[index]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are read once while they fit, and again each time beyond that."""
    monkeypatch.setattr(ground_truth, "REMEMBERED_BYTES", 4 * scene().depth[0].nbytes)
    depth = Counted(scene().depth)
    part = replace(known_scene(), depth=depth).at(np.arange(10))
    for _ in range(3):
        for frame in range(10):
            np.testing.assert_array_equal(part.depth[frame], scene().depth[frame])
    assert depth.num_reads == 4 + 3 * 6
