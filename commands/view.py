"""tracekit view: draw what is in an episode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import typer

from tracekit import drawing, options, timeline, video
from tracekit.console import ConsoleReport
from tracekit.errors import BadDataError, UsageError
from tracekit.format.atomic import check_can_create, new_file
from tracekit.format.file import open_records
from tracekit.format.schema import EPISODE
from tracekit.parameters import parameter
from tracekit.records import Episode, Frames
from tracekit.stage import VideoOptions, open_clip_frames, refuse_inputs


@dataclass(frozen=True)
class ViewOptions:
    """What to draw, and where to."""

    output: str | None = parameter(None, "Picture (.png, .jpg) or film (.mp4) to write.")
    what: str = parameter(
        "auto",
        "auto takes traces when there are tracks, else keypoints.",
        choices=("auto", "traces", "keypoints", "before-after", "timeline"),
    )
    frame: int | None = parameter(None, "Draw this frame only; else a sheet of several.", minimum=0)
    num_frames: int = parameter(6, "Frames on a sheet.", minimum=1, maximum=100)
    tail: int = parameter(15, "Frames of the past that a trace shows.", minimum=0)
    force: bool = parameter(False, "Replace the output if it exists.")
    quiet: bool = parameter(False, "Say nothing but errors.")


def view(frames: Frames, episode: Episode, choice: ViewOptions) -> np.ndarray:
    """One picture (h, w, 3) uint8 of an episode."""
    what = choice.what
    if what == "auto":
        what = "traces" if episode.tracks is not None else "keypoints"
    if what == "timeline":
        return timeline.draw_timeline(episode, max(640, episode.video.width))
    if len(frames) == 0:
        raise BadDataError("the episode has no frames to draw")
    if what == "before-after":
        t = choice.frame if choice.frame is not None else len(frames) // 2
        return drawing.draw_before_after(frames[_existing(t, frames)], episode, t)
    draw, default = _painter(what, episode, choice)
    if choice.frame is not None:
        return draw(frames[_existing(choice.frame, frames)], choice.frame)
    chosen = default if default is not None else np.linspace(0, len(frames) - 1, min(choice.num_frames, len(frames))).round().astype(int)
    sheet = drawing.contact_sheet([draw(frames[int(t)], int(t)) for t in chosen], titles=moments([_seconds(episode, t) for t in chosen]))
    if what == "traces" and episode.events is not None:
        return np.concatenate([sheet, timeline.draw_timeline(episode, sheet.shape[1])])
    return sheet


def moments(seconds: list[float]) -> list[str]:
    """Times of frames as titles, with as many digits as tell neighbours apart."""
    nearest = min(np.diff(seconds), default=1.0)
    digits = next((digits for digits in (1, 2) if nearest >= 0.99 * 10.0**-digits), 3)
    return [f"{moment:.{digits}f} s" for moment in seconds]


def _painter(what: str, episode: Episode, choice: ViewOptions) -> tuple[Callable[[np.ndarray, int], np.ndarray], np.ndarray | None]:
    """How a frame is drawn, and which frames are worth it (None: evenly spaced)."""
    if what == "keypoints":
        keypoints = episode.keypoints
        if keypoints is None:
            raise BadDataError("the episode has no keypoints", hint="`tracekit keypoints` writes them")
        places = np.linspace(0, len(keypoints.label_frame) - 1, min(choice.num_frames, len(keypoints.label_frame))).round().astype(int)
        return lambda frame, t: drawing.draw_keypoints(frame, keypoints, t), keypoints.label_frame[places]
    if episode.tracks is None:
        raise BadDataError("the episode has no tracks", hint="`tracekit track` writes them")
    return lambda frame, t: drawing.draw_traces(frame, episode, t, choice.tail), None


def _existing(t: int, frames: Frames) -> int:
    if t >= len(frames):
        raise UsageError(f"--frame is {t}, but the clip has frames 0 to {len(frames) - 1}")
    return t


def _seconds(episode: Episode, t: int) -> float:
    return float(episode.video.pts[t] - episode.video.pts[0])


class ViewCommand:
    """Draws one episode."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "view",
            self.run,
            {"parameters": ViewOptions, "where": VideoOptions},
            sources="Episode file; - or nothing is standard input.",
            about="Draw what is in an episode: keypoints, traces over frames, events on a time line, before and after the motion filter."
            "\n\nReads: video, and what it draws.\n\nExample:  tracekit view in.h5 -o in.png",
        )

    def run(self, sources: list[str], parameters: ViewOptions, where: VideoOptions) -> None:
        if len(sources) > 1:
            raise UsageError("view draws one episode at a time")
        if not parameters.output:
            raise UsageError("say where to draw: -o out.png or -o out.mp4")
        source, target = (sources[0] if sources else "-"), Path(parameters.output)
        if target.suffix.lower() not in (".png", ".jpg", ".jpeg", ".mp4"):
            raise UsageError(f"cannot draw a {target.suffix or 'file without a suffix'}", hint="use .png, .jpg or .mp4")
        if target.suffix.lower() == ".mp4" and (parameters.what not in ("auto", "traces") or parameters.frame is not None):
            raise UsageError("a film shows the traces of all frames", hint="use .png for --what and --frame")
        refuse_inputs(target, [source, where.video])
        check_can_create(target, force=parameters.force)
        report = ConsoleReport("view", quiet=parameters.quiet)
        with open_records(source, EPISODE) as file, new_file(target, force=parameters.force) as temporary:
            episode = file.episode()
            frames = open_clip_frames(episode.video, source, where.video)
            if target.suffix.lower() == ".mp4":
                with temporary.open("wb") as stream:
                    video.write_video(stream, timeline.render_view(frames, episode, parameters.tail), episode.video.fps)
            else:
                picture = view(frames, episode, parameters)
                encoded = cv2.imencode(target.suffix.lower(), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
                temporary.write_bytes(encoded.tobytes())
        report.finish()


command = ViewCommand()
