"""What the frozen μ0 sees in the frames of demonstrations, kept on disk: it is the same in every epoch and for every expert.

    DIR/sources.json                     SHA-256 of source files, so that each is read only once for it
    DIR/<digest>/about.json              of one source file, seen by one world model: sentences, numbers of frames and tokens
    DIR/<digest>/words.npy               (sentences, l, W) embeddings of their words
    DIR/<digest>/vlm.npy                 (frames, picture tokens + l, W), 0 after the end of a sentence
    DIR/<digest>/trace-*.npy             (frames, G, E), by the points that are asked about; trace-*-present.npy (frames, G)
    DIR/<digest>/gripper-*.npy           (frames, pool, pool, C) patch features, averaged as the expert would do

All numbers are float16. An array that is there is whole: it grows under another name, block by block, and a build that was killed goes on
after the last block.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tracekit.action.config import ActionConfig
from tracekit.action.demo_index import DemoIndex
from tracekit.action.feature_part import FeaturePart, FrameFeatures
from tracekit.action.feature_writer import FeatureWriter
from tracekit.action.frozen import FrozenMu0
from tracekit.errors import CannotCreateError
from tracekit.mu0.model import Mu0
from tracekit.mu0.text import Tokenizer
from tracekit.report import Report


class FeatureCache:
    """Features of all frames of an index, memory-mapped in the process that reads; may be pickled."""

    def __init__(self, parts: list[FeaturePart]) -> None:
        """Raises BadDataError when a part is damaged."""
        for part in parts:
            part.check()
        self._parts = parts
        self._first = np.cumsum([0, *(part.about.num_frames for part in parts)]).tolist()

    def __len__(self) -> int:
        return self._first[-1]

    def frame(self, number: int) -> FrameFeatures:
        """Of the frame of that number in the index."""
        part = bisect.bisect_right(self._first, number) - 1
        return self._parts[part].frame(number - self._first[part])


def world_digest(model: Mu0) -> str:
    """SHA-256 of all weights as they are in memory, and of the configuration. Reads all of them: seconds for gigabytes."""
    digest = hashlib.sha256(json.dumps(model.config.to_json(), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_cache(folder: Path, index: DemoIndex, config: ActionConfig, digest: str, tokenizer: Tokenizer) -> FeatureCache | None:
    """The features of all frames of an index, or None when some are missing. No world model is needed for that.

    `digest` is the `world_digest` of the world model. Raises BadDataError for a cache that is damaged.
    """
    if not folder.is_dir():
        return None
    parts = [FeaturePart(folder, index, number, config, digest, tokenizer) for number in range(len(index.files))]
    return FeatureCache(parts) if all(part.is_complete() for part in parts) else None


def build_cache(
    folder: Path,
    index: DemoIndex,
    config: ActionConfig,
    load: Callable[[], FrozenMu0],
    tokenizer: Tokenizer,
    *,
    digest: str = "",
    report: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> FeatureCache:
    """The features of all frames of an index; those that are missing are computed first.

    `load` gives the world model, once, and only to a process that computes something or is not told its `digest`.
    Processes that want the same features at the same time wait for the first of them. `should_stop` is asked after every block.
    Raises StorageError when there is not enough space or the disk fails, ResumableError when stopped: what is done is kept.
    """
    report = report or Report()
    load = functools.cache(load)
    digest = digest or world_digest(load().model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreateError(f"the folder {folder} for features cannot be made: {error.strerror}") from None
    parts = [FeaturePart(folder, index, number, config, digest, tokenizer) for number in range(len(index.files))]
    missing = [part for part in parts if not part.is_complete()]
    frames = sum(part.about.num_frames for part in missing)
    done, computed = 0, 0
    for part in missing:
        with part.locked(report, should_stop):
            if not part.is_complete():  # else the process that held the lock has just made it
                computed += FeatureWriter(part, index, load(), report, should_stop, done, frames).run()
        done += part.about.num_frames
    report.count("frames whose features were cached already", len(index) - computed)
    report.count("frames whose features were computed", computed)
    return FeatureCache(parts)
