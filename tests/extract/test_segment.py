"""Segmentation on signals whose peaks and valleys are known, and its filters against scipy.signal."""

import numpy as np
import pytest

from tracekit.errors import BadDataError, ConfigurationError
from tracekit.extract.segment import SegmentParameters, find_peaks, motion_signal, savitzky_golay, segment, smooth
from tracekit.records import Motion, Tracks
from tracekit.report import Report

FPS = 30.0


def tracks_of(xyz, valid=None):
    """Tracks with these world positions (T, N, 3)."""
    num_frames, num_tracks, _ = xyz.shape
    valid = np.ones((num_frames, num_tracks), np.uint8) if valid is None else valid
    nothing = np.zeros(num_tracks, np.int32)
    return Tracks("test", xyz.astype(np.float32), xyz[..., :2].astype(np.float32), valid, valid, nothing, nothing, nothing, nothing)


def moving(mask):
    mask = np.asarray(mask, np.uint8)
    return Motion(40.0, 0.1, np.full(len(mask), 50, np.float32), np.zeros(len(mask), np.int32), mask)


def path_with_acceleration(acceleration, fps=FPS):
    """Positions (T, 1, 3) whose second difference at frame t has the norm acceleration[t] (m/s^2).

    The direction turns by two radians a frame, so that the path stays near the origin where float32 is fine.
    """
    t = np.arange(len(acceleration))
    force = np.asarray(acceleration, float)[:, None] * np.stack([np.cos(2 * t), np.sin(2 * t), 0 * t], axis=-1)
    xyz = np.zeros((len(t), 3))
    for i in range(1, len(t) - 1):
        xyz[i + 1] = 2 * xyz[i] - xyz[i - 1] + force[i] / fps**2
    return xyz[:, None]


def bumps(num_frames, centres, width=16.0, base=0.0):
    t = np.arange(num_frames)
    return base + sum(np.exp(-0.5 * ((t - c) / width) ** 2) for c in centres)


def cut(signal, fps=FPS, report=None, **parameters):
    tracks = tracks_of(path_with_acceleration(np.asarray(signal, float), fps))
    assert len(tracks.valid) == len(signal)
    return segment(tracks, moving([1]), fps, SegmentParameters(**parameters), report=report or Report())


def assert_partition(events, num_frames):
    assert events.start[0] == 0 and events.stop[-1] == num_frames
    assert (events.start[1:] == events.stop[:-1]).all()
    assert (events.stop > events.start).all()


@pytest.mark.parametrize("window, order", [(11, 2), (5, 0), (7, 3), (21, 4)])
def test_smoothing_is_scipys(window, order):
    from scipy.signal import savgol_filter

    values = np.random.default_rng(0).normal(size=64)
    np.testing.assert_allclose(savitzky_golay(values, window, order), savgol_filter(values, window, order), atol=1e-12)
    shortest = values[:window]
    np.testing.assert_allclose(savitzky_golay(shortest, window, order), savgol_filter(shortest, window, order), atol=1e-12)


def test_peaks_are_scipys():
    from scipy import signal

    rng = np.random.default_rng(1)
    for trial in range(300):
        # Rounding makes plateaus; a tiny tilt breaks ties between equal peaks, whose order scipy leaves open, where they are close.
        values = np.round(np.convolve(rng.normal(size=80), np.ones(3) / 3), trial % 2)
        distance = int(rng.integers(1, 12))
        if distance > 1:
            values = values + 1e-4 * rng.normal(size=len(values))
        height, prominence = rng.uniform(-1, 0.5), rng.uniform(0, 1.5)
        expected, _ = signal.find_peaks(values, height=height, prominence=prominence, distance=distance)
        np.testing.assert_array_equal(find_peaks(values, height=height, prominence=prominence, distance=distance), expected)


def test_signal_of_a_constant_acceleration():
    t = np.arange(20) / FPS
    acceleration = np.array([3.0, -4.0, 12.0])
    xyz = 0.5 * t[:, None, None] ** 2 * acceleration + t[:, None, None] * [1, 2, 3]
    signal = motion_signal(tracks_of(xyz), moving([1]), FPS, report=Report())
    assert np.isnan(signal[[0, -1]]).all()
    np.testing.assert_allclose(signal[1:-1], 13.0, rtol=1e-3)


