"""tracekit fit-bspline: turn episodes into a corpus of spline-fitted traces."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from tracekit import __version__, batch, options
from tracekit.console import ConsoleReport
from tracekit.errors import BadDataError, MissingInputError, PipeClosedError, TracekitError, UsageError
from tracekit.extract.build_corpus import CorpusBuilder, add_corpus, add_episode, add_nothing
from tracekit.extract.corpus_pictures import PictureParameters
from tracekit.extract.corpus_scales import CorpusScales
from tracekit.extract.fit_bspline import PRESETS, FitBsplineParameters, check_parameters, episode_samples
from tracekit.format.atomic import new_file
from tracekit.format.file import RecordWriter, Target, open_records, write_records
from tracekit.format.provenance import Step
from tracekit.format.schema import CORPUS, EPISODE, FileKind
from tracekit.interop import release_stats
from tracekit.parameters import parameter
from tracekit.records import Corpus, Episode
from tracekit.report import Report
from tracekit.stage import open_clip_frames, refuse_inputs

# The history of a file names this many sources or clips; the corpus itself lists all of its clips.
_MOST_NAMED = 1000


@dataclass(frozen=True)
class CorpusOptions:
    """Which episodes, and where the result goes."""

    output: str | None = parameter(None, "The corpus to write; without it the result goes to standard output.")
    manifest: str | None = parameter(None, "A list of episodes or corpora: one path a line, or CSV or HDF5 with --column.")
    column: str = parameter("path", "Column of a CSV manifest, or dataset of an HDF5 one, that holds the paths.")
    shard: str | None = parameter(None, "I/N: take the I-th (from 0) of every N sources; slurm or slurm/N: I is the array task.")
    stats_only: bool = parameter(False, "Write only the scales, as JSON.")
    scale: str | None = parameter(
        None, "Use the scales of this JSON file (--stats-only, or the authors' statistics) or corpus instead of computing them."
    )
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
    """Many episodes in, one corpus out; or many corpora in, and all of them out as one."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "fit-bspline",
            self.run,
            {"parameters": FitBsplineParameters, "pictures": PictureParameters, "files": CorpusOptions},
            sources="Episode files, or corpora to merge; - or nothing is an episode on standard input.",
            presets=PRESETS,
            about="Turn episodes into a corpus: reference-frame traces, scales and B-spline control points (paper 2.4, B.2)."
            " Or put corpora that share their parameters and scales into one."
            "\n\nReads: video, geometry, tracks, motion and captions when there.  Writes: a corpus."
            "\n\nExample:  tracekit fit-bspline *.h5 -o corpus.h5",
        )

    def run(self, sources: list[str], parameters: FitBsplineParameters, pictures: PictureParameters, files: CorpusOptions) -> None:
        listed = batch.read_manifest(files.manifest, files.column) if files.manifest else []
        sources = [*sources, *listed] or ["-"]
        if len(sources) > 1 and "-" in sources:
            raise UsageError("standard input holds one episode; it cannot stand beside others")
        if len(sources) > 1 or files.shard:
            items = batch.name_items(sources)
            folder = Path(files.output or ".").parent
            sources = [item.source for item in batch.take_shard(items, files.shard, folder, dry_run=files.dry_run)]
        check_parameters(parameters)
        target = Target(Path(files.output) if files.output else None, files.force)
        refuse_inputs(target.path, [*sources, files.scale, files.manifest])
        if not (files.stats_only and target.path is None):
            target.check()
        if not files.skip_bad:
            check_are_there(sources, set(listed))
        scales = read_scales(files.scale) if files.scale else None
        merges = kind_of(sources, skip_bad=files.skip_bad) is CORPUS
        if merges:
            check_merge(parameters, pictures, files)
        report = ConsoleReport("fit-bspline", quiet=files.quiet, verbose=files.verbose)
        if files.dry_run:
            what = "corpora" if merges else "episodes"
            print(f"tracekit fit-bspline: would read {len(sources)} {what}, write {files.output or 'standard output'}", file=sys.stderr)
            return
        try:
            if files.stats_only:
                write_scales(compute_scales(sources, parameters, files, report), target)
                return
            with write_records(target, CORPUS) as writer:
                if merges:
                    merge(sources, writer, parameters, report)
                else:
                    fit(sources, writer, parameters, pictures, scales, files, report)
        except BrokenPipeError:
            raise PipeClosedError("") from None
        finally:
            report.finish()


def kind_of(sources: list[str], *, skip_bad: bool = False) -> FileKind:
    """Episodes or corpora, as the first source that can be read says. Standard input is an episode: it can be read only once.

    Raises BadDataError when that source is neither; with `skip_bad` the next one is asked.
    """
    for source in sources:
        kind = None
        if source != "-":
            with contextlib.suppress(TracekitError), open_records(source) as file:
                kind = file.kind
        if kind in (EPISODE, CORPUS):
            return kind
        if kind is not None and not skip_bad:
            raise BadDataError(f"{source} is of format {kind.name}, but {EPISODE.name} or {CORPUS.name} is expected")
    return EPISODE


def check_are_there(sources: list[str], listed: set[str]) -> None:
    """Raise for all sources that do not exist, at once and before any work: BadDataError when the manifest promised them."""
    missing = [source for source in sources if source != "-" and not Path(source).exists()]
    if missing:
        named = ", ".join(Path(source).stem for source in missing[:20]) + (", ..." if len(missing) > 20 else "")
        error = BadDataError if any(source in listed for source in missing) else MissingInputError
        raise error(
            f"{len(missing)} of {len(sources)} sources do not exist: {named if len(sources) > 1 else missing[0]}",
            hint="make them first, or leave out what cannot be read with --skip-bad",
        )


