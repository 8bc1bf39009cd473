"""Training rows against scenes whose traces are known in closed form."""

from dataclasses import fields, replace

import numpy as np
import pytest

from tracekit.errors import BadDataError, ConfigurationError
from tracekit.extract import fit_bspline as stage
from tracekit.extract.corpus_scales import SMALLEST_DELTA_SCALE, CorpusScales
from tracekit.extract.fit_bspline import FitBsplineParameters, corpus, episode_samples, fit_rows
from tracekit.extract.merge_corpora import merge
from tracekit.extract.reference_traces import normalise, reference_traces, to_pixels
from tracekit.extract.streaming_quantiles import StreamingQuantiles
from tracekit.geometry import bspline, cameras, se3
from tracekit.records import Captions, Clip, Corpus, Episode, Geometry, Motion, Tracks
from tracekit.report import Report

WIDTH, HEIGHT = 640, 480
K = np.array([[500.0, 0, 319.5], [0, 500, 239.5], [0, 0, 1]])


def episode(
    xyz_world, *, poses=None, valid=None, visible=None, moving=None, captions=None, fps=30.0, pts=None, metric=True, clip_id="clip"
):
    """An episode with these world positions (T, N, 3)."""
    num_frames, num_tracks, _ = xyz_world.shape
    valid = np.ones((num_frames, num_tracks), np.uint8) if valid is None else np.asarray(valid, np.uint8)
    visible = valid if visible is None else np.asarray(visible, np.uint8)
    poses = np.broadcast_to(np.eye(4), (num_frames, 4, 4)) if poses is None else poses
    pts = np.arange(num_frames) / (fps or 1.0) if pts is None else pts
    index = np.arange(num_tracks, dtype=np.int32)
    none, pose = np.zeros(0, np.int32), np.zeros((0, 4, 4))
    motion = None if moving is None else Motion(40.0, 0.1, index.astype("f4"), 0 * index, np.asarray(moving, np.uint8))
    return Episode(
        clip_id=clip_id,
        video=Clip(
            f"/{clip_id}.mp4",
            "5ha",
            fps,
            WIDTH,
            HEIGHT,
            WIDTH,
            HEIGHT,
            0,
            "pyav",
            num_frames,
            0,
            pts,
            2 * np.arange(num_frames, dtype=np.int32),
        ),
        geometry=Geometry("test", metric, K, poses, np.ones(num_frames, "f4"), none, none, none, none, pose, none, none),
        tracks=Tracks(
            "test",
            xyz_world.astype("f4"),
            np.zeros((num_frames, num_tracks, 2), "f4"),
            visible,
            valid,
            index,
            index % 3,
            0 * index,
            0 * index,
        ),
        motion=motion,
        captions=captions,
    )


