"""tracekit import: bring in recordings with measured depth and cameras, demonstrations, and what other people extracted and trained."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from tracekit import options, video
from tracekit.console import ConsoleReport
from tracekit.errors import MissingInputError, UsageError
from tracekit.interop import rgbd
from tracekit.parameters import parameter
from tracekit.records import CameraSensor, Clip, DepthSensor
from tracekit.stage import Stage, Work


@dataclass(frozen=True)
class RgbdOptions:
    """Where things are in a folder of colour and depth images."""

    rgb_folder: str = parameter("rgb", "Folder of colour images inside the source.")
    depth_folder: str = parameter("depth", "Folder of depth images inside the source.")
    metres_per_unit: float = parameter(0.001, "Metres per unit of the depth images.", minimum=1e-9)
    intrinsics: str | None = parameter(
        None, "fx,fy,cx,cy in pixels of the colour images, or a file; else DIR/intrinsics.txt, .npy or .json."
    )
    poses: str | None = parameter(None, "File with one camera pose a frame; else DIR/poses.txt or .npy, else none.")
    pose_direction: str = parameter("world_from_camera", "What the poses map.", choices=("world_from_camera", "camera_from_world"))
    source_fps: float = parameter(10.0, "Frames per second of the recording.", minimum=0.001)
    fps: float | None = parameter(None, "Frames per second to keep; without it, all.", minimum=0.001)
    max_size: int = parameter(640, "Longest side of the processed grid in pixels; larger images are shrunk. 0: never.", minimum=0)
    task: str | None = parameter(None, "What is done in the clip; else the first line of DIR/lang.txt.")
    allow_partial: bool = parameter(False, "Take frames without a depth image, with unknown depth.")
    embed_frames: bool = parameter(False, "Store the frames in the file, so that it needs no images beside it.")


def run_rgbd(work: Work) -> None:
    from tracekit.extract.recording import SelectedFrames
    from tracekit.geometry.cameras import scale_intrinsics

    options: RgbdOptions = work.parameters
    folder = Path(work.source)
    if not folder.is_dir():
        raise MissingInputError(f"{folder} is no folder", hint="give a folder with rgb/ and depth/ in it")
    images = video.list_images(folder / options.rgb_folder)
    intrinsics = rgbd.read_intrinsics(options.intrinsics, folder)
    poses = rgbd.read_poses(options.poses, folder, len(images), options.pose_direction)
    depth = rgbd.match_depth(
        images,
        folder / options.depth_folder,
        metres_per_unit=options.metres_per_unit,
        allow_missing=options.allow_partial,
        report=work.report,
    )
    clip, frames = video.open_clip(
        folder / options.rgb_folder, fps=options.fps, max_size=options.max_size, source_fps=options.source_fps, report=work.report
    )
    work.start_clip(clip, frames)
    work.put(
        dataclasses.replace(clip, task=options.task or _first_line(folder / "lang.txt"), frames=frames if options.embed_frames else None)
    )
    kept = clip.source_frame
    work.put(DepthSensor(SelectedFrames(depth, kept)))
    grid_intrinsics = scale_intrinsics(intrinsics, (clip.source_width, clip.source_height), (clip.width, clip.height))
    work.put(CameraSensor(grid_intrinsics, poses[kept] if poses is not None else None))


def _first_line(path: Path) -> str | None:
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    return lines[0].strip() if lines else None


@dataclass(frozen=True)
class TraceextractOptions:
    """What an episode folder of TraceExtract does not tell."""

    source_fps: float | None = parameter(
        None, "Frames per second of images.npy; else what meta.json says, else 10, which the release aims at.", minimum=0.001
    )
    task: str | None = parameter(None, "What is done in the clip; else the first line of DIR/description.txt.")


def run_traceextract(work: Work) -> None:
    from tracekit.interop.traceextract import open_release_episode
    from tracekit.interop.traceextract_records import records_of

    options: TraceextractOptions = work.parameters
    episode = open_release_episode(Path(work.source))
    for record in records_of(episode, options.source_fps, options.task, work.report):
        if isinstance(record, Clip):
            work.start_clip(record, episode.images)
        work.put(record)


@dataclass(frozen=True)
class ReleaseOptions:
    """What belongs to the checkpoint, and where it goes."""

    stats: str | None = parameter(None, "JSON of the scales that it was trained with; delta_stats.json in the folder otherwise.")
    output: str | None = parameter(None, "The checkpoint to make, a new folder.")
    download: bool = parameter(False, "Allow fetching the VLM's tokenizer from a hub.")
    quiet: bool = parameter(False, "Say nothing but errors.")


class ImportMu0Command:
    """A folder of the release in, a checkpoint of ours out."""

    name = "import mu0"

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            self.name,
            self.run,
            {"choice": ReleaseOptions},
            sources="Folder with config.json and model.safetensors.",
            metavar="FOLDER",
            about="Take the checkpoint that the paper's authors published (furonghuang-lab/mu0): every tensor has its place, or the command"
            " names it.\n\nReads: a LeRobot policy of type smolvla with a trace branch.  Writes: a checkpoint for rollout and finetune."
            "\n\nExample:  tracekit import mu0 downloaded/mu0 --stats downloaded/delta_stats.json -o mu0",
        )

    def run(self, sources: list[str], choice: ReleaseOptions) -> None:
        if len(sources) != 1 or not choice.output:
            raise UsageError("say what to take and where it goes: tracekit import mu0 FOLDER -o CHECKPOINT")
        from tracekit.mu0.adopt_release import adopt_release

        report = ConsoleReport(self.name, quiet=choice.quiet)
        stats = Path(choice.stats) if choice.stats else None
        adopt_release(Path(sources[0]), stats, Path(choice.output), report, download=choice.download)
        report.finish()


CAMERA_FLAGS = {"agentview": ("--agentview", "--camera"), "gripper": ("--gripper", "--gripper-camera")}
"""Also as `finetune` and `rollout` call them."""


@dataclass(frozen=True)
class DemoChoice:
    """Which demonstrations of a LeRobotDataset, and where they go."""

    episodes: str | None = parameter(None, "Which episodes: numbers and ranges without their ends, 0:50 or 3,7,20:30; without it, all.")
    agentview: str | None = parameter(None, "Camera that sees the scene; without it a guess by name, which is said.")
    gripper: str | None = parameter(None, "Camera on the gripper, or none; without it a guess by name, which is said.")
    max_size: int = parameter(0, "Longest side of the pictures in pixels; larger ones are shrunk. 0: never.", minimum=0)
    output: str | None = parameter(None, "The file of demonstrations to write.")
    force: bool = parameter(False, "Replace the output if it exists.")
    quiet: bool = parameter(False, "Say nothing but errors.")


@dataclass(frozen=True)
class LerobotChoice(DemoChoice):
    """For any robot: what its state is called, too."""

    state: str = parameter("observation.state", "Features that make up the state of the robot, by comma.")


@dataclass(frozen=True)
class RobocasaChoice(DemoChoice):
    """For RoboCasa: in which order its actions are wanted."""

    action_order: str = parameter(
        "dataset",
        "Order of the 12 numbers of an action: that of the folder, which `rollout` has too, or that of the simulator and of RoboCasa's raw"
        " HDF5 files.",
        choices=("dataset", "environment"),
    )


class ImportDemosCommand:
    """A folder of a LeRobotDataset in, a file of demonstrations out."""

    def __init__(self, kind: str, choice: type[DemoChoice], about: str) -> None:
        self.name, self._choice, self._about = f"import {kind}", choice, about

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            self.name,
            self.run,
            {"choice": self._choice},
            sources="Folder with meta/ and data/.",
            metavar="FOLDER",
            flags=CAMERA_FLAGS,
            about=self._about,
        )

    def run(self, sources: list[str], choice: Any) -> None:
        if len(sources) != 1 or not choice.output:
            raise UsageError(f"say what to take and where it goes: tracekit {self.name} FOLDER -o DEMOS.h5")
        from tracekit.format.demos import holds_demos
        from tracekit.format.file import Target
        from tracekit.interop import lerobot_import, robocasa_import
        from tracekit.interop.lerobot_layout import open_lerobot

        target = Path(choice.output)
        Target(target, choice.force).check()
        if target.exists() and target.resolve().is_relative_to(Path(sources[0]).resolve()) and not holds_demos(choice.output):
            raise UsageError(f"{target} is part of {sources[0]}; inputs are never changed", hint="write to another file")
        report = ConsoleReport(self.name, quiet=choice.quiet)
        try:
            if isinstance(choice, LerobotChoice):
                folder = open_lerobot(Path(sources[0]))
                cameras = lerobot_import.choose_cameras(folder, choice.agentview, choice.gripper, report)
                state = lerobot_import.choose_state(folder, choice.state)
                recording = lerobot_import.Recording(self.name, lerobot_import.env_args_of(folder))
            else:
                folder = robocasa_import.open_robocasa(Path(sources[0]))
                names = choice.agentview or robocasa_import.AGENTVIEW, choice.gripper or robocasa_import.GRIPPER
                cameras = lerobot_import.choose_cameras(folder, *names, report)
                state = (robocasa_import.STATE,)
                recording = robocasa_import.recording_of(folder, choice.action_order, report)
            lerobot_import.import_lerobot(
                folder,
                lerobot_import.Chosen(*cameras, state, choice.max_size),
                lerobot_import.choose_episodes(folder, choice.episodes),
                recording,
                target,
                parameters=dataclasses.asdict(choice),
                argv=sys.argv[1:],
                force=choice.force,
                report=report,
            )
        finally:
            report.finish()


class ImportCommand:
    """`tracekit import KIND`: one stage a kind of recording."""

    def __init__(self, *kinds: Stage | ImportMu0Command | ImportDemosCommand) -> None:
        self.kinds = kinds
        self.stages = {kind.name.split()[-1]: kind for kind in kinds if isinstance(kind, Stage)}

    def typer_app(self) -> typer.Typer:
        app = typer.Typer(
            add_completion=False, rich_markup_mode=None, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
        )
        about = "Bring in recordings with measured depth and cameras, demonstrations, and what other people extracted and trained."
        app.callback(help=about)(lambda: None)
        for kind in self.kinds:
            app.registered_commands += kind.typer_app().registered_commands
        return app


command = ImportCommand(
    Stage(
        name="import rgbd",
        about="Bring in a folder of colour and depth images, with intrinsics and optional poses.",
        run=run_rgbd,
        parameters=RgbdOptions,
        reads=(),
        writes=("video", "depth_sensor", "camera_sensor"),
        example="tracekit import rgbd DIR --intrinsics 616.7,616.7,320.5,239.6 | tracekit keypoints -o keypoints.h5",
        source_help="Folder with rgb/ and depth/.",
        starts_chain=True,
    ),
    Stage(
        name="import traceextract",
        about="Bring in an episode folder of the authors' TraceExtract, tracked and captioned.",
        run=run_traceextract,
        parameters=TraceextractOptions,
        reads=(),
        writes=("video", "geometry", "tracks", "motion"),
        example="tracekit import traceextract DIR... -d episodes && tracekit fit-bspline episodes/*.h5 --embed-images -o corpus.h5",
        source_help="Episode folder, with images.npy, cameras.npz and samples/.",
        starts_chain=True,
    ),
    ImportMu0Command(),
    ImportDemosCommand(
        "lerobot",
        LerobotChoice,
        "Bring in demonstrations of a LeRobotDataset (codebase v2.1 or v3.0; extra `lerobot`)."
        "\n\nReads: meta/, data/*.parquet, and the videos, or the images in the rows.  Writes: a file of demonstrations, as `simulate --demos` does."
        "\n\nExample:  tracekit import lerobot pusht --episodes 0:50 -o demos.h5",
    ),
    ImportDemosCommand(
        "robocasa",
        RobocasaChoice,
        "Bring in demonstrations of RoboCasa's LeRobot folders (extra `lerobot`)."
        "\n\nReads: such a folder, the cameras robot0_agentview_left and robot0_eye_in_hand.  Writes: a file of demonstrations."
        "\n\nExample:  tracekit import robocasa OpenDrawer/20250816/lerobot --episodes 0:50 -o demos.h5",
    ),
)
