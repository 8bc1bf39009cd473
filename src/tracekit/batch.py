"""Many sources, one output each: resume, shards, failures that do not stop the rest.

Each source is worked on in a child process, so a decoder that crashes or hangs costs its source and nothing else. Running the
same command again does only what is not done yet.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tracekit.cli import find_stage
from tracekit.console import ConsoleReport
from tracekit.errors import BadDataError, CannotCreateError, MissingInputError, UsageError
from tracekit.format.atomic import new_file
from tracekit.format.container import is_hdf5
from tracekit.format.file import open_records, read_text_column
from tracekit.format.json_file import read_json_object
from tracekit.format.provenance import Step
from tracekit.format.schema import EPISODE
from tracekit.report import Report
from tracekit.stage import Choice, Stage
from tracekit.workers import Crew, make_folder, raise_failures, work_through

_SHARDS = "shards.json"


@dataclass(frozen=True)
class Item:
    """One source and the id that names its output."""

    id: str
    source: str


@dataclass(frozen=True)
class _OneSource:
    """What a child process does with one source."""

    command: str
    folder: str
    choice: Choice
    argv: list[str]

    def __call__(self, item: Item, report: Report) -> None:
        stage: Stage = find_stage(self.command)
        # An output that is there was found damaged, or --force was given.
        force = dataclasses.replace(self.choice, common=dataclasses.replace(self.choice.common, force=True))
        stage.run_one(item.source, Path(self.folder) / f"{item.id}.h5", force, report, self.argv, item.id)


def run(stage: Stage, sources: list[str], choice: Choice) -> None:
    """Work through all sources of this shard. Raises SomeFailedError at the end when some failed, ResumableError when stopped early."""
    common = choice.common
    if common.output and common.out_dir:
        raise UsageError(
            "-o and -d exclude each other",
            hint="-o FILE is for one source, -d DIR for one output per source; a name that begins with - is given as ./-NAME",
        )
    if common.output:
        raise UsageError("-o names one file, but there are several sources", hint="use -d DIR for one output per source")
    if not common.out_dir:
        raise UsageError("several sources need -d DIR", hint="each output is named after its source: DIR/ID.h5")
    folder = Path(common.out_dir)
    items = name_items([*sources, *(read_manifest(common.manifest, common.column) if common.manifest else [])])
    mine = take_shard(items, common.shard, folder, dry_run=common.dry_run)
    report = ConsoleReport(stage.name, quiet=common.quiet, verbose=common.verbose)
    crew = Crew(stage.name, folder, "sources", common.jobs, common.stall_timeout, quiet=common.quiet, verbose=common.verbose)
    if not common.dry_run:
        make_folder(folder)
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
    try:
        failures = work_through(_OneSource(stage.name, str(folder), choice, sys.argv[1:]), todo, crew, report)
    finally:
        report.finish()
    raise_failures(failures, len(mine), crew)


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
        layout = read_json_object(remembered)
        first, count = (layout.get(name) for name in ("first", "count"))
        if not isinstance(first, int) or not isinstance(count, int):
            raise BadDataError(
                f"{remembered} does not say where the array begins and how long it is", hint="remove it, or give --shard slurm/N"
            )
        return task - first, count
    first, count = variable("SLURM_ARRAY_TASK_MIN"), variable("SLURM_ARRAY_TASK_COUNT")
    if variable("SLURM_ARRAY_TASK_MAX") - first + 1 != count:
        raise UsageError("the array of this job has gaps, so its size does not tell N", hint="give --shard slurm/N")
    if not dry_run:
        make_folder(folder)
        with (
            contextlib.suppress(CannotCreateError),
            new_file(remembered) as temporary,
        ):  # another task of the array may be first: same content
            temporary.write_text(json.dumps({"first": first, "count": count}))
    return task - first, count


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
