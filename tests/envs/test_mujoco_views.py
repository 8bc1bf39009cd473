"""What is drawn, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
from simulator import simulator  # noqa: F401

from tracekit.envs.metaworld import MetaWorld
from tracekit.envs.mujoco_views import Camera, Screen
from tracekit.geometry import cameras
from tracekit.simulation.camera_paths import FOV_Y, PATHS, look_at

pytestmark = pytest.mark.usefixtures("simulator")

WIDTH, HEIGHT = 320, 240


def corner2() -> Camera:
    return Camera(PATHS["corner2"](np.zeros((1, 3)), 20.0, np.random.default_rng(0))[0], FOV_Y)


def pixel_of(point: np.ndarray, camera: Camera) -> tuple[int, int]:
    uv, _ = cameras.project(point[None], camera.intrinsics(WIDTH, HEIGHT), camera.world_from_camera)
    column, row = np.rint(uv[0]).astype(int)
    return row, column


def test_the_goal_is_not_drawn() -> None:
    """MuJoCo itself draws it as a red ball in the air."""
    import mujoco

    env = MetaWorld("reach-v3", 0)
    goal = env.roll(0).observations[0, -3:]
    camera = corner2()
    at = pixel_of(goal, camera)
    with Screen(env.model, env.data, WIDTH, HEIGHT) as screen:
        ours = screen.picture(camera)[at].astype(int)
    with mujoco.Renderer(env.model, HEIGHT, WIDTH) as renderer:
        index = next(i for i in range(env.model.ncam) if env.model.cam_bodyid[i] == 0)  # where the screen has put its camera
        renderer.update_scene(env.data, camera=index)
        bare = renderer.render()[at].astype(int)
    assert bare[0] - bare[1:].max() > 80, "the goal was there"
    assert ours[0] - ours[1:].max() < 60


def test_glass_hides_nothing() -> None:
    import mujoco

    env = MetaWorld("window-open-v3", 0)
    env.restore(env.roll(0).states[0])
    model, data, hit = env.model, env.data, np.zeros(1, np.int32)
    panes = np.flatnonzero((model.mat_rgba[model.geom_matid, 3] < 1) & (model.geom_matid >= 0) & (model.geom_group < 3))
    assert len(panes) == 2
    with Screen(model, data, WIDTH, HEIGHT) as screen:
        for middle in data.geom_xpos[panes]:
            middle = middle + np.array([0.0, 0.0, 0.05])  # beside the cross
            eye = middle - np.array([0.0, 0.3, 0.0])
            camera = Camera(look_at(eye[None], middle[None])[0], FOV_Y)
            depth, body = screen.surfaces(camera)
            at = pixel_of(middle, camera)
            distance = mujoco.mj_ray(model, data, eye, np.array([0.0, 1.0, 0.0]), np.array([1, 1, 1, 0, 0, 0], np.uint8), 1, -1, hit)
            assert distance == -1, "the ray goes through, and out of the room"
            assert body[at] == -1 and depth[at] == 0


def test_a_small_thing_is_seen_where_it_is() -> None:
    """The centroid of its pixels is the projection of its middle; its depth is that of its near side."""
    env = MetaWorld("soccer-v3", 1)
    env.roll(0)
    camera = corner2()
    ball = env.model.body("soccer_ball").id
    children = [number for number in range(env.model.nbody) if number == ball or env.model.body_parentid[number] == ball]
    with Screen(env.model, env.data, WIDTH, HEIGHT) as screen:
        depth, body = screen.surfaces(camera)
    shown = np.isin(body, children)
    row, column = np.nonzero(shown)
    assert 30 < len(row) < 2000
    uv, z = cameras.project(env.data.body("soccer_ball").xpos[None], camera.intrinsics(WIDTH, HEIGHT), camera.world_from_camera)
    np.testing.assert_allclose([column.mean(), row.mean()], uv[0], atol=0.6)
    radius = 0.5 * np.sqrt(4 * len(row) / np.pi) * z[0] / camera.intrinsics(WIDTH, HEIGHT)[0, 0]
    assert depth[shown].min() == pytest.approx(z[0] - radius, abs=0.004)


def test_pictures_and_surfaces_repeat_bit_for_bit() -> None:
    env = MetaWorld("drawer-open-v3", 0)
    rollout = env.roll(0)
    results = []
    for _ in range(2):
        with Screen(env.model, env.data, WIDTH, HEIGHT) as screen:
            for state in rollout.states[::40]:
                env.restore(state)
                results.append((screen.picture(corner2()), screen.picture("gripperPOV"), *screen.surfaces(corner2())))
    half = len(results) // 2
    for one, other in zip(results[:half], results[half:], strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
