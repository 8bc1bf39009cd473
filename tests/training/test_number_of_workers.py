"""More workers than processors are the user's own choice: torch's advice against them stays with torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import pytest
from torch.utils.data import DataLoader

from tracekit.training.loader import loader


class _Numbers:
    def __len__(self) -> int:
        return 6

    def __getitem__(self, position: int) -> int:
        return position


def _sum(numbers: Sequence[int]) -> int:
    return sum(numbers)


def test_more_workers_than_processors_bring_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with pytest.warns(UserWarning, match="will create 2 worker processes"):
        DataLoader(_Numbers(), num_workers=2)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(loader(_Numbers(), _sum, 2, num_workers=2)) == [1, 5, 9]
