"""A flawless extraction, and what the figures say when it is spoiled in known ways."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from extract.moving_scene import HEIGHT, INTRINSICS, WIDTH
from true_episode import BODIES, CHUNK, CUTS, NUM_FRAMES, changed, events, extraction, score, true_tracks, truth

from tracekit.errors import BadDataError
from tracekit.evaluation.extraction import ExtractionScores
from tracekit.extract.filter import FilterParameters, filter_moving
from tracekit.geometry import cameras, se3
from tracekit.records import Episode
from tracekit.report import Report

PERFECT = {
    "occlusion_accuracy": 1.0,
    "delta_avg": 1.0,
    "average_jaccard": 1.0,
    "pck_avg": 1.0,
    "position_coverage": 1.0,
    "visible_recall": 1.0,
    "moving_precision": 1.0,
    "moving_recall": 1.0,
    "event_precision": 1.0,
    "event_recall": 1.0,
    "event_f1": 1.0,
    "moving_groups_covered": 1.0,
}


def chosen_figures(scores: ExtractionScores) -> dict[str, object]:
    return {key: scores.as_json()[key] for key in PERFECT}


def visible_frames(found: Episode) -> np.ndarray:
    """Frames (T, N) that count and in which the truth sees the point: of the flawless extraction."""
    visible = found.tracks.visible.astype(bool).copy()
    visible[found.keypoints.frame, np.arange(visible.shape[1])] = False
    return visible


def test_a_flawless_extraction_has_perfect_scores(tmp_path: Path) -> None:
    scores = score(tmp_path, extraction())
    assert chosen_figures(scores) == PERFECT
    assert scores.num_frames == NUM_FRAMES and scores.notes == []
    assert scores.tracks.num_tracks == 60 and scores.tracks.num_tracks_without_body == 0
    assert scores.tracks.track_error_p90_m < 0.001, "depth is kept in millimetres"
    assert scores.cameras.ate_rmse_m < 1e-9 and scores.cameras.rpe_rotation_deg < 1e-6
    assert scores.depth.depth_absrel == 0 and scores.depth.depth_coverage == 1
    assert {body.name: body.moving for body in scores.placement.bodies} == {"board": True, "card": True, "wall": False}
    assert {body.name: body.num_tracks for body in scores.placement.bodies} == {name: 20 for name in BODIES}
    assert scores.placement.moving_budget_share == pytest.approx(2 / 3)
    assert scores.placement.moving_pixel_share == pytest.approx(np.mean(truth().truth.body_at_pixel > 0))


def test_tracks_that_are_known_before_their_chunk_are_flawless_too(tmp_path: Path) -> None:
    """As in a truth file, whose tracks are known in every frame: what moves early on moves."""
    early = true_tracks(replace(extraction().keypoints, chunk=np.zeros(60, np.int32)))
    tracks = replace(early, chunk=extraction().tracks.chunk)
    motion = filter_moving(tracks, extraction().geometry, WIDTH, HEIGHT, FilterParameters(), report=Report())
    assert motion.moving.sum() > extraction().motion.moving.sum()
    assert chosen_figures(score(tmp_path, replace(extraction(), tracks=tracks, motion=motion))) == PERFECT


def test_a_shift_in_space_is_the_error(tmp_path: Path) -> None:
    shift = np.array([0.0, 0.0, 0.012], np.float32)
    found = changed(extraction(), "tracks", xyz_world=extraction().tracks.xyz_world + shift)
    scores = score(tmp_path, found)
    assert scores.tracks.track_error_median_m == pytest.approx(0.012, abs=0.0007)
    seen = visible_frames(extraction())
    world = extraction().tracks.xyz_world[seen].astype(float)
    frame = np.nonzero(seen)[0]
    z = se3.transform_points(se3.inverse(found.geometry.world_from_camera[frame]), world[:, None])[:, 0, 2]
    # The picture is 240 pixels high: brought to 256, its focal length is 300 * 256 / 240 = 320 px.
    for radius in (1, 2, 4, 8, 16):
        assert scores.tracks.delta[str(radius)] == pytest.approx(np.mean(radius * z / 320 > 0.012), abs=0.02)
    assert 0 < scores.tracks.delta["2"] < 1 and scores.tracks.delta_avg == pytest.approx(np.mean(list(scores.tracks.delta.values())))
    assert scores.tracks.pck_avg == 1.0 and scores.tracks.occlusion_accuracy == 1.0


def test_a_shift_in_the_image_is_measured_on_256_pixels(tmp_path: Path) -> None:
    """3.8 px of 240 are 4.05 px of 256."""
    found = changed(extraction(), "tracks", uv=extraction().tracks.uv + np.array([3.8, 0], np.float32))
    scores = score(tmp_path, found)
    assert scores.tracks.pck == {"1": 0.0, "2": 0.0, "4": 0.0, "8": 1.0, "16": 1.0}
    assert scores.tracks.pck_avg == pytest.approx(0.4) and scores.tracks.delta_avg == 1.0


def test_missing_positions_count_against_every_share_but_not_the_error(tmp_path: Path) -> None:
    tracks = extraction().tracks
    gone = np.zeros(tracks.visible.shape, bool)
    gone[::2] = True
    found = changed(
        extraction(),
        "tracks",
        visible=np.where(gone, 0, tracks.visible).astype(np.uint8),
        valid=np.where(gone, 0, tracks.valid).astype(np.uint8),
        uv=np.where(gone[..., None], np.float32(np.nan), tracks.uv),
        xyz_world=np.where(gone[..., None], np.float32(np.nan), tracks.xyz_world),
    )
    scores = score(tmp_path, found)
    should = visible_frames(extraction())
    kept = (should & ~gone).sum() / should.sum()
    assert 0.4 < kept < 0.6
    assert scores.tracks.position_coverage == scores.tracks.visible_recall == pytest.approx(kept)
    assert scores.tracks.delta_avg == scores.tracks.pck_avg == pytest.approx(kept)
    assert scores.tracks.average_jaccard == pytest.approx(kept), "no false positives: true positives over visible"
    chunk_start = found.keypoints.chunk_start[found.tracks.chunk]
    counted = np.arange(NUM_FRAMES)[:, None] >= chunk_start
    counted[found.keypoints.frame, np.arange(60)] = False
    assert scores.tracks.occlusion_accuracy == pytest.approx(1 - (should & gone).sum() / counted.sum())
    assert scores.tracks.track_error_p90_m < 0.001


def test_wrong_visibility_is_wrong_occlusion_accuracy(tmp_path: Path) -> None:
    tracks = extraction().tracks
    swapped = np.where(tracks.valid == 1, 1 - tracks.visible, 0).astype(np.uint8)
    scores = score(tmp_path, changed(extraction(), "tracks", visible=swapped))
    assert scores.tracks.occlusion_accuracy == 0.0 and scores.tracks.average_jaccard == 0.0
    assert scores.tracks.delta_avg == 1.0, "positions are judged whatever the visibility says"
    assert scores.tracks.track_error_median_m is None, "nowhere do both see the point"


def test_the_frame_of_selection_and_frames_before_the_chunk_do_not_count(tmp_path: Path) -> None:
    """Spoiling exactly those changes nothing."""
    tracks = extraction().tracks
    xyz, uv = tracks.xyz_world.copy(), tracks.uv.copy()
    every = np.arange(60)
    xyz[extraction().keypoints.frame, every] += 1
    uv[extraction().keypoints.frame, every] += 50
    late = extraction().keypoints.frame == CHUNK
    xyz[:CHUNK, late], uv[:CHUNK, late] = 9.0, 9.0
    visible = tracks.visible.copy()
    visible[:CHUNK, late] = 1
    scores = score(tmp_path, changed(extraction(), "tracks", xyz_world=xyz, uv=uv, visible=visible))
    assert chosen_figures(scores) == PERFECT and scores.tracks.track_error_p90_m < 0.001


def test_scaled_depth_is_relative_error(tmp_path: Path) -> None:
    depth = extraction().geometry.depth * np.float32(1.1)
    depth[:, ::2] = 0
    scores = score(tmp_path, changed(extraction(), "geometry", depth=depth))
    assert scores.depth.depth_absrel == pytest.approx(0.1, abs=1e-4) and scores.depth.depth_coverage == 0.5


def test_camera_drift_shows_in_trajectory_and_tracks(tmp_path: Path) -> None:
    """Every second camera is 4 cm off: after the alignment all are 2 cm off."""
    poses = extraction().geometry.world_from_camera.copy()
    poses[::2, 2, 3] += 0.04
    scores = score(tmp_path, changed(extraction(), "geometry", world_from_camera=poses))
    assert scores.cameras.ate_rmse_m == pytest.approx(0.02, rel=0.01)
    assert scores.cameras.rpe_translation_m == pytest.approx(0.04, rel=0.01)
    assert scores.cameras.rpe_rotation_deg < 1e-6
    assert scores.tracks.track_error_median_m == pytest.approx(0.02, rel=0.1), "the tracks stayed, the world moved with its cameras"


def test_wrong_flags_are_wrong_precision_and_recall(tmp_path: Path) -> None:
    moving = extraction().motion.moving.copy()
    movers, others = np.flatnonzero(moving == 1), np.flatnonzero(moving == 0)
    assert len(movers) > 30 and len(others) > 15
    moving[movers[:5]], moving[others[:3]] = 0, 1
    scores = score(tmp_path, changed(extraction(), "motion", moving=moving))
    number = len(movers)
    assert scores.moving.moving_precision == (number - 5) / (number - 5 + 3)
    assert scores.moving.moving_recall == (number - 5) / number


def test_the_recorded_threshold_is_the_one_that_counts(tmp_path: Path) -> None:
    found = changed(extraction(), "motion", threshold_px=1e4, moving=np.zeros(60, np.uint8))
    scores = score(tmp_path, found)
    assert scores.moving.num_truly_moving == 0 and scores.moving.moving_recall is None and scores.moving.moving_precision is None
    assert scores.placement.moving_budget_share == 0 and scores.placement.num_moving_groups == 0
    assert scores.placement.moving_groups_covered is None and scores.placement.budget_to_pixel_ratio is None


def test_boundaries_on_the_clock_of_the_video(tmp_path: Path) -> None:
    found = replace(extraction(), events=events([CUTS[0] + 3]))  # 0.3 s late, and one missing
    scores = score(tmp_path, found)
    assert (scores.events.event_precision, scores.events.event_recall) == (1.0, 0.5) and scores.events.event_f1 == pytest.approx(2 / 3)
    scores = score(tmp_path, found, event_tolerance=0.2)
    assert scores.events.event_f1 == 0.0
    assert score(tmp_path, found, event_tolerance=0.3).events.event_f1 == pytest.approx(2 / 3), "exactly as far as allowed"


def test_another_world_frame_changes_nothing(tmp_path: Path) -> None:
    """A spoiled extraction, so that the figures are not all perfect."""
    rng = np.random.default_rng(4)
    tracks = extraction().tracks
    poses = extraction().geometry.world_from_camera.copy()
    poses[:, :3, 3] += rng.normal(0, 0.01, (NUM_FRAMES, 3))
    here = changed(extraction(), "geometry", world_from_camera=poses)
    here = changed(here, "tracks", xyz_world=tracks.xyz_world + rng.normal(0, 0.01, tracks.xyz_world.shape).astype(np.float32))
    moved = se3.from_rotation_translation(cv2.Rodrigues(np.array([0.4, -1.1, 2.0]))[0], np.array([0.5, -0.4, 0.9]))
    there = changed(here, "geometry", world_from_camera=moved @ poses)
    there = changed(there, "tracks", xyz_world=se3.transform_points(moved, here.tracks.xyz_world).astype(np.float32))
    one, other = score(tmp_path, here).as_json(), score(tmp_path, there).as_json()
    assert one["track_error_median_m"] > 0.01 and one["ate_rmse_m"] > 0.01
    for key in ("track_error_median_m", "track_error_p90_m", "ate_rmse_m", "rpe_translation_m", "rpe_rotation_deg"):
        assert other[key] == pytest.approx(one[key], abs=1e-5)
    for key in ("delta_avg", "average_jaccard", "pck_avg", "occlusion_accuracy", "moving_precision", "moving_recall", "event_f1"):
        assert other[key] == pytest.approx(one[key], abs=2e-3), "a distance may lie on a radius"


def every_second_frame(episode: Episode) -> Episode:
    kept = np.arange(1, NUM_FRAMES, 2)
    chosen = episode.keypoints
    first = np.searchsorted(kept, 3)
    tracks = {name: getattr(episode.tracks, name)[kept] for name in ("xyz_world", "uv", "visible", "valid")}
    selected = np.where(chosen.frame == 2, first, np.searchsorted(kept, CHUNK + 1)).astype(np.int32)
    at = tracks["uv"][selected, np.arange(60)]
    thinned = replace(
        episode,
        video=replace(episode.video, pts=episode.video.pts[kept], source_frame=kept, fps=5.0),
        keypoints=replace(
            chosen, uv=at, frame=selected, chunk_start=chosen.chunk_start // 2, chunk_stop=chosen.chunk_stop // 2, chunk=chosen.chunk
        ),
        geometry=replace(
            episode.geometry,
            world_from_camera=episode.geometry.world_from_camera[kept],
            depth=episode.geometry.depth[kept],
            frame_confidence=np.ones(len(kept), np.float32),
        ),
        tracks=replace(episode.tracks, **tracks, born=selected),
        events=None,
        motion=None,
    )
    motion = filter_moving(thinned.tracks, thinned.geometry, WIDTH, HEIGHT, FilterParameters(), report=Report())
    return replace(thinned, motion=motion)


def smaller(episode: Episode, size: tuple[int, int]) -> Episode:
    """The same extraction on a coarser grid."""
    full = (WIDTH, HEIGHT)
    step = WIDTH // size[0]
    result = replace(
        episode,
        video=replace(episode.video, width=size[0], height=size[1]),
        keypoints=replace(episode.keypoints, uv=cameras.resize_pixels(episode.keypoints.uv, full, size).astype(np.float32)),
        geometry=replace(
            episode.geometry,
            intrinsics=cameras.scale_intrinsics(INTRINSICS, full, size),
            depth=episode.geometry.depth[:, ::step, ::step],
        ),
        tracks=replace(episode.tracks, uv=cameras.resize_pixels(episode.tracks.uv, full, size).astype(np.float32)),
    )
    motion = filter_moving(result.tracks, result.geometry, *size, FilterParameters(threshold=20.0), report=Report())
    return replace(result, motion=motion)


def test_a_part_of_the_frames(tmp_path: Path) -> None:
    """Of 60 points some are hidden in their new frame of selection; those in sight are scored as before."""
    episode = every_second_frame(extraction())
    hidden = episode.tracks.visible[episode.keypoints.frame, np.arange(60)] == 0
    assert hidden.sum() < 5
    keep = np.flatnonzero(~hidden)
    per_frame = {name: getattr(episode.tracks, name)[:, keep] for name in ("xyz_world", "uv", "visible", "valid")}
    per_track = {name: getattr(episode.tracks, name)[keep] for name in ("keypoint", "entity", "born", "chunk")}
    motion = replace(episode.motion, **{name: getattr(episode.motion, name)[keep] for name in ("diameter_px", "reference_frame", "moving")})
    scores = score(tmp_path, replace(episode, tracks=replace(episode.tracks, **per_frame, **per_track), motion=motion))
    expected = PERFECT | {"event_precision": None, "event_recall": None, "event_f1": None}
    assert chosen_figures(scores) == expected and scores.num_frames == NUM_FRAMES // 2
    assert scores.tracks.track_error_p90_m < 0.002 and scores.cameras.ate_rmse_m < 1e-9 and scores.depth.depth_absrel == 0


def test_a_smaller_grid(tmp_path: Path) -> None:
    """Half the pixels, half the threshold: the same scores, because radii are those of a 256 px picture."""
    scores = score(tmp_path, smaller(extraction(), (WIDTH // 2, HEIGHT // 2)))
    assert chosen_figures(scores) == PERFECT
    assert scores.tracks.track_error_p90_m < 0.001
    assert scores.depth.depth_absrel < 0.002, "the nearest pixel lies half a pixel off"
    full = score(tmp_path, extraction())
    assert scores.moving.num_truly_moving == full.moving.num_truly_moving


def test_a_planar_episode_has_no_figures_in_metres(tmp_path: Path) -> None:
    geometry = replace(extraction().geometry, metric=False, depth=None)
    found = replace(extraction(), geometry=geometry)
    scores = score(tmp_path, found)
    flat = scores.as_json()
    for key in ("track_error_median_m", "track_error_p90_m", "delta_avg", "average_jaccard", "ate_rmse_m", "rpe_translation_m"):
        assert flat[key] is None
    assert flat["depth_absrel"] is None and flat["delta"] is None
    assert flat["pck_avg"] == flat["occlusion_accuracy"] == flat["moving_precision"] == flat["event_f1"] == 1.0
    assert flat["moving_groups_covered"] == 1.0 and flat["rpe_rotation_deg"] < 1e-6
    assert any("metric = 0" in note for note in flat["notes"])


@pytest.mark.parametrize(
    ("group", "unknown", "known"),
    [
        ("events", ("event_f1",), ("delta_avg", "moving_recall")),
        ("motion", ("moving_precision", "moving_recall"), ("delta_avg", "moving_budget_share", "moving_groups_covered")),
        ("geometry", ("delta_avg", "ate_rmse_m", "depth_absrel"), ("pck_avg", "moving_precision")),
        ("tracks", ("delta_avg", "pck_avg", "moving_recall", "bodies"), ("ate_rmse_m", "depth_absrel", "event_f1")),
        ("keypoints", ("delta_avg", "pck_avg", "bodies"), ("ate_rmse_m", "event_f1")),
    ],
)
def test_what_is_missing_is_not_judged(tmp_path: Path, group: str, unknown: tuple[str, ...], known: tuple[str, ...]) -> None:
    scores = score(tmp_path, replace(extraction(), **{group: None}))
    flat = scores.as_json()
    assert all(flat[key] is None for key in unknown) and all(flat[key] is not None for key in known)
    assert any(f"no {group}" in note for note in scores.notes)


def test_truth_without_events(tmp_path: Path) -> None:
    scores = score(tmp_path, extraction(), replace(truth(), events=None))
    assert scores.events.event_f1 is None and any("truth has no events" in note for note in scores.notes)


def test_keypoints_on_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    true = truth()
    shown = true.truth.body_at_pixel.copy()
    shown[shown == 2] = -1
    scores = score(tmp_path, extraction(), changed(true, "truth", body_at_pixel=shown))
    assert scores.tracks.num_tracks_without_body == 20 and scores.tracks.num_tracks == 60
    assert scores.placement.moving_budget_share == pytest.approx(1 / 3)
    assert scores.tracks.delta_avg == 1.0


def test_no_tracks_and_no_frames(tmp_path: Path) -> None:
    none = replace(extraction().keypoints, uv=np.zeros((0, 2), np.float32), frame=np.zeros(0, np.int32))
    none = replace(none, entity=none.frame, chunk=none.frame, score=np.zeros(0, np.float32))
    tracks = extraction().tracks
    tracks = replace(
        tracks,
        **{name: getattr(tracks, name)[:, :0] for name in ("xyz_world", "uv", "visible", "valid")},
        **{name: getattr(tracks, name)[:0] for name in ("keypoint", "entity", "born", "chunk")},
    )
    scores = score(tmp_path, replace(extraction(), keypoints=none, tracks=tracks, motion=None))
    assert scores.tracks.num_tracks == 0 and scores.tracks.delta_avg is None and scores.placement.moving_budget_share is None
    assert {body.name: body.covered for body in scores.placement.bodies} == {"board": False, "card": False, "wall": False}

    empty = replace(extraction().video, pts=np.zeros(0), source_frame=np.zeros(0, int))
    scores = score(tmp_path, Episode("scene", empty))
    assert scores.num_frames == 0 and scores.tracks.delta_avg is None and scores.cameras.ate_rmse_m is None


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    other = changed(extraction(), "video", sha256="6" * 64)
    with pytest.raises(BadDataError, match="another video"):
        score(tmp_path, other)
    short = every_second_frame(extraction())
    with pytest.raises(BadDataError, match=r"lacks frame 0 of the video \(12 frames"):
        score(tmp_path, extraction(), changed_frames(truth(), short.video.source_frame))
    with pytest.raises(BadDataError, match="has no truth"):
        score(tmp_path, extraction(), replace(truth(), truth=None))
    with pytest.raises(BadDataError, match="no camera poses"):
        score(tmp_path, extraction(), changed(truth(), "camera_sensor", world_from_camera=None))
    with pytest.raises(BadDataError, match="depth_sensor/depth of"):
        score(tmp_path, extraction(), changed(truth(), "depth_sensor", depth=truth().depth_sensor.depth[:, ::2, ::2]))
    with pytest.raises(BadDataError, match="shows body 2, but there are 2"):
        few = changed(truth(), "truth", body_name=BODIES[:2], body_rigid_group=np.arange(2), body_is_robot=np.zeros(2, np.uint8))
        score(tmp_path, extraction(), changed(few, "truth", world_from_body=few.truth.world_from_body[:, :2]))


def changed_frames(true: Episode, kept: np.ndarray) -> Episode:
    """A truth of some frames only."""
    return replace(
        true,
        video=replace(true.video, pts=true.video.pts[kept], source_frame=kept),
        depth_sensor=replace(true.depth_sensor, depth=true.depth_sensor.depth[kept]),
        camera_sensor=replace(true.camera_sensor, world_from_camera=true.camera_sensor.world_from_camera[kept]),
        truth=replace(true.truth, body_at_pixel=true.truth.body_at_pixel[kept], world_from_body=true.truth.world_from_body[kept]),
        events=None,
    )


def test_tracks_of_the_scene_are_what_they_claim(tmp_path: Path) -> None:
    """The flawless extraction comes from rays and planes, not from the code under test."""
    again = true_tracks(extraction().keypoints)
    np.testing.assert_array_equal(again.xyz_world, extraction().tracks.xyz_world)
    assert (again.visible.sum(axis=0) < again.valid.sum(axis=0)).any(), "some points are hidden for a while"
