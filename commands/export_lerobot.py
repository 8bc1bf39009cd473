"""tracekit export lerobot: demonstrations as the package lerobot reads them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer
from tracekit.commands.export_folders import refuse_inputs_inside
from tracekit.commands.import_ import CAMERA_FLAGS

from tracekit import options
from tracekit.console import ConsoleReport
from tracekit.errors import CannotCreateError, UsageError
from tracekit.format.atomic_folder import new_folder
from tracekit.interop.lerobot_export import LerobotParameters
from tracekit.parameters import parameter
from tracekit.workers import make_folder


@dataclass(frozen=True)
class DemoFolderOptions:
    """What is read, and where the folder goes."""

    agentview: str = parameter("agentview_image", "Observation of the camera that sees the scene.")
    gripper: str = parameter("eye_in_hand_image", "Observation of the camera on the gripper, or none.")
    state: str = parameter("proprio", "Observations that make up the state of the robot, by comma.")
    out_dir: str | None = parameter(None, "The folder to make.")
    force: bool = parameter(False, "Replace the folder if it is a LeRobotDataset.")
    quiet: bool = parameter(False, "Say nothing but errors.")


class LerobotExport:
    """`tracekit export lerobot`."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "export lerobot",
            self.run,
            {"parameters": LerobotParameters, "common": DemoFolderOptions},
            sources="A file of demonstrations, ours or robomimic's.",
            metavar="DEMOS",
            flags=CAMERA_FLAGS,
            about="Write demonstrations as a LeRobotDataset, which the package lerobot loads (extra `lerobot`)."
            "\n\nReads: a file of demonstrations.  Writes: meta/, data/*.parquet, and videos/*.mp4 or with --images the pictures in the rows."
            "\n\nExample:  tracekit export lerobot demos.h5 -d drawer_open",
        )

    def run(self, sources: list[str], parameters: LerobotParameters, common: DemoFolderOptions) -> None:
        from tracekit.format.demo_file import DemoFile, DemoLayout
        from tracekit.interop.lerobot_export import export_lerobot

        if len(sources) != 1 or not common.out_dir:
            raise UsageError("say what to write and where to: tracekit export lerobot DEMOS.h5 -d FOLDER")
        target = Path(common.out_dir)
        if target.exists():
            if not (target / "meta" / "info.json").is_file():
                raise CannotCreateError(f"{target} exists and is no LeRobotDataset", hint="use another -d")
            if not common.force:
                raise CannotCreateError(f"{target} exists", hint="use --force to make it anew")
            refuse_inputs_inside(target, sources)
        gripper = "" if common.gripper == "none" else common.gripper
        layout = DemoLayout(common.agentview, gripper, tuple(name.strip() for name in common.state.split(",") if name.strip()))
        report = ConsoleReport("export lerobot", quiet=common.quiet)
        make_folder(target.parent)
        try:
            with DemoFile(sources[0], layout) as file, new_folder(target, replace=common.force) as temporary:
                export_lerobot(file, temporary, parameters, argv=sys.argv[1:], report=report)
        finally:
            report.finish()
