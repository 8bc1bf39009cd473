"""JSON files from elsewhere: what is in them, and every way in which one can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracekit.errors import BadDataError, MissingInputError
from tracekit.format.json_file import read_json, read_json_object


def test_objects_and_other_values(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"name": "μ0", "sizes": [1, 2.5, null]}', "utf-8")
    assert read_json_object(path) == read_json(path) == {"name": "μ0", "sizes": [1, 2.5, None]}
    path.write_text("[1, 2]")
    assert read_json(path) == [1, 2]
    with pytest.raises(BadDataError, match=r"a\.json holds no JSON object"):
        read_json_object(path)


def test_the_longest_file_is_read_and_a_longer_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json_object(path, most_bytes=8) == {"a": 1}
    with pytest.raises(BadDataError, match="is longer than 7 bytes"):
        read_json_object(path, most_bytes=7)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000])
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(BadDataError, match=r"a\.json is no JSON: "):
        read_json(path)


def test_what_is_not_there_and_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"a\.json does not exist\n  make it first"):
        read_json(tmp_path / "a.json", hint="make it first")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(BadDataError, match="is no regular file"):
            read_json(path)
