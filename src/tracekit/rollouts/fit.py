"""Whether a policy can act in an environment, and knows what it is told to do there."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence

from tracekit.action.config import ActionConfig
from tracekit.errors import UsageError
from tracekit.report import Report
from tracekit.rollouts.env_process import EnvFacts

_SENTENCES_NAMED = 3
_LONGEST_SENTENCE = 80
"""Characters of a sentence that a note shows."""


def check_fit(policy: str, config: ActionConfig, facts: EnvFacts) -> None:
    """Raise UsageError naming both where numbers of actions or states differ, or a camera is missing."""
    for what, has, wants in (
        ("actions", facts.action_size, config.action_size),
        ("states", facts.state_size, config.state_size),
    ):
        if has != wants:
            raise UsageError(
                f"{policy} knows {what} of {wants} numbers, but those of {facts.name} have {has}",
                hint="a policy acts in environments like those of its demonstrations",
            )
    if config.gripper_features != "none" and not facts.has_gripper_camera:
        raise UsageError(
            f"{policy} looks through a camera on the gripper, but {facts.name} has none", hint="name one with --gripper-camera"
        )


class SentenceCheck:
    """Notes each sentence that a policy is told and has not learnt from, once: it acts all the same, but hardly as it is told."""

    def __init__(self, policy: str, sentences: Sequence[str], report: Report) -> None:
        """`sentences` are those that the policy's checkpoint says it has learnt from."""
        self._policy, self._sentences, self._report = policy, sentences, report
        self._told: set[str] = set()

    def __call__(self, sentence: str) -> None:
        if sentence in self._told:
            return
        self._told.add(sentence)
        if sentence not in self._sentences:
            near = difflib.get_close_matches(sentence, self._sentences, _SENTENCES_NAMED, cutoff=0.0)
            known = ", ".join(map(_quoted, near)) or "no sentence"
            more = " and others" if len(self._sentences) > len(near) else ""
            self._report.note(f"{self._policy} is told {_quoted(sentence)}, but learnt from {known}{more} (see --text)")


def _quoted(sentence: str) -> str:
    """On one line, whatever is in it."""
    return repr(textwrap.shorten(sentence, _LONGEST_SENTENCE, placeholder=" ..."))
