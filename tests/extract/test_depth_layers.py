import numpy as np
import pytest

from tracekit.extract.depth_layers import NOTHING, find_layers, split_parts

HEIGHT, WIDTH, GRID = 120, 160, (15, 20)
V, U = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)


def plane(across, down, nearest=1.0):
    """Depth of a plane, whose 1/z is linear in the image; `across` and `down` are the changes of 1/z over the image, in 1/m."""
    return 1 / (1 / nearest - across * U / WIDTH - down * V / HEIGHT)


@pytest.mark.parametrize("across, down", [(0, 0), (0.5, 0.2), (0, 0.9)])
def test_a_plane_is_one_surface_however_steep(across, down):
    layers = find_layers(plane(across, down), GRID)
    assert (layers.patch_surface == layers.patch_surface[0, 0]).all()
    assert layers.patch_surface[0, 0] != NOTHING
    centre = 1 / plane(across, down)[4::8, 4::8]
    np.testing.assert_allclose(layers.patch_inverse_depth, centre, rtol=0.03)


def test_what_stands_before_something_else_is_a_surface_of_its_own():
    depth = np.full((HEIGHT, WIDTH), 2.0)
    depth[40:80, 48:96] = 1.8
    layers = find_layers(depth, GRID)
    box = layers.patch_surface[6:9, 7:11]
    assert len(np.unique(box)) == 1
    assert box[0, 0] != layers.patch_surface[0, 0] == layers.patch_surface[14, 19]
    assert layers.surface[60, 70] == box[0, 0]


def test_a_finger_narrower_than_a_patch_stands_for_its_patches():
    depth = np.full((HEIGHT, WIDTH), 1.0)
    depth[20:80, 81:86] = 0.9  # 5 of the 8 columns of a patch, 3 of them away from the edge
    layers = find_layers(depth, GRID)
    finger = layers.patch_surface[4:9, 10]
    assert len(np.unique(finger)) == 1
    assert finger[0] != layers.patch_surface[0, 0]
    np.testing.assert_allclose(layers.patch_inverse_depth[4:9, 10], 1 / 0.9, rtol=1e-5)
    standing_out = layers.standing_out()
    assert standing_out[4:9, 10].all()
    assert standing_out[:, 10].sum() == standing_out.sum() == 8, "rows 20 to 79 of the image reach into patches 2 to 9"


def test_the_side_of_a_thing_does_not_stand_out():
    depth = np.full((HEIGHT, WIDTH), 2.0)
    depth[:, 80:] = 1.0
    assert not find_layers(depth, GRID).standing_out().any()


@pytest.mark.parametrize("nothing", [0, np.nan, np.inf])
def test_what_has_no_depth_has_no_surface(nothing):
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    depth[:40] = nothing
    layers = find_layers(depth, GRID)
    assert (layers.patch_surface[:5] == NOTHING).all()
    assert (layers.patch_inverse_depth[:5] == 0).all()
    assert (layers.patch_surface[5:] == 0).all()
    assert (find_layers(np.full((HEIGHT, WIDTH), nothing), GRID).patch_surface == NOTHING).all()


def test_a_folded_thing_is_split_where_it_lies_apart_and_a_table_is_not():
    depth = np.where(U < WIDTH / 2, 1.0, 1.0 + 2.0 * (U - WIDTH / 2) / WIDTH)  # a wall that turns away from the camera
    layers = find_layers(depth, GRID)
    regions = np.zeros(GRID, np.int32)
    parts = split_parts(regions, layers, 75, most=10, seed=0)
    assert len(np.unique(parts)) == 4
    assert sorted(np.unique(parts)) == list(range(4))
    # More depth than width lies in the half that turns away: more parts, too.
    assert len(np.unique(parts[:, 10:])) > len(np.unique(parts[:, :9]))
    table = find_layers(plane(0.3, 0.5), GRID)
    assert (split_parts(regions, table, 75, most=10, seed=0) == 0).all()
    assert (split_parts(regions, layers, 300, most=10, seed=0) == 0).all(), "as small as a part"


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_no_more_parts_than_the_budget_has_room_for(most):
    depth = np.where(U < WIDTH / 2, 1.0, 1.0 + 2.0 * (U - WIDTH / 2) / WIDTH)
    parts = split_parts(np.zeros(GRID, np.int32), find_layers(depth, GRID), 20, most=most, seed=0)
    assert parts.max() + 1 == max(most, 1)
