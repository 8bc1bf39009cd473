"""How good predicted traces are (paper 4.1, D.1): the figures of one predictions file, with baselines and intervals.

    scores = score(predictions, TraceParameters(metric=["ade", "dtw"], horizons="32", resamples=0))
    scores.numbers()["dtw/top5/32"], scores.numbers()["static/dtw/top1/32"]

Imports neither h5py nor torch, and numba only when something is scored, so that training can validate with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tracekit.errors import BadDataError, ConfigurationError
from tracekit.evaluation import trace_baselines, trace_metrics, trace_protocols
from tracekit.evaluation.trace_protocols import ClipBootstrap, Grouping
from tracekit.parameters import check, parameter
from tracekit.records import Predictions, TraceValues
from tracekit.report import Report

METRICS = ("ade", "fde", "dtw", "frechet")
SPACES = {"uv": slice(0, 2), "uvz": slice(0, 3), "z": slice(2, 3)}
STATIC, CONSTANT_VELOCITY = "static", "constant-velocity"


@dataclass(frozen=True)
class TraceParameters:
    """What is measured, and how it is averaged."""

    metric: list[str] | None = parameter(None, f"What to measure, once or more: {', '.join(METRICS)}. All of them by default.")
    horizons: str = parameter("8,16,32", "Steps that are scored, by comma: prefixes of one prediction.")
    top: str = parameter("1,5", "Draws of which the best counts, keypoint by keypoint; by comma. 1 is the first draw.")
    space: str = parameter("uvz", "Coordinates in which distances are taken: u, v in [-1, 1], z in metres.", choices=tuple(SPACES))
    protocol: str = parameter(
        "mu0", "mu0 averages over all traces; paper over the keypoints of a slot, then over slots (D.1).", choices=trace_protocols.PROTOCOLS
    )
    fde: str = parameter(
        "last-valid",
        "FDE at the last valid step, or only of keypoints that are valid at the horizon itself.",
        choices=("last-valid", "at-horizon"),
    )
    dtw: str = parameter(
        "valid-steps",
        "What the sum along the DTW path is divided by: valid steps, or the path's length.",
        choices=("valid-steps", "path-mean"),
    )
    keypoints_per_slot: int = parameter(
        16, "With --protocol paper: at most so many keypoints of a slot, drawn at random; 0 is all.", minimum=0
    )
    resamples: int = parameter(
        1000, "Draws of the bootstrap over clips that gives the 95 % intervals; 0 is none.", minimum=0, maximum=100_000
    )

    @property
    def metrics(self) -> list[str]:
        """What to measure, in the order of METRICS."""
        asked = self.metric or list(METRICS)
        for name in asked:
            if name not in METRICS:
                raise ConfigurationError(f"--metric is {name!r}", hint=f"choose one of: {', '.join(METRICS)}")
        return [name for name in METRICS if name in asked]

    @property
    def horizon_steps(self) -> list[int]:
        """Ascending."""
        return _numbers("--horizons", self.horizons)

    @property
    def top_draws(self) -> list[int]:
        """Ascending."""
        return _numbers("--top", self.top)


@dataclass(frozen=True)
class Figure:
    """One number of a table. NaN is what cannot be told."""

    metric: str
    """One of METRICS, or dtw_valid_steps / dtw_path_mean: the normalisation of DTW that was not asked for."""
    top: int
    joint: bool
    """False: the best draw of each keypoint. True: the best draw of each slot, the same for all its keypoints."""
    horizon: int
    mean: float
    low: float
    high: float
    """95 % interval over clips."""
    num_traces: int

    @property
    def key(self) -> str:
        """Its name in a log: "dtw/top5/32"."""
        return f"{self.metric}/top{self.top}{'-joint' if self.joint else ''}/{self.horizon}"


@dataclass(frozen=True)
class MethodScores:
    """All figures of one predictor."""

    name: str
    """The name of the file, or of the baseline."""
    is_baseline: bool
    figures: list[Figure]

    def figure(self, metric: str, top: int, horizon: int, *, joint: bool = False) -> Figure | None:
        """None where there is no such figure."""
        wanted = (metric, top, horizon, joint)
        return next((f for f in self.figures if (f.metric, f.top, f.horizon, f.joint) == wanted), None)


@dataclass(frozen=True)
class TraceScores:
    """The predictions of one file and both baselines on the same keypoints."""

    name: str
    methods: list[MethodScores]
    """The predictor, `static`, `constant-velocity`."""
    num_traces: int
    num_slots: int
    num_clips: int
    counts: dict[str, int]
    """What was left out or masked, by name."""
    notes: list[str]
    values: TraceValues = field(repr=False)
    """Every scored trace."""

    def numbers(self) -> dict[str, float]:
        """The means by name, for a log: "dtw/top5/32" of the predictor, "static/dtw/top1/32" and so on of the baselines."""
        return {
            (f"{method.name}/" if method.is_baseline else "") + figure.key: figure.mean
            for method in self.methods
            for figure in method.figures
        }


def score(
    predictions: Predictions,
    parameters: TraceParameters | None = None,
    *,
    seed: int = 0,
    report: Report | None = None,
    name: str = "predictions",
) -> TraceScores:
    """Score predicted traces against what happened, and both baselines on the same keypoints.

    Scored are the keypoints that move, at the steps where the truth is known. Where that leaves nothing, figures are NaN and a note
    says so. Raises BadDataError, naming `name` and the place, when the truth is missing and when a number that counts is not finite.
    """
    parameters = parameters or TraceParameters()
    check(parameters)
    report = report or Report()
    num_earlier_notes = len(report.notes)
    scored = _Scored(predictions, parameters, seed, report, name)
    draws = _draws(predictions, parameters, report, name)
    bootstrap = ClipBootstrap(scored.grouping.num_clips, parameters.resamples, seed)
    if scored.grouping.num_clips == 1 and parameters.resamples:
        report.note(f"{name} is about one clip: there are no intervals")
    methods: list[MethodScores] = []
    values: dict[str, list[np.ndarray]] = {metric: [] for metric in _measured(parameters)}
    for place, (method, traces) in enumerate(scored.predictors(draws)):
        is_baseline = place > 0  # a file may have the name of a baseline
        measured = measure(traces, scored.true_traces, scored.valid, parameters)
        methods.append(_summary(method, measured, parameters, scored.grouping, bootstrap, is_baseline=is_baseline))
        for metric, distances in measured.items():
            values[metric].append(np.stack([_top(distances, top, is_baseline) for top in parameters.top_draws], axis=1))
    return TraceScores(
        name=name,
        methods=methods,
        num_traces=len(scored.rows),
        num_slots=len(np.unique(scored.grouping.slot)),
        num_clips=scored.grouping.num_clips,
        counts=dict(report.counts),
        notes=report.notes[num_earlier_notes:],
        values=TraceValues(
            predictor=[method.name for method in methods],
            horizon=np.array(parameters.horizon_steps),
            top=np.array(parameters.top_draws),
            space=parameters.space,
            row=scored.rows,
            clip=[predictions.sample_clip[sample] for sample in scored.grouping.slot],
            sample=scored.grouping.slot,
            num_valid=np.stack([scored.valid[:, :horizon].sum(axis=1) for horizon in parameters.horizon_steps], axis=1),
            **{metric: np.stack(parts, axis=1) for metric, parts in values.items()},
        ),
    )


def measure(traces: np.ndarray, true_traces: np.ndarray, valid: np.ndarray, parameters: TraceParameters) -> dict[str, np.ndarray]:
    """Every metric that is asked for, (R, S, T): see `tracekit.evaluation.trace_metrics`. DTW comes in both normalisations."""
    where = traces, true_traces, valid, parameters.horizon_steps
    measured: dict[str, np.ndarray] = {}
    if {"ade", "fde"} & set(parameters.metrics):
        measured["ade"], measured["fde"] = trace_metrics.displacement(*where, at_horizon=parameters.fde == "at-horizon")
    if "dtw" in parameters.metrics:
        for metric in _dtw_names(parameters):
            measured[metric] = trace_metrics.dtw(*where, path_mean=_is_path_mean(metric, parameters))
    if "frechet" in parameters.metrics:
        measured["frechet"] = trace_metrics.frechet(*where)
    return {metric: measured[metric] for metric in _measured(parameters)}


def _measured(parameters: TraceParameters) -> list[str]:
    names = {"dtw": _dtw_names(parameters)}
    return [name for metric in parameters.metrics for name in names.get(metric, (metric,))]


def _dtw_names(parameters: TraceParameters) -> tuple[str, str]:
    """The normalisation that was asked for, and the other one."""
    return "dtw", "dtw_valid_steps" if parameters.dtw == "path-mean" else "dtw_path_mean"


def _is_path_mean(metric: str, parameters: TraceParameters) -> bool:
    return metric == "dtw_path_mean" or (metric == "dtw" and parameters.dtw == "path-mean")


class _Scored:
    """The rows of a predictions file that count, checked."""

    def __init__(self, predictions: Predictions, parameters: TraceParameters, seed: int, report: Report, name: str) -> None:
        missing = [
            path for path, value in (("truth/traces", predictions.true_traces), ("truth/valid", predictions.true_valid)) if value is None
        ]
        if predictions.true_traces is None or predictions.true_valid is None:
            raise BadDataError(
                f"{name} has no {' and no '.join(missing)}: there is nothing to score against",
                hint="`tracekit rollout` writes what happened when it predicts samples of a corpus",
            )
        self._name = name
        self._predictions = predictions
        self._coordinates = SPACES[parameters.space]
        self._report = report
        last = min(max(parameters.horizon_steps), predictions.traces.shape[2])
        self.rows = self._choose(predictions.true_valid[:, :last].astype(bool), parameters, seed)
        self.valid = predictions.true_valid[self.rows].astype(bool)
        self.true_traces = self._of(predictions.true_traces)
        slot = predictions.sample[self.rows]
        clips, clip = np.unique(np.array(predictions.sample_clip, dtype=object)[slot].astype(str), return_inverse=True)
        self.grouping = Grouping(slot, clip, len(clips))
        self._counted = self.valid & (np.arange(self.valid.shape[1]) < last)
        report.count("steps without truth (masked)", self.valid[:, :last].size - int(self._counted.sum()))
        self._refuse_not_finite("truth/traces", self.true_traces, self._counted)
        if parameters.fde == "at-horizon" and "fde" in parameters.metrics:
            for horizon in parameters.horizon_steps:
                if horizon <= self.valid.shape[1]:
                    report.count(f"keypoints without truth at step {horizon} (no FDE there)", int((~self.valid[:, horizon - 1]).sum()))

    def predictors(self, draws: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """(name, traces (R, S, F, C)) of the predictor, whose draws are (all rows, S, F, 3), and of the baselines."""
        traces = self._of(draws)
        self._refuse_not_finite("prediction/traces", traces, np.repeat(self._counted[:, None], traces.shape[1], axis=1))
        anchor = self._of(self._predictions.anchor)
        self._refuse_not_finite("rows/anchor", anchor, np.ones(len(anchor), dtype=bool))
        history = known = None
        if self._predictions.history is not None and self._predictions.history_valid is not None:
            history, known = self._of(self._predictions.history), self._predictions.history_valid[self.rows].astype(bool)
            self._refuse_not_finite("history/traces", history, known)
        moving_on, has_history = trace_baselines.constant_velocity(anchor, history, known, traces.shape[2])
        self._report.count(f"keypoints without history ({CONSTANT_VELOCITY} stands still)", int((~has_history).sum()))
        return [(self._name, traces), (STATIC, trace_baselines.static(anchor, traces.shape[2])), (CONSTANT_VELOCITY, moving_on)]

    def _of(self, array: np.ndarray) -> np.ndarray:
        """The scored rows, in the coordinates of the space."""
        return array[self.rows][..., self._coordinates]

    def _choose(self, valid: np.ndarray, parameters: TraceParameters, seed: int) -> np.ndarray:
        predictions, report = self._predictions, self._report
        moving = predictions.moving.astype(bool)
        known = valid.any(axis=1)
        report.count("keypoints that do not move (left out)", int((~moving).sum()))
        report.count("moving keypoints without a valid step (left out)", int((moving & ~known).sum()))
        rows = np.flatnonzero(moving & known)
        if parameters.protocol == "paper":
            slot_name = [f"{clip} {frame}" for clip, frame in zip(predictions.sample_clip, predictions.sample_frame, strict=True)]
            chosen = trace_protocols.choose_keypoints(
                predictions.sample[rows], slot_name, predictions.anchor[rows], parameters.keypoints_per_slot, seed
            )
            report.count(f"moving keypoints beyond {parameters.keypoints_per_slot} in their slot (left out)", int((~chosen).sum()))
            rows = rows[chosen]
        if len(rows) == 0:
            report.note(
                f"{self._name} has no keypoint that moves and whose truth is known: there is nothing to score, figures are not known"
            )
        return rows

    def _refuse_not_finite(self, path: str, values: np.ndarray, counted: np.ndarray) -> None:
        """`values` (..., C) must be finite where `counted` (...)."""
        wrong = counted & ~np.isfinite(values).all(axis=-1)
        if not wrong.any():
            return
        row, *rest = (int(i) for i in np.argwhere(wrong)[0])
        value = values[(row, *rest)]
        index = ", ".join(str(i) for i in (self.rows[row], *rest))
        only_depth = values.shape[-1] == 3 and bool(np.isfinite(values[wrong][..., :2]).all())
        raise BadDataError(
            f"{path}[{index}] of {self._name} is ({', '.join(f'{x:g}' for x in value)}), but it is scored and must be finite"
            f" ({int(wrong.sum())} such entries)",
            hint="--space uv scores predictors that know no depth" if only_depth else "only steps without truth may hold anything",
        )


def _draws(predictions: Predictions, parameters: TraceParameters, report: Report, name: str) -> np.ndarray:
    """The first draws of the file, as many as the largest top needs; what the file is too short for is noted."""
    num_draws, num_steps = predictions.traces.shape[1:3]
    if num_draws == 0:
        raise BadDataError(f"prediction/traces of {name} holds no draws: its shape is {predictions.traces.shape}")
    too_long = [horizon for horizon in parameters.horizon_steps if horizon > num_steps]
    if too_long:
        report.note(f"{name} predicts {num_steps} steps: nothing is known at T = {_listed(too_long)}")
    too_many = [top for top in parameters.top_draws if top > num_draws]
    if too_many:
        report.note(f"{name} holds {num_draws} draw{'s' if num_draws > 1 else ''}: nothing is known of top {_listed(too_many)}")
    return predictions.traces[:, : max(parameters.top_draws)]


def _summary(
    name: str,
    measured: dict[str, np.ndarray],
    parameters: TraceParameters,
    grouping: Grouping,
    bootstrap: ClipBootstrap,
    *,
    is_baseline: bool,
) -> MethodScores:
    figures: list[Figure] = []
    for metric, distances in measured.items():
        for top in parameters.top_draws:
            kinds = {False: _top(distances, top, is_baseline)}
            if 1 < top <= distances.shape[1]:
                kinds[True] = trace_protocols.joint_least(distances, top, grouping)
            for joint, values in kinds.items():
                sums = trace_protocols.clip_sums(values, parameters.protocol, grouping)
                low, high = bootstrap.interval(*sums)
                mean = trace_protocols.average(*sums)
                number = (~np.isnan(values)).sum(axis=0)
                figures += [
                    Figure(metric, top, joint, horizon, float(mean[t]), float(low[t]), float(high[t]), int(number[t]))
                    for t, horizon in enumerate(parameters.horizon_steps)
                ]
    return MethodScores(name, is_baseline, figures)


def _top(distances: np.ndarray, top: int, is_baseline: bool) -> np.ndarray:
    """(R, T): the best of `top` draws. A baseline would give the same answer each time; a predictor with fewer draws has none."""
    if top > distances.shape[1] and not is_baseline:
        return np.full((distances.shape[0], distances.shape[2]), np.nan, dtype=distances.dtype)
    return trace_protocols.least(distances, top)


def _numbers(flag: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 100_000 for part in parts):
        raise ConfigurationError(f"{flag} is {text!r}", hint="numbers from 1 on are expected, by comma: 8,16,32")
    return sorted({int(part) for part in parts})


def _listed(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)
