"""A video of an episode: what the camera saw, with the traces that the world model expected from the latest decision, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from tracekit.drawing import INK, PAPER, Colour, draw_text, fitted
from tracekit.format.atomic import new_file
from tracekit.trace_pictures import LEAST_WIDTH, draw_paths
from tracekit.video_writer import write_video

_MOST_PATHS = 64
_FRAMES_AHEAD = 16
_LEAST_CHANGE = 12
"""Of a pixel's brightest channel within the frames ahead, out of 255: less is noise of the drawing."""
_LETTERS = 15
"""Height, pixels."""
_END_SECONDS = 1.0
"""For which the last picture stays."""
_DONE: Colour = (24, 120, 60)
_NOT_DONE: Colour = (170, 40, 40)


def write_episode_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    traces: Sequence[np.ndarray | None],
    sentence: str,
    success: bool,
    fps: float,
    alive: Callable[[], None],
) -> None:
    """Write T + 1 pictures (H, W, 3) uint8 RGB of T steps, and those of the traces (N, H + 1, 3) that each step was decided with.

    Raises StorageError when the disk fails. A file that is there is replaced.
    """
    with new_file(path, force=True) as temporary:
        write_video(temporary, _frames(pictures, traces, sentence, success, fps, alive), fps)


def _frames(
    pictures: Sequence[np.ndarray],
    traces: Sequence[np.ndarray | None],
    sentence: str,
    success: bool,
    fps: float,
    alive: Callable[[], None],
) -> Iterator[np.ndarray]:
    num_steps = len(traces)
    for step, picture in enumerate(pictures):
        alive()
        expected = traces[min(step, num_steps - 1)]
        if expected is not None and step < num_steps:
            shown = expected[changes_at(expected[:, 0, :2], pictures[step : step + _FRAMES_AHEAD + 1])]
            picture = draw_paths(enlarged(picture), shown, most_paths=_MOST_PATHS)
        else:
            picture = enlarged(picture)
        ended = step == num_steps
        outcome, colour = (("done", _DONE) if success else ("not done", _NOT_DONE)) if ended else (f"step {step}", INK)
        frame = captioned(picture, sentence, outcome, colour)
        for _ in range(1 + round(_END_SECONDS * fps) * ended):
            yield frame


def changes_at(uv: np.ndarray, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) bool, whether anything changes in the pictures (H, W, 3) at points uv (N, 2) in [-1, 1].

    A world model takes it that what it is asked about moves: its traces of a wall say nothing. What really moves, a video knows.
    """
    if len(pictures) < 2:
        return np.zeros(len(uv), bool)
    first = pictures[0].astype(np.int16)
    change = np.max([np.abs(picture - first).max(axis=2) for picture in pictures[1:]], axis=0)
    # Of the pixel and its neighbours: the border of a thing belongs to it.
    change = cv2.dilate(change.astype(np.uint8), np.ones((3, 3), np.uint8))
    height, width = change.shape
    column, row = ((uv + 1) / 2 * (width, height)).astype(int).clip(0, (width - 1, height - 1)).T
    return change[row, column] > _LEAST_CHANGE


def enlarged(picture: np.ndarray) -> np.ndarray:
    scale = math.ceil(LEAST_WIDTH / picture.shape[1])
    return picture if scale <= 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def captioned(picture: np.ndarray, sentence: str, outcome: str, colour: Colour) -> np.ndarray:
    """The picture over a line with what is to be done, at the left, and how it stands, at the right."""
    height, width = picture.shape[:2]
    line = 2 * _LETTERS
    frame = np.full((height + line, width, 3), PAPER, np.uint8)
    frame[:height] = picture
    room = width - 12 * _LETTERS
    draw_text(frame, fitted(sentence, _LETTERS, room), _LETTERS / 2, height + line / 2, _LETTERS)
    draw_text(frame, outcome, width - _LETTERS / 2, height + line / 2, _LETTERS, colour, anchor="right")
    return frame