def test_signal_is_the_mean_over_moving_tracks_that_are_valid_three_frames_in_a_row():
    rng = np.random.default_rng(2)
    xyz = rng.normal(size=(30, 6, 3)).astype(np.float32)
    valid = (rng.random((30, 6)) < 0.7).astype(np.uint8)
    xyz[valid == 0] = np.nan
    moves = [1, 0, 1, 1, 0, 1]
    expected = np.full(30, np.nan)
    for t in range(1, 29):
        norms = [
            np.linalg.norm(xyz[t + 1, n].astype(float) - 2 * xyz[t, n].astype(float) + xyz[t - 1, n]) * 100
            for n in range(6)
            if moves[n] and valid[t - 1 : t + 2, n].all()
        ]
        expected[t] = np.mean(norms) if norms else np.nan
    assert np.isnan(expected[1:-1]).any() and np.isfinite(expected).sum() > 15
    report = Report()
    np.testing.assert_allclose(motion_signal(tracks_of(xyz, valid), moving(moves), 10.0, report=report), expected, rtol=1e-5)
    assert report.counts["frames without motion signal, interpolated"] == np.isnan(expected[1:-1]).sum()


def test_position_that_is_not_finite_is_counted_and_left_out():
    xyz = path_with_acceleration(bumps(60, [30]))
    xyz[20] = np.inf
    report = Report()
    events = segment(tracks_of(xyz), moving([1]), FPS, SegmentParameters(), report=report)
    assert report.counts["valid positions that are not finite, left out of the motion signal"] == 1
    assert np.isnan(events.signal[19:22]).all() and np.isfinite(events.smoothed).all()


def test_boundaries_at_the_valleys():
    events = cut(bumps(300, [50, 130, 230]))
    np.testing.assert_allclose(events.peak, [50, 130, 230], atol=1)
    assert_partition(events, 300)
    assert len(events.start) == 3
    # Symmetric bumps of equal height: the valley lies half-way.
    np.testing.assert_allclose(events.start, [0, 90, 180], atol=1)
    for boundary, a, b in zip(events.start[1:], events.peak[:-1], events.peak[1:], strict=True):
        assert boundary == a + np.argmin(events.smoothed[a : b + 1])


def test_gap_in_all_tracks_does_not_move_the_boundaries():
    xyz = path_with_acceleration(bumps(200, [50, 130]))
    valid = np.ones((200, 1), np.uint8)
    valid[70:75] = 0
    xyz[70:75] = np.nan
    events = segment(tracks_of(xyz, valid), moving([1]), FPS, SegmentParameters(), report=Report())
    assert np.isnan(events.signal[69:76]).all() and np.isfinite(events.smoothed).all()
    assert len(events.start) == 2
    assert abs(events.start[1] - 90) <= 3


def test_result_does_not_depend_on_the_unit_of_length():
    xyz = path_with_acceleration(bumps(300, [50, 130, 230], base=0.1))
    ours, theirs = (segment(tracks_of(xyz * s), moving([1]), FPS, SegmentParameters(), report=Report()) for s in (1, 1024))
    np.testing.assert_array_equal(ours.start, theirs.start)


def test_same_scene_at_half_the_rate_is_cut_at_the_same_times():
    slow = cut(bumps(150, [25, 65, 115], width=8), fps=15.0, window=5)
    fast = cut(bumps(300, [50, 130, 230]), fps=30.0, window=11)
    np.testing.assert_allclose(slow.start / 15, fast.start / 30, atol=0.2)


def test_events_shorter_than_the_least_are_merged_across_the_weaker_boundary():
    # Asymmetric bumps 40 frames apart, so that the middle event (about 30 frames) is shorter than the distance of the peaks.
    t = np.arange(200)
    for left, right in [(0.3, 0.1), (0.1, 0.3)]:
        signal = np.interp(t, [0, 60, 78, 100, 108, 140, 199], [0, 1, left, 1, right, 1, 0])
        free = cut(signal, min_duration=10 / FPS)
        assert len(free.start) == 3 and free.stop[1] - free.start[1] < 38
        report = Report()
        merged = cut(signal, min_duration=38 / FPS, report=report)
        assert report.counts["events shorter than the shortest duration, joined to a neighbour"] == 1
        assert len(merged.peak) == 3 and (merged.stop - merged.start >= 38).all()
        stays = free.start[2] if left > right else free.start[1]
        assert merged.start.tolist() == [0, stays]


def test_durations_hold_exactly_on_noise():
    rng = np.random.default_rng(3)
    seen = set()
    for trial in range(60):
        num_frames = int(rng.integers(1, 400))
        low = int(rng.integers(1, 30))
        high = 2 * low + int(rng.integers(0, 40))
        signal = np.abs(np.convolve(rng.normal(size=num_frames + 8), np.ones(9) / 3, "valid"))
        events = cut(signal, min_duration=low / FPS, max_duration=high / FPS, height=0.1, prominence=0.1 * (trial % 3))
        assert_partition(events, num_frames)
        lengths = events.stop - events.start
        assert (lengths <= high).all()
        assert (lengths >= min(low, num_frames)).all()
        seen.add(len(lengths))
    assert len(seen) > 5


