"""What a model answered, held against the form that it was asked for. Nothing is guessed: an answer of another form is unusable."""

from __future__ import annotations

import json
import re
from typing import Any

from tracekit.backends.protocols import EventCaption
from tracekit.extract.caption import clean

MOST_CHARACTERS = 100_000
"""Longer answers are not read."""
_FENCE = re.compile(r"```[a-zA-Z]*")
_STRINGS = ("before", "interaction", "after", "text")


def read_event(answer: str, num_paraphrases: int) -> EventCaption:
    """The caption in a model's answer to `caption_prompts.about_event`.

    Raises ValueError, saying why, when it is no JSON of that form. A list of paraphrases may be shorter or longer than asked for.
    """
    content = _read_object(answer, (*_STRINGS, "paraphrases") if num_paraphrases else _STRINGS)
    paraphrases = content.get("paraphrases", [])
    if not isinstance(paraphrases, list) or not all(isinstance(text, str) for text in paraphrases):
        raise ValueError("paraphrases is no list of strings")
    before, interaction, after, text = (_text(content, key) for key in _STRINGS)
    return EventCaption(before, interaction, after, text, paraphrases)


def read_summary(answer: str) -> str:
    """The sentence in a model's answer to `caption_prompts.about_captions`; ValueError as above."""
    return _text(_read_object(answer, ("text",)), "text")


def _read_object(answer: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """A JSON object with exactly these keys: the whole answer, or what stands in its one code fence."""
    if len(answer) > MOST_CHARACTERS:
        raise ValueError(f"the answer is longer than {MOST_CHARACTERS} characters")
    try:
        content = _parse(answer)
    except ValueError:
        lines = answer.replace("\r\n", "\n").split("\n")
        fences = [index for index, line in enumerate(lines) if _FENCE.fullmatch(line.strip())]
        is_fenced = len(fences) == 2 and lines[fences[1]].strip() == "```"
        inside = "\n".join(lines[fences[0] + 1 : fences[1]]) if is_fenced else answer
        try:
            content = _parse(inside)
        except ValueError:
            raise ValueError(f"the answer is not JSON: {_beginning(inside)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"the answer is no JSON object: {_beginning(answer)}")
    if missing := [key for key in keys if key not in content]:
        raise ValueError(f"the answer has no {missing[0]!r}")
    if unknown := [key for key in content if key not in keys]:
        raise ValueError(f"the answer has {_beginning(unknown[0])!r}, which nobody asked for")
    return content


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError:  # brackets in brackets in brackets
        raise ValueError("too deep") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands twice")
    return content


def _text(content: dict[str, Any], key: str) -> str:
    text = content[key]
    if not isinstance(text, str):
        raise ValueError(f"{key!r} is no string")
    if not clean(text, MOST_CHARACTERS):
        raise ValueError(f"{key!r} is empty")
    return text


def _beginning(text: str) -> str:
    return clean(text[:400], 80) or "nothing"
