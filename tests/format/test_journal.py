"""The journal of a long run: what is kept, what is given up, and that nothing about it ends the run."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tracekit.errors import BadDataError, StorageError
from tracekit.format.journal import Journal

KEY = {"command": "reconstruct", "parameters": {"chunk": 60, "camera": None}}
ANSWER = {"depth": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "confidence": np.ones(1, np.float32)}


class Ended(BaseException):
    """The process is killed: nothing of ours hears of it."""


def killed_run(output: Path, num_answers: int, key: dict = KEY) -> list[str]:
    """Keep some answers and end abruptly; what was said."""
    said: list[str] = []
    with pytest.raises(Ended), Journal(output, said.append) as journal:
        journal.open(key)
        for number in range(num_answers):
            journal.keep(number, f"digest {number}", ANSWER)
        raise Ended
    return said


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


def test_answers_come_back_as_they_were_and_go_with_the_end(output: Path) -> None:
    assert killed_run(output, 2) == []
    said: list[str] = []
    with Journal(output, said.append) as journal:
        journal.open(KEY)
        for name, array in (journal.read(1, "digest 1") or {}).items():
            assert array.dtype == ANSWER[name].dtype
            np.testing.assert_array_equal(array, ANSWER[name])
        assert journal.read(0, "another question") is None and journal.read(2, "digest 2") is None
    assert len(said) == 1 and "2 answers" in said[0]
    assert list(output.parent.iterdir()) == []


def test_nothing_happens_before_it_is_opened(output: Path) -> None:
    with Journal(output, pytest.fail) as journal:
        journal.keep(0, "", ANSWER)
        assert journal.read(0, "") is None
    assert list(output.parent.iterdir()) == []


def test_an_answer_that_the_stage_cannot_accept_is_asked_for_again(output: Path) -> None:
    """Else a network that once returned NaN would do so for ever."""
    killed_run(output, 3)
    for error, num_left in ((StorageError("disk full"), 3), (BadDataError("NaN in frame 7"), 2)):
        with pytest.raises(type(error)), Journal(output, lambda text: None) as journal:
            journal.open(KEY)
            assert journal.read(2, "digest 2") is not None
            raise error
        assert len(list(journal.folder.glob("*.npz"))) == num_left


def test_memory_that_ran_out_is_kept_with_the_next_answer_only(output: Path) -> None:
    with pytest.raises(StorageError), Journal(output, lambda text: None) as journal:
        journal.open(KEY)
        journal.refuse(0, "60 frames")
        raise StorageError("out of memory")
    assert list(output.parent.iterdir()) == []
    with pytest.raises(Ended), Journal(output, lambda text: None) as journal:
        journal.open(KEY)
        journal.refuse(0, "60 frames")
        journal.keep(1, "30 frames", ANSWER)
        raise Ended
    with Journal(output, lambda text: None) as journal:
        journal.open(KEY)
        with pytest.raises(MemoryError):
            journal.read(0, "60 frames")
        assert journal.read(1, "30 frames") is not None


@pytest.fixture
def small_files_only() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_gives_the_journal_up(output: Path, small_files_only: None) -> None:
    said: list[str] = []
    with Journal(output, said.append) as journal:
        journal.open(KEY)
        journal.keep(0, "small", ANSWER)
        journal.keep(1, "large", {"depth": np.zeros(100_000, np.float32)})
        journal.keep(2, "small", ANSWER)
        assert list(output.parent.iterdir()) == [], "its space is the output's"
        journal.keep(2, "small", ANSWER)
        assert journal.read(0, "small") is None
    assert len(said) == 1 and "no longer kept" in said[0] and "File too large" in said[0]


def test_what_stands_in_its_place_is_left_alone(output: Path) -> None:
    elsewhere = output.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "000000.npz").write_bytes(b"not ours")
    for stands in (lambda path: path.symlink_to(elsewhere), lambda path: path.write_text("a file")):
        said: list[str] = []
        with Journal(output, said.append) as journal:
            stands(journal.folder)
            journal.open(KEY)
            journal.keep(0, "", ANSWER)
        assert len(said) == 1 and "no longer kept" in said[0]
        journal.folder.unlink()
    assert (elsewhere / "000000.npz").read_bytes() == b"not ours"


def test_files_of_others_in_its_folder_stay(output: Path) -> None:
    killed_run(output, 1)
    with Journal(output, lambda text: None) as journal:
        (journal.folder / "notes.txt").write_text("mine")
        journal.open({**KEY, "command": "track"})
    assert [path.name for path in journal.folder.iterdir()] == ["notes.txt"]


def test_only_what_is_ours_is_removed_and_nothing_packed_is_unpacked(tmp_path):
    output = tmp_path / "out.h5"
    with Journal(output, lambda text: None) as journal:
        journal.open({"a": 1})
        journal.keep(0, "digest", {"xyz": np.zeros(3)})
        journal.keep(1, "digest", {"xyz": np.zeros(3)})
        journal.keep(2, "digest", {"xyz": np.zeros(3)})  # once it is taken, those before it are written
        np.savez_compressed(journal.folder / "000001.npz", of_inputs=np.array("digest"), xyz=np.zeros(3))
        for name in ("data.npz", "monkey.json"):
            (journal.folder / name).write_bytes(b"somebody's")
        assert journal.read(0, "digest") is not None and journal.read(1, "digest") is None
    assert sorted(path.name for path in journal.folder.iterdir()) == ["data.npz", "monkey.json"]


def test_who_comes_second_leaves_nothing_behind(output: Path) -> None:
    """Two equal commands at once: one of them finds the output made when it would put its own there."""
    with pytest.raises(BadDataError), Journal(output, pytest.fail) as journal:
        journal.open(KEY)
        journal.keep(0, "digest 0", ANSWER)
        output.write_text("made meanwhile")
        raise BadDataError("out.h5 appeared while this command ran")
    assert list(output.parent.iterdir()) == [output]


def test_a_run_that_would_replace_the_output_and_fails_keeps_its_answers(output: Path) -> None:
    output.write_text("of yesterday")
    with pytest.raises(StorageError), Journal(output, pytest.fail) as journal:
        journal.open(KEY)
        journal.keep(0, "digest 0", ANSWER)
        raise StorageError("the disk is full")
    with Journal(output, lambda text: None) as journal:
        journal.open(KEY)
        assert journal.read(0, "digest 0") is not None


def test_outputs_of_long_names_do_not_share_their_progress(tmp_path: Path) -> None:
    for start in ("x" * 180, "é" * 100):
        left, right = tmp_path / f"{start}_left.h5", tmp_path / f"{start}_right.h5"
        assert killed_run(left, 2) == killed_run(right, 1) == []
        with Journal(left, lambda text: None) as journal:
            journal.open(KEY)
            assert journal.read(1, "digest 1") is not None
        with Journal(right, lambda text: None) as journal:
            journal.open(KEY)
            assert journal.read(0, "digest 0") is not None
