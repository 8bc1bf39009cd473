"""Many episodes, each simulated in a process of its own. The same call again makes only what is missing."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracekit.envs import gl, metaworld
from tracekit.errors import BadDataError, CannotCreateError, MissingInputError
from tracekit.format.atomic import check_can_create, sweep
from tracekit.format.demos import merge_demos, read_contents, write_demo
from tracekit.format.file import open_records
from tracekit.format.schema import EPISODE
from tracekit.report import Report
from tracekit.simulation.demos import DemoPlan, film_demo
from tracekit.simulation.episode import FAILED, EpisodeRequest, perform, provenance_of, write_episode
from tracekit.workers import Crew, Outcome, make_folder, raise_failures, work_through


@dataclass(frozen=True)
class Job:
    """What is missing of one episode."""

    request: EpisodeRequest
    video_and_truth: bool
    demo: bool

    @property
    def id(self) -> str:
        return self.request.name

    @property
    def source(self) -> str:
        return f"{metaworld.SUITE}/{self.request.task}"


@dataclass(frozen=True)
class _OneEpisode:
    """What a child process does."""

    folder: Path
    demos: DemoPlan | None
    argv: list[str]

    def __call__(self, job: Job, report: Report) -> None:
        take = perform(job.request, report)
        if job.video_and_truth:
            write_episode(take, self.folder, argv=self.argv, report=report)
        if job.demo:
            assert self.demos is not None
            write_demo(self.demos.part(job.request), film_demo(take, self.demos, report))


def missing_jobs(requests: Sequence[EpisodeRequest], folder: Path, demos: DemoPlan | None, *, force: bool) -> list[Job]:
    """What is still to be done. Raises CannotCreateError when a file that is in the way is not ours or was made otherwise."""
    ready = set() if demos is None or force else _ready_demos(requests, demos)
    jobs = []
    for request in requests:
        job = Job(request, force or not _is_done(request, folder), demos is not None and request.name not in ready)
        if job.video_and_truth or job.demo:
            jobs.append(job)
    return jobs


def simulate(
    requests: Sequence[EpisodeRequest], crew: Crew, demos: DemoPlan | None = None, *, force: bool, argv: list[str], report: Report
) -> None:
    """Make the video and the truth file of every episode in `crew.folder`, and the file of demonstrations.

    MUJOCO_GL is chosen here, once, and inherited. Raises UnavailableError when the simulator cannot run, CannotCreateError when
    something cannot be written or is in the way, before any work; SomeFailedError at the end when episodes failed, ResumableError
    when stopped early, StorageError when the disk is full: what is complete stays.
    """
    metaworld.version()
    make_folder(crew.folder)
    if demos is not None:
        check_can_create(demos.path, force=True)
    jobs = missing_jobs(requests, crew.folder, demos, force=force)
    if len(jobs) < len(requests):
        report.note(f"{len(requests) - len(jobs)} of {len(requests)} episodes are there already (--force makes them again)")
    failures = _work(jobs, crew, demos, argv=argv, report=report) if jobs else []
    if demos is not None:
        _put_together(requests, demos, force=force, argv=argv, report=report)
    raise_failures(failures, len(requests), crew)


def _work(jobs: list[Job], crew: Crew, demos: DemoPlan | None, *, argv: list[str], report: Report) -> list[Outcome]:
    gl.choose_gl()
    num_failed_tries = 0

    def count(outcome: Outcome) -> None:
        nonlocal num_failed_tries
        num_failed_tries += outcome.counts.get(FAILED, 0)

    if demos is not None:
        make_folder(demos.parts)
    try:
        failures = work_through(_OneEpisode(crew.folder, demos, argv), jobs, crew, report, count)
    finally:
        if demos is not None:
            sweep(demos.parts)
    num_made = len(jobs) - len(failures)
    report.note(f"{num_made} episodes made; {num_failed_tries} of {num_made + num_failed_tries} tries failed, left out")
    return failures


def _is_done(request: EpisodeRequest, folder: Path) -> bool:
    """Whether video and truth are there, whole, and what is asked for."""
    path = folder / f"{request.name}.truth.h5"
    if not path.exists():
        return False
    try:
        with open_records(path, EPISODE) as file:
            steps = file.steps()
            digest = file.read("video").sha256
    except BadDataError as error:
        if "format_version" in error.message:  # of a newer tracekit
            raise
        return False
    if not steps or steps[0].command != "simulate":
        raise CannotCreateError(f"{path} exists and was not made by tracekit simulate", hint="use another -d, or --force to replace it")
    _check_same(path, steps[0].parameters, dataclasses.asdict(request))
    video = folder / f"{request.name}.mp4"
    return video.is_file() and hashlib.sha256(video.read_bytes()).hexdigest() == digest


def _check_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if found.get(key) != value:
            raise CannotCreateError(
                f"{path} exists and was made with {key} {found.get(key)}, not {value}",
                hint="write to another place, or --force to replace it",
            )


def _ready_demos(requests: Sequence[EpisodeRequest], demos: DemoPlan) -> set[str]:
    """Names of the demonstrations that need not be made: in the file, or in its parts."""
    wanted = {request.name: demos.parameters(request) for request in requests}
    there = _in_file(demos)
    for name in there.keys() & wanted.keys():
        _check_same(demos.path, there[name], wanted[name])
    if not (there.keys() <= wanted.keys() or wanted.keys() <= there.keys()):
        raise CannotCreateError(
            f"{demos.path} holds demonstrations that are not asked for, {min(there.keys() - wanted.keys())} for one",
            hint="name another --demos file, or --force to replace it",
        )
    return there.keys() | {request.name for request in requests if _has_part(request, demos)}


def _in_file(demos: DemoPlan) -> dict[str, dict[str, Any]]:
    """The demonstrations of the file, by name, if it is there."""
    if not demos.path.exists():
        return {}
    try:
        return read_contents(demos.path)
    except BadDataError as error:
        raise CannotCreateError(
            f"{demos.path} exists: {error.message}", hint="name another --demos file, or --force to replace it"
        ) from None


def _has_part(request: EpisodeRequest, demos: DemoPlan) -> bool:
    try:
        return read_contents(demos.part(request)) == {request.name: demos.parameters(request)}
    except (MissingInputError, BadDataError):
        return False


def _put_together(requests: Sequence[EpisodeRequest], demos: DemoPlan, *, force: bool, argv: list[str], report: Report) -> None:
    """Merge the parts and the file that is there into one, in order, and remove the parts."""
    in_file = {} if force else _in_file(demos)
    sources = {
        request.name: demos.path if request.name in in_file else demos.part(request)
        for request in requests
        if request.name in in_file or _has_part(request, demos)
    }
    if set(sources) - set(in_file):
        tasks = dict.fromkeys(request.task for request in requests if request.name in sources)
        of_all = {name: value for name, value in demos.parameters(requests[0]).items() if name != "number"}
        parameters = {
            **of_all,
            "task": ",".join(tasks),
            "camera": ",".join(dict.fromkeys(request.camera for request in requests)),
            "demonstrations": len(sources),
        }
        step = provenance_of(parameters, seed=requests[0].seed, argv=argv, report=Report())
        merge_demos(demos.path, sources, [f"{metaworld.SUITE}/{task}" for task in tasks], step, force=True)
        report.note(f"{demos.path} holds {len(sources)} demonstrations")
    shutil.rmtree(demos.parts, ignore_errors=True)
