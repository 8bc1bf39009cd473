"""What every stage of the extraction chain has in common: one source in, one episode file out, or a batch of both.

A command file says what its stage reads and writes and calls one library function; opening, checking, carrying along,
provenance and batches happen here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from tracekit import __version__, options
from tracekit.backends import registry
from tracekit.backends.journalled import JOURNALLED
from tracekit.backends.protocols import BackendSetup
from tracekit.console import ConsoleReport
from tracekit.errors import MissingInputError, PipeClosedError, UnavailableError, UsageError
from tracekit.format.container import is_hdf5
from tracekit.format.file import DepthSink, RecordFile, RecordWriter, Target, open_records, write_records
from tracekit.format.journal import Journal
from tracekit.format.provenance import Step
from tracekit.format.schema import EPISODE
from tracekit.parameters import parameter
from tracekit.printable import printable
from tracekit.records import Clip, Episode, Frames
from tracekit.report import Report


@dataclass(frozen=True)
class CommonOptions:
    """Options that every command of the chain has."""

    output: str | None = parameter(None, "The file to write; without it the result goes to standard output.")
    out_dir: str | None = parameter(None, "A folder for one output per source, named after the source; done ones are skipped.")
    manifest: str | None = parameter(None, "A list of sources: one path a line, or CSV or HDF5 with --column.")
    column: str = parameter("path", "Column of a CSV manifest, or dataset of an HDF5 one, that holds the paths.")
    shard: str | None = parameter(None, "I/N: take the I-th (from 0) of every N sources; slurm or slurm/N: I is the array task.")
    jobs: int = parameter(1, "Sources to work on at the same time, each in a process of its own.", minimum=1)
    stall_timeout: float = parameter(600.0, "Give a source up when it makes no progress for this many seconds.", minimum=1.0)
    force: bool = parameter(False, "Replace outputs that exist.")
    dry_run: bool = parameter(False, "Say what would be read, run and written; touch nothing.")
    preset: str = parameter("", "Parameters and backend of the whole stage: paper, or release (the authors' code); flags win.")
    seed: int = parameter(0, "Seed of every random choice.", minimum=0, maximum=2**32 - 1)
    device: str = parameter("auto", "Where networks run.", choices=("auto", "cpu", "cuda", "mps"))
    quiet: bool = parameter(False, "Say nothing but errors.")
    verbose: bool = parameter(False, "Say more.")


@dataclass(frozen=True)
class VideoOptions:
    """Where the frames are, for stages that look at them."""

    video: str | None = parameter(None, "The video, when it is not where the file says (its content must be the same).")


@dataclass(frozen=True)
class BackendOptions:
    """Which network or library does the work."""

    backend: str = parameter("auto", "Backend by name; auto takes the best that can run here.")
    weights: str | None = parameter(None, "Weights of the backend: a local path or the id of a hub repository.")
    download: bool = parameter(False, "Allow fetching weights from a hub.")
    repo: str | None = parameter(None, "Checkout of the repository that the backend runs; else it is looked for in TRACEKIT_CHECKOUTS.")


@dataclass(frozen=True)
class Stage:
    """One command of the chain. `command = Stage(...)` is all that a command file has to offer."""

    name: str
    about: str
    run: Callable[[Work], None]
    parameters: type
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    example: str
    presets: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    backend_kind: str | None = None
    backend_flag: str = ""
    looks_at_frames: bool = False
    source_help: str = "Episode file; - or nothing is standard input."
    starts_chain: bool = False
    """The source need not be an episode file: `run` opens it."""
    writes_too: Callable[[Any], set[str]] = lambda parameters: set()
    """Groups that are written besides, by what the parameters say."""

    def typer_app(self) -> typer.Typer:
        groups: dict[str, type] = {"parameters": self.parameters}
        if self.backend_kind:
            groups["backend"] = BackendOptions
        if self.looks_at_frames:
            groups["video"] = VideoOptions
        groups["common"] = CommonOptions
        flags = {"backend": (self.backend_flag, "--backend")} if self.backend_flag else {}
        return options.typer_app(
            self.name, self._start, groups, sources=self.source_help, presets=self.presets, flags=flags, about=self._help()
        )

    def _help(self) -> str:
        reads = ", ".join(self.reads) or "a video, a folder of images, or an episode file"
        return f"{self.about}\n\nReads: {reads}.  Writes: {', '.join(self.writes)}.\n\nExample:  {self.example}"

    def _start(
        self,
        sources: list[str],
        parameters: Any,
        common: CommonOptions,
        backend: BackendOptions | None = None,
        video: VideoOptions | None = None,
    ) -> None:
        choice = Choice(parameters, common, backend or BackendOptions(), video or VideoOptions())
        if common.manifest or common.out_dir or common.shard or len(sources) > 1:
            from tracekit import batch

            batch.run(self, sources, choice)
            return
        if not sources and os.isatty(0):
            raise UsageError("no source: name a file, or pipe one in", hint=f"for example: {self.example}")
        source = sources[0] if sources else "-"
        output = Path(common.output) if common.output else None
        if common.dry_run:
            self.explain(source, output, choice)
            return
        report = ConsoleReport(self.name, quiet=common.quiet, verbose=common.verbose)
        try:
            self.run_one(source, output, choice, report, sys.argv[1:])
        except BrokenPipeError:
            raise PipeClosedError("") from None
        finally:
            report.finish()

    def explain(self, source: str, output: Path | None, choice: Choice) -> None:
        """What would happen, on stderr."""
        if source != "-" and not os.path.exists(source):
            raise MissingInputError(f"{source} does not exist")
        plan = [f"read {'standard input' if source == '-' else source}"]
        if self.backend_kind:
            if choice.backend.backend != "auto":
                with self.hint_of_preset(choice):
                    registry.check(self.backend_kind, choice.backend.backend, choice.backend_setup(choice.parameters))
            which = " (`tracekit info --backends` says which that is)" if choice.backend.backend == "auto" else ""
            plan.append(f"run the {self.backend_kind} backend {choice.backend.backend}{which}")
        plan.append("use " + ", ".join(f"{key}={value}" for key, value in dataclasses.asdict(choice.parameters).items()))
        plan.append(f"write {', '.join(self.writes)} to {output or 'standard output'}")
        for line in plan:
            print(printable(f"tracekit {self.name}: would {line}"), file=sys.stderr)

    @contextlib.contextmanager
    def hint_of_preset(self, choice: Choice) -> Iterator[None]:
        """Where a preset asks for a backend that cannot run here, say how to take the rest of it."""
        try:
            yield
        except UnavailableError as error:
            name, preset = choice.backend.backend, choice.common.preset
            if name != "auto" and name == self.presets.get(preset, {}).get("backend"):
                error.hint = f"--preset {preset} asks for it; with `--backend auto` the rest of the preset runs with what is here"
            raise

    def run_one(self, source: str, output: Path | None, choice: Choice, report: Report, argv: list[str], clip_id: str = "") -> None:
        """One source to one output. Fails before any work when the output cannot be created."""
        target = Target(output, choice.common.force)
        refuse_inputs(output, [source, choice.video.video, getattr(choice.parameters, "sensor", None)])
        target.check()
        with contextlib.ExitStack() as stack:
            # Entered before the writer, so that the journal goes once the output is there.
            journal = stack.enter_context(Journal(output, report.say)) if output is not None and os.path.isfile(source) else None
            is_episode = not self.starts_chain or source == "-" or is_hdf5(source)
            episode = stack.enter_context(open_records(source, EPISODE)) if is_episode else None
            if episode is not None:
                for group in self.reads:
                    episode.require(group)
                if "video" in episode.groups:
                    refuse_inputs(output, [episode.read("video").uri])
            writer = stack.enter_context(
                write_records(
                    target,
                    EPISODE,
                    clip_id or (episode.clip_id if episode else ""),
                    base=episode,
                    writes=set(self.writes) | self.writes_too(choice.parameters),
                )
            )
            work = Work(self, choice, report, source, episode, writer, clip_id, stack, journal)
            self.run(work)
            work.release_backends()
            if writer.dropped:
                report.note(f"left out {', '.join(writer.dropped)}: made from what is now written anew")
            report.count("depth pixels too far to be kept (beyond 65.5 m)", writer.num_too_far)
            writer.append_step(
                Step(
                    command=self.name,
                    argv=argv,
                    version=__version__,
                    parameters={**dataclasses.asdict(work.parameters), "preset": choice.common.preset or "none"},
                    inputs=work.inputs,
                    backend=work.backend_name,
                    weights_sha256=work.weights_sha256,
                    code_sha256=work.code_sha256,
                    seed=choice.common.seed,
                    counts=report.counts,
                    notes=report.notes,
                )
            )


@dataclass(frozen=True)
class Choice:
    """Everything that the user chose for one stage."""

    parameters: Any
    common: CommonOptions
    backend: BackendOptions
    video: VideoOptions

    def backend_setup(self, parameters: Any) -> BackendSetup:
        """What the backend is constructed with; `parameters` are those of the stage that are in force."""
        common, chosen = self.common, self.backend
        return BackendSetup(
            device=common.device,
            seed=common.seed,
            weights=chosen.weights,
            download=chosen.download,
            repo=chosen.repo,
            patience=common.stall_timeout,
            parameters=parameters,
        )


class Work:
    """What a stage's `run` gets: records in, records out, and the user's choices."""

    def __init__(
        self,
        stage: Stage,
        choice: Choice,
        report: Report,
        source: str,
        episode: RecordFile | None,
        writer: RecordWriter,
        clip_id: str,
        resources: contextlib.ExitStack,
        journal: Journal | None,
    ) -> None:
        self.parameters = choice.parameters
        self.seed = choice.common.seed
        self.report = report
        self.source = source
        self.episode = episode
        self.inputs: list[str] = [episode.clip_id] if episode else []
        self.backend_name = ""
        self.weights_sha256 = ""
        self.code_sha256 = ""
        self._stage = stage
        self._choice = choice
        self._writer = writer
        self._clip_id = clip_id
        self._resources = resources
        self._journal = journal
        self._started: tuple[Clip, Frames] | None = None
        self._backends = resources.enter_context(contextlib.ExitStack())

    def release_backends(self) -> None:
        """Free the memory of their devices: the next stage of a pipe starts once our output is through."""
        self._backends.close()

    def read_all(self) -> Episode:
        """All records that there are."""
        assert self.episode is not None
        return self.episode.episode()

    def read(self, group: str) -> Any:
        """A record that the stage requires."""
        assert self.episode is not None
        return self.episode.read(group)

    def read_or_none(self, group: str) -> Any:
        """A record that the stage can do without."""
        return self.episode.read_or_none(group) if self.episode else None

    def put(self, record: object) -> None:
        """Write a record as its group."""
        self._writer.put(record)

    def put_in_blocks(
        self,
        group: str,
        small_fields: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        blocks: Iterable[tuple[int, Mapping[str, np.ndarray]]],
    ) -> None:
        """Write a record that is longer than memory; see `RecordWriter.put_in_blocks`."""
        self._writer.put_in_blocks(group, small_fields, shapes, blocks)

    def depth_sink(self, group: str, *, metric: bool) -> DepthSink:
        """Where the depth of group/depth goes, block by block."""
        return self._writer.depth_sink(group, len(self.clip.pts), metric=metric)

    def start_clip(self, clip: Clip, frames: Frames) -> None:
        """The source was no episode file: this is what it holds. The file is named after the source, or by the batch."""
        path = Path(os.path.abspath(self.source))
        name = self._clip_id or storable(path.name if path.is_dir() else path.stem)
        self._writer.set_clip_id(name)
        self.inputs = [name, clip.sha256, *self.inputs]
        self._started = clip, frames

    @property
    def clip(self) -> Clip:
        return self._started[0] if self._started else self.read("video")

    def frames(self) -> Frames:
        """The frames of the clip: embedded, or from the video, whose content must not have changed."""
        if self._started:
            return self._started[1]
        return open_clip_frames(self.read("video"), self.source, self._choice.video.video)

    def open_other(self, path: str) -> RecordFile:
        """Another episode file, open until the stage ends."""
        self.inputs.append(Path(path).name)
        return self._resources.enter_context(open_records(path, EPISODE))

    def backend_names(self) -> list[str]:
        """All backends of the stage's kind, best first."""
        assert self._stage.backend_kind
        return registry.names(self._stage.backend_kind)

    def backend(self, candidates: list[str] | None = None) -> Any:
        """The backend that the user chose, ready to run; it goes into the provenance."""
        assert self._stage.backend_kind
        kind, name = self._stage.backend_kind, self._choice.backend.backend
        with self._stage.hint_of_preset(self._choice):
            backend = registry.create(kind, name, self._choice.backend_setup(self.parameters), self.report, candidates=candidates)
        if close := getattr(backend, "close", None):
            self._backends.callback(close)
        self.backend_name, self.weights_sha256 = backend.name, backend.weights_sha256()
        if code_sha256 := getattr(backend, "code_sha256", None):
            self.code_sha256 = code_sha256()
            where = backend.checkout.folder or f"installed in {backend.checkout.python}"
            self.report.note(f"{backend.name}: runs the code {where}")
        self.report.progress(0, len(self.clip.pts))  # a batch hears that we are alive: weights may have taken long
        return self._journalled(backend)

    def _journalled(self, backend: Any) -> Any:
        """The backend, with its answers kept beside the output until that is complete: where there are files to go on from and to, and
        where an answer does not depend on those before it."""
        kept_by = JOURNALLED.get(self._stage.backend_kind or "")
        if self._journal is None or kept_by is None or not getattr(backend, "stateless", False):
            return backend
        common, source = self._choice.common, os.stat(self.source)
        self._journal.open(
            {
                "command": self._stage.name,
                "version": __version__,
                "source": [os.path.abspath(self.source), source.st_size, source.st_mtime_ns],
                "parameters": dataclasses.asdict(self.parameters),
                "backend": [backend.name, self.weights_sha256, self.code_sha256],
                "seed": self.seed,
                "device": [str(getattr(backend, "device", common.device)), _has_gpu()],
            }
        )
        return kept_by(backend, self._journal)


def _has_gpu() -> bool:
    """Whether `--device auto` finds one, told without torch."""
    return os.path.exists("/dev/nvidiactl") and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")


def storable(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 are spelled out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def open_clip_frames(clip: Clip, source: str, video_path: str | None = None) -> Frames:
    """Frames of a clip that was read from the file `source`: embedded, from `video_path`, or from where the file says."""
    from tracekit.video import open_frames

    if clip.frames is not None and not video_path:
        return clip.frames
    if video_path:
        clip = dataclasses.replace(clip, uri=os.path.abspath(video_path))
    return open_frames(clip, search=[Path(source).parent if source != "-" else Path()])


def refuse_inputs(output: Path | None, inputs: Sequence[str | None]) -> None:
    """Raise UsageError when `output` is one of the files that are read ("-" and None: standard input). Inputs are never changed."""
    if output is None or not output.exists():
        return
    target = output.stat()
    for source in inputs:
        if source in (None, ""):
            continue
        try:
            read = os.fstat(0) if source == "-" else os.stat(str(source))
        except OSError:
            continue
        if os.path.samestat(target, read):
            raise UsageError(f"{output} is read by this command; inputs are never changed", hint="write to another file")
