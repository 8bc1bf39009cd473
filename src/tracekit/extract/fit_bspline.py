"""Training rows from episodes: what a keypoint did before a reference frame, and the spline of what it did after (paper 2.4, 3.2, B.2).

The work has two passes, because the targets are divided by scales of the whole corpus: `episode_samples` makes the rows of each episode,
`CorpusScales` measures them, `fit_control_points` fits them. `tracekit.extract.build_corpus` does so with files, one episode in memory
at a time; `corpus` in one go where the rows of all episodes fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tracekit.errors import BadDataError, ConfigurationError
from tracekit.extract.corpus_scales import CorpusScales
from tracekit.extract.merge_corpora import ROW_COLUMNS, merge, offsets
from tracekit.extract.reference_traces import reference_traces
from tracekit.geometry import bspline, retarget
from tracekit.parameters import check, parameter
from tracekit.records import Captions, Corpus, Episode
from tracekit.report import Report


@dataclass(frozen=True)
class FitBsplineParameters:
    """Which rows are taken, and how their splines are fitted."""

    history: int = parameter(8, "steps before the reference frame", minimum=0)
    horizon: int = parameter(32, "steps after the reference frame", minimum=1)
    # None, not a number of frames or of seconds: the paper's step is one frame of its clip, whatever the rate.
    stride_seconds: float | None = parameter(None, "time between two steps in seconds; one frame of the clip when not given", minimum=1e-3)
    every: int = parameter(4, "take every N-th frame as a reference frame", minimum=1)
    control_points: int = parameter(10, "control points of a spline", minimum=4)
    basis: str = parameter("bezier", "knots of the spline: 4, 7, 10, ... control points for bezier", choices=bspline.KNOTS)
    ridge: float = parameter(0.2, "weight of the first differences of the control points, lambda_bsp of Eq. 4", minimum=1e-3)
    clip: float = parameter(1.5, "bound on the control points after the fit, in units of the delta scale", minimum=0.0)
    min_valid: int | None = parameter(
        None, "valid future steps that a row needs to count in the flow loss; as many as control points when not given", minimum=1
    )
    moving_only: bool = parameter(False, "leave out keypoints that do not move")
    retarget: bool = parameter(False, "resample to constant speed: steps are equal lengths of path instead of equal times")
    retarget_step: float = parameter(
        0.05, "length of path between two steps, in image widths, image heights and units of depth", minimum=1e-6
    )
    retarget_fastest: float = parameter(
        0.02, "fraction of the keypoints, the fastest, whose speed is made constant", minimum=0.0, maximum=1.0
    )
    retarget_reach: int = parameter(8, "frames per step, at most, that are searched for motion; a longer pause ends the trace", minimum=1)
    allow_mixed: bool = parameter(False, "put clips with and without metric depth into one corpus")


# The release trains on paths of constant speed, of moving keypoints alone, from every frame (infer.py).
PRESETS: dict[str, dict[str, object]] = {
    "release": {"every": 1, "moving_only": True, "retarget": True, "retarget_step": 0.05, "retarget_fastest": 0.02}
}

# A step this close to a frame, in frames, is that frame: time stamps come rounded to milliseconds.
_SAME_FRAME = 0.02

# Clipping more than this fraction of the rows is worth a word: the scale leaves 5 % of the steps beyond 1.
_MANY_CLIPPED = 0.05

# Rows that are fitted at once; bounds memory.
_ROWS_PER_FIT = 65536


def episode_samples(episode: Episode, parameters: FitBsplineParameters, report: Report) -> Corpus:
    """The rows of one episode, not fitted yet: a Corpus with no control points (R, 0, 3) and NaN scales (see `fit_rows`).

    A sample is every `every`-th frame; its rows are the keypoints that are valid and visible there. Positions are seen from the
    camera of that frame, off-screen ones kept; steps between two frames are linear in (u, v, z). Frames without a row, or
    without a row whose future is known for `min_valid` steps, give no sample and are counted.
    Raises BadDataError when the episode has not been tracked, ConfigurationError when parameters exclude each other.
    """
    min_valid = check_parameters(parameters)
    if episode.geometry is None or episode.tracks is None:
        missing = "geometry" if episode.geometry is None else "tracks"
        raise BadDataError(
            f"episode {episode.clip_id} has no {missing}", hint="run `tracekit reconstruct` and `tracekit track` on it first"
        )
    video, geometry, tracks = episode.video, episode.geometry, episode.tracks
    num_frames = len(tracks.valid)
    valid = tracks.valid.astype(bool) & np.isfinite(tracks.xyz_world).all(axis=2)
    report.count("positions marked valid that are not finite (masked)", int(np.count_nonzero(tracks.valid) - np.count_nonzero(valid)))
    candidates = valid & tracks.visible.astype(bool)
    moving = _moving(episode, parameters, report)
    if parameters.moving_only:
        report.count("static tracks left out", int(np.count_nonzero(~moving)))
        candidates &= moving

    samples: list[dict[str, np.ndarray]] = []
    frames: list[int] = []
    num_behind = num_without_rows = num_without_future = 0
    references = range(0, num_frames, parameters.every)
    for done, frame in enumerate(references):
        report.progress(done, len(references), "reference frames")
        rows = np.flatnonzero(candidates[frame])
        window, times = _window(frame, video.pts, num_frames, parameters)
        points, known, behind = reference_traces(
            tracks.xyz_world[window[:, None], rows],
            valid[window[:, None], rows],
            geometry.intrinsics,
            geometry.world_from_camera[frame],
            (video.width, video.height),
        )
        num_behind += behind
        here = int(np.searchsorted(window, frame))
        rows, points, known = rows[known[here]], points[:, known[here]], known[:, known[here]]
        if len(rows) == 0:
            num_without_rows += 1
            continue
        if parameters.retarget:
            times = _times_at_constant_speed(points, known, here, parameters)
        sample = _sample(*retarget.resample(points, known, times), parameters.history)
        sample["valid_keypoint"] = (sample["valid_future"].sum(axis=1) >= min_valid).astype(np.uint8)
        if not sample["valid_keypoint"].any():
            num_without_future += 1
            continue
        sample |= {"track": rows.astype(np.int32), "entity": tracks.entity[rows], "moving": moving[rows].astype(np.uint8)}
        samples.append(sample)
        frames.append(frame)
    report.progress(len(references), len(references), "reference frames")

    sample_frame = np.array(frames, dtype=np.int32)
    texts, levels, caption_offset, links = _captions(episode.captions, sample_frame, report)
    report.count("reference frames looked at", len(references))
    report.count("reference frames without a visible keypoint (no sample)", num_without_rows)
    report.count("reference frames whose keypoints all have too short a future (no sample)", num_without_future)
    report.count("positions behind the reference camera (masked)", num_behind)
    report.count("samples", len(samples))
    columns = _columns(samples, parameters)
    report.count("rows", len(columns["current"]))
    report.count("rows with too few valid future steps (no flow loss)", int(np.count_nonzero(columns["valid_keypoint"] == 0)))
    report.count("future steps that are not known (masked)", int(np.count_nonzero(columns["valid_future"] == 0)))
    return Corpus(
        stride_seconds=_stride_seconds(video.fps, parameters),
        retargeted=parameters.retarget,
        metric=bool(geometry.metric),
        basis=parameters.basis,
        ridge=parameters.ridge,
        clip_limit=parameters.clip,
        delta_scale=np.full(3, np.nan),
        depth_log_range=np.full(2, np.nan),
        clip_name=[episode.clip_id],
        clip_uri=[video.uri],
        clip_sha256=[video.sha256],
        sample_clip=np.zeros(len(samples), dtype=np.int32),
        sample_frame=sample_frame,
        sample_source_frame=video.source_frame[sample_frame].astype(np.int32),
        sample_offset=offsets([len(sample["current"]) for sample in samples]),
        caption_text=texts,
        caption_level=levels,
        sample_caption_offset=caption_offset,
        sample_caption=links,
        **columns,
    )


def fit_rows(
    samples: Corpus, delta_scale: np.ndarray, depth_log_range: np.ndarray, parameters: FitBsplineParameters, report: Report
) -> Corpus:
    """`samples` with the control points of Eq. 4, fitted to future / delta_scale with the anchor at 0, then clipped.

    Rows that do not count in the flow loss get zeros: their future is not known well enough. Raises ConfigurationError when
    a scale is not a positive number.
    """
    control_points, num_clipped = fit_control_points(samples.future, samples.valid_future, samples.valid_keypoint, delta_scale, parameters)
    count_clipped(num_clipped, int(np.count_nonzero(samples.valid_keypoint)), parameters, report)
    return replace(
        samples,
        control_points=control_points,
        delta_scale=np.asarray(delta_scale, dtype=np.float64),
        depth_log_range=np.asarray(depth_log_range, dtype=np.float64),
        basis=parameters.basis,
        ridge=parameters.ridge,
        clip_limit=parameters.clip,
    )


def fit_control_points(
    future: np.ndarray, valid_future: np.ndarray, valid_keypoint: np.ndarray, delta_scale: np.ndarray, parameters: FitBsplineParameters
) -> tuple[np.ndarray, int]:
    """The control points (R, D, 3) of rows with `future` (R, H, 3), and how many rows were clipped: see `fit_rows`."""
    check_delta_scale(delta_scale)
    num_rows, num_steps = valid_future.shape
    control_points = np.zeros((num_rows, parameters.control_points, 3), dtype=np.float32)
    num_clipped = 0
    counting = np.flatnonzero(valid_keypoint)
    for start in range(0, len(counting), _ROWS_PER_FIT):
        rows = counting[start : start + _ROWS_PER_FIT]
        targets = np.zeros((len(rows), num_steps + 1, 3))
        targets[:, 1:] = future[rows] / delta_scale
        valid = np.ones((len(rows), num_steps + 1), dtype=bool)
        valid[:, 1:] = valid_future[rows]
        fitted = bspline.fit(targets, valid, parameters.control_points, parameters.ridge, parameters.basis)
        num_clipped += int((np.abs(fitted) > parameters.clip).any(axis=(1, 2)).sum())
        control_points[rows] = bspline.clip_control_points(fitted, parameters.clip)
    return control_points, num_clipped


def check_delta_scale(delta_scale: np.ndarray) -> None:
    """Raises ConfigurationError unless a scale is three positive numbers."""
    if np.shape(delta_scale) != (3,) or not (np.isfinite(delta_scale) & (np.asarray(delta_scale) > 0)).all():
        raise ConfigurationError(
            f"the delta scale is {np.asarray(delta_scale).tolist()}", hint="it must be three positive numbers, for u, v and z"
        )


def count_clipped(num_clipped: int, num_counting: int, parameters: FitBsplineParameters, report: Report) -> None:
    """Tell how many of the rows that count were clipped."""
    report.count("rows whose control points were clipped", num_clipped)
    if num_clipped > _MANY_CLIPPED * num_counting:
        report.note(
            f"{100 * num_clipped / num_counting:.0f} % of the rows have control points beyond {parameters.clip:g} delta scales, which were clipped: "
            "their targets stop short of the motion. Resting keypoints make the scale small; --moving-only or a larger --clip helps."
        )


def corpus(
    episodes: Iterable[Episode],
    parameters: FitBsplineParameters,
    report: Report,
    delta_scale: np.ndarray | None = None,
    depth_log_range: np.ndarray | None = None,
) -> Corpus:
    """The training rows of `episodes`, fitted. Holds all of them in memory (`build_corpus` does not).

    `delta_scale` and `depth_log_range` are measured on these rows where they are not given. No episodes give an empty corpus.
    """
    check_parameters(parameters)
    samples = merge([episode_samples(episode, parameters, report) for episode in episodes] or [empty(parameters)], parameters.allow_mixed)
    if delta_scale is None or depth_log_range is None:
        scales = CorpusScales()
        scales.add(samples)
        measured_delta, measured_range = scales.result(report)
        delta_scale = measured_delta if delta_scale is None else delta_scale
        depth_log_range = measured_range if depth_log_range is None else depth_log_range
    return fit_rows(samples, delta_scale, depth_log_range, parameters, report)


def check_parameters(parameters: FitBsplineParameters) -> int:
    """Raises ConfigurationError unless the parameters are allowed, one by one and together. Returns the `min_valid` in force."""
    check(parameters)
    bspline.basis(parameters.control_points, parameters.horizon, parameters.basis)
    min_valid = parameters.control_points if parameters.min_valid is None else parameters.min_valid
    if min_valid > parameters.horizon:
        raise ConfigurationError(
            f"a row needs {min_valid} valid future steps, but there are only {parameters.horizon}",
            hint="lower --min-valid or --control-points, or raise --horizon",
        )
    if parameters.retarget and parameters.stride_seconds is not None:
        raise ConfigurationError(
            "--stride-seconds has no meaning with --retarget", hint="steps are then equal lengths of path: see --retarget-step"
        )
    return min_valid


def _stride_seconds(fps: float, parameters: FitBsplineParameters) -> float:
    """Time between two steps; 0 where steps are not equal times, or the clip has no rate."""
    if parameters.retarget:
        return 0.0
    if parameters.stride_seconds is not None:
        return parameters.stride_seconds
    return 1.0 / fps if fps > 0 else 0.0


def _moving(episode: Episode, parameters: FitBsplineParameters, report: Report) -> np.ndarray:
    """Which tracks move (N,) bool."""
    assert episode.tracks is not None
    if episode.motion is not None:
        return episode.motion.moving.astype(bool)
    if parameters.moving_only:
        raise BadDataError(f"it is not known what moves in episode {episode.clip_id}", hint="run `tracekit filter` on it first")
    num_tracks = episode.tracks.valid.shape[1]
    report.count("tracks taken as moving because the episode was not filtered", num_tracks)
    return np.ones(num_tracks, dtype=bool)


def _window(frame: int, pts: np.ndarray, num_frames: int, parameters: FitBsplineParameters) -> tuple[np.ndarray, np.ndarray]:
    """The frames (n,), ascending, that the steps around `frame` need, and the time of each step (h + 1 + H,) as a place among
    those frames; NaN before the clip's start and after its end. When retargeting, times are not known yet, and empty."""
    history, horizon = parameters.history, parameters.horizon
    if parameters.retarget:
        start = max(0, frame - parameters.retarget_reach * history)
        stop = min(num_frames, frame + parameters.retarget_reach * horizon + 1)
        return np.arange(start, stop), np.zeros(0)
    steps = np.arange(-history, horizon + 1, dtype=np.float64)
    if parameters.stride_seconds is None:
        times = frame + steps
    else:
        times = np.interp(pts[frame] + steps * parameters.stride_seconds, pts, np.arange(num_frames), left=np.nan, right=np.nan)
        nearest = np.rint(times)
        times = np.where(np.abs(times - nearest) < _SAME_FRAME, nearest, times)
        times[history] = frame
    times[(times < 0) | (times > num_frames - 1)] = np.nan
    known = times[np.isfinite(times)]
    window = np.unique(np.concatenate([np.floor(known), np.ceil(known)])).astype(int)
    # The two frames around a step are neighbours in the window too.
    before = np.floor(times)
    return window, np.where(np.isfinite(times), np.searchsorted(window, before) + (times - before), np.nan)


