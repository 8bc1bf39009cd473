"""tracekit export traceextract, tracekit export stats: what the authors' training code reads."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer
from tracekit.commands.export_folders import refuse_inputs_inside

from tracekit import batch, options
from tracekit.batch import Item
from tracekit.console import ConsoleReport
from tracekit.errors import BadDataError, CannotCreateError, UsageError
from tracekit.format.atomic_folder import new_folder
from tracekit.format.file import Target, open_records
from tracekit.format.schema import CORPUS, EPISODE
from tracekit.interop.traceextract_writer import TraceextractParameters, write_release_episode
from tracekit.parameters import parameter
from tracekit.report import Report
from tracekit.stage import VideoOptions, open_clip_frames, refuse_inputs
from tracekit.workers import Crew, make_folder, raise_failures, work_through


@dataclass(frozen=True)
class FolderOptions:
    """Which episodes, and where the folders go."""

    out_dir: str | None = parameter(None, "A folder for one episode folder per source, named after the source; done ones are skipped.")
    manifest: str | None = parameter(None, "A list of sources: one path a line, or CSV or HDF5 with --column.")
    column: str = parameter("path", "Column of a CSV manifest, or dataset of an HDF5 one, that holds the paths.")
    shard: str | None = parameter(None, "I/N: take the I-th (from 0) of every N sources; slurm or slurm/N: I is the array task.")
    jobs: int = parameter(1, "Sources to work on at the same time, each in a process of its own.", minimum=1)
    stall_timeout: float = parameter(600.0, "Give a source up when it makes no progress for this many seconds.", minimum=1.0)
    force: bool = parameter(False, "Make episode folders that exist anew.")
    dry_run: bool = parameter(False, "Say what would be read and written; touch nothing.")
    quiet: bool = parameter(False, "Say nothing but errors.")
    verbose: bool = parameter(False, "Say more.")


@dataclass(frozen=True)
class StatsOptions:
    """Where the statistics go."""

    output: str | None = parameter(None, "The JSON file to write.")
    force: bool = parameter(False, "Replace the output if it exists.")


@dataclass(frozen=True)
class _OneEpisode:
    """What a child process does with one source."""

    folder: str
    parameters: TraceextractParameters
    video: str | None
    force: bool

    def __call__(self, item: Item, report: Report) -> None:
        target = Path(self.folder) / item.id
        with open_records(item.source, EPISODE) as file:
            for group in ("video", "geometry", "tracks"):
                file.require(group)
            episode = file.episode()
            if target.exists():
                _check_replaceable(target, self.force)
                refuse_inputs_inside(target, [item.source, self.video, episode.video.uri])
            frames = open_clip_frames(episode.video, item.source, self.video)
            with new_folder(target, replace=self.force) as temporary:
                write_release_episode(episode, frames, temporary, item.id, self.parameters, report)


def _check_replaceable(target: Path, force: bool) -> None:
    """Raise CannotCreateError for a folder that is in the way: only episode folders are ever removed."""
    if not (target / "images.npy").is_file() or not (target / "samples").is_dir():
        raise CannotCreateError(f"{target} exists and is no episode folder", hint="use another -d")
    if not force:
        raise CannotCreateError(f"{target} exists", hint="use --force to make it anew")


class TraceextractExport:
    """`tracekit export traceextract`."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "export traceextract",
            self.run,
            {"parameters": TraceextractParameters, "where": VideoOptions, "common": FolderOptions},
            sources="Episode files.",
            about="Write episodes as folders of the authors' TraceExtract, which their training code reads."
            "\n\nReads: video, geometry, tracks; motion and captions when there.  Writes: DIR/NAME/ for each NAME.h5."
            "\n\nExample:  tracekit export traceextract *.h5 -d episodes",
        )

    def run(self, sources: list[str], parameters: TraceextractParameters, where: VideoOptions, common: FolderOptions) -> None:
        if not common.out_dir:
            raise UsageError("say where the episode folders go: -d DIR")
        listed = batch.read_manifest(common.manifest, common.column) if common.manifest else []
        sources = [*sources, *listed]
        if not sources or "-" in sources:
            raise UsageError("name episode files: their folders are called after them, and standard input has no name")
        if len(sources) > 1 and where.video:
            raise UsageError("--video is for one episode")
        folder = Path(common.out_dir)
        items = batch.name_items(sources)
        mine = batch.take_shard(items, common.shard, folder, dry_run=common.dry_run)
        for item in mine:
            check_name(item.id, item.source)
        todo = [item for item in mine if common.force or not (folder / item.id / "images.npy").is_file()]
        if common.dry_run:
            for item in todo:
                print(f"tracekit export traceextract: would read {item.source}, write {folder / item.id}", file=sys.stderr)
            return
        make_folder(folder)
        report = ConsoleReport("export traceextract", quiet=common.quiet, verbose=common.verbose)
        if len(todo) < len(mine):
            report.note(f"{len(mine) - len(todo)} of {len(mine)} episode folders are there already (--force makes them again)")
        work = _OneEpisode(str(folder), parameters, where.video, common.force)
        try:
            if len(items) == 1:
                for item in todo:
                    work(item, report)
                return
            crew = Crew(
                "export traceextract", folder, "sources", common.jobs, common.stall_timeout, quiet=common.quiet, verbose=common.verbose
            )
            failures = work_through(work, todo, crew, report)
        finally:
            report.finish()
        raise_failures(failures, len(mine), crew)


class StatsExport:
    """`tracekit export stats`."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "export stats",
            self.run,
            {"common": StatsOptions},
            sources="A corpus.",
            about="Write the scales of a corpus as the statistics file of the authors' training code (--delta_stats_path)."
            "\n\nExample:  tracekit export stats corpus.h5 -o normalizer_stats.json",
        )

    def run(self, sources: list[str], common: StatsOptions) -> None:
        from tracekit.interop.release_stats import write_release_stats

        if len(sources) != 1:
            raise UsageError("name one corpus")
        if not common.output:
            raise UsageError("say where the statistics go: -o FILE.json")
        target = Target(Path(common.output), common.force)
        refuse_inputs(target.path, sources)
        target.check()
        with open_records(sources[0], CORPUS) as file:
            delta_scale, depth_log_range = file.value("", "delta_scale"), file.value("", "depth_log_range")
            history, horizon = (column.shape[1] for name in ("history", "future") if (column := file.column("", name)) is not None)
        write_release_stats(Path(common.output), delta_scale, depth_log_range, history=history, horizon=horizon, force=common.force)


def check_name(name: str, source: str) -> None:
    """Raise BadDataError for what cannot be the name of a folder inside the output folder."""
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name.encode("utf-8", "surrogateescape")) > 200:
        raise BadDataError(f"{source} cannot name a folder", hint="rename the file: a name that does not begin with a dot")
