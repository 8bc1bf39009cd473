"""Text from outside, file names above all, as a terminal may show it."""

from __future__ import annotations

from typing import Any


def printable(text: str) -> str:
    """The same text, line by line, with everything that a terminal would obey rather than show, and what is no Unicode, spelled out."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )


def all_printable(content: Any) -> Any:
    """The same lists, tuples and dictionaries, with `printable` texts in them."""
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, dict):
        return {all_printable(key): all_printable(value) for key, value in content.items()}
    return type(content)(all_printable(value) for value in content) if isinstance(content, (list, tuple)) else content