def _times_at_constant_speed(points: np.ndarray, known: np.ndarray, here: int, parameters: FitBsplineParameters) -> np.ndarray:
    """Times (h + 1 + H,) as places among the frames of `points` at which the group has covered equal lengths of path, counted
    from the frame at `here` in both directions; NaN where it has not moved that far."""
    fractions = points * [0.5, 0.5, 1.0]  # [-1, 1] is two units wide, (u/W, v/H) one
    ahead = retarget.path_length(fractions[here:], known[here:], parameters.retarget_fastest)
    behind = retarget.path_length(fractions[here::-1], known[here::-1], parameters.retarget_fastest)
    step = parameters.retarget_step
    after = here + retarget.times_at(ahead, step * np.arange(1, parameters.horizon + 1))
    before = here - retarget.times_at(behind, step * np.arange(parameters.history, 0, -1))
    return np.concatenate([before, [here], after])


def _sample(points: np.ndarray, known: np.ndarray, history: int) -> dict[str, np.ndarray]:
    """The positions of one sample's n rows at all steps, points (h + 1 + H, n, 3) and known (h + 1 + H, n), as columns."""
    points, known = points.swapaxes(0, 1), known.swapaxes(0, 1)
    current = points[:, history]
    delta = np.where(known[..., None], points - current[:, None], 0.0).astype(np.float32)
    return {
        "current": current.astype(np.float32),
        "history": delta[:, :history],
        "future": delta[:, history + 1 :],
        "valid_history": known[:, :history].astype(np.uint8),
        "valid_future": known[:, history + 1 :].astype(np.uint8),
    }


