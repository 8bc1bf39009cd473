"""Many sources, one output each: resume, shards, failures that do not stop the rest.

Each source is worked on in a child process, so a decoder that crashes or hangs costs its source and nothing else. Running the
same command again does only what is not done yet.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracekit.cli import EXIT_BUG, Terminated, find_stage
from tracekit.console import ConsoleReport
from tracekit.errors import (
    BadDataError,
    CannotCreateError,
    MissingInputError,
    ResumableError,
    StorageError,
    TracekitError,
    UsageError,
)
from tracekit.format.atomic import check_can_create, new_file, sweep
from tracekit.format.container import is_hdf5
from tracekit.format.file import open_records, read_text_column
from tracekit.format.provenance import Step
from tracekit.format.schema import EPISODE
from tracekit.stage import Choice, Stage

FAILURES = "failures.jsonl"
_SHARDS = "shards.json"


@dataclass(frozen=True)
class Item:
    """One source and the id that names its output."""

    id: str
    source: str


@dataclass(frozen=True)
class Outcome:
    """How one item ended."""

    item: Item
    exit_code: int
    message: str = ""


class BatchError(TracekitError):
    """Some items failed; the others are done."""

    def __init__(self, message: str, exit_code: int, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def run(stage: Stage, sources: list[str], choice: Choice) -> None:
    """Work through all sources of this shard. Raises BatchError at the end when some failed, ResumableError when stopped early."""
    common = choice.common
    if common.output:
        raise UsageError("-o names one file, but there are several sources", hint="use -d DIR for one output per source")
    if not common.out_dir:
        raise UsageError("several sources need -d DIR", hint="each output is named after its source: DIR/ID.h5")
    folder = Path(common.out_dir)
    items = name_items([*sources, *(read_manifest(common.manifest, common.column) if common.manifest else [])])
    mine = take_shard(items, common.shard, folder, dry_run=common.dry_run)
    report = ConsoleReport(stage.name, quiet=common.quiet, verbose=common.verbose)
    if not common.dry_run:
        _prepare(folder)
    steps = {item: None if common.force else _step_of(folder / f"{item.id}.h5", stage) for item in mine}
    todo = [item for item, step in steps.items() if step is None]
    if len(todo) < len(mine):
        report.note(f"{len(mine) - len(todo)} of {len(mine)} outputs are there already (--force makes them again)")
    wanted = dataclasses.asdict(choice.parameters)
    others = [
        item.id for item, step in steps.items() if step and any(step.parameters.get(key) != wanted[key] for key in wanted if key != "task")
    ]
    if others:
        report.note(f"{len(others)} of them were made with other parameters than these, {others[0]} for one: --force, or another -d")
    if common.dry_run:
        for item in todo:
            stage.explain(item.source, folder / f"{item.id}.h5", choice)
        return
    failures: list[Outcome] = []
    num_done = 0
    try:
        with _usr1_terminates():
            for outcome in _work_through(stage, todo, folder, choice):
                num_done += 1
                if outcome.exit_code:
                    failures.append(outcome)
                    report.note(f"{outcome.item.id} failed: {outcome.message}")
                _record(folder, stage.name, outcome)
                report.progress(num_done, len(todo), "sources")
    except Terminated:
        raise ResumableError(f"stopped after {num_done} of {len(todo)} sources", hint="the same command goes on from here") from None
    finally:
        report.finish()
    if failures:
        codes = {outcome.exit_code for outcome in failures}
        code = codes.pop() if len(codes) == 1 else BadDataError.exit_code
        raise BatchError(
            f"{len(failures)} of {len(mine)} sources failed", code, f"they are listed in {folder / FAILURES}; the others are done"
        )


def name_items(sources: list[str]) -> list[Item]:
    """Ids from file names. Where two sources share a name, a digest of the path tells them apart; so ids never depend on the shard."""
    if not sources:
        raise MissingInputError("there is no source in the list")
    paths = [Path(os.path.abspath(source)) for source in sources]
    stems = [path.name if path.is_dir() else path.stem for path in paths]
    result, seen = [], set()
    for source, stem in zip(sources, stems, strict=True):
        path = os.path.abspath(source)
        if path in seen:
            raise UsageError(f"{source} is listed twice")
        seen.add(path)
        unique = stems.count(stem) == 1
        result.append(Item(stem if unique else f"{stem}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}", source))
    return result


def read_manifest(path: str, column: str) -> list[str]:
    """Paths listed in a text file (one a line), a CSV file or an HDF5 file (`column` names the column or dataset).

    Relative paths are relative to the manifest's folder.
    """
    if not os.path.isfile(path):
        raise MissingInputError(f"the manifest {path} does not exist")
    folder = Path(path).parent
    if is_hdf5(path):
        listed = read_text_column(path, column)
    else:
        try:
            text = Path(path).read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise BadDataError(f"the manifest {path} is not UTF-8 text") from None
        if path.lower().endswith(".csv"):
            rows = csv.DictReader(text.splitlines())
            if column not in (rows.fieldnames or []):
                raise BadDataError(
                    f"the manifest {path} has no column {column!r}", hint=f"it has: {', '.join(rows.fieldnames or [])}; use --column"
                )
            listed = [row[column] for row in rows]
        else:
            listed = text.splitlines()
    return [str(folder / line.strip()) for line in listed if line and line.strip()]


def take_shard(items: list[Item], shard: str | None, folder: Path, *, dry_run: bool = False) -> list[Item]:
    """Every N-th item from the I-th on. "slurm" takes I from the array task and keeps N in the output folder.

    Part of an array job that is submitted again has another SLURM_ARRAY_TASK_COUNT; the N of the first submission holds.
    """
    if not shard:
        return items
    if shard.startswith("slurm"):
        index, count = _slurm_shard(shard, folder, dry_run)
    else:
        index_text, _, count_text = shard.partition("/")
        if not (index_text.isdecimal() and count_text.isdecimal() and shard.isascii()):
            raise UsageError(f"--shard is {shard!r}", hint="give I/N with I from 0 to N-1, slurm, or slurm/N")
        index, count = int(index_text), int(count_text)
    if not 0 <= index < count:
        raise UsageError(f"shard {index} of {count} does not exist", hint="I counts from 0: --shard 0/4 to --shard 3/4")
    return items[index::count]


def _slurm_shard(shard: str, folder: Path, dry_run: bool) -> tuple[int, int]:
    def variable(name: str) -> int:
        value = os.environ.get(name, "")
        if not value.isdigit():
            raise UsageError(f"--shard {shard} needs {name}, which is not set", hint="submit with sbatch --array=0-9, or give --shard I/N")
        return int(value)

    task = variable("SLURM_ARRAY_TASK_ID")
    _, _, given = shard.partition("/")
    if given:
        if not given.isdigit():
            raise UsageError(f"--shard is {shard!r}", hint="give slurm/N")
        return task, int(given)
    remembered = folder / _SHARDS
    if remembered.is_file():
        layout = json.loads(remembered.read_text())
        return task - int(layout["first"]), int(layout["count"])
    first, count = variable("SLURM_ARRAY_TASK_MIN"), variable("SLURM_ARRAY_TASK_COUNT")
    if variable("SLURM_ARRAY_TASK_MAX") - first + 1 != count:
        raise UsageError("the array of this job has gaps, so its size does not tell N", hint="give --shard slurm/N")
    if not dry_run:
        _prepare(folder)
        with (
            contextlib.suppress(CannotCreateError),
            new_file(remembered) as temporary,
        ):  # another task of the array may be first: same content
            temporary.write_text(json.dumps({"first": first, "count": count}))
    return task - first, count


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreateError(f"cannot create the folder {folder}: {error.strerror}") from None
    check_can_create(folder / FAILURES, force=True)


def _step_of(output: Path, stage: Stage) -> Step | None:
    """The step that made a whole, valid output of this stage; None when there is none, or a damaged file that must be made again.

    Raises CannotCreateError for a whole file that is something else: it is not ours to replace.
    """
    if not output.exists():
        return None
    try:
        with open_records(output) as file:
            steps = [step for step in file.steps() if step.command == stage.name]
            is_ours = file.kind is EPISODE and bool(steps) and set(stage.writes) <= set(file.groups)
    except BadDataError as error:
        if "format_version" in error.message:  # of a newer tracekit
            raise
        return None
    if not is_ours:
        raise CannotCreateError(
            f"{output} exists and was not made by tracekit {stage.name}", hint="use another -d, or --force to replace it"
        )
    return steps[-1]


def _work_through(stage: Stage, items: list[Item], folder: Path, choice: Choice) -> Iterator[Outcome]:
    """Outcomes in the order in which items finish. Workers are replaced when they die or stall."""
    queue = list(reversed(items))
    workers: list[_Worker] = []
    try:
        while queue or workers:
            while queue and len(workers) < choice.common.jobs:
                workers.append(_Worker(stage, folder, choice, queue.pop()))
            ready = multiprocessing.connection.wait([worker.connection for worker in workers], timeout=1.0)
            for worker in list(workers):
                outcome = worker.collect(worker.connection in ready, choice.common.stall_timeout)
                if outcome is None:
                    continue
                # After a failed write the process ends: HDF5 cannot go on in it.
                if worker.is_alive() and queue and outcome.exit_code != StorageError.exit_code:
                    worker.start(queue.pop())
                else:
                    worker.stop()
                    workers.remove(worker)
                yield outcome
    finally:
        for worker in workers:
            worker.stop()
        sweep(folder)


class _Worker:
    """A child process that works on one item after the other."""

    def __init__(self, stage: Stage, folder: Path, choice: Choice, first: Item) -> None:
        context = multiprocessing.get_context("spawn")  # decoders opened before a fork break or hang
        self.connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, stage.name, str(folder), choice, sys.argv[1:]), daemon=True)
        self._process.start()
        other_end.close()
        self.start(first)

    def start(self, item: Item) -> None:
        self.item = item
        self._last_sign = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died just now: `collect` will see
            self.connection.send(item)

    def collect(self, is_ready: bool, stall_timeout: float) -> Outcome | None:
        """The outcome of the item, once there is one; None while the work goes on."""
        if is_ready:
            self._last_sign = time.monotonic()
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                self._process.join(10)
                return Outcome(self.item, EXIT_BUG, f"its process ended {_manner(self._process.exitcode)}")
            return message if isinstance(message, Outcome) else None
        if time.monotonic() - self._last_sign > stall_timeout:
            self._process.kill()
            self._process.join()
            return Outcome(self.item, EXIT_BUG, f"no progress for {stall_timeout:g} s; its process was ended (see --stall-timeout)")
        return None

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def stop(self) -> None:
        # Not by SIGTERM: an exception that a handler raises can land where Python swallows it. What is killed leaves no half
        # output, only a temporary that `sweep` removes.
        self._process.kill()
        self._process.join()
        self.connection.close()


def _manner(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"by signal {signal.Signals(-exit_code).name}"
    return f"with exit code {exit_code}"


class _HeartbeatReport(ConsoleReport):
    """Tells the parent that the work goes on."""

    def __init__(self, connection: Any, command: str, item: str, quiet: bool, verbose: bool) -> None:
        super().__init__(command, quiet=quiet, verbose=verbose, item=item)
        self._connection = connection
        self._last_sent = 0.0

    def progress(self, done: int, total: int, unit: str = "frames") -> None:
        now = time.monotonic()
        if now - self._last_sent > 0.5:
            self._last_sent = now
            self._connection.send("alive")


def _serve(connection: Any, command: str, folder: str, choice: Choice, argv: list[str]) -> None:
    """The child's loop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    stage: Stage = find_stage(command)
    with contextlib.suppress(EOFError):
        while True:
            item: Item = connection.recv()
            report = _HeartbeatReport(connection, command, item.id, choice.common.quiet, choice.common.verbose)
            output = Path(folder) / f"{item.id}.h5"
            # An output that is there was found damaged, or --force was given.
            force = dataclasses.replace(choice, common=dataclasses.replace(choice.common, force=True))
            try:
                stage.run_one(item.source, output, force, report, argv, item.id)
                outcome = Outcome(item, 0)
            except TracekitError as error:
                outcome = Outcome(item, error.exit_code, str(error))
            except Exception as error:
                import traceback

                traceback.print_exc()
                outcome = Outcome(item, EXIT_BUG, f"{type(error).__name__}: {error}")
            report.finish()
            connection.send(outcome)
            if outcome.exit_code == StorageError.exit_code:
                os._exit(outcome.exit_code)  # HDF5 cannot go on in this process (see tracekit.cli.main)


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


def _record(folder: Path, command: str, outcome: Outcome) -> None:
    """Keep failures.jsonl to what has failed and was not done since. Shards share the file, so they take turns."""
    path = folder / FAILURES
    if outcome.exit_code == 0 and not path.exists():
        return
    with open(folder / ".failures.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["id"] != outcome.item.id]
        if outcome.exit_code:
            entry = {
                "id": outcome.item.id,
                "source": outcome.item.source,
                "command": command,
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
