"""Say what happens in each event, and merge neighbours into coarser summaries (paper 2.3, A.5).

Which event is asked for, what is done with an unusable answer and how captions are merged is decided here, once, for any
captioner. Texts that users and models write are data: they are cleaned and bounded, and never interpreted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from tracekit.backends.protocols import CaptioningBackend, EventCaption, EventRequest
from tracekit.errors import BadDataError, ConfigurationError
from tracekit.extract.several_at_once import in_order
from tracekit.parameters import parameter
from tracekit.records import Captions, Episode, Frames
from tracekit.report import Report

Question = TypeVar("Question")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class CaptionParameters:
    """What the captioner is told, and which runs of events get a summary."""

    task: str = parameter("", "description of the whole episode, shown to the captioner and taken as the text of the whole clip")
    paraphrases: int = parameter(3, "other ways to say each event, for training", minimum=0, maximum=32)
    windows: str = parameter("2,3,all", "how many adjacent events a summary covers: numbers from 2 and `all`, or empty for no summaries")
    attempts: int = parameter(2, "times that a captioner is asked before an event counts as failed", minimum=1, maximum=10)
    max_characters: int = parameter(600, "longest text that is kept; the rest of a longer one is cut off at a word", minimum=20)
    picture_size: int = parameter(512, "longest side of the pictures that a model sees, px", minimum=64, maximum=4096)
    motion_mask: bool = parameter(False, "show a model also where the thing that moves most is when the event starts")
    answer_tokens: int = parameter(1024, "longest answer of a model; one that is cut off is unusable", minimum=64, maximum=65536)
    merge_model: str = parameter(
        "", "smolvlm: text model that merges captions, a folder or the id of a hub repository; else the image model does"
    )
    api_url: str = parameter("https://api.openai.com/v1", "api: address of the server up to /v1; vLLM, llama.cpp and Ollama have one, too")
    api_model: str = parameter("", "api: the model that sees events, by the server's name for it; required")
    api_merge_model: str = parameter("", "api: the model that merges captions, by the server's name for it; else --api-model does")
    api_parallel: int = parameter(4, "api: events that are asked about at the same time", minimum=1, maximum=64)
    api_timeout: float = parameter(120.0, "api: seconds after which an answer is no longer waited for", minimum=1.0, maximum=3600.0)
    api_tries: int = parameter(6, "api: times that a server is asked that is overloaded, slow or gone", minimum=1, maximum=20)
    caption_cache: str = parameter(
        "", "api: folder that keeps answers, so that a rerun costs nothing, or `none`; else tracekit/captions in the user's cache"
    )


# `backend` is an option of the command. The paper names no captioner (A.5): SmolVLM2 is the network that sees for its world model (3.1).
# The release (caption/curate_captions.py) has every event said in three ways, and shows what moves.
PRESETS: dict[str, dict[str, object]] = {
    "paper": {"backend": "smolvlm"},
    "release": {
        "backend": "api",
        "api_model": "gpt-4o-mini",
        "paraphrases": 2,
        "motion_mask": True,
        "api_parallel": 6,
        "api_timeout": 60.0,
        "api_tries": 4,
    },
}


OF_ONE_CAPTIONER = {
    "smolvlm": ("merge_model",),
    "api": ("api_url", "api_model", "api_merge_model", "api_parallel", "api_timeout", "api_tries", "caption_cache"),
    "template": (),
}
"""Parameters that one of our own captioners alone looks at; which those of other packages look at is not known."""


def passed_over(captioner: str, parameters: CaptionParameters) -> dict[str, list[str]]:
    """Flags that have another value than the default, and that this captioner does not look at, by the captioner that would."""
    if captioner not in OF_ONE_CAPTIONER:
        return {}
    default = CaptionParameters()
    given = {
        owner: ["--" + name.replace("_", "-") for name in names if getattr(parameters, name) != getattr(default, name)]
        for owner, names in OF_ONE_CAPTIONER.items()
        if owner != captioner
    }
    return {owner: flags for owner, flags in given.items() if flags}


def caption(
    episode: Episode, frames: Frames | None, captioner: CaptioningBackend, parameters: CaptionParameters, *, report: Report
) -> Captions:
    """Captions of all events of the episode, and summaries over sliding windows of adjacent events.

    An event whose answer stays unusable has `event_ok` 0 and empty texts, and a note names it; none usable at all is an error. A summary merges the usable
    captions in its window and needs at least two; its level counts all events that its frames cover. Windows that cover
    the same frames count once. `episode_text` is the task where one is given, else the summary over all events, else "".

    Raises BadDataError when the episode has no events, or no event a usable answer; ConfigurationError for windows that are none.
    """
    widths = _window_widths(parameters.windows)
    events = episode.events
    if events is None:
        raise BadDataError("the episode has no events to caption", hint="run `tracekit segment` first")
    task = clean(parameters.task, parameters.max_characters)
    starts, stops = events.start.tolist(), events.stop.tolist()

    at_once: int = getattr(captioner, "at_once", 1)
    requests = [EventRequest(episode, frames, *span, task) for span in zip(starts, stops, strict=True)]
    outcomes = _outcomes(
        requests,
        captioner.describe,
        getattr(captioner, "describe_each", None),
        partial(_usable_caption, parameters=parameters),
        parameters.attempts,
        at_once,
    )
    failures = [
        f"no caption for event {index} of {len(starts)} (frames {start} to {stop - 1})"
        for index, (start, stop) in enumerate(zip(starts, stops, strict=True), 1)
    ]
    captions, reason = _answers(outcomes, failures, report, "events")
    report.count("events without a usable caption", sum(answer is None for answer in captions))
    if captions and all(answer is None for answer in captions):  # who starts a thousand of these must not take it for success
        which = f"all {len(captions)} events" if len(captions) > 1 else "the one event"
        raise BadDataError(
            f"{which} without a usable caption, the last because {reason}",
            hint="nothing was written: take another --captioner or model, or more --attempts",
        )

    texts = {
        (first, end): [answer.text for answer in captions[first:end] if answer is not None] for first, end in _windows(len(starts), widths)
    }
    windows = [window for window, of_window in texts.items() if len(of_window) >= 2]
    merges = _outcomes(
        [texts[window] for window in windows],
        captioner.merge,
        getattr(captioner, "merge_each", None),
        partial(_usable_text, parameters=parameters),
        parameters.attempts,
        at_once,
    )
    failures = [f"no summary of events {first + 1} to {end}" for first, end in windows]
    merged, _ = _answers(merges, failures, report, "summaries")
    report.count("summaries without a usable text", sum(text is None for text in merged))
    summaries = [
        (starts[first], stops[end - 1], end - first, text) for (first, end), text in zip(windows, merged, strict=True) if text is not None
    ]

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


def _usable_caption(answer: EventCaption, parameters: CaptionParameters) -> EventCaption:
    before, interaction, after, text, *paraphrases = (
        clean(part, parameters.max_characters)
        for part in (answer.before, answer.interaction, answer.after, answer.text, *answer.paraphrases[: parameters.paraphrases])
    )
    if not text:
        raise ValueError("the answer is empty")
    return EventCaption(before, interaction, after, text, [paraphrase for paraphrase in paraphrases if paraphrase])


def _usable_text(answer: str, parameters: CaptionParameters) -> str:
    text = clean(answer, parameters.max_characters)
    if not text:
        raise ValueError("the answer is empty")
    return text


_Outcomes = Iterator[tuple[int, Answer | None, str]]
"""The number of a question with the first usable answer to it and "", or with None and why its last answer was not usable."""


def _answers(outcomes: _Outcomes[Answer], failures: Sequence[str], report: Report, unit: str) -> tuple[list[Answer | None], str]:
    """The usable answers in the order of the questions; None, with a note of its failure and why, where there is none.

    Also why the last of those failed, "" when none did.
    """
    answers: list[Answer | None] = [None] * len(failures)
    last_reason = ""
    for settled, (number, answer, reason) in enumerate(outcomes, 1):
        if answer is None:
            report.note(f"{failures[number]}: {reason}")
            last_reason = reason
        answers[number] = answer
        report.progress(settled, len(failures), unit)
    return answers, last_reason


def _outcomes(
    questions: Sequence[Question],
    ask: Callable[[Question], Answer],
    ask_each: Callable[[Sequence[Question]], Iterator[Answer | ValueError]] | None,
    usable: Callable[[Answer], Answer],
    attempts: int,
    at_once: int,
) -> _Outcomes[Answer]:
    """Every question once, as soon as it has a usable answer or has been asked `attempts` times in vain.

    A captioner that looks at several questions together (`ask_each`) gets all, then in another round all that have no usable answer yet:
    which of them stand together depends on answers alone, never on time. `usable` makes of an answer what is kept, or raises ValueError.
    """
    if ask_each is not None:
        yield from _in_rounds(questions, ask_each, usable, attempts)
        return
    pieces = [partial(_until_usable, question, ask, usable, attempts) for question in questions]
    for number, (answer, reason) in enumerate(in_order(pieces, at_once)):
        yield number, answer, reason


def _in_rounds(
    questions: Sequence[Question],
    ask_each: Callable[[Sequence[Question]], Iterator[Answer | ValueError]],
    usable: Callable[[Answer], Answer],
    attempts: int,
) -> _Outcomes[Answer]:
    waiting = list(range(len(questions)))
    for left in reversed(range(attempts)):
        unusable = []
        for number, said in zip(waiting, ask_each([questions[number] for number in waiting]), strict=True):
            answer = _usable_or_why(said, usable)
            if not isinstance(answer, ValueError):
                yield number, answer, ""
            elif left:
                unusable.append(number)
            else:
                yield number, None, clean(str(answer), 200)
        waiting = unusable
        if not waiting:
            return


def _usable_or_why(said: Answer | ValueError, usable: Callable[[Answer], Answer]) -> Answer | ValueError:
    if isinstance(said, ValueError):
        return said
    try:
        return usable(said)
    except ValueError as error:
        return error


def _until_usable(
    question: Question, ask: Callable[[Question], Answer], usable: Callable[[Answer], Answer], attempts: int
) -> tuple[Answer | None, str]:
    """The first usable answer, or why the last one was not."""
    reason = ""
    for _ in range(attempts):
        try:
            return usable(ask(question)), ""
        except ValueError as error:
            reason = clean(str(error), 200)
    return None, reason


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