def check_merge(parameters: FitBsplineParameters, pictures: PictureParameters, files: CorpusOptions) -> None:
    """Raise UsageError for what has a meaning only when rows are made."""
    chosen = [
        "--" + name.replace("_", "-")
        for name, is_chosen in {
            "stats_only": files.stats_only,
            "scale": files.scale is not None,
            "skip_bad": files.skip_bad,
            "embed_images": pictures.embed_images,
            "embed_depth": pictures.embed_depth,
        }.items()
        if is_chosen
    ]
    if chosen:
        raise UsageError(
            f"{', '.join(chosen)}: the sources are corpora, which are merged as they are", hint="give episodes, or leave this out"
        )


def fit(
    sources: list[str],
    writer: RecordWriter,
    parameters: FitBsplineParameters,
    pictures: PictureParameters,
    scales: Scales | None,
    files: CorpusOptions,
    report: Report,
) -> None:
    """First all rows go into the file while their scales are measured, one episode in memory at a time; then they are fitted there."""
    builder, measured = CorpusBuilder(writer, allow_mixed=parameters.allow_mixed), CorpusScales()

    def add(episode: Episode, source: str) -> None:
        frames = open_clip_frames(episode.video, source) if pictures.embed_images else None
        add_episode(builder, episode, source, frames, parameters, pictures, measured, report)

    for_each_episode(sources, add, files, report)
    if not builder.clip_names:
        add_nothing(builder, parameters, pictures)
    scales = scales or Scales(*measured.result(report))
    builder.fit(scales.delta_scale, parameters, report)
    builder.finish(scales.delta_scale, scales.depth_log_range)
    chosen = {**dataclasses.asdict(parameters), **dataclasses.asdict(pictures), "preset": files.preset or "none"}
    append_step(writer, chosen, builder.clip_names, report)


def merge(sources: list[str], writer: RecordWriter, parameters: FitBsplineParameters, report: Report) -> None:
    """Copy the corpora one behind the other, block by block."""
    builder = CorpusBuilder(writer, allow_mixed=parameters.allow_mixed)
    heads: list[Corpus] = []
    for source in sources:
        with open_records(source, CORPUS) as file:
            heads[1:] = [add_corpus(builder, file, report)]
    builder.finish(heads[0].delta_scale, heads[0].depth_log_range)
    report.count("corpora merged", len(sources))
    append_step(writer, {"allow_mixed": parameters.allow_mixed}, [Path(source).stem for source in sources], report)


def append_step(writer: RecordWriter, parameters: dict[str, Any], inputs: list[str], report: Report) -> None:
    argv, version = shortened(sys.argv[1:]), __version__
    writer.append_step(Step("fit-bspline", argv, version, parameters, shortened(inputs), counts=report.counts, notes=report.notes))


def shortened(names: list[str]) -> list[str]:
    """The first of many, and how many there are besides: a corpus may have more clips than an attribute can hold."""
    return names if len(names) <= _MOST_NAMED else [*names[:_MOST_NAMED], f"... and {len(names) - _MOST_NAMED} more"]


def for_each_episode(sources: list[str], work: Callable[[Episode, str], None], files: CorpusOptions, report: Report) -> None:
    """`work` on one episode after the other; only one is open at a time. With --skip-bad, one that fails leaves nothing behind but its name."""
    for number, source in enumerate(sources):
        counts = dict(report.counts)
        try:
            with open_episode(source) as episode:
                work(episode, source)
        except TracekitError as error:
            if not files.skip_bad:
                raise
            report.counts = counts
            report.note(f"left out {source}: {error.message}")
            report.count("episodes left out because they could not be read")
        report.progress(number + 1, len(sources), "episodes")


@contextlib.contextmanager
def open_episode(source: str) -> Iterator[Episode]:
    with open_records(source, EPISODE) as file:
        for group in ("video", "geometry", "tracks"):
            file.require(group)
        yield file.episode()


def compute_scales(sources: list[str], parameters: FitBsplineParameters, files: CorpusOptions, report: Report) -> Scales:
    """One pass over the episodes that keeps nothing but the scales."""
    scales, source_of_clip = CorpusScales(), dict[str, str]()

    def add(episode: Episode, source: str) -> None:
        if episode.clip_id in source_of_clip:
            raise BadDataError(
                f"{source_of_clip[episode.clip_id]} and {source} are both of the clip {episode.clip_id}", hint="name one file per clip"
            )
        scales.add(episode_samples(episode, parameters, report))
        source_of_clip[episode.clip_id] = source

    for_each_episode(sources, add, files, report)
    return Scales(*scales.result(report))


def write_scales(scales: Scales, target: Target) -> None:
    text = json.dumps({"delta_scale": scales.delta_scale.tolist(), "depth_log_range": scales.depth_log_range.tolist()}, indent=2) + "\n"
    if target.path is None:
        sys.stdout.write(text)
        return
    with new_file(target.path, force=target.force) as temporary:
        temporary.write_text(text)


def read_scales(path: str) -> Scales:
    """Scales from `--stats-only`, from a statistics file of the authors' training code, or from an earlier corpus."""
    if not Path(path).is_file():
        raise MissingInputError(f"{path} does not exist", hint="--scale takes what --stats-only wrote, or a corpus")
    with open(path, "rb") as stream:
        is_json = stream.read(1) == b"{"
    if is_json:
        scales = Scales(*release_stats.read_scales(path))
    else:
        with open_records(path, CORPUS) as file:
            scales = Scales(file.value("", "delta_scale"), file.value("", "depth_log_range"))
    if not (np.isfinite(scales.delta_scale).all() and (scales.delta_scale > 0).all()):
        raise BadDataError(f"{path}: delta_scale is {scales.delta_scale.tolist()}, but three positive numbers are expected")
    return scales


command = FitBsplineCommand()
