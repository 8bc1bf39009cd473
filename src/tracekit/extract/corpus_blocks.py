"""A corpus in blocks of samples, from memory or from a file, so that nothing longer than a block need be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from tracekit.format.file import RecordFile
from tracekit.records import Corpus, Spec

SAMPLES_PER_BLOCK = 64

SPECS: dict[str, Spec] = {field.name: field.metadata["spec"] for field in fields(Corpus)}

OFFSETS_OF = {"R": "sample_offset", "links": "sample_caption_offset", "image_bytes": "image_offset", "depth_bytes": "depth_offset"}
"""The field that says where each sample's entries begin, for every axis along which samples have different numbers of entries."""

BY_SAMPLE = [name for name, spec in SPECS.items() if spec.shape and spec.shape[0] in ("S", "S+1", *OFFSETS_OF)]
"""Fields that have something for every sample, in the order of their declaration."""


def axis_of(field: str) -> str:
    """The first axis of a field, as it is declared."""
    shape = SPECS[field].shape
    assert shape is not None
    return str(shape[0])


def head_of_file(file: RecordFile) -> Corpus:
    """A corpus without its samples: attributes, scales, clips and captions. Its columns are of the right shape, and empty."""
    values: dict[str, Any] = {name: file.value("", name) for name in SPECS if name not in BY_SAMPLE}
    for name in BY_SAMPLE:
        column = file.column("", name)
        values[name] = None if column is None else np.zeros(1, np.int64) if axis_of(name) == "S+1" else column[0:0]
    return Corpus(**values)


def blocks_of_file(file: RecordFile, head: Corpus) -> Iterator[Corpus]:
    """The samples of a corpus file, block by block; clips and captions are those of `head`."""
    return _blocks(head, lambda name: file.column("", name))


def blocks_of(corpus: Corpus) -> Iterator[Corpus]:
    """The samples of a corpus in memory, block by block."""
    return _blocks(corpus, lambda name: getattr(corpus, name))


def _blocks(head: Corpus, column: Callable[[str], Any]) -> Iterator[Corpus]:
    """`column` gives, for a field in BY_SAMPLE, what can be sliced: an array, or a Column of a file; None when it is absent."""
    columns = {name: values for name in BY_SAMPLE if (values := column(name)) is not None}
    num_samples = len(columns["sample_clip"])
    for start in range(0, num_samples, SAMPLES_PER_BLOCK):
        stop = min(start + SAMPLES_PER_BLOCK, num_samples)
        offsets = {name: values[start : stop + 1] for name, values in columns.items() if axis_of(name) == "S+1"}
        part: dict[str, Any] = {}
        for name, values in columns.items():
            axis = axis_of(name)
            if axis == "S":
                part[name] = values[start:stop]
            elif axis == "S+1":
                part[name] = offsets[name] - offsets[name][0]
            else:
                inside = offsets[OFFSETS_OF[axis]]
                part[name] = values[int(inside[0]) : int(inside[-1])]
        yield replace(head, **part)
