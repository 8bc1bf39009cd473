"""Corpora of three small clips, made once by the command that makes corpora."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus_clips import write_clip

from tracekit.cli import run
from tracekit.mu0.config import Mu0Config

EVERY = 3


def config(**changes: object) -> Mu0Config:
    return Mu0Config(**{"name": "test", "vlm": {}, "image_size": 48, **changes})  # type: ignore[arg-type]


def fit(*arguments: object) -> None:
    assert run(["fit-bspline", "-q", *map(str, arguments)]) == 0


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with clip-0 to clip-2 (the last without depth), embedded.h5 and referenced.h5 of all of them."""
    folder = tmp_path_factory.mktemp("corpora")
    episodes = [write_clip(folder, 0), write_clip(folder, 1), write_clip(folder, 2, depth=False)]
    fit(*episodes, "--every", EVERY, "--embed-images", "--embed-depth", "-o", folder / "embedded.h5")
    fit(*episodes, "--every", EVERY, "--scale", folder / "embedded.h5", "-o", folder / "referenced.h5")
    yield folder
