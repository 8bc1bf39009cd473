"""tracekit evaluate: how good a result is."""

from __future__ import annotations

import json
from dataclasses import dataclass

import typer

from tracekit import options
from tracekit.console import ConsoleReport
from tracekit.errors import UsageError
from tracekit.evaluation.extraction import EvaluateParameters, evaluate_extraction
from tracekit.evaluation.table import table
from tracekit.format.file import open_records
from tracekit.format.schema import EPISODE
from tracekit.parameters import parameter


@dataclass(frozen=True)
class EvaluateOptions:
    """What is held against what, and how to say it."""

    extraction: str | None = parameter(None, "Episode file to score, - for standard input.")
    truth: str | None = parameter(None, "Truth file of the same video, as `tracekit simulate` writes it.")
    json: bool = parameter(False, "Print JSON instead of a table.")
    quiet: bool = parameter(False, "Say nothing but the result and errors.")


class EvaluateCommand:
    """Scores what the extraction chain made."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "evaluate",
            self.run,
            {"what": EvaluateOptions, "parameters": EvaluateParameters},
            sources=None,
            about="Score an extraction against the ground truth of a simulator: tracks, cameras, depth, motion, placement, events"
            " (definitions: docs/evaluation.md).\n\nReads: an episode file with any of its groups, and a truth file."
            "\n\nExample:  tracekit evaluate --extraction in.h5 --truth in.truth.h5",
        )

    def run(self, what: EvaluateOptions, parameters: EvaluateParameters) -> None:
        if not what.extraction or not what.truth:
            raise UsageError("say what to score and against what: --extraction EPISODE --truth TRUTH")
        if what.extraction == what.truth == "-":
            raise UsageError("standard input is one file: name --extraction or --truth")
        report = ConsoleReport("evaluate", quiet=what.quiet)
        with open_records(what.extraction, EPISODE) as extraction, open_records(what.truth, EPISODE) as truth:
            scores = evaluate_extraction(extraction, truth, parameters, report=report)
        print(json.dumps(scores.as_json(), indent=2, ensure_ascii=False, allow_nan=False) if what.json else table(scores))


command = EvaluateCommand()
