"""tracekit info: what is in a file, and who wrote it; with --backends what can run on this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from tracekit.commands.info_backends import show_backends

from tracekit import options
from tracekit.errors import TracekitError, UsageError
from tracekit.format.demo_overview import ROBOMIMIC, describe_robomimic, has_robomimic_layout
from tracekit.format.demos import FORMAT, describe_demos, holds_demos
from tracekit.format.file import RecordFile, open_records
from tracekit.parameters import parameter
from tracekit.printable import all_printable


@dataclass(frozen=True)
class InfoOptions:
    """How much to say."""

    json: bool = parameter(False, "Print JSON instead of a table.")
    validate: bool = parameter(False, "Read every value: checksums, shapes, rules on values.")
    backends: bool = parameter(False, "List the backends instead: which can run here, their licences, and what auto would take.")


def describe(file: RecordFile) -> dict[str, Any]:
    """Everything that `info` shows, as plain data."""
    return {
        "file": file.name,
        "format": file.kind.name,
        "format_version": file.format_version,
        "clip_id": file.clip_id,
        "bytes": file.num_bytes,
        "groups": {name or "/": file.summary(name) for name in file.groups},
        "datasets": [{"path": path, "shape": list(shape), "dtype": dtype, "bytes": size} for path, shape, dtype, size in file.datasets()],
        "unknown": file.unknown_names(),
        "captions": captions(file),
        "provenance": [vars(step) for step in file.steps()],
    }


def read_report(source: str, *, validate: bool) -> dict[str, Any]:
    """What `info` shows of a file. Raises TracekitError when it cannot be read, or is not valid."""
    if source != "-":
        if holds_demos(source):
            return describe_demos(Path(source), every_value=validate)
        if has_robomimic_layout(source):
            return describe_robomimic(Path(source), every_value=validate)
    with open_records(source, others=[FORMAT, ROBOMIMIC] if source != "-" else []) as file:
        if validate:
            file.validate_everything()
        return describe(file)


def captions(file: RecordFile) -> list[str]:
    """The sentences of an episode, with their frames."""
    if "captions" not in file.groups:
        return []
    record = file.read("captions")
    events = zip(record.event_start, record.event_stop, record.event_text, strict=True)
    return [record.episode_text, *(f"frames {start} to {stop - 1}: {text}" for start, stop, text in events)]


class InfoCommand:
    """Reads any file of ours, and demonstrations in robomimic's layout."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "info",
            self.run,
            {"parameters": InfoOptions},
            sources="Files; - or nothing is standard input.",
            about="Say what is in a file, and who wrote it.\n\nReads: any file of tracekit; demonstrations in robomimic's layout."
            "\n\nExample:  tracekit info --validate in.h5\n\nExample:  tracekit info --backends",
        )

    def run(self, sources: list[str], parameters: InfoOptions) -> None:
        if parameters.backends:
            if sources or parameters.validate:
                raise UsageError("--backends is about this machine: it takes no file and no --validate")
            show_backends(as_json=parameters.json)
            return
        reports = []
        first_error: TracekitError | None = None
        for source in sources or ["-"]:
            try:
                report = read_report(source, validate=parameters.validate)
                report["valid"] = True if parameters.validate else None
            except TracekitError as error:
                if len(sources) < 2:
                    raise
                first_error = first_error or error
                report = {"file": source, "valid": False, "error": str(error)}
            reports.append(report)
        if parameters.json:
            print(json.dumps(reports[0] if len(reports) == 1 else reports, indent=2, ensure_ascii=False))
        else:
            for report in reports:
                show(report)
        if first_error is not None:
            raise first_error


def show(report: dict[str, Any]) -> None:
    """A page for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    report = all_printable(report)
    console = Console(highlight=False, markup=False)
    if "error" in report:
        console.print(Text(f"{report['file']}: {report['error']}"))
        return
    version = f" version {report['format_version']}" if report["format_version"] is not None else ""
    verdict = "  valid" if report["valid"] else ""
    console.print(Text(f"{report['file']}  {report['format']}{version}  {report['bytes'] / 1e6:.2f} MB{verdict}", style="bold"))
    if report["clip_id"]:
        console.print(Text(f"clip {report['clip_id']}"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("group", "holds"):
        table.add_column(column)
    for name, summary in report["groups"].items():
        table.add_row(name, Text(summary))
    console.print(table)
    for sentence in report["captions"]:
        console.print(Text(f"  {sentence}"))
    if report["unknown"]:
        console.print(Text(f"unknown to this version, carried along: {', '.join(report['unknown'])}"))
    if not report["provenance"]:
        return
    steps = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("#", "command", "backend", "when", "seed", "counted"):
        steps.add_column(column, overflow="fold", no_wrap=column == "when")
    for number, step in enumerate(report["provenance"]):
        counts = ", ".join(f"{value:,} {name}" for name, value in step["counts"].items() if value)
        kinds = {"": step["weights_sha256"], "code ": step.get("code_sha256")}
        digests = ", ".join(kind + digest[:12] for kind, digest in kinds.items() if digest)
        backend = (step["backend"] or "-") + (f" ({digests})" if digests else "")
        steps.add_row(str(number), step["command"], backend, step["time"], str(step["seed"]), Text(counts or "nothing"))
    console.print(steps)
    for number, step in enumerate(report["provenance"]):
        console.print(
            Text(
                f"{number} {step['command']} {step['version']}: "
                + ", ".join(f"{key}={value}" for key, value in step["parameters"].items()),
                style="dim",
            )
        )


command = InfoCommand()
