"""Batches in the order of training, made by worker processes; stopped at any batch and started again there, nothing changes."""

from __future__ import annotations

import contextlib
import gc
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from tracekit.errors import ConfigurationError, StorageError, TracekitError

Sample_co = TypeVar("Sample_co", covariant=True)
Sample = TypeVar("Sample")
Light = TypeVar("Light", bound="HasPictures")
B = TypeVar("B")

# A worker that gives nothing for so long hangs: a decoder in a damaged video, a file system that is gone.
_STALLED_SECONDS = 600


class Samples(Protocol[Sample_co]):
    """Samples by their position in the order of training; those of an epoch are `len`."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Sample_co: ...


class HasPictures(Protocol):
    """A sample that can leave its pictures behind."""

    def without_pictures(self: Light) -> Light:
        """They are in the batch; from a worker to here they would be copied once more."""
        ...


def loader(
    dataset: Samples[Sample],
    collate: Callable[[Sequence[Sample]], B],
    global_batch: int,
    *,
    start: int = 0,
    stop: int | None = None,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> Iterator[B]:
    """The batches of positions `start` to `stop` (one past the last; the end of an epoch when not given), in order.

    Batch b of all processes together is the positions from start + b * global_batch; each of the `world_size` processes gets its
    contiguous part, `global_batch / world_size` samples. The last batch may be smaller; a process that has no part in it gets none.
    Errors of workers arrive here as they were raised. torch's own random state is not touched.
    """
    for batch, _ in _fetch(
        _Fetch(dataset, collate, False), global_batch, start, stop, num_workers, rank, world_size, pin_memory, start_method
    ):
        yield batch


def evaluation_loader(
    dataset: Samples[Light],
    collate: Callable[[Sequence[Light]], B],
    batch_size: int,
    *,
    start: int = 0,
    stop: int | None = None,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    start_method: str | None = None,
) -> Iterator[tuple[B, list[Light]]]:
    """As `loader`, and with each batch the samples in it, without their pictures, for `prediction_fields`."""
    return _fetch(_Fetch(dataset, collate, True), batch_size, start, stop, num_workers, rank, world_size, False, start_method)


@dataclass(frozen=True)
class _Fetch(Dataset):
    """Batches by their range of positions. Errors that a user can act on are values here: torch would wrap them into text."""

    samples: Samples[Any]
    collate: Callable[[Sequence[Any]], Any]
    with_samples: bool

    def __getitem__(self, positions: range) -> tuple[Any, list[Any]] | TracekitError:
        try:
            samples = [self.samples[position] for position in positions]
            return self.collate(samples), [sample.without_pictures() for sample in samples] if self.with_samples else []
        except TracekitError as error:
            return error


class _Parts:
    """The ranges of positions of one process, batch by batch."""

    def __init__(self, start: int, stop: int, global_batch: int, rank: int, world_size: int) -> None:
        self._start, self._stop, self._global_batch = start, stop, global_batch
        self._part = global_batch // world_size
        self._rank = rank

    def __iter__(self) -> Iterator[range]:
        for first in range(self._start, self._stop, self._global_batch):
            part = range(first + self._rank * self._part, min(first + (self._rank + 1) * self._part, self._stop))
            if len(part):
                yield part


def _fetch(
    fetch: _Fetch,
    global_batch: int,
    start: int,
    stop: int | None,
    num_workers: int,
    rank: int,
    world_size: int,
    pin_memory: bool,
    start_method: str | None,
) -> Iterator[tuple[Any, list[Any]]]:
    if global_batch < 1 or global_batch % world_size:
        raise ConfigurationError(f"a batch of {global_batch} samples cannot be shared by {world_size} processes evenly")
    num_samples = len(fetch.samples)
    stop = (start // num_samples + 1) * num_samples if stop is None else stop
    with _no_advice():
        batches = DataLoader(
            fetch,
            batch_size=None,
            sampler=_Parts(start, stop, global_batch, rank, world_size),
            num_workers=num_workers,
            pin_memory=pin_memory,
            timeout=_STALLED_SECONDS if num_workers else 0,
            worker_init_fn=_quiet_worker,
            multiprocessing_context=start_method if num_workers else None,
            generator=torch.Generator().manual_seed(0),  # else torch draws from the generator of the training
        )
    if num_workers:
        # Garbage that is left is collected in the workers, too: a decoder among it would wait there for threads that they do not have.
        gc.collect()
    try:
        for result in _started(batches):
            if isinstance(result, TracekitError):
                raise result
            yield result
    except RuntimeError as error:
        if "DataLoader timed out" in str(error):
            raise StorageError(
                f"the processes that read samples gave nothing for {_STALLED_SECONDS} seconds",
                hint="is the disk or the network that holds them still there?",
            ) from error
        if "DataLoader worker" not in str(error):
            raise
        raise StorageError(
            f"a process that reads samples was ended: {str(error).splitlines()[0]}",
            hint="is the memory, or the shared memory (/dev/shm), exhausted? fewer --workers or a smaller batch need less",
        ) from error


def _started(batches: DataLoader) -> Iterator[Any]:
    """Start the workers. Nobody may give what comes a name: an error would keep it, its frame being part of the traceback, and with it the
    workers, for which the program would wait at its end."""
    with _no_advice():
        return iter(batches)


@contextlib.contextmanager
def _no_advice() -> Iterator[None]:
    """torch warns, when it makes a loader and when it starts the workers, of more of them than there are processors: --workers is the user's
    choice, and its default is sound where they wait for a disk."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield


def _quiet_worker(worker: int) -> None:
    """One thread a worker: more would wait for each other, and those of a parent process do not exist here.

    Signals that ask to stop are for the process that trains; a cluster sends them to all. Workers end when it does.
    """
    gc.freeze()  # what the parent process made is not ours to free
    cv2.setNumThreads(0)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