def _columns(samples: list[dict[str, np.ndarray]], parameters: FitBsplineParameters) -> dict[str, Any]:
    """The columns of all rows, of the declared shape and dtype even where there are none; no control points yet."""
    sizes = {"h": parameters.history, "F": parameters.horizon, "D": 0}
    num_rows = sum(len(sample["current"]) for sample in samples)
    columns = {}
    for name, spec in ROW_COLUMNS.items():
        assert spec.shape is not None
        shape = tuple(axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape[1:])
        if name == "control_points":
            columns[name] = np.zeros((num_rows, *shape), dtype=spec.dtype)
        else:
            columns[name] = np.concatenate([np.zeros((0, *shape), dtype=spec.dtype), *(sample[name] for sample in samples)])
    return columns


def _captions(captions: Captions | None, sample_frame: np.ndarray, report: Report) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Texts (Q), their levels (Q,), and for the samples at `sample_frame` (S,) the offsets (S + 1,) and the texts that cover each."""
    spans = [] if captions is None else _caption_spans(captions, report)
    index: dict[tuple[str, int], int] = {}
    links: list[list[int]] = []
    for frame in sample_frame.tolist():
        covering = [(text, level) for start, stop, level, text in spans if start <= frame < stop]
        links.append(sorted({index.setdefault(entry, len(index)) for entry in covering}))
    report.count("samples without a caption", sum(not covering for covering in links))
    texts = [text for text, _ in index]
    levels = np.array([level for _, level in index], dtype=np.int32)
    return texts, levels, offsets([len(link) for link in links]), np.array([entry for link in links for entry in link], dtype=np.int32)


def _caption_spans(captions: Captions, report: Report) -> list[tuple[float, float, int, str]]:
    """(first frame, one past the last, level, text) of everything said about the clip. Empty texts say nothing."""
    spans: list[tuple[float, float, int, str]] = [(0, np.inf, 0, captions.episode_text)]
    for i, ok in enumerate(captions.event_ok):
        if ok:
            texts = (captions.event_text[i], *captions.event_paraphrases[i])
            spans += [(captions.event_start[i], captions.event_stop[i], 1, text) for text in texts]
    report.count("events without a caption because captioning failed", int(np.count_nonzero(captions.event_ok == 0)))
    for i, text in enumerate(captions.summary_text):
        spans.append((captions.summary_start[i], captions.summary_stop[i], int(captions.summary_level[i]), text))
    return [(start, stop, level, text.strip()) for start, stop, level, text in spans if text.strip()]


def empty(parameters: FitBsplineParameters) -> Corpus:
    """A corpus of no clips."""
    nothing = np.zeros(0, dtype=np.int32)
    return Corpus(
        stride_seconds=parameters.stride_seconds or 0.0,
        retargeted=parameters.retarget,
        metric=True,
        basis=parameters.basis,
        ridge=parameters.ridge,
        clip_limit=parameters.clip,
        delta_scale=np.full(3, np.nan),
        depth_log_range=np.full(2, np.nan),
        clip_name=[],
        clip_uri=[],
        clip_sha256=[],
        sample_clip=nothing,
        sample_frame=nothing,
        sample_source_frame=nothing,
        sample_offset=offsets([]),
        caption_text=[],
        caption_level=nothing,
        sample_caption_offset=offsets([]),
        sample_caption=nothing,
        **_columns([], parameters),
    )
