"""tracekit rollout SOURCE: predict traces with μ0."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracekit.commands.rollout_options import EXAMPLE, RolloutOptions

from tracekit import __version__
from tracekit.console import ConsoleReport
from tracekit.errors import BadDataError, PipeClosedError, UsageError
from tracekit.format.atomic import check_can_create, new_file
from tracekit.format.file import Target, open_records, write_records
from tracekit.format.json_file import read_json_object
from tracekit.format.provenance import Step
from tracekit.format.schema import CORPUS, EPISODE, PREDICTIONS
from tracekit.format.streams import temporary_folder_error
from tracekit.mu0.rollout_parameters import RolloutParameters
from tracekit.stage import open_clip_frames, refuse_inputs, storable

if TYPE_CHECKING:  # these import torch
    from tracekit.mu0.checkpoint import Checkpoint
    from tracekit.mu0.rollout import Rollout
    from tracekit.mu0.scenes import Scene, SceneMaker
    from tracekit.mu0.text import Tokenizer
    from tracekit.records import Predictions
    from tracekit.trace_pictures import EvenlySpread

_PICTURES = (".png", ".jpg", ".jpeg")


def predict_command(sources: list[str], parameters: RolloutParameters, choice: RolloutOptions) -> None:
    """A network and questions in, predictions out."""
    checkpoint, sources = _split(sources, choice)
    outputs = _Outputs(choice)
    refused = [*sources, choice.image, choice.points]
    outputs.check(refused)
    if choice.dry_run:
        asked = choice.image or ", ".join("standard input" if source == "-" else source for source in sources)
        print(f"tracekit rollout: would read {checkpoint} and {asked}, write {outputs}", file=sys.stderr)
        return
    report = ConsoleReport("rollout", quiet=choice.quiet, verbose=choice.verbose)
    try:
        with contextlib.ExitStack() as stack:
            predict(Path(checkpoint), sources, parameters, choice, outputs, report, stack)
    except BrokenPipeError:
        raise PipeClosedError("") from None
    finally:
        report.finish()


def _split(sources: list[str], choice: RolloutOptions) -> tuple[str, list[str]]:
    """The checkpoint, and what is asked about. Raises UsageError for what does not go together."""
    if not sources:
        raise UsageError("name the checkpoint of a network, or the folder of its training run", hint=f"for example: {EXAMPLE}")
    checkpoint, asked = sources[0], sources[1:]
    if choice.image is not None:
        if asked:
            raise UsageError(f"--image stands in place of {asked[0]}", hint="ask about the one or the other")
        if choice.swap_captions:
            raise UsageError("--swap-captions needs a corpus with other captions", hint="say any sentence with --text")
        return checkpoint, []
    if choice.points is not None:
        raise UsageError("--points are points of an --image")
    if choice.swap_captions and choice.caption is not None:
        raise UsageError("--swap-captions and --caption exclude each other")
    if not asked and os.isatty(0):
        raise UsageError("nothing to predict: name a corpus, an episode or an --image", hint=f"for example: {EXAMPLE}")
    if asked.count("-") > 1:
        raise UsageError("standard input is one file")
    return checkpoint, asked or ["-"]


class _Outputs:
    """The predictions file, or standard output, and the picture."""

    def __init__(self, choice: RolloutOptions) -> None:
        self._force = choice.force
        self.target = Target(Path(choice.output) if choice.output else None, choice.force)
        self.picture = Path(choice.picture) if choice.picture else None
        only_picture = self.picture is not None and self.target.path is None and (choice.image is not None or os.isatty(1))
        self.has_predictions = not only_picture

    def __str__(self) -> str:
        predictions = [str(self.target.path or "standard output")] if self.has_predictions else []
        return " and ".join([*predictions, *([str(self.picture)] if self.picture else [])])

    def check(self, inputs: list[str | None]) -> None:
        """Before any work: raises CannotCreateError, UsageError."""
        if self.has_predictions:
            refuse_inputs(self.target.path, inputs)
            self.target.check()
        if self.picture is not None:
            if self.picture.suffix.lower() not in _PICTURES:
                raise UsageError(f"cannot draw a {self.picture.suffix or 'file without a suffix'}", hint=f"use {', '.join(_PICTURES)}")
            if self.target.path is not None and self.picture.absolute() == self.target.path.absolute():
                raise UsageError("-o and --picture are the same file")
            refuse_inputs(self.picture, inputs)
            check_can_create(self.picture, force=self._force)

    def write(self, predictions: Predictions, step: Step, picture: bytes | None) -> None:
        if self.has_predictions:
            with write_records(self.target, PREDICTIONS) as writer:
                writer.put(predictions)
                writer.append_step(step)
        if self.picture is not None and picture is not None:
            with new_file(self.picture, force=self._force) as temporary:
                temporary.write_bytes(picture)


def predict(
    path: Path,
    sources: list[str],
    parameters: RolloutParameters,
    choice: RolloutOptions,
    outputs: _Outputs,
    report: ConsoleReport,
    stack: contextlib.ExitStack,
) -> None:
    """All of the command's work. Whatever can be known to be wrong is found before the weights are loaded."""
    from tracekit.backends.devices import torch_device
    from tracekit.mu0.checkpoint import Checkpoint, load_model
    from tracekit.mu0.rollout import predictions, rollout
    from tracekit.mu0.scenes import SceneMaker
    from tracekit.trace_pictures import EvenlySpread
    from tracekit.training.run_folder import find_checkpoint

    device = torch_device(choice.device)
    checkpoint = Checkpoint(find_checkpoint(path))
    maker = SceneMaker(checkpoint.config, checkpoint.statistics, parameters, report, choice.caption)
    scenes = [_scene_of_picture(maker, choice)] if choice.image else _scenes(maker, sources, choice, stack)
    model, statistics = load_model(checkpoint.folder, device, vlm=choice.vlm, dino=choice.dino, download=choice.download)
    tokenizer = _tokenizer(checkpoint, choice)

    kept = EvenlySpread(choice.pictures)
    answers = rollout(model, tokenizer, statistics, scenes, parameters, choice.seed)
    result = predictions(_watched(answers, kept) if outputs.picture else answers)
    outputs.write(result, _step(checkpoint, result, parameters, choice, report), _drawn(result, kept, choice) if outputs.picture else None)


