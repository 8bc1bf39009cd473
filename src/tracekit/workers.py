"""Many items, worked on in child processes: one that crashes, hangs or fails costs its item and nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tracekit.cli import EXIT_BUG, Terminated
from tracekit.console import ConsoleReport
from tracekit.errors import BadDataError, CannotCreateError, ResumableError, StorageError, TracekitError
from tracekit.format.atomic import check_can_create, new_file, sweep
from tracekit.report import Report

FAILURES = "failures.jsonl"


class Item(Protocol):
    """One piece of work. It travels to a child process."""

    @property
    def id(self) -> str:
        """Names its output."""

    @property
    def source(self) -> str:
        """What it is made from."""


class Work(Protocol):
    """What is done with an item, in the child process; it travels there. Raises TracekitError for what the user can act on."""

    def __call__(self, item: Any, report: Report, /) -> None: ...


@dataclass(frozen=True)
class Crew:
    """The child processes of a command, and the folder that they write to."""

    command: str
    folder: Path
    unit: str
    """What items are called."""
    jobs: int = 1
    stall_timeout: float = 600.0
    """Seconds without progress after which a child is given up."""
    fresh: bool = False
    """Every item gets a process of its own; else a process takes one item after the other."""
    full_disk_ends_all: bool = False
    """Stop once storage fails: all items are large, and none would fit."""
    quiet: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class Outcome:
    """How one item ended."""

    item: Item
    exit_code: int
    message: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    """What was counted while it was worked on."""


class SomeFailedError(TracekitError):
    """Some items failed; the others are done."""

    def __init__(self, message: str, exit_code: int, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def make_folder(folder: Path) -> None:
    """Make the folder of outputs. Raises CannotCreateError when it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreateError(f"cannot create the folder {folder}: {error.strerror}") from None
    check_can_create(folder / FAILURES, force=True)


