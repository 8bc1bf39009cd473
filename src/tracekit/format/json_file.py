"""JSON files that somebody gives us: bounded, and wrong in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tracekit.errors import BadDataError, MissingInputError

_MOST_BYTES = 16 << 20
_MOST_REASON = 200


def read_json(path: Path, *, most_bytes: int = _MOST_BYTES, hint: str = "") -> Any:
    """What a JSON file in UTF-8 holds.

    Raises MissingInputError with `hint` when there is no such file, BadDataError when it is no regular file, is longer than `most_bytes` or
    no JSON.
    """
    if not path.exists():
        raise MissingInputError(f"{path} does not exist", hint=hint)
    if not path.is_file():  # a pipe would be waited for
        raise BadDataError(f"{path} is no regular file")
    with open(path, "rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise BadDataError(f"{path} is longer than {most_bytes} bytes")
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # brackets in brackets in brackets
        raise BadDataError(f"{path} is no JSON: {str(error)[:_MOST_REASON]}") from None


def read_json_object(path: Path, *, most_bytes: int = _MOST_BYTES, hint: str = "") -> dict[str, Any]:
    """As `read_json`, of a file that must hold an object: BadDataError otherwise."""
    content = read_json(path, most_bytes=most_bytes, hint=hint)
    if not isinstance(content, dict):
        raise BadDataError(f"{path} holds no JSON object")
    return content
