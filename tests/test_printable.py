"""What comes from outside cannot command a terminal."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from conftest import small_episode, write_episode

from tracekit.cli import run
from tracekit.console import ConsoleReport
from tracekit.printable import all_printable, printable


def test_what_a_terminal_would_obey_is_spelled_out():
    assert printable("a\x1b[31mb\x07\x9bc\r\u202ed\udcff\x00") == r"a\x1b[31mb\x07\x9bc\r\u202ed\udcff\x00"
    assert printable("two\nlines, ä 日本 😀") == "two\nlines, ä 日本 😀"
    assert all_printable({"\x1b": ["\x07", ("\r", 1, None)]}) == {r"\x1b": [r"\x07", (r"\r", 1, None)]}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """An episode whose name and texts would colour a terminal and ring its bell."""
    path = tmp_path / "\x1b[31mred\x07.h5"
    write_episode(path, small_episode())
    return path


def test_names_of_files_and_texts_in_them_are_shown_not_obeyed(hostile: Path, tmp_path: Path):
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        assert run(["info", str(hostile)]) == 0
        assert run(["info", str(hostile) + "\x1b[2J"]) == 66
        assert run(["view", str(hostile), "-o", str(hostile)]) != 0
        assert run(["filter", str(hostile), "-n", "-o", str(tmp_path / "\x1b.h5")]) == 0
        ConsoleReport("track", item="\x1b]0;title\x07").note("\x1b")
    assert r"\x1b[31mred" in said.getvalue()
    assert not {character for character in said.getvalue() if not character.isprintable()} - {"\n"}


def test_a_name_that_is_no_unicode_is_shown(tmp_path: Path):
    write_episode(tmp_path / "a.h5", small_episode())
    name = b"a\xff.h5"
    shutil.copy(tmp_path / "a.h5", bytes(tmp_path) + b"/" + name)
    for more in ([], ["--json"]):
        done = subprocess.run([sys.executable, "-m", "tracekit", "info", *more, name], cwd=tmp_path, capture_output=True, check=True)
        assert b"episode" in done.stdout and (not more or json.loads(done.stdout.decode("utf-8", "replace")))
