"""A block of two bodies that slides before a wall, seen by a camera at rest: every pixel is counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
from true_episode import known_scene

from tracekit.evaluation.movement import true_diameters
from tracekit.evaluation.placement import COVERED_BY, Placement, placement, sample_surfaces
from tracekit.evaluation.track_accuracy import PathComparison
from tracekit.ground_truth import Scene, follow

NUM_FRAMES, HEIGHT, WIDTH = 10, 40, 60
FOCAL, NEAR, FAR = 50.0, 2.0, 4.0
NAMES = ["wall", "block", "handle", "pebble", "speck"]
GROUPS = np.array([0, 1, 1, 3, 4])


def sliding_scene() -> Scene:
    """The block (10 x 12 px) and its handle (4 x 5 px) slide 2 px a frame; a pebble (2 x 2 px) lies; a speck (1 px) flies 5 px a frame."""
    shown = np.zeros((NUM_FRAMES, HEIGHT, WIDTH), np.int16)
    depth = np.full(shown.shape, FAR, np.float32)
    poses = np.tile(np.eye(4), (NUM_FRAMES, 5, 1, 1))
    for frame in range(NUM_FRAMES):
        for body, (row, column, rows, columns, speed) in enumerate(
            [(20, 5, 10, 12, 2), (22, 17, 4, 5, 2), (2, 2, 2, 2, 0), (9, 1, 1, 1, 5)], 1
        ):
            place = np.s_[frame, row : row + rows, column + speed * frame : column + columns + speed * frame]
            shown[place], depth[place] = body, NEAR
            poses[frame, body, 0, 3] = speed * frame * NEAR / FOCAL
    truth = replace(
        known_scene().truth,
        body_at_pixel=shown,
        body_name=NAMES,
        body_rigid_group=GROUPS,
        body_is_robot=np.array([0, 1, 0, 0, 0]),
        world_from_body=poses,
    )
    intrinsics = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return Scene(truth, depth, intrinsics, np.tile(np.eye(4), (NUM_FRAMES, 1, 1)))


def tracks_on(groups: list[int], error_m: np.ndarray | None = None, error_px: float = 1.0) -> tuple[PathComparison, np.ndarray]:
    """Tracks that are seen in every frame, each `error_m` (N,) off."""
    shape = (NUM_FRAMES, len(groups))
    yes = [np.ones(shape, bool) for _ in range(3)]
    error = None if error_m is None else np.tile(error_m, (NUM_FRAMES, 1))
    return PathComparison(*yes, np.full(shape, error_px), error, np.full(shape, NEAR / FOCAL)), np.array(groups)


def judge(comparison: PathComparison, groups: np.ndarray, num_tracks: int | None = None, threshold: float = 10.0) -> Placement:
    scene = sliding_scene()
    surfaces = sample_surfaces(scene)
    paths = follow(scene, surfaces.points)
    diameters = true_diameters(paths.xyz_world, paths.visible, surfaces.frame, scene.intrinsics, scene.world_from_camera, 0.1)
    return placement(scene, surfaces, diameters, threshold, comparison, groups, len(groups) if num_tracks is None else num_tracks)


def test_pixels_are_counted_by_group() -> None:
    surfaces = sample_surfaces(sliding_scene())
    number = HEIGHT * WIDTH
    assert (surfaces.pixel_share * number).round().astype(int).tolist() == [[number - 145, 140, 0, 4, 1]] * NUM_FRAMES
    np.testing.assert_allclose(surfaces.body_pixel_share.mean(axis=0) * number, [number - 145, 120, 20, 4, 1])


def test_every_group_is_sampled_on_its_own_pixels_however_small() -> None:
    scene = sliding_scene()
    surfaces = sample_surfaces(scene)
    assert {group: int((surfaces.group == group).sum()) for group in (0, 1, 3, 4)} == {0: 96, 1: 96, 3: 32, 4: 8}
    assert len(np.unique(surfaces.frame[surfaces.group == 4])) == 8, "eight frames of the ten"
    np.testing.assert_array_equal(GROUPS[surfaces.points.body], surfaces.group)
    again = sample_surfaces(scene)
    np.testing.assert_array_equal(again.points.local, surfaces.points.local)


def test_groups_that_are_seen_for_a_moment_are_sampled() -> None:
    scene = sliding_scene()
    shown = np.where(scene.truth.body_at_pixel == 3, 0, scene.truth.body_at_pixel)
    shown[7, 2:4, 2:4] = 3
    surfaces = sample_surfaces(replace(scene, truth=replace(scene.truth, body_at_pixel=shown)))
    assert (surfaces.frame[surfaces.group == 3] == 7).all() and (surfaces.group == 3).sum() == 4


def test_what_moves_is_what_covers_more_than_the_threshold() -> None:
    """The block covers 18 px, so it moves above a threshold of 10 and not above one of 20. The speck is too small to be listed."""
    comparison, groups = tracks_on([1, 1, 0], np.zeros(3))
    scores = judge(comparison, groups)
    assert [(body.name, body.moving, body.robot) for body in scores.bodies] == [
        ("block", True, True),
        ("wall", False, False),
        ("pebble", False, False),
    ]
    assert scores.bodies[0].bodies == ["block", "handle"] and scores.bodies[0].diameter_px == pytest.approx(18)
    assert scores.num_moving_groups == 1
    assert judge(comparison, groups, threshold=20.0).num_moving_groups == 0


def test_shares_of_budget_and_pixels() -> None:
    """Six of nine tracks on the block, one on the speck, one on nothing; 141 of 2400 pixels show what moves."""
    comparison, groups = tracks_on([1] * 6 + [4] + [0], np.zeros(8))
    scores = judge(comparison, groups, num_tracks=9)
    assert scores.moving_budget_share == pytest.approx(7 / 9)
    assert scores.moving_pixel_share == pytest.approx(141 / 2400)
    assert scores.budget_to_pixel_ratio == pytest.approx(7 / 9 / (141 / 2400))


@pytest.mark.parametrize(("number", "covered"), [(COVERED_BY, True), (COVERED_BY - 1, False)])
def test_a_group_is_covered_by_enough_close_tracks_at_one_time(number: int, covered: bool) -> None:
    error = np.r_[np.full(number, 0.049), np.full(20, 0.051)]
    comparison, groups = tracks_on([1] * len(error), error)
    scores = judge(comparison, groups)
    assert scores.bodies[0].most_at_a_time == number and scores.bodies[0].covered is covered
    assert scores.moving_groups_covered == float(covered)
    assert scores.bodies[1].num_tracks == 0 and scores.bodies[1].recall is None and scores.bodies[1].track_error_median_m is None


def test_tracks_that_take_turns_do_not_cover() -> None:
    comparison, groups = tracks_on([1] * 10, np.zeros(10))
    turns = np.zeros((NUM_FRAMES, 10), bool)
    turns[:5, :5] = turns[5:, 5:] = True
    scores = judge(replace(comparison, visible=turns), groups)
    assert scores.bodies[0].most_at_a_time == 5 and not scores.bodies[0].covered
    scores = judge(replace(comparison, true_visible=turns), groups)
    assert scores.bodies[0].most_at_a_time == 5


def test_error_and_recall_of_a_group() -> None:
    """16 px at 4 cm each are 64 cm. Of ten frames one is not called visible, one does not count."""
    error = np.array([0.1, 0.3, 0.65, 0.02])
    comparison, groups = tracks_on([1, 1, 1, 0], error)
    comparison.visible[4, 1] = False
    comparison.counted[5, 2] = False
    block = judge(comparison, groups).bodies[0]
    assert block.recall == pytest.approx(20 / 29)
    assert block.track_error_median_m == pytest.approx(np.median([0.1] * 10 + [0.3] * 9 + [0.65] * 9))


def test_without_lengths_close_is_16_px_in_the_image() -> None:
    for error_px, covered in ((15.9, True), (16.1, False)):
        comparison, groups = tracks_on([1] * 8, None, error_px)
        block = judge(comparison, groups).bodies[0]
        assert block.covered is covered and block.recall == float(covered) and block.track_error_median_m is None