def _tokenizer(checkpoint: Checkpoint, choice: RolloutOptions) -> Tokenizer:
    """That of the checkpoint; where it holds none, the one beside the VLM that --vlm names."""
    from tracekit.mu0.presets import tokenizer_of

    if choice.vlm and not (checkpoint.folder / "tokenizer").is_dir():
        return tokenizer_of(checkpoint.config, choice.vlm, download=choice.download)
    return checkpoint.tokenizer(download=choice.download)


def _scenes(maker: SceneMaker, sources: list[str], choice: RolloutOptions, stack: contextlib.ExitStack) -> Iterable[Scene]:
    """The scenes of all sources, one after the other. What kind of file each is, and whether it fits the network, is found out at once."""
    videos = Path(choice.videos) if choice.videos else None
    swap_seed = choice.seed if choice.swap_captions else None
    parts: list[Iterable[Scene]] = []
    for source in sources:
        path = _standard_input(stack) if source == "-" else source
        with open_records(path) as file:
            kind = file.kind
            for group in ("video", "geometry", "tracks") if kind is EPISODE else ():
                file.require(group)
        if kind is CORPUS:
            parts.append(maker.of_corpus(path, every=choice.every, videos=videos, swap_seed=swap_seed))
        elif kind is not EPISODE:
            raise BadDataError(f"{source} is of format {kind.name}, but {CORPUS.name} or {EPISODE.name} is expected")
        elif swap_seed is not None:
            raise UsageError(f"{source} is one episode: it has no captions of other tasks", hint="make a corpus of several episodes")
        else:
            parts.append(_scenes_of_episode(maker, path, choice, videos))
    return itertools.chain.from_iterable(parts)


def _scenes_of_episode(maker: SceneMaker, path: str, choice: RolloutOptions, videos: Path | None) -> Iterator[Scene]:
    with open_records(path, EPISODE) as file:
        clip = file.read("video")
        moved = videos / Path(clip.uri).name if videos else None
        frames = open_clip_frames(clip, path, str(moved) if moved and moved.exists() else None)
        yield from maker.of_episode(file, frames, every=choice.every)


def _standard_input(stack: contextlib.ExitStack) -> str:
    """Standard input as a file that can be opened more than once, until the command ends."""
    with open_records("-") as file:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tracekit-"))
            path = os.path.join(folder, "standard-input.h5")
            file.copy_to(path)
        except OSError as error:
            raise temporary_folder_error(error) from None
    return path


def _scene_of_picture(maker: SceneMaker, choice: RolloutOptions) -> Scene:
    from tracekit.mu0.bare_image import grid_points, read_picture, read_points

    assert choice.image is not None
    picture = read_picture(choice.image)
    size = (picture.shape[1], picture.shape[0])
    uv = read_points(choice.points, size) if choice.points else grid_points(choice.grid)
    return maker.of_picture(storable(Path(choice.image).stem), picture, uv)


def _watched(rollouts: Iterable[Rollout], kept: EvenlySpread) -> Iterator[Rollout]:
    for sample, one in enumerate(rollouts):
        kept.offer(sample, one.scene.picture)
        yield one


def _drawn(predictions: Predictions, kept: EvenlySpread, choice: RolloutOptions) -> bytes:
    import cv2

    from tracekit.trace_pictures import MOST_TRACES, prediction_sheet

    # Whoever asks about points of a picture wants to see them all.
    most_traces = len(predictions.anchor) if choice.image else MOST_TRACES
    picture = prediction_sheet(predictions, kept.chosen(), most_traces=most_traces)
    assert choice.picture is not None
    return cv2.imencode(Path(choice.picture).suffix.lower(), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def _step(
    checkpoint: Checkpoint, predictions: Predictions, parameters: RolloutParameters, choice: RolloutOptions, report: ConsoleReport
) -> Step:
    asked: dict[str, Any] = {name: getattr(choice, name) for name in ("caption", "swap_captions", "every")}
    if choice.image:
        asked["grid"] = None if choice.points else choice.grid
        report.note("depth at the points of a picture is not known: z is relative to each point's own, which is 0")
    manifest = read_json_object(checkpoint.folder / "manifest.json")
    return Step(
        command="rollout",
        argv=sys.argv[1:],
        version=__version__,
        parameters={**dataclasses.asdict(parameters), **asked},
        inputs=list(dict.fromkeys(predictions.sample_clip)),
        backend=f"mu0 {checkpoint.config.name}",
        weights_sha256=manifest["files"]["model.safetensors"]["sha256"],
        seed=choice.seed,
        counts=report.counts,
        notes=report.notes,
    )
