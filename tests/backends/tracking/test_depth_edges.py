import numpy as np
from scipy import ndimage

from tracekit.backends.tracking.depth_edges import without_edges

INTRINSICS = np.array([[60.0, 0, 31.5], [0, 55.0, 23.5], [0, 0, 1]])
SIZE = (48, 64)


def plane(normal, distance):
    u, v = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(INTRINSICS).T
    return (distance / (rays @ np.asarray(normal, float))).astype(np.float32)


def box_before_wall():
    """A box before a wall, with the smear between them that interpolation leaves; and where the smear is."""
    depth = np.full(SIZE, 2.0, np.float32)
    depth[15:30, 20:40] = 1.0
    smear = np.zeros(SIZE, bool)
    smear[14:31, 19] = smear[14:31, 40] = smear[14, 19:41] = smear[30, 19:41] = True
    depth[smear] = 1.5
    return depth, smear


def by_definition(depth, jump, bend):
    """The edge, pixel by pixel, straight from the definition."""
    height, width = depth.shape
    known = depth > 0
    points = np.full((height, width, 3), np.nan)
    for row in range(height):
        for column in range(width):
            if known[row, column]:
                points[row, column] = np.linalg.inv(INTRINSICS) @ [column, row, 1] * depth[row, column]

    def inside(row, column):
        return 0 <= row < height and 0 <= column < width and known[row, column]

    normals = np.zeros((height, width, 3))
    has = np.zeros((height, width), bool)
    around = [(-1, 0), (0, -1), (1, 0), (0, 1)]
    for row, column in np.argwhere(known):
        for one, other in zip(around, around[1:] + around[:1], strict=True):
            a, b = (row + one[0], column + one[1]), (row + other[0], column + other[1])
            if inside(*a) and inside(*b):
                cross = np.cross(points[a] - points[row, column], points[b] - points[row, column])
                normals[row, column] += cross / np.linalg.norm(cross)
                has[row, column] = True
        if has[row, column]:
            normals[row, column] /= np.linalg.norm(normals[row, column])
    turns, jumps = np.zeros(depth.shape, bool), np.zeros(depth.shape, bool)
    for row in range(height):
        for column in range(width):
            window = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            others = normals[window][has[window]]
            turns[row, column] = len(others) and (others @ normals[row, column]).min() < np.cos(np.deg2rad(bend))
            near = depth[window][known[window]]
            jumps[row, column] = known[row, column] and near.max() - near.min() > jump * depth[row, column]
    return jumps & ndimage.binary_dilation(turns, np.ones((3, 3)))


def test_the_smear_at_an_edge_becomes_one_surface_or_the_other():
    depth, smear = box_before_wall()
    clean = without_edges(depth, INTRINSICS, 0.08, 15)
    assert set(np.unique(clean)) == {1.0, 2.0}
    assert (clean[18:27, 23:37] == 1).all() and (clean[:10] == 2).all()
    assert smear.any() and clean.dtype == depth.dtype


def test_a_steep_plane_has_no_edges():
    depth = plane([1.0, 0.1, 0.72], 1.0)
    assert ((depth[:, 1:] - depth[:, :-1]) / depth[:, 1:]).min() < -0.08  # one that jumps from pixel to pixel
    np.testing.assert_array_equal(without_edges(depth, INTRINSICS, 0.08, 15), depth)


def test_unknown_depth_stays_unknown_and_fills_nothing():
    depth, _ = box_before_wall()
    depth[10:20, 30:50] = 0
    clean = without_edges(depth, INTRINSICS, 0.08, 15)
    np.testing.assert_array_equal(clean == 0, depth == 0)
    empty = np.zeros(SIZE, np.float32)
    np.testing.assert_array_equal(without_edges(empty, INTRINSICS, 0.08, 15), empty)


def test_edges_are_those_of_the_definition_and_are_filled_from_nearby():
    rng = np.random.default_rng(2)
    for _ in range(4):
        depth = plane(rng.normal(size=3) * 0.2 + [0, 0, 1], 2.0)
        for _ in range(5):
            row, column = rng.integers(0, 40), rng.integers(0, 50)
            depth[row : row + rng.integers(2, 12), column : column + rng.integers(2, 12)] *= rng.uniform(0.5, 0.95)
        depth[rng.random(SIZE) < 0.03] = 0
        edge = by_definition(depth.astype(np.float64), 0.08, 15)
        assert edge.any() and not edge.all()
        clean = without_edges(depth, INTRINSICS, 0.08, 15)
        np.testing.assert_array_equal(clean[~edge], depth[~edge])
        good = np.argwhere((depth > 0) & ~edge)
        for row, column in np.argwhere(edge):
            away = np.linalg.norm(good - [row, column], axis=1)
            near = good[away <= 1.1 * away.min()]
            assert clean[row, column] in depth[near[:, 0], near[:, 1]]
