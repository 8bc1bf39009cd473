"""Sentences to token ids: the VLM's own tokenizer, or hashed words where there is no VLM to agree with."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

PROMPT = "Task: {caption}\n"
WITHOUT_CAPTION = "predict future trajectory"
_NUM_RESERVED = 2  # 0 pads, 1 ends


class Tokenizer(Protocol):
    """Turns captions into ids."""

    def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, L) int64 of the prompts of B captions, padded at the right with 0, and which of them are there, (B, L) bool.

        L is the longest of the batch, at most the tokenizer's limit; what is longer is cut. An empty caption asks for no task in
        particular.
        """
        ...


def prompt(caption: str) -> str:
    """What the network reads for a caption."""
    return PROMPT.format(caption=caption.strip() or WITHOUT_CAPTION)


class WordTokenizer:
    """Words and punctuation hashed into a fixed number of ids (the hashing trick, Weinberger et al. 2009): no vocabulary to build or lose."""

    def __init__(self, num_ids: int, max_tokens: int) -> None:
        self._num_ids = num_ids
        self._max_tokens = max_tokens

    def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return pad([[self._id(word) for word in _words(prompt(caption))][: self._max_tokens] for caption in captions])

    def _id(self, word: str) -> int:
        return _NUM_RESERVED + zlib.crc32(word.encode()) % (self._num_ids - _NUM_RESERVED)


class HubTokenizer:
    """The tokenizer of a pretrained VLM (transformers), without its chat template."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = self._tokenizer([prompt(caption) for caption in captions], truncation=True, max_length=self._max_tokens)["input_ids"]
        return pad(ids)

    def save(self, folder: Path) -> None:
        """Its files, from which `presets.tokenizer_of` makes it again without a hub."""
        self._tokenizer.save_pretrained(folder)


def pad(ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of ids as one array, padded at the right: ids (B, L) int64 and which are there (B, L) bool."""
    longest = max((len(row) for row in ids), default=0)
    padded = np.zeros((len(ids), longest), dtype=np.int64)
    present = np.zeros((len(ids), longest), dtype=bool)
    for row, values in enumerate(ids):
        padded[row, : len(values)] = values
        present[row, : len(values)] = True
    return padded, present


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]|\n", text.lower())
