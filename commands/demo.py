"""tracekit demo: run the whole chain on a bundled clip and show what comes out."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import cv2
import numpy as np
import typer

from tracekit import cli, options
from tracekit.errors import CannotCreateError, TracekitError
from tracekit.format.atomic import new_file
from tracekit.parameters import parameter


@dataclass(frozen=True)
class DemoOptions:
    """Where the demo's files go."""

    out_dir: str = parameter("demo-output", "Folder for everything that the demo makes.")
    force: bool = parameter(False, "Replace files of an earlier demo.")


SAMPLE = "pick-place-v3_orbit_0_0"
"""The bundled clip, as `tracekit simulate` names it: SAMPLE.mp4 and SAMPLE.truth.h5 (src/tracekit/samples/README.md says how it was made)."""


def chain(clip: Path, truth: Path, folder: Path) -> list[list[str]]:
    """The commands of the demo, as a user would type them."""
    stages = [
        ["keypoints", str(clip), "--sensor", str(truth), "--sensor-poses", "no"],
        ["reconstruct"],
        ["track"],
        ["filter", "--threshold-fraction", "0.05"],
        ["segment"],
        ["caption"],
    ]
    result = []
    previous: list[str] = []
    for number, stage in enumerate(stages, 1):
        output = str(folder / f"{number}-{stage[0]}.h5")
        result.append([stage[0], *previous, *stage[1:], "-o", output])
        previous = [output]
    episode = previous[0]
    return [
        *result,
        ["fit-bspline", episode, "-o", str(folder / "corpus.h5")],
        ["view", episode, "-o", str(folder / "traces.png")],
        ["view", episode, "--what", "keypoints", "-o", str(folder / "keypoints.png")],
        ["view", episode, "--what", "before-after", "-o", str(folder / "before-after.png")],
        ["view", episode, "-o", str(folder / "traces.mp4")],
        ["info", "--validate", episode],
        ["evaluate", "--extraction", episode, "--truth", str(truth)],
    ]


class DemoCommand:
    """Runs other commands, in order."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "demo",
            self.run,
            {"parameters": DemoOptions},
            sources=None,
            about="Run the whole chain on a bundled clip, a simulated arm filmed by an RGB-D camera that moves, and score it against the truth."
            "\n\nExample:  tracekit demo -d demo-output",
        )

    def run(self, parameters: DemoOptions) -> None:
        folder = Path(parameters.out_dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotCreateError(f"cannot create the folder {folder}: {error.strerror}") from None
        with as_file(files("tracekit") / "samples") as samples:
            for name in (
                f"{SAMPLE}.mp4",
                f"{SAMPLE}.truth.h5",
            ):  # beside the episode files, so that these stay readable when the package moves
                with new_file(folder / name, force=parameters.force) as temporary:
                    shutil.copyfile(samples / name, temporary)
        for arguments in chain(folder / f"{SAMPLE}.mp4", folder / f"{SAMPLE}.truth.h5", folder):
            force = ["--force"] if parameters.force and "-o" in arguments else []
            print(f"$ tracekit {shlex.join(arguments)}", flush=True)
            if code := cli.run([*arguments, *force]):
                raise DemoError(f"tracekit {arguments[0]} failed", code)
        show(folder)


class DemoError(TracekitError):
    """One of the commands failed; it has said why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def show(folder: Path) -> None:
    """List the files, and draw the traces into the terminal where it has colours."""
    meanings = {
        f"{SAMPLE}.mp4": "the clip",
        f"{SAMPLE}.truth.h5": "measured depth, and the truth that the result is scored against",
        "6-caption.h5": "the episode: keypoints, cameras, depth, tracks, events, captions",
        "corpus.h5": "training rows for the world model",
        "keypoints.png": "entities and the points chosen on them",
        "traces.png": "the traces over six frames, the events and their captions",
        "before-after.png": "all tracks, and those that move",
        "traces.mp4": "the film of it",
    }
    if sys.stdout.isatty():
        picture = cv2.imread(str(folder / "traces.png"), cv2.IMREAD_COLOR_RGB)
        assert picture is not None, "view has just written it"
        print(terminal_picture(picture, shutil.get_terminal_size().columns))
    print(f"\nEverything lies in {folder.resolve()}:")
    for path in sorted(folder.iterdir()):
        about = meanings.get(path.name, f"the episode after `tracekit {path.stem.partition('-')[2]}`")
        print(f"  {path.name:<34} {path.stat().st_size / 1000:8,.0f} kB   {about}")


def terminal_picture(picture: np.ndarray, columns: int) -> str:
    """A picture (h, w, 3) in half-block characters, two pixels a character."""
    width = min(columns, 120)
    height = 2 * round(width * picture.shape[0] / picture.shape[1] / 2)
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        cells = (f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀" for a, b in zip(upper, lower, strict=True))
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


command = DemoCommand()
