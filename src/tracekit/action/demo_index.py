"""Which frames of which demonstrations there are to learn from, and whether the files belong together."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from tracekit.action.config import ActionConfig
from tracekit.errors import BadDataError, ConfigurationError
from tracekit.format.demo_file import DemoFile, DemoHead, DemoLayout
from tracekit.report import Report

SPLITS = ("train", "valid", "all")


class DemoIndex:
    """All frames of several files: file by file, demonstration by demonstration, step by step."""

    def __init__(
        self,
        files: Sequence[str | os.PathLike],
        layout: DemoLayout | None = None,
        *,
        language: str = "",
        report: Report | None = None,
    ) -> None:
        """`language` is what is done in demonstrations that do not say so themselves. What is left out is counted in `report`.

        Raises BadDataError as DemoFile does, and when actions or states have other sizes than those of the first file.
        """
        report = report or Report()
        if not files:
            raise BadDataError("there are no demonstrations to learn from")
        self.layout = layout or DemoLayout()
        self.files = [DemoFile(path, self.layout) for path in files]
        for file in self.files:
            _check_against_first(self.files[0], file)
        self.demos: list[tuple[int, DemoHead]] = [(number, head) for number, file in enumerate(self.files) for head in file.demos]
        """Number of the file, and what it says of a demonstration."""
        lengths = np.array([head.num_samples for _, head in self.demos])
        self.first = np.concatenate([[0], np.cumsum(lengths)])
        """(demos + 1,) number of the first frame of each demonstration, and of all frames."""
        self.demo = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        """(frames,) the demonstration of each frame."""
        self.language = [head.language or language.strip() for _, head in self.demos]
        """Of each demonstration."""
        report.count("demonstrations", len(self.demos))
        report.count("demonstrations that the masks name in no split (left out)", sum(head.split == "" for _, head in self.demos))
        report.count("demonstrations without a sentence", self.language.count(""))
        report.count("frames", len(self))

    def __len__(self) -> int:
        """Frames of all splits."""
        return len(self.demo)

    @property
    def action_size(self) -> int:
        """A."""
        return self.files[0].action_size

    @property
    def state_size(self) -> int:
        """P."""
        return self.files[0].state_size

    def frames(self, split: str) -> np.ndarray:
        """Numbers (n,) int64, ascending, of the frames of a split; "all" is all there are. Raises BadDataError when there are none."""
        if split not in SPLITS:
            raise ValueError(split)
        wanted = np.array([split in ("all", head.split) for _, head in self.demos])
        frames = np.flatnonzero(wanted[self.demo])
        if len(frames) == 0:
            names = ", ".join(file.path for file in self.files)
            raise BadDataError(f"no demonstration of {names} is in the split `{split}`", hint="their masks (mask/train, mask/valid) say so")
        return frames

    def step(self, frame: int) -> tuple[DemoFile, DemoHead, int]:
        """Where a frame stands: its file, demonstration, and step there."""
        demo = int(self.demo[frame])
        file, head = self.demos[demo]
        return self.files[file], head, int(frame - self.first[demo])

    def actions(self, split: str) -> np.ndarray:
        """(n, A) float32 of the frames of a split, in the robot's units."""
        return np.concatenate([file.all_actions for file in self.files])[self.frames(split)]

    def states(self, split: str) -> np.ndarray:
        """(n, P) float32."""
        return np.concatenate([file.all_states for file in self.files])[self.frames(split)]

    def check_against(self, config: ActionConfig) -> None:
        """Raise BadDataError when the demonstrations are of another robot than the policy, ConfigurationError when it looks for a camera that
        the layout does not name."""
        for what, there, wanted in (("actions", self.action_size, config.action_size), ("states", self.state_size, config.state_size)):
            if there != wanted:
                raise BadDataError(f"{what} have {there} numbers in {self.files[0].path}, but {wanted} in the policy")
        if config.gripper_features != "none" and not self.layout.gripper:
            raise ConfigurationError(
                f"the policy looks at a gripper camera ({config.gripper_features}), but the layout of the demonstrations names none",
                hint="name the camera, or choose gripper features `none`",
            )


def _check_against_first(first: DemoFile, file: DemoFile) -> None:
    for what in ("action_size", "state_size"):
        one, other = getattr(first, what), getattr(file, what)
        if one != other:
            numbers = what.replace("_size", "s")
            raise BadDataError(
                f"{numbers} have {one} numbers in {first.path}, but {other} in {file.path}", hint="one policy drives one kind of robot"
            )
