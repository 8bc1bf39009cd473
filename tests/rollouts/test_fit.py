"""What a policy is told to do, against what it has learnt."""

from __future__ import annotations

import pytest

from tracekit.report import Report
from tracekit.rollouts.fit import SentenceCheck


def notes(known: list[str], told: list[str]) -> list[str]:
    report = Report()
    check = SentenceCheck("POLICY", known, report)
    for sentence in told:
        check(sentence)
    return report.notes


def test_a_sentence_it_has_learnt_from_needs_no_note() -> None:
    assert notes(["open the drawer", ""], ["open the drawer", ""]) == []


def test_every_other_sentence_is_noted_once() -> None:
    known = ["open the drawer", "close the window"]
    assert notes(known, ["", "open the door", "", "open the door", "open the drawer"]) == [
        "POLICY is told '', but learnt from 'open the drawer', 'close the window' (see --text)",
        "POLICY is told 'open the door', but learnt from 'open the drawer', 'close the window' (see --text)",
    ]


def test_the_closest_of_many_are_named() -> None:
    (note,) = notes([f"press button {letter}" for letter in "abcdefgh"] + ["open the drawer"], ["open the drawers"])
    assert "learnt from 'open the drawer', 'press button" in note and note.count("press") == 2 and " and others (see" in note


@pytest.mark.parametrize("told", ["a\nb\x1b[31m", "word " * 1000])
def test_whatever_is_in_it_a_note_is_one_short_line(told: str) -> None:
    (note,) = notes([], [told])
    assert note.isprintable() and len(note) < 200 and "learnt from no sentence" in note
