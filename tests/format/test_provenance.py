"""The history of a file: read as it was written, and refused where a hand or a bit has changed its kind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tracekit.errors import BadDataError
from tracekit.format import provenance
from tracekit.format.provenance import Step

STEP = Step(
    "track",
    ["track", "é.h5"],
    "0.1.0",
    {"radius": 2.5, "names": ["a"]},
    ["clip"],
    "klt",
    "12ab",
    7,
    {"lost": 3},
    ["a note"],
    code_sha256="34cd",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "steps.h5", "w") as file:
        provenance.append(file, dataclasses.replace(STEP, command="keypoints"))
        provenance.append(file, STEP)
    return tmp_path / "steps.h5"


def read(path: Path) -> list[Step]:
    with h5py.File(path) as file:
        return provenance.read(file)


def test_steps_are_read_as_they_were_written(path: Path) -> None:
    first, second = read(path)
    assert first.command == "keypoints" and second.time.endswith("Z")
    assert dataclasses.replace(second, time="") == STEP


def test_files_from_before_code_had_a_digest(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["provenance/0001"].attrs["code_sha256"]
    assert read(path)[1].code_sha256 == ""


TEXTS = ("command", "version", "backend", "weights_sha256", "time", "code_sha256")
LISTS = ("argv", "inputs", "notes")


@pytest.mark.parametrize(
    ("field", "value"),
    [(name, value) for name in (*TEXTS, *LISTS, "parameters", "counts") for value in (-1, np.arange(3), np.bytes_(b"text"))]
    + [(name, value) for name in LISTS for value in ("{}", "[1]", "[", "[" * 60_000)]
    + [("parameters", value) for value in ("[]", "3", "{")]
    + [("counts", value) for value in ("[]", '{"lost": "three"}', '{"lost": null}')]
    + [("seed", value) for value in ("7", 7.5, np.arange(3))],
)
def test_a_field_of_another_kind_is_named(path: Path, field: str, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        file["provenance/0001"].attrs[field] = value
    with pytest.raises(BadDataError, match=f"provenance/0001 is damaged: {field} is not what is expected there"):
        read(path)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Step) if f.name != "code_sha256"])
def test_a_field_that_is_missing_is_named(path: Path, field: str) -> None:
    with h5py.File(path, "r+") as file:
        del file["provenance/0000"].attrs[field]
    with pytest.raises(BadDataError, match=f"provenance/0000 is damaged: it has no {field}"):
        read(path)