def test_long_event_is_split_at_its_lowest_valley():
    # One big peak and, after it, a valley that no other peak of sufficient height follows.
    signal = bumps(250, [60], width=12) + 0.2
    signal += 0.1 * np.exp(-0.5 * ((np.arange(250) - 220) / 10) ** 2) - 0.15 * np.exp(-0.5 * ((np.arange(250) - 170) / 10) ** 2)
    events = cut(signal)
    assert len(events.peak) == 1
    assert_partition(events, 250)
    assert len(events.start) == 2 and abs(events.start[1] - 170) <= 3


def test_long_flat_event_is_split_evenly():
    tracks = tracks_of(np.zeros((450, 1, 3)))
    events = segment(tracks, moving([1]), FPS, SegmentParameters(), report=Report())
    np.testing.assert_array_equal(events.start, [0, 150, 300])


def test_max_events_drops_the_weakest_boundaries():
    signal = bumps(400, [40, 120, 200, 280, 360], width=12)
    signal[70:90] += 0.3
    every = cut(signal)
    assert len(every.start) == 5
    fewer = cut(signal, max_events=4)
    assert_partition(fewer, 400)
    weakest = max(every.start[1:], key=lambda b: every.smoothed[b])
    np.testing.assert_array_equal(fewer.start, [b for b in every.start if b != weakest])
    report = Report()
    one = cut(signal, max_events=1, report=report)
    assert_partition(one, 400)
    assert len(one.start) == 1 and "1 events are longer" in report.notes[0]


def test_crowded_frames_are_left_out():
    xyz = np.repeat(path_with_acceleration(bumps(100, [50])), 5, axis=1)
    valid = np.ones((100, 5), np.uint8)
    valid[60:, 3:] = 0
    report = Report()
    signal = motion_signal(tracks_of(xyz, valid), moving([1] * 5), FPS, 4, report=report)
    assert np.isnan(signal[1:59]).all() and np.isfinite(signal[60:-1]).all()
    name = "frames left out of the motion signal because so much moves that it must be the camera"
    assert report.counts[name] == np.isnan(signal[1:-1]).sum()


@pytest.mark.parametrize("num_frames", [1, 2, 3, 10])
def test_short_clips_are_one_event(num_frames):
    events = cut(bumps(num_frames, [num_frames / 2]))
    assert events.start.tolist() == [0] and events.stop.tolist() == [num_frames]
    assert len(events.signal) == len(events.smoothed) == num_frames and len(events.peak) == 0
    assert np.isfinite(events.smoothed).all()


def test_no_frames_no_events():
    events = segment(tracks_of(np.zeros((0, 3, 3))), moving([1, 0, 1]), FPS, SegmentParameters(), report=Report())
    assert all(len(a) == 0 for a in (events.signal, events.smoothed, events.peak, events.start, events.stop))


@pytest.mark.parametrize("num_tracks", [0, 4])
def test_nothing_moves_is_one_event(num_tracks):
    report = Report()
    events = segment(tracks_of(np.zeros((60, num_tracks, 3))), moving([0] * num_tracks), FPS, SegmentParameters(), report=report)
    assert report.notes == ["no track moves: only the longest duration cuts the clip"]
    assert np.isnan(events.signal).all() and (events.smoothed == 0).all()
    assert events.start.tolist() == [0] and events.stop.tolist() == [60]


def test_smooth_extends_to_the_ends():
    values = np.array([np.nan, 1, 2, np.nan, 4, np.nan])
    np.testing.assert_allclose(smooth(values, 11, 2), [1, 1, 2, 3, 4, 4])


def test_defaults_are_the_releases_frames_at_30_fps():
    parameters = SegmentParameters()
    assert (parameters.min_duration * 30, parameters.max_duration * 30) == (25, 200)


def test_impossible_parameters():
    for wrong in ({"window": 10}, {"window": 3, "order": 3}, {"min_duration": 2.0, "max_duration": 3.0}):
        with pytest.raises(ConfigurationError):
            cut(np.ones(50), **wrong)
    for fps in (0.0, np.nan, -5.0):
        with pytest.raises(BadDataError):
            segment(tracks_of(np.zeros((50, 1, 3))), moving([1]), fps, SegmentParameters(), report=Report())
