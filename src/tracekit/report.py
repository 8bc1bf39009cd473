"""What a stage says while it works: how far it is, what it left out, and what the user should know."""

from __future__ import annotations


class Report:
    """Collects counts and notes; the command line's own subclass also draws progress on stderr.

    Nothing is dropped in silence: whatever a stage leaves out or masks, it counts here under a name that a stranger
    understands ("depth pixels without a return"). The counts end up in the file's provenance.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.notes: list[str] = []

    def count(self, what: str, number: int = 1) -> None:
        """Add `number` to the tally of `what`; a zero still makes the name appear."""
        self.counts[what] = self.counts.get(what, 0) + int(number)

    def note(self, text: str) -> None:
        """Say something that the user should know and that is no error."""
        self.notes.append(text)

    def say(self, text: str) -> None:
        """Tell the user something about this run that does not concern its result: it does not go into the file."""

    def take_over(self, other: Report) -> None:
        """Count and note here what was collected there, until it was sure to hold."""
        for what, number in other.counts.items():
            self.count(what, number)
        for text in other.notes:
            self.note(text)

    def progress(self, done: int, total: int, unit: str = "frames") -> None:
        """`done` of `total` units are finished."""

    def describe(self, text: str) -> None:
        """What there is to say beside the progress: how well it goes."""
