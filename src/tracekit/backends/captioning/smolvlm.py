"""Captions by SmolVLM2, or any other image-text model of transformers, on this machine (paper A.5)."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from tracekit.backends.batches import Batches
from tracekit.backends.captioning.caption_answers import read_event, read_summary
from tracekit.backends.captioning.caption_prompts import Question, about_captions, about_event
from tracekit.backends.captioning.event_pictures import take_pictures
from tracekit.backends.captioning.model_folders import CONFIG, INDEX, WHOLE, digest_of, find_model, get_model, missing_model, model_sha256
from tracekit.backends.devices import torch_device
from tracekit.backends.memory import free_memory
from tracekit.backends.packages import missing_package
from tracekit.backends.protocols import BackendSetup, EventCaption, EventRequest, Facts
from tracekit.backends.weights import Published
from tracekit.errors import BadDataError, StorageError, UnavailableError
from tracekit.extract.caption import CaptionParameters, clean
from tracekit.format.json_file import read_json_object

if TYPE_CHECKING:
    from tracekit.backends.captioning.chat_network import ChatNetwork

DEFAULT = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
AT_ONCE = 4
"""Events, or runs of captions, in a batch on a GPU. A word of an answer needs all weights, whether for one event or for several."""
Answer = TypeVar("Answer")


class SmolVLM:
    """The image model describes events; it also merges captions, unless --merge-model names a text model. One model is resident at a time.

    An answer is the model's likeliest; after an unusable one it is sampled, by the seed and how often this question has been asked in vain.
    """

    name: ClassVar[str] = "smolvlm"
    facts: ClassVar[Facts] = Facts(
        "SmolVLM2, or any image-text model of transformers",
        code="transformers",
        code_licence="Apache-2.0",
        weights=f"{DEFAULT}; others by --weights",
        weights_licence="Apache-2.0 (SmolVLM2); others their own",
        commercial="by weights",
    )
    published: ClassVar[Published] = Published(DEFAULT, files=(WHOLE, INDEX), beside=(CONFIG,))
    looks_at_frames: ClassVar[bool] = True

    def __init__(self, setup: BackendSetup) -> None:
        if reason := self.missing(setup):
            raise UnavailableError(f"captioning backend {self.name} cannot run here: {reason}")
        self.parameters: CaptionParameters = setup.parameters or CaptionParameters()
        self.device = torch_device(setup.device)
        self.folder = get_model(setup.weights or DEFAULT, download=setup.download, flag="--weights")
        merger = self.parameters.merge_model
        self.merge_folder = get_model(merger, download=setup.download, flag="--merge-model") if merger else self.folder
        if reason := _lacks_package(self.folder):  # what was fetched may be anything
            raise UnavailableError(reason)
        self._seed = setup.seed
        self._unusable: Counter[str] = Counter()
        # Captions need less memory than pictures.
        self.events, self.summaries = Batches(self.device, AT_ONCE), Batches(self.device, AT_ONCE)
        self._resident: ChatNetwork | None = None
        self._take(self.folder)

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        if reason := missing_package("torch", "torchvision", "transformers", "safetensors"):
            return reason
        if reason := missing_model(setup.weights or DEFAULT, download=setup.download, flag="--weights"):
            return f"{reason}; {_NUM2WORDS}" if setup.weights is None and _lacks_num2words() else reason
        merger = setup.parameters.merge_model if setup.parameters is not None else ""
        if merger and (reason := missing_model(merger, download=setup.download, flag="--merge-model")):
            return reason
        found = find_model(setup.weights or DEFAULT)
        return None if found is None else _lacks_package(found)

    def weights_sha256(self) -> str:
        """Of the weights in all files; with a --merge-model, one digest for both models."""
        digest = model_sha256(self.folder)
        return digest if self.merge_folder == self.folder else digest_of({"describe": digest, "merge": model_sha256(self.merge_folder)})

    def close(self) -> None:
        """Free the memory of the device."""
        self._resident = None
        free_memory()

    def describe(self, request: EventRequest) -> EventCaption:
        """Raises ValueError for an unusable answer."""
        return _only(self.describe_each([request]))

    def describe_each(self, requests: Sequence[EventRequest]) -> Iterator[EventCaption | ValueError]:
        """No more pictures are in memory than those of one batch."""
        parameters = self.parameters

        def question(request: EventRequest) -> Question:
            pictures = take_pictures(request, parameters.picture_size, with_mask=parameters.motion_mask)
            return about_event(pictures, request.task, parameters.paraphrases)

        read = partial(read_event, num_paraphrases=parameters.paraphrases)
        return self._ask_each(self.folder, [partial(question, request) for request in requests], read, self.events)

    def merge(self, texts: Sequence[str]) -> str:
        """One sentence; ValueError for an unusable answer."""
        return _only(self.merge_each([texts]))

    def merge_each(self, runs: Sequence[Sequence[str]]) -> Iterator[str | ValueError]:
        return self._ask_each(self.merge_folder, [partial(about_captions, texts) for texts in runs], read_summary, self.summaries)

    def _ask_each(
        self, folder: Path, questions: Sequence[Callable[[], Question]], read: Callable[[str], Answer], batches: Batches
    ) -> Iterator[Answer | ValueError]:
        def ask(some: Sequence[Callable[[], Question]]) -> list[Answer | ValueError]:
            return self._ask(folder, [question() for question in some], read)

        def too_large(reason: str) -> StorageError:
            return StorageError(
                f"{folder.name}: out of memory on {self.device}: {clean(reason, 200)}",
                hint="take a smaller --picture-size, another model with --weights, or --device cpu",
            )

        for answers in batches.runs(ask, questions, too_large):
            yield from answers

    def _ask(self, folder: Path, questions: Sequence[Question], read: Callable[[str], Answer]) -> list[Answer | ValueError]:
        network, most_tokens = self._take(folder), self.parameters.answer_tokens
        digests = [question.digest for question in questions]
        attempts = [self._unusable[digest] for digest in digests]
        if any(attempts):  # what is drawn for a question must not depend on what stands beside it
            seeds = [
                int.from_bytes(bytes.fromhex(digest)[:4]) + self._seed + attempt if attempt else None
                for digest, attempt in zip(digests, attempts, strict=True)
            ]
            said = [network.ask([question], most_tokens, seed)[0] for question, seed in zip(questions, seeds, strict=True)]
        else:
            said = network.ask(questions, most_tokens)
        answers = [_read(text, read) for text in said]
        self._unusable.update(digest for digest, answer in zip(digests, answers, strict=True) if isinstance(answer, ValueError))
        return answers

    def _take(self, folder: Path) -> ChatNetwork:
        """The model of a folder, after any other one has left the device."""
        from tracekit.backends.captioning.chat_network import ChatNetwork

        if self._resident is None or self._resident.folder != folder:
            self.close()
            self._resident = ChatNetwork(folder, self.device, sees=folder == self.folder)
        return self._resident


def _read(text: str | ValueError, read: Callable[[str], Answer]) -> Answer | ValueError:
    if isinstance(text, ValueError):
        return text
    try:
        return read(text)
    except ValueError as error:
        return error


def _only(answers: Iterator[Answer | ValueError]) -> Answer:
    (answer,) = answers
    if isinstance(answer, ValueError):
        raise answer
    return answer


def _lacks_package(folder: Path) -> str | None:
    """A package that transformers needs for this model and does not bring."""
    try:
        model_type = read_json_object(folder / CONFIG).get("model_type")
    except BadDataError as error:
        return str(error)
    return _NUM2WORDS if model_type == "smolvlm" and _lacks_num2words() else None


_NUM2WORDS = "transformers needs the package num2words for SmolVLM: pip install num2words"


def _lacks_num2words() -> bool:
    return importlib.util.find_spec("num2words") is None
