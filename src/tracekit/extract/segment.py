"""Cut a clip into events where the motion is lowest between two bursts of acceleration (paper 2.3, A.5).

Smoothing and peak finding are those of `scipy.signal` (the tests hold them to it), written out here because importing
scipy.signal costs a second of start-up, more than the whole stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tracekit.errors import BadDataError, ConfigurationError
from tracekit.parameters import parameter
from tracekit.records import Events, Motion, Tracks
from tracekit.report import Report


@dataclass(frozen=True)
class SegmentParameters:
    """What counts as a burst of motion, and how short and long an event may be.

    The durations are the release's 25 and 200 frames at the usual 30 frames a second, so that a clip is cut alike at any rate.
    """

    window: int = parameter(11, "frames that the Savitzky-Golay filter looks at (odd)", minimum=3)
    order: int = parameter(2, "degree of the Savitzky-Golay polynomial", minimum=0)
    height: float = parameter(0.4, "least height of a peak, as a fraction of the smoothed signal's range", minimum=0, maximum=1)
    prominence: float = parameter(0.4, "least prominence of a peak, as a fraction of the smoothed signal's range", minimum=0, maximum=1)
    min_duration: float = parameter(25 / 30, "shortest event in seconds, to the nearest frame", minimum=0)
    max_duration: float = parameter(200 / 30, "longest event in seconds, to the nearest frame; at least twice --min-duration", minimum=0)
    max_events: int | None = parameter(None, "most events in a clip; wins over --max-duration", minimum=1, wins_over=("max_duration",))
    max_moving: int | None = parameter(None, "leave frames with this many moving tracks out of the signal, as camera motion", minimum=1)


# The release's 25 and 200 frames are frames of its clips, which have 10 a second.
PRESETS: dict[str, dict[str, object]] = {"release": {"min_duration": 2.5, "max_duration": 20.0, "max_events": 6, "max_moving": 300}}


def segment(tracks: Tracks, motion: Motion, fps: float, parameters: SegmentParameters, *, report: Report) -> Events:
    """Events that follow each other without gap and cover all frames (paper A.5, Eq. 2).

    The signal is the mean over the moving tracks of the norm of their acceleration: the second difference of the world
    position over three valid frames in a row, in m/s^2 (in units of the reconstruction where that is not metric). It is NaN
    where no track has one, always at the first and the last frame; there the smoothing works on linear interpolation.

    One event is the answer when there is nothing to cut at: no moving tracks, no peaks, or fewer frames than the window. Only
    the longest duration can then still cut it. No frames, no events. Where no track moves at all, `smoothed` is 0.

    Raises BadDataError when `fps` is no rate, ConfigurationError when the parameters exclude each other.
    """
    shortest, longest = _durations_in_frames(parameters, fps)
    num_frames = len(tracks.valid)
    signal = motion_signal(tracks, motion, fps, parameters.max_moving, report=report)
    smoothed = smooth(signal, parameters.window, parameters.order).astype(np.float32)

    peaks = np.zeros(0, dtype=np.int64)
    if num_frames >= parameters.window and np.isfinite(signal).any():
        low, high = float(smoothed.min()), float(smoothed.max())
        span = high - low
        peaks = find_peaks(smoothed, height=low + parameters.height * span, prominence=parameters.prominence * span, distance=shortest)
    cuts = [a + int(np.argmin(smoothed[a : b + 1])) for a, b in pairwise(peaks.tolist())]

    num_found = len(cuts)
    cuts = _merge_short_events(cuts, smoothed, shortest)
    report.count("events shorter than the shortest duration, joined to a neighbour", num_found - len(cuts))
    cuts = _split_long_events(cuts, smoothed, shortest, longest)
    if parameters.max_events is not None:
        cuts = _merge_surplus_events(cuts, smoothed, parameters.max_events, longest, report)
    edges = np.array([0, *cuts, num_frames] if num_frames else [], dtype=np.int32)
    return Events(
        signal=signal.astype(np.float32), smoothed=smoothed, peak=peaks.astype(np.int32), start=edges[:-1].copy(), stop=edges[1:].copy()
    )


def motion_signal(tracks: Tracks, motion: Motion, fps: float, max_moving: int | None = None, *, report: Report) -> np.ndarray:
    """Mean acceleration (T,) float64 in m/s^2 of the moving tracks; NaN in frames that have none, or `max_moving` or more."""
    moving = motion.moving.astype(bool)
    xyz = tracks.xyz_world[:, moving].astype(np.float64)
    claimed = tracks.valid[:, moving].astype(bool)
    known = claimed & np.isfinite(xyz).all(axis=-1)
    report.count("valid positions that are not finite, left out of the motion signal", int((claimed & ~known).sum()))
    xyz[~known] = np.nan

    if len(xyz) and not moving.any():
        report.note("no track moves: only the longest duration cuts the clip")
    signal = np.full(len(xyz), np.nan)
    if len(xyz) < 3:
        return signal
    acceleration = np.linalg.norm(xyz[2:] - 2 * xyz[1:-1] + xyz[:-2], axis=-1) * fps**2
    defined = known[2:] & known[1:-1] & known[:-2]
    num_defined = defined.sum(axis=1)
    total = np.where(defined, acceleration, 0.0).sum(axis=1)
    usable = num_defined > 0
    if max_moving is not None:
        crowded = num_defined >= max_moving
        report.count("frames left out of the motion signal because so much moves that it must be the camera", int(crowded.sum()))
        usable &= ~crowded
    report.count("frames without motion signal, interpolated", int((~usable).sum()))
    signal[1:-1][usable] = total[usable] / num_defined[usable]
    return signal


def smooth(signal: np.ndarray, window: int, order: int) -> np.ndarray:
    """The signal (T,) with NaN interpolated, after Savitzky-Golay; only interpolated below `window` frames, 0 if all is NaN."""
    frames = np.arange(len(signal))
    known = np.isfinite(signal)
    if not known.any():
        return np.zeros(len(signal))
    filled = np.interp(frames, frames[known], signal[known])
    return filled if len(filled) < window else savitzky_golay(filled, window, order)


def savitzky_golay(values: np.ndarray, window: int, order: int) -> np.ndarray:
    """Each value replaced by that of the polynomial fitted to the `window` values around it (Savitzky and Golay, 1964).

    The first and last half window take their values from the polynomial of the first and last full window, like
    `scipy.signal.savgol_filter(mode="interp")`. Needs an odd window, order < window <= len(values).
    """
    half = window // 2
    basis, _ = np.linalg.qr(np.vander(np.arange(-half, half + 1) / half, order + 1, increasing=True))
    fitted = basis @ basis.T
    inner = np.lib.stride_tricks.sliding_window_view(values, window) @ fitted[half]
    return np.concatenate([fitted[:half] @ values[:window], inner, fitted[half + 1 :] @ values[-window:]])


def find_peaks(values: np.ndarray, *, height: float, prominence: float, distance: int) -> np.ndarray:
    """Indices of local maxima that are high, prominent and apart enough: `scipy.signal.find_peaks` with these three conditions.

    Of peaks closer than `distance` the higher stays. Prominence is the height above the higher of the two lowest points that
    lie between the peak and the next higher value (or the end) on each side.
    """
    peaks = _local_maxima(values)
    peaks = peaks[values[peaks] >= height]
    keep = np.ones(len(peaks), dtype=bool)
    for index in np.argsort(values[peaks], kind="stable")[::-1]:
        if keep[index]:
            keep &= (np.abs(peaks - peaks[index]) >= distance) | (peaks == peaks[index])
    peaks = peaks[keep]
    return peaks[np.array([_prominence(values, peak) >= prominence for peak in peaks], dtype=bool)]


def _prominence(values: np.ndarray, peak: int) -> float:
    higher = np.flatnonzero(values > values[peak])
    split = np.searchsorted(higher, peak)
    left = higher[split - 1] + 1 if split > 0 else 0
    right = higher[split] if split < len(higher) else len(values)
    return values[peak] - max(values[left : peak + 1].min(), values[peak:right].min())


def _local_maxima(values: np.ndarray) -> np.ndarray:
    """Indices of values higher than both neighbours; of a plateau the middle. The ends are none."""
    if len(values) < 3:
        return np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    stops = np.concatenate([starts[1:], [len(values)]])
    level = values[starts]
    higher = np.zeros(len(level), dtype=bool)
    higher[1:-1] = (level[1:-1] > level[:-2]) & (level[1:-1] > level[2:])
    return (starts[higher] + stops[higher] - 1) // 2


def _durations_in_frames(parameters: SegmentParameters, fps: float) -> tuple[int, int]:
    if not (math.isfinite(fps) and fps > 0):
        raise BadDataError(f"the clip has {fps} frames a second", hint="segmentation measures time: give the rate with --fps")
    if parameters.window % 2 == 0:
        raise ConfigurationError(f"--window is {parameters.window}", hint="the filter is centred on a frame: choose an odd number")
    if parameters.order >= parameters.window:
        raise ConfigurationError(f"--order is {parameters.order}, but must be below --window ({parameters.window})")
    if parameters.max_duration < 2 * parameters.min_duration:
        raise ConfigurationError(
            f"--max-duration is {parameters.max_duration:g} s, but --min-duration is {parameters.min_duration:g} s",
            hint="an event that is too long is cut in two: let the longest be at least twice the shortest",
        )
    return max(1, round(parameters.min_duration * fps)), max(1, round(parameters.max_duration * fps))


def _merge_short_events(cuts: list[int], smoothed: np.ndarray, shortest: int) -> list[int]:
    """Shortest first, each short event joins the neighbour behind its weaker boundary: the one with more motion."""
    cuts = list(cuts)
    while cuts:
        edges = [0, *cuts, len(smoothed)]
        lengths = np.diff(edges)
        event = int(np.argmin(lengths))
        if lengths[event] >= shortest:
            break
        own = [cut for cut in (edges[event], edges[event + 1]) if 0 < cut < len(smoothed)]
        cuts.remove(max(own, key=lambda cut: smoothed[cut]))
    return cuts


def _split_long_events(cuts: list[int], smoothed: np.ndarray, shortest: int, longest: int) -> list[int]:
    """Cut long events at their lowest valley that leaves both parts long enough; evenly where there is no valley."""
    valleys = _local_maxima(-smoothed)
    result = list(cuts)
    pending = list(pairwise([0, *cuts, len(smoothed)]))
    while pending:
        start, stop = pending.pop()
        if stop - start <= longest:
            continue
        inside = valleys[(valleys >= start + shortest) & (valleys <= stop - shortest)]
        if len(inside):
            cut = int(inside[np.argmin(smoothed[inside])])
            pending += [(start, cut), (cut, stop)]
            result.append(cut)
        else:
            parts = -(-(stop - start) // longest)
            result += [start + (stop - start) * part // parts for part in range(1, parts)]
    return sorted(result)


def _merge_surplus_events(cuts: list[int], smoothed: np.ndarray, max_events: int, longest: int, report: Report) -> list[int]:
    """Drop the weakest boundaries; those first whose removal makes no event too long."""
    cuts = list(cuts)
    while len(cuts) + 1 > max_events:
        edges = [0, *cuts, len(smoothed)]
        harmless = [cut for before, cut, after in zip(edges, edges[1:], edges[2:], strict=False) if after - before <= longest]
        cuts.remove(max(harmless or cuts, key=lambda cut: smoothed[cut]))
    too_long = int((np.diff([0, *cuts, len(smoothed)]) > longest).sum())
    if too_long:
        report.note(f"{too_long} events are longer than the longest duration: the clip is too long for {max_events} events")
    return cuts
