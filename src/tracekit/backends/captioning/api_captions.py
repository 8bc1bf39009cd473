"""Captions by any server that speaks OpenAI's chat API: OpenAI's own, or vLLM, llama.cpp or Ollama on a machine of one's own.

`auto` never takes it: pictures of the video leave this machine, and answers may cost money.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from tracekit.backends.captioning.answer_cache import AnswerCache
from tracekit.backends.captioning.caption_answers import read_event, read_summary
from tracekit.backends.captioning.caption_prompts import RETRY_TEMPERATURE, Question, about_captions, about_event
from tracekit.backends.captioning.chat_server import ChatServer, Rejected, TooLarge, check_url, is_local
from tracekit.backends.captioning.event_pictures import take_pictures
from tracekit.backends.protocols import SOONER, BackendSetup, EventCaption, EventRequest, Facts
from tracekit.errors import UnavailableError, UsageError
from tracekit.extract.caption import CaptionParameters
from tracekit.pictures import encode_jpeg

KEY, OPENAI_KEY = "TRACEKIT_API_KEY", "OPENAI_API_KEY"
JPEG_QUALITY = 90
_OPENAI = "api.openai.com"
Answer = TypeVar("Answer")


class ApiCaptions:
    """`describe` and `merge` may be called from several threads, as many as `at_once`."""

    name: ClassVar[str] = "api"
    facts: ClassVar[Facts] = Facts(
        "any OpenAI-compatible server, by --api-url and --api-model",
        code="tracekit",
        code_licence="Apache-2.0",
        weights="those of the server",
        weights_licence="the server's terms",
        commercial="by server",
    )
    automatic: ClassVar[bool] = False
    looks_at_frames: ClassVar[bool] = True

    def __init__(self, setup: BackendSetup) -> None:
        if reason := self.missing(setup):
            raise UnavailableError(f"captioning backend {self.name} cannot run here: {reason}")
        self.parameters: CaptionParameters = setup.parameters
        url, key = check_url(self.parameters.api_url), _key_for(self.parameters.api_url)
        if key and not is_local(url) and urlsplit(url).scheme != "https":
            raise UsageError(
                f"{url} would get the key unencrypted", hint=f"use https, or set {KEY} to nothing for a server that needs no key"
            )
        self.at_once = self.parameters.api_parallel
        self.cache = AnswerCache(self.parameters.caption_cache)
        self.server = ChatServer(
            url, key or "", timeout=self.parameters.api_timeout, tries=self.parameters.api_tries, patience=SOONER * setup.patience
        )
        self._seed = setup.seed
        self._form = _Form()
        self._unusable: Counter[str] = Counter()
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        """Raises UsageError for an --api-url that is none, or that holds a secret, before anything is said of it."""
        parameters = setup.parameters or CaptionParameters()
        check_url(parameters.api_url)
        if setup.weights is not None:
            return "it has no --weights: name a model of the server by --api-model"
        reasons = []
        if not parameters.api_model:
            reasons.append("give --api-model the name of a model of the server")
        key = _key_for(parameters.api_url)
        if key is None and not is_local(parameters.api_url):
            address = urlsplit(parameters.api_url)
            other = f" or {OPENAI_KEY}" if address.hostname == _OPENAI else ""
            reasons.append(
                f"set {KEY}{other} in the environment to your key for {parameters.api_url} (to nothing if the server needs no key)"
                if address.scheme == "https"
                else f"{parameters.api_url} would get a key unencrypted: use https, or set {KEY} in the environment to nothing for a "
                "server that needs no key"
            )
        if key and not all(33 <= ord(character) <= 126 for character in key):
            reasons.append(f"the key in {KEY} or {OPENAI_KEY} has characters that no key has")
        return "; ".join(reasons) or None

    def weights_sha256(self) -> str:
        return ""

    def close(self) -> None:
        """After this no frame is read any more, though threads may still wait for the server."""
        with self._lock:
            self._closed = True

    def describe(self, request: EventRequest) -> EventCaption:
        """Raises ValueError for an unusable answer; UnavailableError or ResumableError when the server gives none (`ChatServer.post`)."""
        parameters = self.parameters
        with self._lock:  # a video is read by one thread at a time
            if self._closed:
                raise UnavailableError("the captioner is closed")
            pictures = take_pictures(request, parameters.picture_size, with_mask=parameters.motion_mask)
        question = about_event(pictures, request.task, parameters.paraphrases)
        try:
            return self._ask(question, parameters.api_model, lambda answer: read_event(answer, parameters.paraphrases))
        except TooLarge as error:
            raise ValueError(f"the server wants less, take a smaller --picture-size: {error}") from None

    def merge(self, texts: Sequence[str]) -> str:
        return self._ask(about_captions(texts), self.parameters.api_merge_model or self.parameters.api_model, read_summary)

    def _ask(self, question: Question, model: str, read: Callable[[str], Answer]) -> Answer:
        content = self._first_request(question, model)
        # What is asked first, whatever the server makes us change: an answer that came later is the answer to this, too.
        digest = hashlib.sha256(json.dumps([self.server.url, content], sort_keys=True).encode()).hexdigest()
        with self._lock:
            turn = self._turns[digest]
        with turn:  # who asks the same at the same time finds the answer in the cache
            return self._ask_or_remember(digest, content, read)

    def _ask_or_remember(self, digest: str, content: dict[str, Any], read: Callable[[str], Answer]) -> Answer:
        if (kept := self.cache.get(digest)) is not None:
            try:
                return read(kept)
            except ValueError:
                pass  # kept by an older version, or damaged
        with self._lock:
            if self._closed:
                raise UnavailableError("the captioner is closed")
            attempt = self._unusable[digest]
        if attempt:
            content |= {"temperature": RETRY_TEMPERATURE, "seed": self._seed + attempt}
        try:
            text = _text_of(self._post(content))
            answer = read(text)
        except ValueError:
            with self._lock:
                self._unusable[digest] += 1
            raise
        self.cache.put(digest, text)
        return answer

    def _first_request(self, question: Question, model: str) -> dict[str, Any]:
        parts = [_as_part(part) for part in question.parts]
        return {
            "model": model,
            "messages": [
                {"role": "system", "content": question.instructions},
                # Servers of text models may know no parts.
                {"role": "user", "content": parts if question.pictures else "\n".join(part["text"] for part in parts)},
            ],
            "temperature": 0,
            "seed": self._seed,
            "max_tokens": self.parameters.answer_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": question.topic, "strict": True, "schema": question.schema},
            },
        }

    def _post(self, content: dict[str, Any]) -> Any:
        while True:
            with self._lock:
                form = self._form
            try:
                return self.server.post(form.apply(content))
            except Rejected as rejected:
                simpler = form.simpler(str(rejected))
                if simpler is None:
                    hint = "see --api-model: it must be one that sees pictures; smaller --picture-size may help"
                    raise UnavailableError(str(rejected), hint=hint) from None
                with self._lock:
                    if self._form == form:  # else another thread has found out already
                        self._form = simpler


class _Form:
    """How much of the API a server knows: what it has rejected is left out for the rest of the run."""

    FORMATS = ("json_schema", "json_object", "none")

    def __init__(self, answer_format: str = "json_schema", without: frozenset[str] = frozenset()) -> None:
        self.answer_format = answer_format
        self.without = without

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Form) and (self.answer_format, self.without) == (other.answer_format, other.without)

    __hash__ = None  # type: ignore[assignment]

    def apply(self, content: dict[str, Any]) -> dict[str, Any]:
        """The request without what the server does not know."""
        request = {key: value for key, value in content.items() if key not in self.without}
        if "max_tokens" in self.without:
            request["max_completion_tokens"] = content["max_tokens"]
        if self.answer_format == "json_object":
            request["response_format"] = {"type": "json_object"}
        elif self.answer_format == "none":
            del request["response_format"]
        return request

    def simpler(self, complaint: str) -> _Form | None:
        """Without what the server complains of; else with a looser form of the answer; None when there is nothing left to leave out."""
        named = next(
            (key for key in ("max_tokens", "temperature", "seed") if re.search(rf"\b{key}\b", complaint) and key not in self.without), None
        )
        if named is not None:
            return _Form(self.answer_format, self.without | {named})
        looser = self.FORMATS.index(self.answer_format) + 1
        return _Form(self.FORMATS[looser], self.without) if looser < len(self.FORMATS) else None


def _key_for(url: str) -> str | None:
    """The key that a server gets; "" when the user has said that it needs none, None when there is none. OpenAI's own goes to nobody else."""
    key = os.environ.get(KEY)
    if key is None and urlsplit(url).hostname == _OPENAI:
        key = os.environ.get(OPENAI_KEY) or None
    return key.strip() if key is not None else None


def _as_part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    jpeg = base64.b64encode(encode_jpeg(part, JPEG_QUALITY).tobytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{jpeg}"}}


def _text_of(completion: Any) -> str:
    """What the model says in a chat completion. Raises ValueError when it says nothing, refuses, or was cut off."""
    try:
        choice = completion["choices"][0]
        message = choice["message"]
        content, refusal, reason = message.get("content"), message.get("refusal"), choice.get("finish_reason")
        if isinstance(content, list):  # in parts; what a model thinks aloud is one of another type
            refusal = refusal or "".join(part["refusal"] for part in content if part["type"] == "refusal")
            content = "".join(part["text"] for part in content if part["type"] == "text")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise ValueError("the server's answer is no chat completion") from None
    if refusal:
        raise ValueError(f"the model refuses: {refusal}")
    if reason == "length":
        raise ValueError("the answer was cut off: allow more --answer-tokens")
    if reason == "content_filter":
        raise ValueError("the server held the answer back (content_filter)")
    if not isinstance(content, str) or not content.strip():
        raise ValueError("the model says nothing")
    return content
