"""Scores of predicted traces side by side: as tables for people, laid out like Tables 1 and 3 of the paper, and as plain data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tracekit.evaluation.paper_tables import PaperRow
from tracekit.evaluation.trace_scores import MethodScores, TraceParameters, TraceScores

NAME_WIDTH = 38
CELL_WIDTH = 12
TITLES = {"ade": "ADE", "fde": "FDE", "dtw": "DTW", "frechet": "Fréchet distance"}
PAPER_MARK = "(paper)"
PAPER_NOTE = f"{PAPER_MARK}: Tables 1 and 3 of the paper, on its own test set: other clips and keypoints than those scored here"


def trace_table(all_scores: list[TraceScores], parameters: TraceParameters, paper: list[PaperRow]) -> str:
    """One table a metric: predictors and baselines below each other, horizons side by side for each number of draws."""
    unit = {"uv": "(u, v)", "uvz": "(u, v, z)", "z": "z"}[parameters.space]
    over = "all traces" if parameters.protocol == "mu0" else "the keypoints of a slot, then over slots"
    lines = [
        f"{scores.name}: {scores.num_traces:,} traces of {scores.num_slots:,} slots in {scores.num_clips:,} clips" for scores in all_scores
    ]
    lines.append(f"distances in {unit}, averages over {over}, 95 % intervals over clips")
    for metric in parameters.metrics:
        lines += ["", *_header(metric, parameters)]
        for method in _rows(all_scores):
            lines += _method(method, metric, parameters)
        for row in paper:
            cells = [_text(row.figure(metric, top, horizon)) for top, horizon in _columns(parameters)]
            lines.append(_line(f"{row.name} {PAPER_MARK}", cells))
    if paper:
        lines += ["", PAPER_NOTE]
    return "\n".join(lines)


def trace_json(
    all_scores: list[TraceScores], parameters: TraceParameters, seed: int, paper: list[PaperRow], notes: list[str]
) -> dict[str, Any]:
    """The same as plain data, and more: both normalisations of DTW. What cannot be told is None. `notes` are about all files together."""
    return {
        "parameters": {entry.name: getattr(parameters, entry.name) for entry in dataclasses.fields(TraceParameters)}
        | {"metric": parameters.metrics, "seed": seed},
        "files": [
            {
                "file": scores.name,
                "num_traces": scores.num_traces,
                "num_slots": scores.num_slots,
                "num_clips": scores.num_clips,
                "counts": scores.counts,
                "notes": scores.notes,
                "methods": {
                    method.name if method.is_baseline else "predictions": [_plain(dataclasses.asdict(figure)) for figure in method.figures]
                    for method in scores.methods
                },
            }
            for scores in all_scores
        ],
        "paper": [
            {"method": row.name, "space": row.space, "metric": metric, "top": top, "horizon": horizon, "mean": value}
            for row in paper
            for metric in parameters.metrics
            for top, horizon in _columns(parameters)
            if (value := row.figure(metric, top, horizon)) is not None
        ],
        "notes": notes,
    }


@dataclass(frozen=True)
class _Row:
    """One predictor with the name under which it is shown."""

    name: str
    method: MethodScores


def _rows(all_scores: list[TraceScores]) -> list[_Row]:
    """The predictors of all files, then the baselines: once, when they are the same for all files."""
    rows = [_Row(scores.name, scores.methods[0]) for scores in all_scores]
    same = same_truth(all_scores)
    for number, baseline in enumerate(all_scores[0].methods[1:], start=1):
        shown = all_scores[:1] if same else all_scores
        rows += [
            _Row(baseline.name if same else f"{baseline.name} ({_shortened(PurePath(scores.name).name, 16)})", scores.methods[number])
            for scores in shown
        ]
    return rows


def same_truth(all_scores: list[TraceScores]) -> bool:
    """Whether the baselines have the same figures everywhere: then the files are about the same keypoints."""
    return all(_same(one, other) for scores in all_scores for one, other in zip(scores.methods[1:], all_scores[0].methods[1:], strict=True))


def _same(one: MethodScores, other: MethodScores) -> bool:
    return [repr(figure) for figure in one.figures] == [repr(figure) for figure in other.figures]  # repr: NaN is like NaN


def _columns(parameters: TraceParameters) -> list[tuple[int, int]]:
    """(top, horizon) from left to right."""
    return [(top, horizon) for top in parameters.top_draws for horizon in parameters.horizon_steps]


def _header(metric: str, parameters: TraceParameters) -> list[str]:
    width = CELL_WIDTH * len(parameters.horizon_steps)
    title = TITLES[metric] + (", path mean" if metric == "dtw" and parameters.dtw == "path-mean" else "")
    groups = f"{title:{NAME_WIDTH}}" + "".join(f"{f'top-{top}':>{width}}" for top in parameters.top_draws)
    return [groups, _line("", [f"T = {horizon}" for _, horizon in _columns(parameters)])]


def _method(row: _Row, metric: str, parameters: TraceParameters) -> list[str]:
    figures = [row.method.figure(metric, top, horizon) for top, horizon in _columns(parameters)]
    lines = [_line(row.name, [_text(figure.mean if figure else None) for figure in figures])]
    ranges = [f"{figure.low:.3f}-{figure.high:.3f}" if figure and not math.isnan(figure.low) else "" for figure in figures]
    joint = [row.method.figure(metric, top, horizon, joint=True) for top, horizon in _columns(parameters)]
    if any(ranges):
        lines.append(_line("  95 %", ranges))
    if any(joint):
        lines.append(_line("  one draw for the slot", [_text(figure.mean) if figure else "" for figure in joint]))
    return lines


def _line(name: str, cells: list[str]) -> str:
    return (f"{_shortened(name, NAME_WIDTH):{NAME_WIDTH}}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells)).rstrip()


def _text(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _plain(figure: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in figure.items()}


def _shortened(name: str, width: int) -> str:
    """The end of a long name: there files differ."""
    return name if len(name) <= width else "..." + name[3 - width :]
