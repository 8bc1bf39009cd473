"""tracekit fit-bspline: turn episodes into a corpus of spline-fitted traces."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer

from tracekit import __version__, batch, options
from tracekit.console import ConsoleReport
from tracekit.errors import BadDataError, MissingInputError, PipeClosedError, TracekitError, UsageError
from tracekit.extract.corpus_scales import CorpusScales
from tracekit.extract.fit_bspline import PRESETS, FitBsplineParameters, corpus, episode_samples
from tracekit.format.atomic import new_file
from tracekit.format.file import Target, open_records, write_records
from tracekit.format.provenance import Step
from tracekit.format.schema import CORPUS, EPISODE
from tracekit.parameters import parameter
from tracekit.records import Episode
from tracekit.report import Report
from tracekit.stage import refuse_inputs


@dataclass(frozen=True)
class CorpusOptions:
    """Which episodes, and where the result goes."""

    output: str | None = parameter(None, "The corpus to write; without it the result goes to standard output.")
    manifest: str | None = parameter(None, "A list of episodes: one path a line, or CSV or HDF5 with --column.")
    column: str = parameter("path", "Column of a CSV manifest, or dataset of an HDF5 one, that holds the paths.")
    stats_only: bool = parameter(False, "Write only the scales, as JSON.")
    scale: str | None = parameter(None, "Use the scales of this JSON file or corpus instead of computing them.")
    skip_bad: bool = parameter(False, "Leave out episodes that cannot be read, and name them.")
    force: bool = parameter(False, "Replace the output if it exists.")
    dry_run: bool = parameter(False, "Say what would be read and written; touch nothing.")
    preset: str = parameter("", "A set of parameters: paper (the defaults) or release (the authors' code).")
    quiet: bool = parameter(False, "Say nothing but errors.")
    verbose: bool = parameter(False, "Say more.")


@dataclass(frozen=True)
class Scales:
    """What divides the targets of a corpus (Eq. 3), and the range of its depth."""

    delta_scale: np.ndarray
    depth_log_range: np.ndarray


class FitBsplineCommand:
    """Many episodes in, one corpus out."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "fit-bspline",
            self.run,
            {"parameters": FitBsplineParameters, "files": CorpusOptions},
            sources="Episode files; - or nothing is standard input.",
            presets=PRESETS,
            about="Turn episodes into a corpus: reference-frame traces, scales and B-spline control points (paper 2.4, B.2)."
            "\n\nReads: video, geometry, tracks, motion and captions when there.  Writes: a corpus."
            "\n\nExample:  tracekit fit-bspline *.h5 -o corpus.h5",
        )

    def run(self, sources: list[str], parameters: FitBsplineParameters, files: CorpusOptions) -> None:
        if files.manifest:
            sources = [item.source for item in batch.name_items([*sources, *batch.read_manifest(files.manifest, files.column)])]
        sources = sources or ["-"]
        if len(sources) > 1 and "-" in sources:
            raise UsageError("standard input holds one episode; it cannot stand beside others")
        target = Target(Path(files.output) if files.output else None, files.force)
        refuse_inputs(target.path, [*sources, files.scale, files.manifest])
        if not (files.stats_only and target.path is None):
            target.check()
        scales = read_scales(files.scale) if files.scale else None
        report = ConsoleReport("fit-bspline", quiet=files.quiet, verbose=files.verbose)
        if files.dry_run:
            print(f"tracekit fit-bspline: would read {len(sources)} episodes, write {files.output or 'standard output'}", file=sys.stderr)
            return
        try:
            if files.stats_only:
                write_scales(compute_scales(sources, parameters, files, report), target)
            else:
                write_corpus(sources, parameters, files, scales, target, report)
        except BrokenPipeError:
            raise PipeClosedError("") from None
        finally:
            report.finish()


def episodes(sources: list[str], files: CorpusOptions, report: Report) -> Iterator[Episode]:
    """The episodes one after the other; only one is open at a time."""
    seen: dict[str, str] = {}
    for number, source in enumerate(sources):
        try:
            with open_records(source, EPISODE) as file:
                for group in ("video", "geometry", "tracks"):
                    file.require(group)
                if file.clip_id in seen:
                    raise BadDataError(
                        f"{source} and {seen[file.clip_id]} are both of the clip {file.clip_id}", hint="name one file per clip"
                    )
                seen[file.clip_id] = source
                yield file.episode()
        except TracekitError as error:
            if not files.skip_bad:
                raise
            report.note(f"left out {source}: {error.message}")
            report.count("episodes left out because they could not be read")
        report.progress(number + 1, len(sources), "episodes")


def compute_scales(sources: list[str], parameters: FitBsplineParameters, files: CorpusOptions, report: Report) -> Scales:
    """One pass over the episodes that keeps nothing but the scales."""
    scales = CorpusScales()
    for episode in episodes(sources, files, report):
        scales.add(episode_samples(episode, parameters, report))
    return Scales(*scales.result(report))


def write_corpus(
    sources: list[str], parameters: FitBsplineParameters, files: CorpusOptions, scales: Scales | None, target: Target, report: Report
) -> None:
    with write_records(target, CORPUS) as writer:
        known = {"delta_scale": scales.delta_scale, "depth_log_range": scales.depth_log_range} if scales else {}
        result = corpus(episodes(sources, files, report), parameters, report, **known)
        writer.put(result)
        writer.append_step(
            Step(
                command="fit-bspline",
                argv=sys.argv[1:],
                version=__version__,
                parameters={**dataclasses.asdict(parameters), "preset": files.preset or "paper"},
                inputs=result.clip_name,
                counts=report.counts,
                notes=report.notes,
            )
        )


def write_scales(scales: Scales, target: Target) -> None:
    text = json.dumps({"delta_scale": scales.delta_scale.tolist(), "depth_log_range": scales.depth_log_range.tolist()}, indent=2) + "\n"
    if target.path is None:
        sys.stdout.write(text)
        return
    with new_file(target.path, force=target.force) as temporary:
        temporary.write_text(text)


def read_scales(path: str) -> Scales:
    """Scales from `--stats-only`, or from an earlier corpus."""
    if not Path(path).is_file():
        raise MissingInputError(f"{path} does not exist", hint="--scale takes what --stats-only wrote, or a corpus")
    with open(path, "rb") as stream:
        is_json = stream.read(1) == b"{"
    if not is_json:
        with open_records(path, CORPUS) as file:
            earlier = file.read("")
            return Scales(earlier.delta_scale, earlier.depth_log_range)
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        scales = Scales(np.array(content["delta_scale"], float).reshape(3), np.array(content["depth_log_range"], float).reshape(2))
    except (ValueError, KeyError, TypeError) as error:
        raise BadDataError(f"{path} holds no scales: {error}") from None
    if not (np.isfinite(scales.delta_scale).all() and (scales.delta_scale > 0).all()):
        raise BadDataError(f"{path}: delta_scale is {scales.delta_scale.tolist()}, but three positive numbers are expected")
    return scales


command = FitBsplineCommand()
