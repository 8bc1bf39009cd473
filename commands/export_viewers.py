"""tracekit export tapip3d, tracekit export rerun: episodes for other people's viewers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from tracekit import options
from tracekit.console import ConsoleReport
from tracekit.errors import UsageError
from tracekit.format.atomic import check_can_create, new_file
from tracekit.format.file import open_records
from tracekit.format.schema import EPISODE
from tracekit.interop.rerun_recording import RerunParameters, check_rerun, write_recording
from tracekit.interop.tapip3d_npz import Tapip3dParameters, write_tapip3d
from tracekit.parameters import parameter
from tracekit.stage import VideoOptions, open_clip_frames, refuse_inputs


@dataclass(frozen=True)
class FileOptions:
    """Where the file goes."""

    output: str | None = parameter(None, "The file to write.")
    force: bool = parameter(False, "Replace the output if it exists.")
    quiet: bool = parameter(False, "Say nothing but errors.")


class Tapip3dExport:
    """`tracekit export tapip3d`."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "export tapip3d",
            self.run,
            {"parameters": Tapip3dParameters, "where": VideoOptions, "common": FileOptions},
            sources="An episode file.",
            metavar="EPISODE",
            about="Write an episode as the .npz that the viewers of TAPIP3D and SpatialTrackerV2 show."
            "\n\nReads: video, geometry, tracks; motion with --moving-only."
            "\n\nExample:  tracekit export tapip3d episode.h5 -o episode.npz",
        )

    def run(self, sources: list[str], parameters: Tapip3dParameters, where: VideoOptions, common: FileOptions) -> None:
        _write("export tapip3d", ".npz", ("video", "geometry", "tracks"), write_tapip3d, sources, parameters, where, common)


class RerunExport:
    """`tracekit export rerun`."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "export rerun",
            self.run,
            {"parameters": RerunParameters, "where": VideoOptions, "common": FileOptions},
            sources="An episode file.",
            metavar="EPISODE",
            about="Write an episode as a recording that the viewer rerun plays: pictures, depth, cameras, 3D tracks, captions (extra `rerun`)."
            "\n\nReads: video, geometry; depth, tracks, motion and captions when there."
            "\n\nExample:  tracekit export rerun episode.h5 -o episode.rrd && rerun episode.rrd",
        )

    def run(self, sources: list[str], parameters: RerunParameters, where: VideoOptions, common: FileOptions) -> None:
        check_rerun()
        _write("export rerun", ".rrd", ("video", "geometry"), write_recording, sources, parameters, where, common)


def _write(
    name: str,
    suffix: str,
    groups: tuple[str, ...],
    write: Callable[..., None],
    sources: list[str],
    parameters: Any,
    where: VideoOptions,
    common: FileOptions,
) -> None:
    """One episode to one file, whole or not at all."""
    if len(sources) != 1 or not common.output:
        raise UsageError("say what to write and where to", hint=f"tracekit {name} EPISODE.h5 -o FILE{suffix}")
    source, target = sources[0], Path(common.output)
    refuse_inputs(target, [source, where.video])
    check_can_create(target, force=common.force)
    report = ConsoleReport(name, quiet=common.quiet)
    try:
        with open_records(source, EPISODE) as file:
            for group in groups:
                file.require(group)
            episode = file.episode()
            refuse_inputs(target, [episode.video.uri])
            frames = open_clip_frames(episode.video, source, where.video)
            with new_file(target, force=common.force) as temporary:
                write(episode, frames, temporary, parameters, report)
    finally:
        report.finish()