def work_through(
    work: Work, items: Sequence[Item], crew: Crew, report: Report, done: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Let the crew do all items; returns the failures, which are also noted and listed in the folder. `done` hears of each outcome.

    Raises ResumableError when told to stop (SIGTERM, SIGUSR1), StorageError where a full disk ends all. However it ends, no child
    is left, and no temporary.
    """
    failures: list[Outcome] = []
    num_done = 0
    report.progress(0, len(items), crew.unit)
    try:
        with _usr1_terminates(), contextlib.closing(_outcomes(work, items, crew)) as outcomes:
            for outcome in outcomes:
                if crew.full_disk_ends_all and outcome.exit_code == StorageError.exit_code:
                    raise StorageError(f"{outcome.item.id}: {outcome.message}")
                num_done += 1
                if outcome.exit_code:
                    failures.append(outcome)
                    report.note(f"{outcome.item.id} failed: {outcome.message}")
                _record(outcome, crew)
                report.progress(num_done, len(items), crew.unit)
                if done is not None:
                    done(outcome)
    except Terminated:
        raise ResumableError(f"stopped after {num_done} of {len(items)} {crew.unit}", hint="the same command goes on from here") from None
    return failures


def raise_failures(failures: list[Outcome], total: int, crew: Crew) -> None:
    """Raise SomeFailedError if there are any, with the exit code that they share."""
    if failures:
        codes = {outcome.exit_code for outcome in failures}
        code = codes.pop() if len(codes) == 1 else BadDataError.exit_code
        raise SomeFailedError(
            f"{len(failures)} of {total} {crew.unit} failed", code, f"they are listed in {crew.folder / FAILURES}; the others are done"
        )


def _outcomes(work: Work, items: Sequence[Item], crew: Crew) -> Generator[Outcome]:
    """Outcomes in the order in which items finish. Workers are replaced when they die or stall."""
    queue = list(reversed(items))
    workers: list[_Worker] = []
    try:
        while queue or workers:
            while queue and len(workers) < crew.jobs:
                workers.append(_Worker(work, crew, queue.pop()))
            ready = multiprocessing.connection.wait([worker.connection for worker in workers], timeout=1.0)
            for worker in list(workers):
                outcome = worker.collect(worker.connection in ready)
                if outcome is None:
                    continue
                # After a failed write the process ends: HDF5 cannot go on in it.
                if worker.is_alive() and queue and not crew.fresh and outcome.exit_code != StorageError.exit_code:
                    worker.start(queue.pop())
                else:
                    worker.stop()
                    workers.remove(worker)
                yield outcome
    finally:
        for worker in workers:
            worker.stop()
        sweep(crew.folder)


class _Worker:
    """A child process that works on one item after the other."""

    def __init__(self, work: Work, crew: Crew, first: Item) -> None:
        context = multiprocessing.get_context("spawn")  # decoders opened before a fork break or hang
        self._stall_timeout = crew.stall_timeout
        self.connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, work, crew), daemon=True)
        with interrupts_held():
            self._process.start()
        other_end.close()
        self.start(first)

    def start(self, item: Item) -> None:
        self.item = item
        self._last_sign = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died just now: `collect` will see
            self.connection.send(item)

    def collect(self, is_ready: bool) -> Outcome | None:
        """The outcome of the item, once there is one; None while the work goes on."""
        if is_ready:
            self._last_sign = time.monotonic()
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                self._process.join(10)
                return Outcome(self.item, EXIT_BUG, f"its process ended {manner_of_exit(self._process.exitcode)}")
            return message if isinstance(message, Outcome) else None
        if time.monotonic() - self._last_sign > self._stall_timeout:
            self._process.kill()
            self._process.join()
            return Outcome(self.item, EXIT_BUG, f"no progress for {self._stall_timeout:g} s; its process was ended (see --stall-timeout)")
        return None

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def stop(self) -> None:
        # Not by SIGTERM: an exception that a handler raises can land where Python swallows it. What is killed leaves no half
        # output, only a temporary that `sweep` removes.
        self._process.kill()
        self._process.join()
        self.connection.close()


def manner_of_exit(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"by signal {signal.Signals(-exit_code).name}"
    return f"with exit code {exit_code}"


class _HeartbeatReport(ConsoleReport):
    """Tells the parent that the work goes on."""

    def __init__(self, connection: Any, crew: Crew, item: str) -> None:
        super().__init__(crew.command, quiet=crew.quiet, verbose=crew.verbose, item=item)
        self._connection = connection
        self._last_sent = 0.0

    def progress(self, done: int, total: int, unit: str = "frames") -> None:
        now = time.monotonic()
        if now - self._last_sent > 0.5:
            self._last_sent = now
            self._connection.send("alive")


def _serve(connection: Any, work: Work, crew: Crew) -> None:
    """The child's loop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with contextlib.suppress(EOFError):
        while True:
            item: Item = connection.recv()
            report = _HeartbeatReport(connection, crew, item.id)
            failure: Exception | None = None
            try:
                work(item, report)
            except Exception as error:
                failure = error  # holds on to what failed: after a failed write HDF5 crashes when its objects go
            outcome = _outcome_of(item, failure, report)
            report.finish()
            connection.send(outcome)
            if outcome.exit_code == StorageError.exit_code:
                os._exit(outcome.exit_code)  # HDF5 cannot go on in this process (see tracekit.cli.main)


def _outcome_of(item: Item, failure: Exception | None, report: Report) -> Outcome:
    if failure is None:
        return Outcome(item, 0, counts=report.counts)
    if isinstance(failure, TracekitError):
        return Outcome(item, failure.exit_code, str(failure), report.counts)
    import traceback

    traceback.print_exception(failure)
    return Outcome(item, EXIT_BUG, f"{type(failure).__name__}: {failure}", report.counts)


def _raise_terminated(*_: object) -> None:
    raise Terminated


@contextlib.contextmanager
def _usr1_terminates() -> Iterator[None]:
    """SLURM sends SIGUSR1 ahead of the time limit when asked to (--signal)."""
    previous = signal.signal(signal.SIGUSR1, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, previous)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """SIGINT waits until the block has ended; a process that is started in it never gets any."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _record(outcome: Outcome, crew: Crew) -> None:
    """Keep failures.jsonl to what has failed and was not done since. Shards share the file, so they take turns."""
    path = crew.folder / FAILURES
    if outcome.exit_code == 0 and not path.exists():
        return
    with open(crew.folder / ".failures.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["id"] != outcome.item.id]
        if outcome.exit_code:
            entry = {
                "id": outcome.item.id,
                "source": outcome.item.source,
                "command": crew.command,
                "exit_code": outcome.exit_code,
                "error": outcome.message,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            kept.append(json.dumps(entry, ensure_ascii=False))
        if kept:
            with new_file(path, force=True) as temporary:
                temporary.write_text("\n".join(kept) + "\n", "utf-8")
        else:
            path.unlink(missing_ok=True)
