from dataclasses import replace

import numpy as np
import pytest
from true_episode import CHUNK, NUM_FRAMES, extraction, known_scene

from tracekit.evaluation.track_accuracy import PathComparison, compare_paths, frames_that_count, track_accuracy
from tracekit.geometry import cameras
from tracekit.ground_truth import follow, surface_points


def random_comparison(seed: int, shape: tuple[int, int] = (7, 9)) -> PathComparison:
    rng = np.random.default_rng(seed)
    known = rng.random(shape) > 0.2
    return PathComparison(
        visible=known & (rng.random(shape) > 0.3),
        true_visible=rng.random(shape) > 0.3,
        counted=rng.random(shape) > 0.2,
        error_px=np.where(known, rng.exponential(5, shape), np.nan),
        error_m=np.where(known, rng.exponential(0.02, shape), np.nan),
        metres_per_px=rng.uniform(0.003, 0.006, shape),
    )


@pytest.mark.parametrize("seed", range(5))
def test_against_counting_frame_by_frame(seed: int) -> None:
    """The three measures of TAP-Vid, a frame at a time."""
    given = random_comparison(seed)
    scores = track_accuracy(given, num_without_body=2)
    visible = agree = counted = position = called = 0
    errors = []
    within = dict.fromkeys((1, 2, 4, 8, 16), 0)
    flat, hits, false = dict(within), dict(within), dict(within)
    for t in range(7):
        for n in range(9):
            if not given.counted[t, n]:
                continue
            counted += 1
            sees, should = given.visible[t, n], given.true_visible[t, n]
            agree += sees == should
            if should:
                visible += 1
                position += not np.isnan(given.error_px[t, n])
                called += sees
                if sees:
                    errors.append(given.error_m[t, n])
            for radius in within:
                close = given.error_m[t, n] < radius * given.metres_per_px[t, n]
                within[radius] += should and close
                flat[radius] += should and given.error_px[t, n] < radius
                hits[radius] += should and sees and close
                false[radius] += sees and not (should and close)
    assert scores.num_tracks == 11 and scores.num_tracks_without_body == 2
    assert scores.occlusion_accuracy == pytest.approx(agree / counted)
    assert scores.position_coverage == pytest.approx(position / visible) and scores.visible_recall == pytest.approx(called / visible)
    assert scores.track_error_median_m == pytest.approx(np.median(errors))
    assert scores.track_error_p90_m == pytest.approx(np.percentile(errors, 90))
    for radius in within:
        assert scores.delta[str(radius)] == pytest.approx(within[radius] / visible)
        assert scores.pck[str(radius)] == pytest.approx(flat[radius] / visible)
        assert scores.jaccard[str(radius)] == pytest.approx(hits[radius] / (visible + false[radius]))
    for mean, parts in ((scores.delta_avg, scores.delta), (scores.pck_avg, scores.pck), (scores.average_jaccard, scores.jaccard)):
        assert mean == pytest.approx(sum(parts.values()) / 5)
    assert 0 < scores.average_jaccard < scores.delta_avg < 1


def test_without_lengths_there_are_no_figures_in_space() -> None:
    scores = track_accuracy(replace(random_comparison(0), error_m=None))
    assert scores.track_error_median_m is None and scores.delta_avg is None and scores.delta is None and scores.average_jaccard is None
    assert scores.pck_avg is not None and scores.occlusion_accuracy is not None


def test_nothing_counts() -> None:
    given = random_comparison(0)
    scores = track_accuracy(replace(given, counted=np.zeros_like(given.counted)))
    assert scores.delta_avg is None and scores.pck_avg is None and scores.occlusion_accuracy is None and scores.track_error_p90_m is None


def test_frames_that_count() -> None:
    chosen, tracks = extraction().keypoints, extraction().tracks
    counted = frames_that_count(chosen, tracks)
    early, late = np.flatnonzero(chosen.frame == 2), np.flatnonzero(chosen.frame == CHUNK)
    every = np.arange(NUM_FRAMES)
    assert (counted[:, early] == (every != 2)[:, None]).all(), "frames before the selected one, too: tracks run backwards"
    assert (counted[:, late] == (every > CHUNK)[:, None]).all()


def test_a_radius_is_a_length_at_the_depth_of_the_point() -> None:
    """A point shifted sideways by what 4 px of a 256 px picture span lies just on that radius, in space and in the image."""
    scene, chosen = known_scene(), extraction().keypoints
    paths = follow(scene, surface_points(scene, chosen.uv, chosen.frame))
    all_frames = np.ones(paths.visible.shape, bool)
    pixels_here = 4 * 240 / 256
    for share, expected in ((0.99, 1.0), (1.01, 0.0)):
        moved = paths.uv + np.array([share * pixels_here, 0])
        xyz = np.empty_like(paths.xyz_world)
        for t, pose in enumerate(scene.world_from_camera):
            z = cameras.project(paths.xyz_world[t], scene.intrinsics, pose)[1]
            xyz[t] = cameras.unproject(moved[t], z, scene.intrinsics, pose)
        tracks = replace(
            extraction().tracks, xyz_world=xyz, uv=moved, visible=all_frames.astype(np.uint8), valid=all_frames.astype(np.uint8)
        )
        scores = track_accuracy(compare_paths(tracks, (320, 240), np.eye(4), paths, scene, all_frames))
        assert scores.delta["4"] == expected and scores.pck["4"] == expected
        assert scores.delta["8"] == 1.0 and scores.delta["2"] == 0.0
