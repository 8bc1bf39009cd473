"""tracekit simulate: make clips with ground truth."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from tracekit import options
from tracekit.console import ConsoleReport
from tracekit.errors import UsageError
from tracekit.parameters import parameter

SMALLEST, LARGEST = 32, 2048


@dataclass(frozen=True)
class SimulateParameters:
    """What is simulated."""

    env: str | None = parameter(None, "metaworld/TASK[,TASK...], metaworld/mt10 or metaworld/mt50.")
    num_episodes: int = parameter(1, "Episodes of each task and camera.", minimum=1, maximum=1_000_000)
    camera: str = parameter("corner2", "corner2 (fixed), orbit, handheld, egocentric, or several by comma.")
    size: str = parameter("480x360", "Width and height of the video; even numbers.")
    fps: float = parameter(
        20.0, "Rate at which the video plays. A frame is a control step; 80 a second in the simulation, at 20 the arm is as fast as real ones.",
        minimum=0.1, maximum=1000,
    )  # fmt: skip
    settle: int = parameter(10, "Frames that follow the moment when the task is done.", minimum=0, maximum=500)
    demos: str | None = parameter(None, "Also write one HDF5 file of demonstrations in robomimic's layout.")
    demo_size: str = parameter("256x192", "Width and height of its pictures.")


@dataclass(frozen=True)
class SimulateOptions:
    """Where to, and how."""

    out_dir: str | None = parameter(None, "Folder for TASK_CAMERA_SEED_K.mp4 and .truth.h5; what is there is not made again.")
    jobs: int = parameter(1, "Episodes to simulate at the same time, each in a process of its own.", minimum=1)
    stall_timeout: float = parameter(600.0, "Give an episode up when it makes no progress for this many seconds.", minimum=1.0)
    force: bool = parameter(False, "Replace outputs that exist.")
    dry_run: bool = parameter(False, "Say what would be made; touch nothing.")
    seed: int = parameter(0, "Seed of every random choice.", minimum=0, maximum=2**32 - 1)
    quiet: bool = parameter(False, "Say nothing but errors.")
    verbose: bool = parameter(False, "Say more.")


class SimulateCommand:
    """Films scripted experts in a simulator."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "simulate",
            self.run,
            {"parameters": SimulateParameters, "common": SimulateOptions},
            sources=None,
            about="Make clips with ground truth: scripted experts of Meta-World, filmed by fixed or moving cameras (extra `sim`)."
            "\n\nWrites for each episode a video and a truth file: depth, cameras, the body at every pixel, the pose of every body, true"
            " tracks and events."
            "\n\nExample:  tracekit simulate --env metaworld/drawer-open-v3 --num-episodes 10 --camera orbit --jobs 2 -d clips",
        )

    def run(self, parameters: SimulateParameters, common: SimulateOptions) -> None:
        from tracekit.envs.metaworld import parse_tasks
        from tracekit.simulation.camera_paths import parse_cameras

        if not parameters.env or not common.out_dir:
            raise UsageError("say what to simulate and where to put it: --env metaworld/TASK -d DIR")
        tasks, cameras = parse_tasks(parameters.env), parse_cameras(parameters.camera)
        width, height = parse_size("--size", parameters.size)
        demo_size = parse_size("--demo-size", parameters.demo_size)

        from tracekit.simulation.demos import DemoPlan
        from tracekit.simulation.episode import EpisodeRequest
        from tracekit.simulation.farm import missing_jobs, simulate
        from tracekit.workers import Crew

        requests = [
            EpisodeRequest(task, camera, common.seed, number, width, height, parameters.fps, parameters.settle)
            for task in tasks
            for camera in cameras
            for number in range(parameters.num_episodes)
        ]
        demos = DemoPlan(Path(parameters.demos), *demo_size) if parameters.demos else None
        folder = Path(common.out_dir)
        if common.dry_run:
            for job in missing_jobs(requests, folder, demos, force=common.force):
                outputs = [f"{folder / job.id}.mp4 and .truth.h5"] * job.video_and_truth + [
                    f"a demonstration in {parameters.demos}"
                ] * job.demo
                print(f"tracekit simulate: would make {' and '.join(outputs)}", file=sys.stderr)
            return
        crew = Crew(
            "simulate",
            folder,
            "episodes",
            common.jobs,
            common.stall_timeout,
            fresh=True,
            full_disk_ends_all=True,
            quiet=common.quiet,
            verbose=common.verbose,
        )
        report = ConsoleReport("simulate", quiet=common.quiet, verbose=common.verbose)
        try:
            simulate(requests, crew, demos, force=common.force, argv=sys.argv[1:], report=report)
        finally:
            report.finish()


def parse_size(flag: str, text: str) -> tuple[int, int]:
    """Width and height of "480x360". Raises UsageError."""
    width, _, height = text.lower().partition("x")
    if not (text.isascii() and width.isdecimal() and height.isdecimal()):
        raise UsageError(f"{flag} is {text!r}", hint="give WIDTHxHEIGHT in pixels, for example 480x360")
    for number in (int(width), int(height)):
        if number % 2 or not SMALLEST <= number <= LARGEST:
            raise UsageError(f"{flag} is {text}", hint=f"both must be even and from {SMALLEST} to {LARGEST}")
    return int(width), int(height)


command = SimulateCommand()
