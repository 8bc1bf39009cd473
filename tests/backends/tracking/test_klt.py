import cv2
import numpy as np
import pytest

from tracekit.backends.protocols import BackendSetup
from tracekit.backends.tracking.klt import KLT
from tracekit.geometry import cameras

WIDTH, HEIGHT = 240, 180
INTRINSICS = np.array([[250.0, 0, 119.5], [0, 250.0, 89.5], [0, 0, 1]])


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = sum(cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), s) * s for s in (1.5, 4.0))
    return (128 + 40 * mixed / mixed.std()).astype(np.float32)


def rgb(grey: list[np.ndarray]) -> np.ndarray:
    return np.repeat(np.clip(np.rint(np.stack(grey)), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def corners(frame: np.ndarray, number: int = 60, mask: np.ndarray | None = None) -> np.ndarray:
    border = np.zeros(frame.shape[:2], np.uint8)
    border[14:-14, 14:-14] = 255
    mask = border if mask is None else cv2.bitwise_and(border, mask)
    return cv2.goodFeaturesToTrack(frame[..., 0].copy(), number, 0.01, 8, mask=mask)[:, 0].astype(np.float64)


def follow(frames, uv, *, depth=None, query_frames=None, poses=None, tracker=None, z=None):
    poses = np.tile(np.eye(4), (len(frames), 1, 1)) if poses is None else poses
    query_frames = np.zeros(len(uv), int) if query_frames is None else np.asarray(query_frames)
    z = np.ones(len(uv)) if z is None else z
    queries = np.array([cameras.unproject(p[None], d[None], INTRINSICS, poses[f])[0] for p, d, f in zip(uv, z, query_frames, strict=True)])
    queries = queries.reshape(-1, 3)
    tracker = tracker or KLT(BackendSetup())
    xyz, visible = tracker.track(frames, depth, INTRINSICS, poses, queries, query_frames, np.arange(len(uv)))
    assert xyz.shape == (len(frames), len(uv), 3) and xyz.dtype == np.float32 and visible.dtype == bool
    assert np.isfinite(xyz[visible]).all() and np.isnan(xyz[~visible]).all()
    seen = np.stack([cameras.project(xyz[i].astype(np.float64), INTRINSICS, poses[i])[0] for i in range(len(frames))])
    return seen, visible, xyz


def warped(image: np.ndarray, matrices: list[np.ndarray], noise: float = 1.0) -> np.ndarray:
    """Frames in which `image` is seen through affine maps (2, 3), with sensor noise."""
    rng = np.random.default_rng(9)
    size = (WIDTH, HEIGHT)
    return rgb([cv2.warpAffine(image, m, size, borderMode=cv2.BORDER_REFLECT) + rng.normal(0, noise, (HEIGHT, WIDTH)) for m in matrices])


def about_centre(angle: float, scale: float, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((119.5, 89.5), angle, scale)
    matrix[:, 2] += shift
    return matrix


def moved(uv: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    return np.stack([uv @ m[:, :2].T + m[:, 2] for m in matrices])


def well_inside(uv: np.ndarray) -> np.ndarray:
    return ((uv > 10) & (uv < [WIDTH - 11, HEIGHT - 11])).all(axis=-1)


def test_a_static_scene_does_not_drift_in_300_frames():
    frames = warped(texture(1), [about_centre(0, 1)] * 300, noise=3.0)
    uv = corners(frames[0])
    found, visible, _ = follow(frames, uv)
    assert visible.mean() > 0.99
    # No trend: late positions scatter around the start no more than early ones, and their mean is the start.
    assert np.nanmax(np.abs(np.nanmedian(found[-50:], axis=0) - np.nanmedian(found[:50], axis=0))) < 0.1
    assert np.nanmedian(np.linalg.norm(found[-1] - uv, axis=-1)) < 0.1


def test_subpixel_shifts_are_followed():
    matrices = [about_centre(0, 1, (0.37 * t, -0.21 * t)) for t in range(60)]
    frames = warped(texture(2), matrices, noise=0.0)
    uv = corners(frames[0])
    found, visible, _ = follow(frames, uv)
    truth = moved(uv, matrices)
    assert visible[well_inside(truth)].mean() > 0.98
    assert np.nanpercentile(np.linalg.norm(found - truth, axis=-1)[visible & well_inside(truth)], 99) < 0.1


def test_turning_and_approaching_is_followed_without_drift():
    matrices = [about_centre(0.6 * t, 1 + 0.006 * t) for t in range(100)]  # 60 degrees, 1.6 times as large
    frames = warped(texture(3), matrices)
    uv = corners(frames[0])
    found, visible, _ = follow(frames, uv)
    truth = moved(uv, matrices)
    inside = well_inside(truth)
    error = np.linalg.norm(found - truth, axis=-1)
    assert visible[inside].mean() > 0.9
    assert np.percentile(error[visible & inside], 95) < 0.7
    assert np.median(error[-1][visible[-1] & inside[-1]]) < 0.3


def test_backwards_from_the_query_is_as_good_as_forwards():
    matrices = [about_centre(0.3 * t, 1, (1.5 * t - 30, 0.5 * t)) for t in range(40)]
    frames = warped(texture(4), matrices)
    uv = corners(frames[25], 40)
    found, visible, _ = follow(frames, uv, query_frames=np.full(len(uv), 25))
    at_start = (uv - matrices[25][:, 2]) @ np.linalg.inv(matrices[25][:, :2]).T
    truth = moved(at_start, matrices)
    inside = well_inside(truth)
    np.testing.assert_allclose(found[25], uv, atol=1e-4)
    assert visible[:25][inside[:25]].mean() > 0.9 and visible[26:][inside[26:]].mean() > 0.9
    assert np.percentile(np.linalg.norm(found - truth, axis=-1)[visible & inside], 98) < 0.5


def passing_board(num_frames: int = 50, with_depth: bool = True):
    """A board passes from left to right in front of a wall. Returns frames, depth, and the board's left edge in each frame."""
    wall, board = texture(5), texture(6, 120, 60) * 0.7 + 60
    frames, depths, left = [], [], []
    for t in range(num_frames):
        x = -60 + 6 * t
        grey, depth = wall.copy(), np.full((HEIGHT, WIDTH), 2.0, np.float32)
        first, last = max(x, 0), min(x + 60, WIDTH)
        if first < last:
            grey[30:150, first:last] = board[:, first - x : last - x]
            depth[30:150, first:last] = 1.0
        frames.append(grey)
        depths.append(depth)
        left.append(x)
    return rgb(frames), np.stack(depths) if with_depth else None, np.array(left)


@pytest.mark.parametrize("with_depth", [True, False])
def test_points_behind_something_are_lost_and_come_back_as_themselves(with_depth):
    frames, depth, left = passing_board(with_depth=with_depth)
    uv = corners(frames[0])
    uv = uv[(uv[:, 1] > 45) & (uv[:, 1] < 135) & (uv[:, 0] > 20)]
    found, visible, _ = follow(frames, uv, depth=depth, z=np.full(len(uv), 2.0 if with_depth else 1.0))
    covered = (uv[:, 0] > left[:, None] + 4) & (uv[:, 0] < left[:, None] + 56)
    far_away = (uv[:, 0] < left[:, None] - 12) | (uv[:, 0] > left[:, None] + 72)
    assert covered.sum() > 100
    assert visible[covered].mean() < 0.03
    assert visible[far_away].mean() > (0.95 if with_depth else 0.85)
    assert np.linalg.norm(found - uv, axis=-1)[visible & far_away].max() < (0.05 if with_depth else 0.7)


@pytest.mark.parametrize("with_depth", [True, False])
def test_points_on_an_outline_go_with_their_thing_or_are_lost(with_depth):
    frames, depth, left = passing_board(with_depth=with_depth)
    start = int(np.flatnonzero(left >= 60)[0])
    y = np.linspace(40, 140, 12)
    uv = np.concatenate([np.stack([np.full(12, left[start] + x), y], 1) for x in (3.0, 6.0, 9.0, 50.0, 53.0, 56.0)])
    clip, clip_depth = frames[start : start + 15], None if depth is None else depth[start : start + 15]
    found, visible, xyz = follow(clip, uv, depth=clip_depth)
    truth = uv + np.stack([left[start : start + 15] - left[start], np.zeros(15)], axis=1)[:, None]
    error = np.linalg.norm(found - truth, axis=-1)
    # Anything that stayed behind would be 84 px off at the end.
    assert visible.mean() > 0.4
    assert error[visible].max() < 2
    if with_depth:
        assert np.abs(xyz[..., 2][visible] - 1.0).max() < 1e-3  # never the depth of the wall


def test_a_shadow_takes_no_point_of_the_world_along():
    frames, depth, left = passing_board()
    grey = frames[..., 0].astype(np.float32)
    grey[:, 150:] = 128 + 0.1 * (grey[:, 150:] - 128)  # a plain floor below the board, on which a shadow wanders
    corner = []
    for t in range(len(grey)):
        corner.append((30 + 2 * t, 165))
        grey[t, 150 : 165 + 1, : 30 + 2 * t + 1] *= 0.5
    clip = rgb(list(cv2.GaussianBlur(one, (0, 0), 0.8) for one in grey))
    start = 10
    on_wall = corners(clip[start], 30)
    on_wall = on_wall[(on_wall[:, 1] < 140) & (np.abs(on_wall[:, 0] - left[start] - 30) > 45)]
    uv = np.concatenate([[corner[start]], on_wall])
    z = np.full(len(uv), 2.0)
    found, visible, _ = follow(clip[start:40], uv, depth=depth[start:40], z=z)
    # Followed in the image alone, it goes with the shadow.
    seen, in_image, _ = follow(clip[start:20], uv[:1])
    assert in_image[-1, 0] and np.linalg.norm(seen[-1, 0] - corner[19]) < 2
    assert visible[:, 0].mean() > 0.7
    assert np.linalg.norm(found[:, 0] - uv[0], axis=-1)[visible[:, 0]].max() < 3.0
    assert np.linalg.norm(found[-1, 0] - uv[0]) < 0.5


def test_depth_goes_through_short_holes_and_not_through_long_ones():
    frames = warped(texture(7), [about_centre(0, 1)] * 30)
    depth = np.full((30, HEIGHT, WIDTH), 1.5, np.float32)
    depth[5:8] = 0
    depth[12:24] = 0
    uv = corners(frames[0], 20)
    _, visible, xyz = follow(frames, uv, depth=depth, z=np.full(len(uv), 1.5))
    assert visible[:17].all() and visible[24:].all()
    assert not visible[18:24].any()
    np.testing.assert_allclose(xyz[..., 2][visible], 1.5, rtol=1e-6)


def test_an_approaching_thing_keeps_its_depth():
    frames = warped(texture(7), [about_centre(0, 1)] * 10)
    z = 1.5 * 0.88 ** np.arange(10)  # 12 percent per frame: more than any surface is steep
    depth = np.broadcast_to(z[:, None, None].astype(np.float32), (10, HEIGHT, WIDTH))
    uv = corners(frames[0], 20)
    _, visible, xyz = follow(frames, uv, depth=depth, z=np.full(len(uv), 1.5))
    assert visible.all()
    np.testing.assert_allclose(xyz[..., 2], np.repeat(z[:, None], len(uv), 1), rtol=1e-5)


def test_cutting_changes_nothing_and_a_lost_point_is_remembered():
    frames, depth, _ = passing_board()
    uv = corners(frames[0])
    z = np.full(len(uv), 2.0)
    _, visible, xyz = follow(frames, uv, depth=depth, z=z)
    poses = np.tile(np.eye(4), (len(frames), 1, 1))
    tracker = KLT(BackendSetup())
    last, parts, seen = cameras.unproject(uv, z, INTRINSICS, np.eye(4)), [], []
    for start, stop in ((0, 18), (17, 19), (18, 37), (36, 50)):
        part, part_visible = tracker.track(
            frames[start:stop], depth[start:stop], INTRINSICS, poses[start:stop], last, np.zeros(len(uv), int), np.arange(len(uv))
        )
        for position in part:
            last = np.where(np.isfinite(position), position, last)
        parts.append(part[start > 0 :])
        seen.append(part_visible[start > 0 :])
    np.testing.assert_array_equal(np.concatenate(seen), visible)
    np.testing.assert_array_equal(np.concatenate(parts), xyz)


def test_in_another_clip_a_known_identity_is_found_again_by_its_looks_or_not_at_all():
    image = texture(8)
    frames = warped(image, [about_centre(0, 1)] * 3)
    uv = corners(frames[0], 30)
    tracker = KLT(BackendSetup())
    follow(frames, uv, tracker=tracker)
    later = warped(image, [about_centre(0, 1, (2.0, 1.0))] * 3)
    found, visible, _ = follow(later, uv, tracker=tracker)
    assert visible.mean() > 0.9
    assert np.nanmax(np.linalg.norm(found - (uv + np.array([2.0, 1.0])), axis=-1)) < 0.3
    elsewhere = warped(texture(99), [about_centre(0, 1)] * 3)
    assert not follow(elsewhere, uv, tracker=tracker)[1].any()


def test_a_moving_camera_with_known_poses_is_no_obstacle():
    # A wall at 2 m; the camera jumps 0.3 m sideways: 37 px per frame.
    image = texture(10, HEIGHT, 900)
    shifts = 37.5 * np.arange(6)
    frames = rgb([cv2.warpAffine(image, np.float64([[1, 0, -s], [0, 1, 0]]), (WIDTH, HEIGHT)) for s in shifts])
    poses = np.tile(np.eye(4), (6, 1, 1))
    poses[:, 0, 3] = shifts * 2.0 / 250
    uv = corners(frames[0], 60)
    found, visible, xyz = follow(frames, uv, depth=np.full((6, HEIGHT, WIDTH), 2.0, np.float32), poses=poses, z=np.full(len(uv), 2.0))
    truth = uv - np.stack([shifts, 0 * shifts], 1)[:, None]
    inside = well_inside(truth)
    assert visible[inside].mean() > 0.97
    assert np.linalg.norm(found - truth, axis=-1)[visible & inside].max() < 0.2
    assert np.nanmax(np.abs(xyz - xyz[0])[visible & inside]) < 2e-3


@pytest.mark.parametrize(("width", "height"), [(16, 12), (9, 40), (240, 180)])
@pytest.mark.parametrize("num_frames", [0, 1, 3])
def test_small_frames_short_clips_and_no_points(width, height, num_frames):
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, height, width, 3), dtype=np.uint8)
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    for number in (0, 1, 40):
        queries = np.tile([0.0, 0.0, 1.0], (number, 1))
        intrinsics = np.array([[100.0, 0, width / 2], [0, 100.0, height / 2], [0, 0, 1]])
        xyz, visible = KLT(BackendSetup()).track(frames, None, intrinsics, poses, queries, np.zeros(number, int), np.arange(number))
        assert xyz.shape == (num_frames, number, 3) and visible.shape == (num_frames, number)
        assert num_frames == 0 or visible[0].all()


def test_a_blank_image_gives_no_nonsense():
    frames = np.full((5, HEIGHT, WIDTH, 3), 128, np.uint8)
    uv = np.array([[50.0, 50.0], [100.3, 80.9]])
    found, visible, _ = follow(frames, uv)
    assert visible[0].all()
    assert np.nanmax(np.linalg.norm(found - uv, axis=-1)) < 0.1


def test_needs_nothing():
    assert KLT.missing(BackendSetup()) is None and KLT.name == "klt" and KLT(BackendSetup()).weights_sha256() == ""
