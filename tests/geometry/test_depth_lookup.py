import numpy as np
import pytest

from tracekit.geometry.depth_lookup import REACH, lookup_depth, surface_depth

WIDTH, HEIGHT = 40, 30


def slanted_plane(width: int = WIDTH, height: int = HEIGHT) -> tuple[np.ndarray, callable]:
    """Depth image of a plane, on any grid over the same image, and its exact depth at any pixel of the WIDTH x HEIGHT image."""

    def exact(uv):
        return 1.0 / (0.4 + 0.002 * uv[..., 0] + 0.003 * uv[..., 1])

    column, row = np.meshgrid(np.arange(width), np.arange(height))
    uv = np.stack([(column + 0.5) * WIDTH / width - 0.5, (row + 0.5) * HEIGHT / height - 0.5], axis=-1)
    return exact(uv), exact


@pytest.mark.parametrize("grid", [(WIDTH, HEIGHT), (20, 15), (100, 90)])
def test_a_plane_comes_out_exact_on_any_grid(grid):
    depth, exact = slanted_plane(*grid)
    uv = np.random.default_rng(0).uniform([2, 2], [WIDTH - 3, HEIGHT - 3], (200, 2))
    found = lookup_depth(depth, uv, (WIDTH, HEIGHT), exact(uv))
    np.testing.assert_allclose(found.z, exact(uv), rtol=1e-12)
    assert not found.hidden.any()
    np.testing.assert_allclose(surface_depth(depth, uv, (WIDTH, HEIGHT)), exact(uv), rtol=1e-12)


def step(left: float = 1.0, right: float = 2.0) -> np.ndarray:
    depth = np.full((HEIGHT, WIDTH), right, np.float32)
    depth[:, :20] = left
    return depth


def test_a_point_on_an_edge_keeps_its_side_and_never_gets_a_mixture():
    u = np.linspace(17, 22, 41)
    uv = np.stack([u, np.full_like(u, 10.3)], axis=1)
    near = lookup_depth(step(), uv, (WIDTH, HEIGHT), np.full(41, 1.02))
    far = lookup_depth(step(), uv, (WIDTH, HEIGHT), np.full(41, 1.97))
    assert set(near.z[np.isfinite(near.z)]) == {1.0}
    assert set(far.z[np.isfinite(far.z)]) == {2.0}
    # Within reach of its side a point is on it; beyond, something else is there.
    np.testing.assert_array_equal(near.hidden, np.floor(u + 0.5) - REACH > 19)
    np.testing.assert_array_equal(near.hidden, np.isnan(near.z))


def test_a_hole_is_no_occluder():
    depth = step()
    depth[5:15, 5:15] = 0
    found = lookup_depth(depth, np.array([[9.0, 9.0], [30.0, 9.0]]), (WIDTH, HEIGHT), np.array([1.0, 1.0]))
    assert np.isnan(found.z).all()
    np.testing.assert_array_equal(found.hidden, [False, True])


@pytest.mark.parametrize("unusable", [0.0, -1.0, np.nan, np.inf])
def test_unusable_depth_is_a_hole_next_to_which_the_surface_goes_on(unusable):
    depth = step()
    depth[10, 10] = unusable
    uv = np.array([[10.0, 10.0], [10.4, 10.4], [9.6, 10.0]])
    assert (lookup_depth(depth, uv, (WIDTH, HEIGHT), np.ones(3)).z == 1.0).all()
    assert (surface_depth(depth, uv, (WIDTH, HEIGHT)) == 1.0).all()


def test_in_a_hole_between_two_surfaces_there_is_no_telling():
    depth = step()
    depth[:, 20] = 0
    assert np.isnan(surface_depth(depth, np.array([[20.0, 10.0]]), (WIDTH, HEIGHT)))[0]
    assert surface_depth(depth, np.array([[19.0, 10.0]]), (WIDTH, HEIGHT))[0] == 1.0


def test_the_border_belongs_to_the_image_and_nothing_beyond_does():
    corners = np.array([[0, 0], [WIDTH - 1, 0], [0, HEIGHT - 1], [WIDTH - 1, HEIGHT - 1], [-0.4, 3.0], [WIDTH - 0.6, 3.0]], dtype=float)
    beyond = np.array([[-0.6, 3], [WIDTH - 0.4, 3], [5, -7], [np.nan, 3], [5, 1e9]])
    depth = step()
    assert np.isfinite(surface_depth(depth, corners, (WIDTH, HEIGHT))).all()
    assert np.isnan(surface_depth(depth, beyond, (WIDTH, HEIGHT))).all()
    found = lookup_depth(depth, beyond, (WIDTH, HEIGHT), np.ones(5))
    assert np.isnan(found.z).all() and not found.hidden.any()


def test_no_points_and_unknown_expectations():
    assert lookup_depth(step(), np.zeros((0, 2)), (WIDTH, HEIGHT), np.zeros(0)).z.shape == (0,)
    assert np.isnan(lookup_depth(step(), np.array([[5.0, 5.0]]), (WIDTH, HEIGHT), np.array([np.nan])).z).all()
