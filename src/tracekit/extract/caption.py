"""Say what happens in each event, and merge neighbours into coarser summaries (paper 2.3, A.5).

Which event is asked for, what is done with an unusable answer and how captions are merged is decided here, once, for any
captioner. Texts that users and models write are data: they are cleaned and bounded, and never interpreted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from tracekit.backends.protocols import CaptioningBackend, EventCaption, EventRequest
from tracekit.errors import BadDataError, ConfigurationError
from tracekit.parameters import parameter
from tracekit.records import Captions, Episode, Frames
from tracekit.report import Report

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class CaptionParameters:
    """What the captioner is told, and which runs of events get a summary."""

    task: str = parameter("", "description of the whole episode, shown to the captioner and taken as the text of the whole clip")
    paraphrases: int = parameter(3, "other ways to say each event, for training", minimum=0, maximum=32)
    windows: str = parameter("2,3,all", "how many adjacent events a summary covers: numbers from 2 and `all`, or empty for no summaries")
    attempts: int = parameter(2, "times that a captioner is asked before an event counts as failed", minimum=1, maximum=10)
    max_characters: int = parameter(600, "longest text that is kept; the rest of a longer one is cut off at a word", minimum=20)


# `backend` is an option of the command. The paper names no captioner (A.5): SmolVLM2 is the network that sees for its world model (3.1).
# The release (caption/curate_captions.py) has every event said in three ways.
PRESETS: dict[str, dict[str, object]] = {"paper": {"backend": "smolvlm"}, "release": {"backend": "api", "paraphrases": 2}}


def caption(
    episode: Episode, frames: Frames | None, captioner: CaptioningBackend, parameters: CaptionParameters, *, report: Report
) -> Captions:
    """Captions of all events of the episode, and summaries over sliding windows of adjacent events.

    An event whose answer stays unusable has `event_ok` 0 and empty texts, and a note names it. A summary merges the usable
    captions in its window and needs at least two; its level counts all events that its frames cover. Windows that cover
    the same frames count once. `episode_text` is the task where one is given, else the summary over all events, else "".

    Raises BadDataError when the episode has no events, ConfigurationError for windows that are none.
    """
    widths = _window_widths(parameters.windows)
    events = episode.events
    if events is None:
        raise BadDataError("the episode has no events to caption", hint="run `tracekit segment` first")
    task = clean(parameters.task, parameters.max_characters)
    starts, stops = events.start.tolist(), events.stop.tolist()

    captions: list[EventCaption | None] = []
    for index, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        request = EventRequest(episode, frames, start, stop, task)
        failure = f"no caption for event {index + 1} of {len(starts)} (frames {start} to {stop - 1})"
        captions.append(_until_usable(partial(_describe, captioner, request, parameters), parameters.attempts, failure, report))
        report.progress(index + 1, len(starts), "events")
    report.count("events without a usable caption", sum(answer is None for answer in captions))

    summaries: list[tuple[int, int, int, str]] = []
    report.count("summaries without a usable text", 0)
    for first, end in _windows(len(starts), widths):
        texts = [answer.text for answer in captions[first:end] if answer is not None]
        if len(texts) < 2:
            continue
        failure = f"no summary of events {first + 1} to {end}"
        text = _until_usable(partial(_merge, captioner, texts, parameters), parameters.attempts, failure, report)
        if text is None:
            report.count("summaries without a usable text")
        else:
            summaries.append((starts[first], stops[end - 1], end - first, text))

    given = [answer if answer is not None else EventCaption("", "", "", "") for answer in captions]
    missing = sum(parameters.paraphrases - len(answer.paraphrases) for answer in captions if answer is not None)
    report.count("paraphrases that the captioner did not give", missing)
    return Captions(
        captioner=captioner.name,
        episode_text=task or _text_of_everything(given, summaries, len(starts)),
        event_start=np.array(starts, dtype=np.int32),
        event_stop=np.array(stops, dtype=np.int32),
        event_ok=np.array([answer is not None for answer in captions], dtype=np.uint8),
        event_before=[answer.before for answer in given],
        event_interaction=[answer.interaction for answer in given],
        event_after=[answer.after for answer in given],
        event_text=[answer.text for answer in given],
        # A table has no ragged rows: what was not given is "".
        event_paraphrases=[[*answer.paraphrases, *[""] * (parameters.paraphrases - len(answer.paraphrases))] for answer in given],
        summary_start=np.array([summary[0] for summary in summaries], dtype=np.int32),
        summary_stop=np.array([summary[1] for summary in summaries], dtype=np.int32),
        summary_level=np.array([summary[2] for summary in summaries], dtype=np.int32),
        summary_text=[summary[3] for summary in summaries],
    )


def clean(text: str, max_characters: int) -> str:
    """One line of visible text: no control or formatting characters, single spaces, at most `max_characters`."""
    spaced = "".join(" " if char.isspace() else char for char in text)
    visible = "".join(char for char in spaced if unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co"})
    line = " ".join(unicodedata.normalize("NFC", visible).split())
    if len(line) <= max_characters:
        return line
    head = line[: max_characters - 1]
    return (head.rsplit(" ", 1)[0] if " " in head else head).rstrip(" ,;:.") + "…"


def _describe(captioner: CaptioningBackend, request: EventRequest, parameters: CaptionParameters) -> EventCaption:
    answer = captioner.describe(request)
    before, interaction, after, text, *paraphrases = (
        clean(part, parameters.max_characters)
        for part in (answer.before, answer.interaction, answer.after, answer.text, *answer.paraphrases[: parameters.paraphrases])
    )
    if not text:
        raise ValueError("the answer is empty")
    return EventCaption(before, interaction, after, text, [paraphrase for paraphrase in paraphrases if paraphrase])


def _merge(captioner: CaptioningBackend, texts: list[str], parameters: CaptionParameters) -> str:
    text = clean(captioner.merge(texts), parameters.max_characters)
    if not text:
        raise ValueError("the answer is empty")
    return text


def _until_usable(ask: Callable[[], Answer], attempts: int, failure: str, report: Report) -> Answer | None:
    """The first usable answer; None, with a note of why, when there is none in so many attempts."""
    for attempt in range(attempts):
        try:
            return ask()
        except ValueError as error:
            if attempt == attempts - 1:
                report.note(f"{failure}: {clean(str(error), 200)}")
    return None


def _window_widths(windows: str) -> list[int | None]:
    """Numbers of events in a window; None is all of them."""
    widths: list[int | None] = []
    for word in windows.replace(",", " ").split():
        if word != "all" and not (word.isascii() and word.isdigit() and int(word) >= 2):
            raise ConfigurationError(f"--windows has {word!r}", hint="give numbers from 2 and `all`, separated by commas: 2,3,all")
        widths.append(None if word == "all" else int(word))
    return widths


def _windows(num_events: int, widths: list[int | None]) -> list[tuple[int, int]]:
    """Runs (first, end) of adjacent events, each once, narrow windows first."""
    numbers = sorted({num_events if width is None else width for width in widths})
    return [(first, first + width) for width in numbers if width >= 2 for first in range(num_events - width + 1)]


def _text_of_everything(given: list[EventCaption], summaries: list[tuple[int, int, int, str]], num_events: int) -> str:
    if num_events == 1:
        return given[0].text
    return next((text for _, _, level, text in summaries if level == num_events), "")
