"""Several frames a forward on a GPU, and no more than its memory holds. Imports torch only when asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from tracekit.backends.memory import free_memory, is_out_of_memory
from tracekit.errors import StorageError

Answer = TypeVar("Answer")


class Batches:
    """Takes frames, or anything else that comes in rows, through a network, as many at once as fit.

    On a GPU there are up to `at_most` in a batch; when its memory does not hold them, the batch is halved, for good. Elsewhere every
    frame goes alone: one frame keeps a CPU busy, and its result cannot depend on the frames that happen to be beside it. On a GPU it does, by
    rounding alone: the shape of a batch decides in which order numbers are added.
    """

    def __init__(self, device: Any, at_most: int) -> None:
        self.device = device
        self.size = at_most if device.type == "cuda" else 1

    def each(self, forward: Callable[[Any], tuple[np.ndarray, ...]], frames: np.ndarray, what: str) -> Iterator[tuple[np.ndarray, ...]]:
        """What `forward` answers to one batch after the other of the frames (n, H, W, 3) uint8: arrays with one row a frame.

        `forward` gets a tensor (b, 3, H, W) uint8 on the device. Raises StorageError, naming `what`, where one frame alone does not fit.
        """
        too_large = StorageError(
            f"{what}: out of memory on {self.device} for one frame", hint="take smaller --weights, or another --device"
        )
        yield from self.runs(lambda batch: forward(self._on_device(batch)), frames, lambda _: too_large)

    def runs(self, forward: Callable[[Any], Answer], pieces: Any, too_large: Callable[[str], StorageError]) -> Iterator[Answer]:
        """What `forward` answers to one run of neighbouring pieces after the other; pieces are anything with a length and slices.

        Where one piece alone does not fit, the error is `too_large` of what the device says.
        """
        done = 0
        while done < len(pieces):
            batch = pieces[done : done + self.size]
            answer = _try(forward, batch, too_large)
            if answer is None:
                # Here, where no error holds on to what the batch had used.
                self.size = len(batch) // 2
                free_memory()
            else:
                done += len(batch)
                yield answer

    def map(self, forward: Callable[[Any], tuple[np.ndarray, ...]], frames: np.ndarray, what: str) -> tuple[np.ndarray, ...]:
        """The answers of `each` in one piece; there must be frames."""
        return tuple(np.concatenate(rows) for rows in zip(*self.each(forward, frames, what), strict=True))

    def _on_device(self, frames: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(frames)).to(self.device).permute(0, 3, 1, 2)


def _try(forward: Callable[[Any], Answer], batch: Any, too_large: Callable[[str], StorageError]) -> Answer | None:
    try:
        return forward(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            raise too_large(str(error)) from error
    return None


@contextlib.contextmanager
def inference(device: Any) -> Iterator[None]:
    """Without gradients; on a GPU matrices are multiplied in bfloat16, which keeps the range of float32 and takes half of its memory."""
    import torch

    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        yield
