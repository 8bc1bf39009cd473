"""New folders appear whole or not at all, also in the place of others and beside other writers."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tracekit.errors import CannotCreateError
from tracekit.format import atomic_folder
from tracekit.format.atomic_folder import new_folder


def fill(folder: Path, text: str) -> None:
    (folder / text).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_second_of_two_writers_is_told_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(CannotCreateError, match="appeared while this command ran"), new_folder(tmp_path / "target") as slow:
        fill(slow, "slow")
        with new_folder(tmp_path / "target") as quick:
            fill(quick, "quick")
    assert names(tmp_path) == ["target"] and names(tmp_path / "target") == ["quick"]


@pytest.mark.parametrize("system_can_exchange", [True, False])
def test_a_replaced_folder_is_there_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system_can_exchange: bool
) -> None:
    if not system_can_exchange:
        monkeypatch.setattr(atomic_folder, "_RENAME_EXCHANGE", 1 << 30)  # a flag that no Linux knows
    target = tmp_path / "target"
    target.mkdir()
    fill(target, "old")
    with pytest.raises(CannotCreateError, match="exists"), new_folder(target):
        pass
    with pytest.raises(ZeroDivisionError), new_folder(target, replace=True) as folder:
        fill(folder, "half")
        raise ZeroDivisionError
    assert names(target) == ["old"]
    with new_folder(target, replace=True) as folder:
        fill(folder, "new")
        assert names(target) == ["old"]
    assert names(tmp_path) == ["target"] and names(target) == ["new"]
    with new_folder(tmp_path / "other", replace=True) as folder:
        fill(folder, "first")
    assert names(tmp_path / "other") == ["first"]


def _replace_again_and_again(target: Path) -> None:
    for _ in range(200):
        with new_folder(target, replace=True) as folder:
            fill(folder, "whole")


def test_nobody_finds_a_replaced_folder_missing(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    fill(target, "whole")
    writer = multiprocessing.get_context("fork").Process(target=_replace_again_and_again, args=(target,))
    writer.start()
    while writer.is_alive():
        assert target.is_dir()
    writer.join()
    assert writer.exitcode == 0 and names(target) == ["whole"]
