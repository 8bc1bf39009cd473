"""tracekit evaluate: how good a result is."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from tracekit import __version__, options
from tracekit.console import ConsoleReport
from tracekit.errors import ConfigurationError, UsageError
from tracekit.evaluation.extraction import EvaluateParameters, evaluate_extraction
from tracekit.evaluation.paper_tables import paper_rows
from tracekit.evaluation.table import table
from tracekit.evaluation.trace_report import same_truth, trace_json, trace_table
from tracekit.evaluation.trace_scores import TraceParameters, TraceScores, score
from tracekit.format.file import Target, open_records, write_records
from tracekit.format.provenance import Step
from tracekit.format.schema import EPISODE, PREDICTIONS, TRACE_VALUES
from tracekit.parameters import parameter
from tracekit.stage import refuse_inputs


@dataclass(frozen=True)
class EvaluateOptions:
    """What is held against what, and how to say it."""

    extraction: str | None = parameter(None, "Episode file to score instead of predictions, - for standard input.")
    truth: str | None = parameter(None, "Truth file of the same video, as `tracekit simulate` writes it.")
    compare: str | None = parameter(None, "Print the paper's figures for its own test set as well.", choices=("paper",))
    output: str | None = parameter(None, "Also write the values of every scored trace, as HDF5.")
    json: bool = parameter(False, "Print JSON instead of a table.")
    force: bool = parameter(False, "Replace an output that exists.")
    seed: int = parameter(0, "Seed of every random choice.", minimum=0, maximum=2**32 - 1)
    quiet: bool = parameter(False, "Say nothing but the result and errors.")


@dataclass(frozen=True)
class Parameters(TraceParameters, EvaluateParameters):
    """Of both kinds of evaluation."""


class EvaluateCommand:
    """Scores predicted traces, or what the extraction chain made."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "evaluate",
            self.run,
            {"what": EvaluateOptions, "parameters": Parameters},
            sources="Predictions files to score side by side; - or nothing is standard input.",
            metavar="PREDICTIONS...",
            about="Score predicted traces against what happened: ADE, FDE, DTW and Fréchet distance (paper 4.1, D.1) beside two baselines."
            " Or, with --extraction and --truth, an extraction against the ground truth of a simulator: tracks, cameras, depth, motion,"
            " placement, events (definitions of both: docs/evaluation.md)."
            "\n\nReads: predictions files with the truth in them, or an episode file with any of its groups and a truth file."
            "\n\nExamples:"
            "\n\n  tracekit rollout mu0 test.h5 | tracekit evaluate --metric dtw"
            "\n\n  tracekit evaluate --extraction in.h5 --truth in.truth.h5",
        )

    def run(self, sources: list[str], what: EvaluateOptions, parameters: Parameters) -> None:
        if what.extraction or what.truth:
            _check_extraction(sources, what)
            self._of_extraction(what, parameters)
        else:
            self._of_predictions(sources, what, parameters)

    def _of_extraction(self, what: EvaluateOptions, parameters: EvaluateParameters) -> None:
        report = ConsoleReport("evaluate", quiet=what.quiet)
        with open_records(what.extraction, EPISODE) as extraction, open_records(what.truth, EPISODE) as truth:
            scores = evaluate_extraction(extraction, truth, parameters, report=report)
        print(_json(scores.as_json()) if what.json else table(scores))

    def _of_predictions(self, sources: list[str], what: EvaluateOptions, parameters: TraceParameters) -> None:
        sources = _check_predictions(sources, what, parameters)
        paper = paper_rows(parameters.space) if what.compare == "paper" else []
        all_scores = [self._score(source, what, parameters, item=source if len(sources) > 1 else "") for source in sources]
        general = ConsoleReport("evaluate", quiet=what.quiet)
        if what.compare == "paper" and not paper:
            general.note(f"the paper has no figures in --space {parameters.space}")
        if not same_truth(all_scores):
            general.note("the files are about different keypoints: their figures cannot be compared, and each has its own baselines")
        if what.json:
            print(_json(trace_json(all_scores, parameters, what.seed, paper, general.notes)))
        else:
            print(trace_table(all_scores, parameters, paper))

    def _score(self, source: str, what: EvaluateOptions, parameters: TraceParameters, item: str) -> TraceScores:
        report = ConsoleReport("evaluate", quiet=what.quiet, item=item)
        with open_records(source, PREDICTIONS) as file:
            scores = score(file.read(""), parameters, seed=what.seed, report=report, name=file.name)
        report.finish()
        if what.output:
            _write(scores, what, parameters, report)
        return scores


def _check_extraction(sources: list[str], what: EvaluateOptions) -> None:
    if sources:
        raise UsageError(f"--extraction and --truth score an extraction; {sources[0]} would be predictions", hint="give one or the other")
    if not what.extraction or not what.truth:
        raise UsageError("say what to score and against what: --extraction EPISODE --truth TRUTH")
    if what.extraction == what.truth == "-":
        raise UsageError("standard input is one file: name --extraction or --truth")
    if what.output:
        raise UsageError("-o holds values of predicted traces; an extraction has none", hint="use --json")


def _check_predictions(sources: list[str], what: EvaluateOptions, parameters: TraceParameters) -> list[str]:
    """The sources. Fails before any work when the values are asked for what cannot be."""
    if not sources and os.isatty(0):
        raise UsageError(
            "nothing to score: name a predictions file, or pipe one in",
            hint="an extraction is scored with --extraction EPISODE --truth TRUTH",
        )
    sources = sources or ["-"]
    if sources.count("-") > 1:
        raise UsageError("standard input is one file: name the others")
    try:
        _ = parameters.metrics, parameters.horizon_steps, parameters.top_draws
    except ConfigurationError as error:
        raise UsageError(error.message, hint=error.hint) from None
    if what.output:
        if len(sources) > 1:
            raise UsageError("-o holds the values of one predictions file", hint="evaluate the files one by one")
        refuse_inputs(Path(what.output), sources)
        Target(Path(what.output), what.force).check()
    return sources


def _write(scores: TraceScores, what: EvaluateOptions, parameters: TraceParameters, report: ConsoleReport) -> None:
    with write_records(Target(Path(str(what.output)), what.force), TRACE_VALUES, "") as writer:
        writer.put(scores.values)
        writer.append_step(
            Step(
                command="evaluate",
                argv=sys.argv[1:],
                version=__version__,
                parameters=dataclasses.asdict(parameters),
                inputs=[Path(scores.name).name],
                seed=what.seed,
                counts=report.counts,
                notes=report.notes,
            )
        )


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


command = EvaluateCommand()
