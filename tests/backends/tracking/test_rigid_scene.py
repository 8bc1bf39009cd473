"""Cylinders without texture but for a few spots, before a wall: what moves as one is found, and carries what cannot be followed."""

import cv2
import numpy as np
import pytest

from tracekit.backends.protocols import BackendSetup
from tracekit.backends.tracking.klt import KLT
from tracekit.backends.tracking.rigid_scene import RigidScene, SceneClip, _joints, _same_surface, _spread
from tracekit.backends.tracking.scene_view import SceneView
from tracekit.geometry import cameras, se3

WIDTH, HEIGHT = 320, 240
INTRINSICS = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]])
RADIUS, HALF_LENGTH = 0.07, 0.22
SPOTS = np.random.default_rng(5).uniform([-1.2, -0.2], [1.2, 0.2], size=(9, 2))
"""Angle and height of dark spots on every cylinder."""


def upright(x: float, y: float, z: float, lean: float = 0.0) -> np.ndarray:
    """World from cylinder: its axis is y, leaning in the plane of the image."""
    return se3.from_rotation_translation(cv2.Rodrigues(np.array([0, 0, lean]))[0], np.array([x, y, z]))


def render(poses: list[np.ndarray], wall: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame, depth and which cylinder each pixel shows (-1: the wall at 2 m); lit from the side, so that shading stays when they turn."""
    rays = np.stack([*np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), np.ones((HEIGHT, WIDTH))], -1) @ np.linalg.inv(INTRINSICS).T
    depth, grey, shown = np.full((HEIGHT, WIDTH), 2.0), wall.copy(), np.full((HEIGHT, WIDTH), -1)
    for number, pose in enumerate(poses):
        own_rays, origin = rays @ pose[:3, :3], -pose[:3, :3].T @ pose[:3, 3]
        a = own_rays[..., 0] ** 2 + own_rays[..., 2] ** 2
        b = own_rays[..., 0] * origin[0] + own_rays[..., 2] * origin[2]
        c = origin[0] ** 2 + origin[2] ** 2 - RADIUS**2
        discriminant = b**2 - a * c
        z = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
        point = origin + own_rays * z[..., None]
        hit = (discriminant > 0) & (np.abs(point[..., 1]) <= HALF_LENGTH) & (z > 0.1) & (z < depth)
        normal = point[..., [0, 2]] / RADIUS
        shade = 110 + 60 * np.clip(-(normal @ [0.5, 0.85]), 0, 1)
        angle = np.arctan2(point[..., 0], -point[..., 2])
        for spot_angle, spot_height in SPOTS:
            away = np.hypot((angle - spot_angle) * RADIUS, point[..., 1] - spot_height)
            shade -= 60 * np.exp(-0.5 * (away / 0.006) ** 2)
        depth[hit], grey[hit], shown[hit] = z[hit], shade[hit], number
    return grey, depth, shown


class Clip:
    """`paths` (T, 4, 4) of each cylinder, a camera that stands still at the origin."""

    def __init__(self, *paths: np.ndarray, noise: float = 0.0, holes: bool = False) -> None:
        rng = np.random.default_rng(1)
        wall = sum(cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH)), (0, 0), s) * s for s in (1.5, 4.0))
        wall = (110 + 35 * wall / wall.std()).astype(np.float64)
        self.paths, self.num_frames = paths, len(paths[0])
        rendered = [render([path[t] for path in paths], wall) for t in range(self.num_frames)]
        grey = np.stack([one[0] for one in rendered]) + rng.normal(0, 1.0, (self.num_frames, HEIGHT, WIDTH))
        self.frames = np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
        self.true_depth, self.shown = np.stack([one[1] for one in rendered]), np.stack([one[2] for one in rendered])
        self.depth = self.true_depth + rng.normal(0, noise, self.true_depth.shape)
        if holes:
            for depth in self.depth:
                edge = cv2.morphologyEx(depth, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0.1
                depth[cv2.dilate(edge.astype(np.uint8), np.ones((3, 3))) > 0] = 0
        self.depth = self.depth.astype(np.float32)

    def lift(self, uv: np.ndarray, frame: int = 0) -> np.ndarray:
        column, row = np.rint(uv).astype(int).T
        return cameras.unproject(uv, self.true_depth[frame, row, column], INTRINSICS, np.eye(4))

    def path_of(self, uv: np.ndarray) -> np.ndarray:
        """True positions (T, P, 3) of what pixels of the first frame show."""
        world, (column, row) = self.lift(uv), np.rint(uv).astype(int).T
        result = np.tile(world, (self.num_frames, 1, 1))
        for number, path in enumerate(self.paths):
            own = self.shown[0, row, column] == number
            result[:, own] = se3.transform_points(path @ se3.inverse(path[0]), world[own])
        return result

    def in_sight(self, path: np.ndarray) -> np.ndarray:
        """Which of (T, P, 3) are well inside the image with nothing before them."""
        result = np.zeros(path.shape[:2], dtype=bool)
        for t, (xyz, depth) in enumerate(zip(path, self.true_depth, strict=True)):
            uv, z = cameras.project(xyz, INTRINSICS, np.eye(4))
            inside = np.all((uv > 4) & (uv < [WIDTH - 5, HEIGHT - 5]), axis=1)
            column, row = np.rint(np.where(inside[:, None], uv, 4)).astype(int).T
            result[t] = inside & (np.abs(depth[row, column] - z) < 0.01)
        return result

    def on(self, cylinder: int, step: int = 7) -> np.ndarray:
        """Pixels (P, 2) of the first frame on a cylinder, two pixels from its outline at least."""
        inner = cv2.erode((self.shown[0] == cylinder).astype(np.uint8), np.ones((5, 5)))
        row, column = np.nonzero(inner[::step, ::step])
        return np.stack([column, row], axis=1).astype(np.float64) * step

    def track(self, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        poses = np.tile(np.eye(4), (self.num_frames, 1, 1))
        number = len(uv)
        return KLT(BackendSetup()).track(
            self.frames, self.depth, INTRINSICS, poses, self.lift(uv), np.zeros(number, int), np.arange(number)
        )

    def views(self) -> list[SceneView]:
        return [SceneView(frame[..., 0].copy(), depth, INTRINSICS, np.eye(4)) for frame, depth in zip(self.frames, self.depth, strict=True)]


def slide(num_frames: int, start: tuple[float, float, float], end: tuple[float, float, float], lean: float = 0.0) -> np.ndarray:
    share = np.linspace(0, 1, num_frames)[:, None]
    places = np.array(start) * (1 - share) + np.array(end) * share
    return np.stack([upright(*place, lean=lean * part) for place, part in zip(places, share[:, 0], strict=True)])


def scores(clip: Clip, uv: np.ndarray) -> tuple[float, np.ndarray, float]:
    """Share of the visible frames that are seen, errors where seen in metres, share of hidden frames that are called visible."""
    path = clip.path_of(uv)
    in_sight = clip.in_sight(path)
    xyz, visible = clip.track(uv)
    assert np.isnan(xyz[~visible]).all()
    error = np.linalg.norm(xyz - path, axis=-1)[visible & in_sight]
    hidden = ~in_sight
    return float(visible[in_sight].mean()), error, float(visible[hidden].mean()) if hidden.any() else 0.0


@pytest.mark.parametrize("noise", [0.0, 0.004])
def test_a_cylinder_with_a_few_spots_is_followed_everywhere(noise):
    clip = Clip(slide(40, (-0.25, 0.0, 1.2), (0.25, 0.05, 1.1), lean=0.5), noise=noise, holes=noise > 0)
    recall, error, _ = scores(clip, clip.on(0))
    assert recall > (0.85 if noise == 0 else 0.7)
    assert np.median(error) < (0.006 if noise == 0 else 0.012)
    assert np.percentile(error, 90) < 0.025


def test_what_an_occluder_hides_comes_back_with_its_body():
    far = slide(50, (-0.12, 0.0, 1.5), (0.12, 0.0, 1.5))
    near = slide(50, (0.55, 0.25, 1.2), (-0.55, 0.25, 1.2))  # as high as the lower half of the other
    clip = Clip(far, near)
    uv = clip.on(0)
    path = clip.path_of(uv)
    hidden_once = (~clip.in_sight(path)).any(axis=0)
    assert hidden_once.mean() > 0.35
    _, error, false_alarms = scores(clip, uv)
    xyz, visible = clip.track(uv)
    late = clip.in_sight(path)[-6:] & hidden_once
    assert late.sum() > 50
    assert visible[-6:][late].mean() > 0.7
    assert np.median(np.linalg.norm(xyz - path, axis=-1)[-6:][visible[-6:] & late]) < 0.02
    assert np.median(error) < 0.01
    assert false_alarms < 0.15


def test_two_bodies_that_move_apart_are_two():
    clip = Clip(slide(30, (-0.1, 0.0, 1.2), (-0.35, 0.0, 1.2)), slide(30, (0.1, 0.0, 1.2), (0.3, 0.08, 1.15)))
    scene = RigidScene()
    for view in clip.views():
        frame = scene.advance(view)
    uv, _ = cameras.project(frame.node, INTRINSICS, np.eye(4))
    inside = frame.shown & np.all((uv > 1) & (uv < [WIDTH - 2, HEIGHT - 2]), axis=1)
    column, row = np.rint(uv[inside]).astype(int).T
    shown, body = clip.shown[-1, row, column], frame.node_body[inside]
    assert np.mean(body[shown == -1] == 0) > 0.97
    of_left, of_right = (np.unique(body[(shown == number) & (body > 0)], return_counts=True) for number in (0, 1))
    left, right = of_left[0][of_left[1].argmax()], of_right[0][of_right[1].argmax()]
    assert left != right
    assert np.mean(body[shown == 0] == left) > 0.8 and np.mean(body[shown == 1] == right) > 0.8
    # And the motion of each, over the last steps, is what it was.
    for number, identity in ((0, left), (1, right)):
        column = frame.columns(np.array([identity]))[0][0]
        found = np.linalg.multi_dot(frame.steps[:, column])
        true = clip.paths[number][-1] @ se3.inverse(clip.paths[number][-1 - len(frame.steps)])
        surface = clip.lift(clip.on(number)) - clip.paths[number][0][:3, 3] + clip.paths[number][-1][:3, 3]
        off = se3.transform_points(found, surface) - se3.transform_points(true, surface)
        assert np.linalg.norm(off, axis=1).max() < 0.01


def test_a_body_that_pauses_is_the_same_one_when_it_goes_on():
    there, back = slide(14, (-0.15, 0.0, 1.2), (0.1, 0.0, 1.2)), slide(14, (0.1, 0.0, 1.2), (0.1, -0.1, 1.1))
    clip = Clip(np.concatenate([there, np.repeat(there[-1:], 12, axis=0), back]))
    scene, mostly = RigidScene(), []
    for view, shown in zip(clip.views(), clip.shown, strict=True):
        frame = scene.advance(view)
        uv, _ = cameras.project(frame.node, INTRINSICS, np.eye(4))
        column, row = np.rint(np.where(frame.shown[:, None], uv, 0)).astype(int).clip(0, [WIDTH - 1, HEIGHT - 1]).T
        mostly.append(np.bincount(np.maximum(frame.node_body[frame.shown & (shown[row, column] == 0)], 0)).argmax())
    assert mostly[12] > 0
    assert mostly[12:] == [mostly[12]] * len(mostly[12:])


def test_what_one_node_tells_spreads_along_its_surface_and_not_around_an_edge():
    # Six nodes in a row, a centimetre apart; the last three on a surface at a right angle to that of the first.
    position = np.array([(0.01, 0, 0), (0.02, 0, 0), (0.03, 0, 0), (0.04, 0, -0.01), (0.04, 0, -0.02), (0.04, 0, -0.03)])
    normal = np.array([(0, 0, -1.0)] * 3 + [(-1.0, 0, 0)] * 3)
    near = np.array([(0, 1, 2), (1, 0, 2), (2, 1, 3), (3, 2, 4), (4, 3, 5), (5, 4, 3)])
    holds = _same_surface(position, normal, near)
    np.testing.assert_array_equal(
        holds,
        [(False, True, True), (False, True, True), (False, True, False), (False, False, True), (False, True, True), (False, True, True)],
    )
    cost = np.full((6, 2), 0.5)
    cost[0] = 20.0, 0.0  # the first alone knows that it moves
    around = np.tile([True, False], (6, 1))
    around[0, 1] = True
    spread, candidates = _spread(cost, around, near, holds)
    assert (spread[:3, 0] > spread[:3, 1] + 5).all()
    np.testing.assert_array_equal(spread[3:], cost[3:])
    np.testing.assert_array_equal(candidates[:, 1], [True, True, True, False, False, False])


def test_bodies_meet_where_their_nodes_are_next_to_each_other():
    view = SceneView(np.zeros((HEIGHT, WIDTH), np.uint8), np.ones((HEIGHT, WIDTH), np.float32), INTRINSICS, np.eye(4))
    position = np.array([(0, 0, 1), (0.03, 0, 1), (0.06, 0, 1), (0.3, 0, 1.0)])  # nodes are 3.3 cm from each other there
    node, other = _joints(view, position, np.array([1, 1, 2, 3]))
    assert set(zip(node.tolist(), other.tolist(), strict=True)) == {(0, 2), (1, 2), (2, 1)}


def test_where_nothing_moves_there_is_only_the_world_and_it_does_not_jitter():
    still = slide(12, (0.05, 0.0, 1.2), (0.05, 0.0, 1.2))
    clip = Clip(still, noise=0.003, holes=True)
    scene = RigidScene()
    for view in clip.views():
        frame = scene.advance(view)
        np.testing.assert_array_equal(frame.body, [0])
        np.testing.assert_array_equal(frame.steps, np.tile(np.eye(4), (len(frame.steps), 1, 1, 1)))
    assert np.mean(frame.node_body == 0) > 0.99


def test_the_same_frames_give_the_same_bodies():
    clip = Clip(slide(12, (-0.1, 0.0, 1.2), (0.1, 0.0, 1.2)))
    once, again = RigidScene(), RigidScene()
    for view in clip.views():
        one, other = once.advance(view), again.advance(view)
        for name in ("body", "steps", "serial", "node", "node_body", "shown"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_scene_clip_sleeps_until_it_is_woken_and_goes_on_where_the_last_one_ended():
    clip = Clip(slide(16, (-0.1, 0.0, 1.2), (0.1, 0.0, 1.2)))
    views = clip.views()
    whole = SceneClip(views, None)
    assert whole.at(5) is None
    whole.wake(12)
    assert whole.at(1) is None and whole.at(2) is not None
    first = SceneClip(views[:7], None)
    second = SceneClip(views[6:], first)
    second.wake(6)  # the same frame; the run-up lies in the clip before
    one, other = whole.at(15), second.at(9)
    assert one is not None and other is not None
    np.testing.assert_array_equal(one.node, other.node)
    np.testing.assert_array_equal(one.steps, other.steps)
    third = SceneClip(views[15:], second)
    assert third.at(0) is other


@pytest.mark.parametrize(("width", "height"), [(1, 1), (9, 40), (16, 12), (33, 32)])
def test_small_frames_and_depth_on_another_grid(width, height):
    rng = np.random.default_rng(0)
    scene = RigidScene()
    for _ in range(4):
        depth = rng.uniform(0, 2, (max(height // 2, 1), max(width // 2, 1))).astype(np.float32)
        intrinsics = np.array([[50.0, 0, width / 2], [0, 50.0, height / 2], [0, 0, 1]])
        frame = scene.advance(SceneView(rng.integers(0, 255, (height, width), dtype=np.uint8), depth, intrinsics, np.eye(4)))
        assert frame.body[0] == 0 and np.isfinite(frame.node).all()
