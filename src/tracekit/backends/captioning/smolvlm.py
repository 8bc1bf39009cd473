"""Captions by SmolVLM2, or any other image-text model of transformers, on this machine (paper A.5)."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from tracekit.backends.captioning.caption_answers import read_event, read_summary
from tracekit.backends.captioning.caption_prompts import Question, about_captions, about_event
from tracekit.backends.captioning.event_pictures import take_pictures
from tracekit.backends.captioning.model_folders import CONFIG, INDEX, WHOLE, digest_of, find_model, get_model, missing_model, model_sha256
from tracekit.backends.devices import torch_device
from tracekit.backends.memory import free_memory
from tracekit.backends.protocols import BackendSetup, EventCaption, EventRequest, Facts
from tracekit.backends.weights import Published
from tracekit.errors import BadDataError, UnavailableError
from tracekit.extract.caption import CaptionParameters
from tracekit.format.json_file import read_json_object

if TYPE_CHECKING:
    from tracekit.backends.captioning.chat_network import ChatNetwork

DEFAULT = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
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
        self._resident: ChatNetwork | None = None
        self._take(self.folder)

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        for package in ("torch", "torchvision", "transformers", "safetensors"):
            if importlib.util.find_spec(package) is None:
                return f"the package {package} is not installed: pip install {package}"
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
        parameters = self.parameters
        pictures = take_pictures(request, parameters.picture_size, with_mask=parameters.motion_mask)
        question = about_event(pictures, request.task, parameters.paraphrases)
        return self._ask(self.folder, question, lambda answer: read_event(answer, parameters.paraphrases))

    def merge(self, texts: Sequence[str]) -> str:
        """One sentence; ValueError for an unusable answer."""
        return self._ask(self.merge_folder, about_captions(texts), read_summary)

    def _ask(self, folder: Path, question: Question, read: Callable[[str], Answer]) -> Answer:
        digest = question.digest
        attempt = self._unusable[digest]
        seed = int.from_bytes(bytes.fromhex(digest)[:4]) + self._seed + attempt if attempt else None
        try:
            return read(self._take(folder).ask(question, self.parameters.answer_tokens, seed))
        except ValueError:
            self._unusable[digest] += 1
            raise

    def _take(self, folder: Path) -> ChatNetwork:
        """The model of a folder, after any other one has left the device."""
        from tracekit.backends.captioning.chat_network import ChatNetwork

        if self._resident is None or self._resident.folder != folder:
            self.close()
            self._resident = ChatNetwork(folder, self.device, sees=folder == self.folder)
        return self._resident


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