def smooth_scene(num_frames=60, num_tracks=12, seed=0):
    """World positions (T, N, 3) on slow sine paths about 2 m in front of the world's origin."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_frames)[:, None, None] / 30
    phase, amplitude = rng.uniform(0, 6, size=(num_tracks, 3)), rng.uniform(0.02, 0.3, size=(num_tracks, 3))
    return rng.uniform(-0.5, 0.5, size=(num_tracks, 3)) + [0, 0, 2] + amplitude * np.sin(1.5 * t + phase)


def moving_camera(num_frames):
    """Poses (T, 4, 4) of a camera that turns and drifts."""
    t = np.arange(num_frames) / 30
    turn = np.zeros((num_frames, 3, 3))
    turn[:, 0, 0] = turn[:, 2, 2] = np.cos(0.2 * t)
    turn[:, 0, 2] = np.sin(0.2 * t)
    turn[:, 2, 0] = -turn[:, 0, 2]
    turn[:, 1, 1] = 1
    return se3.from_rotation_translation(turn, np.stack([0.1 * t, 0.05 * t, -0.2 * t], axis=-1))


def rows_of(result: Corpus, sample: int) -> slice:
    return slice(result.sample_offset[sample], result.sample_offset[sample + 1])


def assert_well_formed(result: Corpus):
    """Every field is as it is declared: dtype, shape, one value a symbol, masks and indices in range, nothing that is not finite."""
    sizes: dict[str, int] = {}
    for field in fields(Corpus):
        spec, value = field.metadata["spec"], getattr(result, field.name)
        if spec.shape is None or (value is None and not spec.required):
            continue
        if spec.dtype != "str":
            assert value.dtype == np.dtype(spec.dtype), field.name
            assert np.isfinite(value).all(), field.name
        shape = (len(value),) if spec.dtype == "str" else value.shape
        assert len(shape) == len(spec.shape), field.name
        for symbol, size in zip(spec.shape, shape, strict=True):
            assert size == (symbol if isinstance(symbol, int) else sizes.setdefault(symbol, size)), field.name
        if spec.values == "mask":
            assert np.isin(value, [0, 1]).all(), field.name
        if spec.values.startswith("range"):
            assert ((value >= 0) & (value < sizes.get(spec.values[6:], 0))).all(), field.name
    assert sizes["S+1"] == sizes["S"] + 1
    assert result.sample_offset[0] == 0 and result.sample_offset[-1] == sizes["R"]
    assert result.sample_caption_offset[-1] == len(result.sample_caption)
    assert (result.delta_scale > 0).all() and result.depth_log_range[0] < result.depth_log_range[1]


# --- what a camera sees


def test_a_static_point_stands_still_for_the_reference_camera_however_the_camera_moves():
    poses = moving_camera(2)
    poses[1] = se3.from_rotation_translation(np.eye(3), np.array([0.5, 0, -1]))
    point = np.broadcast_to([0.2, -0.1, 2.0], (2, 1, 3))
    for frame in (0, 1):
        uvz, valid, _ = reference_traces(point, np.ones((2, 1), bool), K, poses[frame], (WIDTH, HEIGHT))
        assert valid.all()
        np.testing.assert_array_equal(uvz[0], uvz[1])
    np.testing.assert_allclose(
        uvz[0, 0], [2 * (319.5 - 500 * 0.3 / 3 + 0.5) / WIDTH - 1, 2 * (239.5 - 500 * 0.1 / 3 + 0.5) / HEIGHT - 1, 3]
    )


def test_one_and_minus_one_are_the_outer_edges_of_the_image():
    edges = np.array([[-0.5, -0.5], [WIDTH - 0.5, HEIGHT - 0.5], [319.5, 239.5]])
    np.testing.assert_allclose(normalise(edges, (WIDTH, HEIGHT)), [[-1, -1], [1, 1], [0, 0]])
    np.testing.assert_allclose(to_pixels(normalise(edges, (WIDTH, HEIGHT)), (WIDTH, HEIGHT)), edges)


def test_points_behind_the_camera_turn_invalid_and_points_outside_the_image_do_not():
    xyz = np.array([[[0, 0, -1.0], [9, 0, 1], [0, 0, 0], [np.nan] * 3]])
    uvz, valid, num_behind = reference_traces(xyz, np.array([[1, 1, 1, 0]]), K, np.eye(4), (WIDTH, HEIGHT))
    assert valid.tolist() == [[False, True, False, False]] and num_behind == 2
    assert uvz[0, 1, 0] > 1 and np.isnan(uvz[~valid]).all()


# --- rows


def test_rows_are_the_projections_into_the_reference_camera():
    xyz, poses = smooth_scene(), moving_camera(60)
    result = episode_samples(episode(xyz, poses=poses), FitBsplineParameters(every=5), Report())
    for sample, frame in enumerate(result.sample_frame):
        rows = rows_of(result, sample)
        uv, z = cameras.project(xyz, K, poses[frame])
        uvz = np.concatenate([2 * (uv + 0.5) / [WIDTH, HEIGHT] - 1, z[..., None]], axis=-1)[:, result.track[rows]]
        np.testing.assert_allclose(result.current[rows], uvz[frame], atol=1e-5)
        for step in range(32):
            known = frame + 1 + step < 60
            assert (result.valid_future[rows, step] == known).all()
            np.testing.assert_allclose(result.future[rows, step], uvz[frame + 1 + step] - uvz[frame] if known else 0, atol=1e-5)
        for step in range(8):
            known = frame - 8 + step >= 0
            assert (result.valid_history[rows, step] == known).all()
            np.testing.assert_allclose(result.history[rows, step], uvz[frame - 8 + step] - uvz[frame] if known else 0, atol=1e-5)
    assert result.sample_frame.tolist() == list(range(0, 50, 5))  # frame 50 has 9 future frames, one less than control points
    assert result.sample_source_frame.tolist() == list(range(0, 100, 10))
    np.testing.assert_array_equal(result.entity, result.track % 3)


def test_a_static_scene_under_a_moving_camera_has_no_motion():
    xyz = np.repeat(smooth_scene(1), 60, axis=0)
    result = episode_samples(episode(xyz, poses=moving_camera(60)), FitBsplineParameters(), Report())
    assert len(result.future) and np.abs(result.future).max() < 1e-6 and np.abs(result.history).max() < 1e-6


def test_rows_are_keypoints_that_are_valid_and_visible_at_the_reference_frame():
    visible, valid = np.ones((60, 12)), np.ones((60, 12))
    visible[20, :5] = 0
    valid[20, 4:7] = 0
    result = episode_samples(episode(smooth_scene(), valid=valid, visible=visible), FitBsplineParameters(every=20), Report())
    assert result.track[rows_of(result, 1)].tolist() == [7, 8, 9, 10, 11]


def test_occluded_and_lost_positions_do_and_do_not_count():
    """A position that is known but not seen is a target; one that is not known is not."""
    visible, valid = np.ones((60, 2)), np.ones((60, 2))
    visible[10:20, 0] = 0
    valid[10:20, 1] = 0
    result = episode_samples(episode(smooth_scene(60, 2), valid=valid, visible=visible), FitBsplineParameters(every=60), Report())
    assert result.valid_future.sum(axis=1).tolist() == [32, 22]
    assert (result.future[1, 9:19] == 0).all()


def test_what_is_left_out_is_counted():
    xyz = smooth_scene(60, 4)
    xyz[5, 0] = np.nan  # marked valid all the same
    xyz[8, 1] = [0, 0, -1]
    visible = np.ones((60, 4))
    visible[20] = 0
    valid = np.ones((60, 4))
    valid[3:, 2] = 0
    report = Report()
    result = episode_samples(episode(xyz, valid=valid, visible=visible), FitBsplineParameters(every=20, horizon=12), report)
    assert report.counts["positions marked valid that are not finite (masked)"] == 1
    assert report.counts["positions behind the reference camera (masked)"] == 1
    assert report.counts["reference frames looked at"] == 3
    assert report.counts["reference frames without a visible keypoint (no sample)"] == 1
    assert report.counts["samples"] == len(result.sample_frame) == 2
    assert report.counts["rows"] == len(result.current) == 7
    assert report.counts["rows with too few valid future steps (no flow loss)"] == 1 == (result.valid_keypoint == 0).sum()
    assert report.counts["future steps that are not known (masked)"] == 1 + 1 + 10 + 3 * 0 + (result.valid_future[4:] == 0).sum()
    assert report.counts["samples without a caption"] == 2


def test_keypoints_count_with_as_many_valid_steps_as_control_points_or_as_asked():
    valid = np.ones((60, 3))
    valid[11:, 1] = 0
    valid[10:, 2] = 0
    scene = episode(smooth_scene(60, 3), valid=valid)
    assert episode_samples(scene, FitBsplineParameters(every=60), Report()).valid_keypoint.tolist() == [1, 1, 0]
    assert episode_samples(scene, FitBsplineParameters(every=60, min_valid=9), Report()).valid_keypoint.tolist() == [1, 1, 1]


def test_only_what_moves_when_asked():
    scene = episode(smooth_scene(60, 4), moving=[1, 0, 1, 0])
    everything = episode_samples(scene, FitBsplineParameters(every=60), Report())
    assert everything.moving.tolist() == [1, 0, 1, 0]
    report = Report()
    assert episode_samples(scene, FitBsplineParameters(every=60, moving_only=True), report).track.tolist() == [0, 2]
    assert report.counts["static tracks left out"] == 2
    with pytest.raises(BadDataError, match="what moves"):
        episode_samples(episode(smooth_scene()), FitBsplineParameters(moving_only=True), Report())


# --- steps in time and in length


def straight(positions):
    """One point at depth 1 whose u is `positions`, in image widths from the centre."""
    xyz = np.zeros((len(positions), 1, 3))
    xyz[:, 0, 0] = np.asarray(positions) * WIDTH / 500
    xyz[:, 0, 2] = 1
    return xyz


def test_steps_in_seconds_are_the_same_whatever_the_frame_rate():
    parameters = FitBsplineParameters(stride_seconds=0.1, history=4, horizon=12)
    fast = episode_samples(episode(straight(0.004 * np.arange(121)), fps=30.0), replace(parameters, every=30), Report())
    slow = episode_samples(episode(straight(0.012 * np.arange(41)), fps=10.0), replace(parameters, every=10), Report())
    assert fast.stride_seconds == slow.stride_seconds == 0.1
    assert len(fast.future) == len(slow.future) == 4
    np.testing.assert_allclose(fast.future, slow.future, atol=1e-5)
    np.testing.assert_allclose(fast.future[1, :, 0], 2 * 0.012 * np.arange(1, 13), atol=1e-5)
    np.testing.assert_array_equal(fast.valid_history, slow.valid_history)


def test_steps_follow_the_time_stamps_of_a_variable_frame_rate():
    pts = np.concatenate([np.arange(20) * 0.1, 2.0 + np.arange(60) * 0.05])
    scene = episode(straight(0.05 * pts), pts=pts)
    result = episode_samples(scene, FitBsplineParameters(stride_seconds=0.075, every=16), Report())
    np.testing.assert_allclose(result.future[1, :, 0], 2 * 0.05 * 0.075 * np.arange(1, 33), atol=1e-5)


def test_time_stamps_rounded_to_milliseconds_need_no_second_frame():
    pts = np.round(np.arange(60) / 30, 3)
    valid = np.ones((60, 1))
    valid[1::2] = 0
    result = episode_samples(
        episode(smooth_scene(60, 1), pts=pts, valid=valid), FitBsplineParameters(stride_seconds=1 / 15, every=60), Report()
    )
    assert result.valid_future[0].tolist() == [1] * 29 + [0] * 3


def test_retargeted_paths_do_not_depend_on_speed():
    t = np.arange(200) / 200
    steady, varying = 2 * t, 2 * (t + 0.12 * np.sin(2 * np.pi * t))
    parameters = FitBsplineParameters(retarget=True, every=200, horizon=16, retarget_reach=20)
    slow, quick = (episode_samples(episode(straight(path - 0.2)), parameters, Report()) for path in (steady, varying))
    np.testing.assert_allclose(slow.future[0, :, 0], 2 * 0.05 * np.arange(1, 17), atol=1e-4)
    np.testing.assert_allclose(quick.future, slow.future, atol=1e-4)
    assert slow.retargeted and slow.stride_seconds == 0


def test_retargeted_history_counts_back_from_the_reference_frame():
    path = np.concatenate([0.01 * np.arange(50), np.full(9, 0.5), 0.5 + 0.01 * np.arange(1, 101)])
    result = episode_samples(episode(straight(path)), FitBsplineParameters(retarget=True, every=55, retarget_step=0.02), Report())
    np.testing.assert_allclose(result.history[1, :, 0], 2 * 0.02 * np.arange(-8, 0), atol=1e-5)
    np.testing.assert_allclose(result.future[1, :, 0], 2 * 0.02 * np.arange(1, 33), atol=1e-5)


def test_a_pause_longer_than_the_reach_ends_a_retargeted_trace():
    path = np.concatenate([0.05 * np.arange(13), np.full(200, 0.6), 0.6 + 0.05 * np.arange(30)])
    near, far = (
        episode_samples(episode(straight(path)), FitBsplineParameters(retarget=True, every=999, retarget_reach=reach), Report())
        for reach in (2, 8)
    )
    assert near.valid_future.sum() == 12 and far.valid_future.sum() == 32


# --- captions


def captions(**changes):
    return Captions(
        captioner="test", episode_text="tidy up",
        event_start=np.array([0, 20, 40]), event_stop=np.array([20, 40, 60]), event_ok=np.array([1, 1, 0]),
        event_before=[""] * 3, event_interaction=[""] * 3, event_after=[""] * 3,
        event_text=["reach", "grasp", ""], event_paraphrases=[["go there", "reach", " "], [], []],
        summary_start=np.array([0]), summary_stop=np.array([40]), summary_level=np.array([2]), summary_text=["reach and grasp"],
    )  # fmt: skip


def test_captions_are_all_that_cover_the_reference_frame_once_each():
    report = Report()
    result = episode_samples(episode(smooth_scene(), captions=captions()), FitBsplineParameters(every=20, min_valid=1), report)
    said = [
        {
            (result.caption_text[i], int(result.caption_level[i]))
            for i in result.sample_caption[slice(*result.sample_caption_offset[s : s + 2])]
        }
        for s in range(3)
    ]
    assert said[0] == {("tidy up", 0), ("reach", 1), ("go there", 1), ("reach and grasp", 2)}
    assert said[1] == {("tidy up", 0), ("grasp", 1), ("reach and grasp", 2)}
    assert said[2] == {("tidy up", 0)}
    assert len(result.caption_text) == 5 and len(result.sample_caption) == 8
    assert report.counts["events without a caption because captioning failed"] == 1


# --- scales and fits


def test_control_points_are_the_ridge_fit_of_the_scaled_future():
    valid = np.ones((60, 12))
    valid[15:22, 3] = 0
    result = corpus([episode(smooth_scene(), valid=valid)], FitBsplineParameters(every=10), Report())
    assert_well_formed(result)
    weights, gamma = bspline.basis(10, 32), np.diff(np.eye(10), axis=0)
    for row in range(len(result.current)):
        mask = np.concatenate([[1], result.valid_future[row]])[:, None]
        target = np.concatenate([np.zeros((1, 3)), result.future[row] / result.delta_scale])
        system, right = np.vstack([mask * weights, 0.2 * gamma]), np.vstack([mask * target, np.zeros((9, 3))])
        expected = np.clip(np.linalg.lstsq(system, right, rcond=None)[0], -1.5, 1.5)
        np.testing.assert_allclose(result.control_points[row], expected, atol=1e-5)


def test_decoded_control_points_are_the_smooth_future():
    result = corpus([episode(smooth_scene())], FitBsplineParameters(every=10, clip=100.0), Report())
    complete = result.valid_future.all(axis=1)
    decoded = bspline.evaluate(result.control_points[complete], 32) * result.delta_scale
    error = np.abs(decoded - result.future[complete]).max(axis=(0, 1))
    assert (error < 0.05 * result.delta_scale).all()


def test_delta_scale_is_the_95th_percentile_of_valid_future_and_depth_range_of_anchors():
    valid = np.random.default_rng(5).random((60, 12)) < 0.9
    result = corpus([episode(smooth_scene(seed=s), valid=valid) for s in (1, 2)], FitBsplineParameters(), Report())
    known = result.valid_future.astype(bool)
    np.testing.assert_allclose(result.delta_scale, np.quantile(np.abs(result.future[known]), 0.95, axis=0), rtol=1e-6)
    np.testing.assert_allclose(result.depth_log_range[1] - result.depth_log_range[0], np.log(2))  # the scene is shallower than that
    deep = smooth_scene() * np.linspace(1, 9, 12)[:, None]
    deep_result = corpus([episode(deep)], FitBsplineParameters(), Report())
    np.testing.assert_allclose(deep_result.depth_log_range, np.log(np.quantile(deep_result.current[:, 2], [0.01, 0.99])), rtol=1e-6)


def test_clipping_is_counted_and_bounds_the_box():
    report = Report()
    result = corpus([episode(smooth_scene())], FitBsplineParameters(clip=0.5), report)
    free = corpus([episode(smooth_scene())], FitBsplineParameters(clip=1e6), Report())
    beyond = (np.abs(free.control_points) > 0.5).any(axis=(1, 2)).sum()
    assert 0 < report.counts["rows whose control points were clipped"] == beyond < len(free.current)
    np.testing.assert_array_equal(result.control_points, np.clip(free.control_points, -0.5, 0.5))
    assert "were clipped" in report.notes[0]


def test_rows_that_do_not_count_have_no_control_points():
    valid = np.ones((60, 2))
    valid[5:, 1] = 0
    result = corpus([episode(smooth_scene(60, 2), valid=valid)], FitBsplineParameters(every=60), Report())
    assert result.valid_keypoint.tolist() == [1, 0]
    assert result.control_points[0].any() and not result.control_points[1].any()


def test_given_scales_are_used_as_they_are():
    given = np.array([0.3, 0.4, 0.5])
    result = corpus([episode(smooth_scene())], FitBsplineParameters(), Report(), delta_scale=given, depth_log_range=np.array([0.0, 2.0]))
    np.testing.assert_array_equal(result.delta_scale, given)
    np.testing.assert_array_equal(result.depth_log_range, [0, 2])
    for bad in ([0, 1, 1], [1, 1, np.nan], [1, 1]):
        with pytest.raises(ConfigurationError, match="delta scale"):
            corpus([], FitBsplineParameters(), Report(), delta_scale=np.array(bad))


def test_shards_of_two_passes_merge_to_the_corpus_of_one(monkeypatch):
    monkeypatch.setattr(stage, "_ROWS_PER_FIT", 7)
    clips = [episode(smooth_scene(seed=s), captions=captions(), clip_id=f"clip {s}") for s in range(3)]
    parameters = FitBsplineParameters()
    scales = CorpusScales()
    for clip in reversed(clips):
        scales.add(episode_samples(clip, parameters, Report()))
    shards = [fit_rows(episode_samples(clip, parameters, Report()), *scales.result(Report()), parameters, Report()) for clip in clips]
    one, merged = corpus(clips, parameters, Report()), merge(shards)
    assert_well_formed(merged)
    for field in fields(Corpus):
        np.testing.assert_array_equal(getattr(merged, field.name), getattr(one, field.name), err_msg=field.name)
    assert merged.clip_name == ["clip 0", "clip 1", "clip 2"]
    assert len(merged.caption_text) == 5
    np.testing.assert_array_equal(np.unique(merged.sample_clip), [0, 1, 2])


# --- corpora that do not fit together, and empty ones


def test_metric_and_relative_depth_do_not_mix_unless_allowed():
    clips = [episode(smooth_scene(), clip_id="sensor"), episode(smooth_scene(), metric=False, clip_id="planar")]
    with pytest.raises(BadDataError, match="metric in sensor and not in planar"):
        corpus(clips, FitBsplineParameters(), Report())
    assert not corpus(clips, FitBsplineParameters(allow_mixed=True), Report()).metric
    assert corpus(clips[:1], FitBsplineParameters(), Report()).metric


def test_clips_of_different_rates_need_a_common_step():
    clips = [episode(smooth_scene(), fps=30.0), episode(smooth_scene(), fps=10.0)]
    with pytest.raises(BadDataError, match=r"0\.03333 s .* 0\.1 s"):
        corpus(clips, FitBsplineParameters(), Report())
    assert corpus(clips, FitBsplineParameters(stride_seconds=0.05, horizon=16), Report()).stride_seconds == pytest.approx(0.05)
    assert len(corpus(clips, FitBsplineParameters(retarget=True, retarget_step=0.001), Report()).clip_name) == 2
    ntsc = [episode(smooth_scene(), fps=30.0), episode(smooth_scene(), fps=29.97)]
    assert corpus(ntsc, FitBsplineParameters(), Report()).stride_seconds == pytest.approx(1 / 30, rel=1e-3)


def test_parts_with_other_parameters_or_scales_do_not_merge():
    clip = episode(smooth_scene())
    base = corpus([clip], FitBsplineParameters(), Report())
    for change, scale, match in [
        ({"ridge": 0.3}, base.delta_scale, "ridge"),
        ({}, 2 * base.delta_scale, "delta_scale"),
        ({"horizon": 24}, base.delta_scale, "future"),
    ]:
        other = corpus([clip], FitBsplineParameters(**change), Report(), delta_scale=scale)
        with pytest.raises(BadDataError, match=match):
            merge([base, other])
    with pytest.raises(BadDataError):
        merge([])


@pytest.mark.parametrize(
    "scene",
    [np.zeros((0, 3, 3)), np.zeros((1, 3, 3)) + 1, np.zeros((60, 0, 3)), np.zeros((60, 3, 3)) - 1, np.full((60, 3, 3), np.nan)],
    ids=["no frames", "one frame", "no tracks", "all behind the camera", "all unknown"],
)
@pytest.mark.parametrize("parameters", [{}, {"retarget": True}, {"stride_seconds": 0.05}])
def test_clips_without_a_row_make_an_empty_corpus(scene, parameters):
    report = Report()
    result = corpus([episode(scene, fps=0.0 if len(scene) < 2 else 30.0)], FitBsplineParameters(**parameters), report)
    assert_well_formed(result)
    assert len(result.current) == 0 and result.clip_name == ["clip"]
    assert report.counts["samples"] == 0 and report.notes
    both = merge([result, corpus([episode(scene)], FitBsplineParameters(**parameters), Report())])
    assert both.clip_name == ["clip", "clip"]


def test_no_clips_make_an_empty_corpus():
    result = corpus([], FitBsplineParameters(), Report())
    assert_well_formed(result)
    assert result.history.shape == (0, 8, 3) and result.control_points.shape == (0, 10, 3)


def test_without_motion_the_scale_is_the_smallest_allowed_and_that_is_counted():
    report = Report()
    result = corpus([episode(np.repeat(smooth_scene(1), 60, axis=0), metric=False)], FitBsplineParameters(), report)
    assert_well_formed(result)
    np.testing.assert_array_equal(result.delta_scale, SMALLEST_DELTA_SCALE)
    assert report.counts["axes without motion, whose delta scale is the smallest allowed"] == 3
    assert np.abs(result.control_points).max() < 1e-3


def test_planar_traces_stay_on_their_plane():
    xyz = smooth_scene()
    xyz[..., 2] = 1
    result = corpus([episode(xyz, metric=False)], FitBsplineParameters(), Report())
    assert_well_formed(result)
    assert (result.current[:, 2] == 1).all() and not result.future[..., 2].any() and not result.metric


def test_episodes_that_were_not_tracked_are_refused():
    for record in ("geometry", "tracks"):
        with pytest.raises(BadDataError, match=record):
            episode_samples(replace(episode(smooth_scene()), **{record: None}), FitBsplineParameters(), Report())


@pytest.mark.parametrize(
    "parameters",
    [
        {"control_points": 9},
        {"min_valid": 33},
        {"horizon": 8},
        {"retarget": True, "stride_seconds": 0.1},
        {"every": 0},
        {"basis": "linear"},
    ],
)
def test_parameters_that_exclude_each_other(parameters):
    with pytest.raises(ConfigurationError):
        corpus([], FitBsplineParameters(**parameters), Report())


def test_presets_are_parameters():
    for preset in stage.PRESETS.values():
        stage.check_parameters(FitBsplineParameters(**preset))


# --- quantiles


def test_streaming_quantiles_are_numpys_while_they_fit_and_close_beyond():
    values = np.random.default_rng(0).lognormal(sigma=3, size=50_000).astype(np.float32)
    values[:2000] = 0.0
    values[2000:2010] = -0.0
    exact, binned, other_order = StreamingQuantiles(), StreamingQuantiles(exact_limit=1000), StreamingQuantiles(exact_limit=1000)
    for batch in np.split(values, 50):
        exact.add(batch)
        binned.add(batch)
    other_order.add(values[::-1])
    for fraction in (0.01, 0.3, 0.5, 0.95, 0.99, 1.0):
        truth = np.quantile(values.astype(np.float64), fraction)
        assert exact.quantile(fraction) == pytest.approx(truth, rel=1e-12)
        assert binned.quantile(fraction) == pytest.approx(truth, rel=5e-4, abs=1e-30)
        assert binned.quantile(fraction) == other_order.quantile(fraction)


def test_a_quantile_of_nothing_is_not_a_number():
    assert np.isnan(StreamingQuantiles().quantile(0.5))
