"""How the time of a step is spent."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Seconds by phase. On CUDA, where work is only queued, the device itself keeps the time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self.start()

    def start(self) -> None:
        """A new step begins."""
        self._marks = [("", self._now())]

    def lap(self, phase: str) -> None:
        """What happened since the last call was `phase`."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Of each phase since the start."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        result: dict[str, float] = {}
        for (_, before), (phase, after) in zip(self._marks, self._marks[1:], strict=False):
            taken = after - before if isinstance(after, float) else before.elapsed_time(after) / 1e3  # type: ignore[operator, union-attr]
            result[phase] = result.get(phase, 0.0) + taken
        return result

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
