"""The words of a TraceExtract episode: curated_training_texts.json and description.txt, to captions and back.

`chunk_texts` are events, `merged_texts` runs of them; both have start_idx and end_idx (the last frame, inclusive) and instruction_1,
_2, _3, which are paraphrases of each other; a failed caption has empty ones. The trainer takes any entry that covers the frame, then one
of its instructions, and looks at nothing else. description.txt holds what the source dataset says, a line each. Sources:
caption/curate_captions.py of github.com/Yoonkyo/TraceExtract, src/lerobot/datasets/trace_dataset.py of github.com/Yoonkyo/mu0.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.errors import BadDataError
from tracekit.extract.caption import clean
from tracekit.format.json_file import read_json_object
from tracekit.records import Captions

TEXTS_NAME = "curated_training_texts.json"
DESCRIPTION_NAME = "description.txt"
_MOST_BYTES = 16 << 20
_MOST_CHARACTERS = 600
_MOST_INSTRUCTIONS = 33
"""One sentence and the 32 paraphrases that `tracekit caption` makes at most; the release writes three."""
_NUM_RELEASE_INSTRUCTIONS = 3


def read_description(folder: Path) -> str:
    """The first line of description.txt; "" when there is none."""
    path = folder / DESCRIPTION_NAME
    if not path.is_file():
        return ""
    with open(path, "rb") as stream:
        first = stream.read(16 * _MOST_CHARACTERS).decode("utf-8", "replace").strip().splitlines()
    return clean(first[0], _MOST_CHARACTERS) if first else ""


def read_captions(folder: Path, num_frames: int, description: str) -> Captions | None:
    """What is said about an episode of `num_frames` frames; None when nothing is. `description` is the text of the whole clip.

    Raises BadDataError naming the file and the entry that is malformed. Texts are cleaned and bounded, and never interpreted.
    """
    path = folder / TEXTS_NAME
    content = read_json_object(path, most_bytes=_MOST_BYTES) if path.exists() else {}
    chunks = [_Entry(entry, f"chunk_texts[{i}] of {path}", num_frames) for i, entry in enumerate(_entries(content, "chunk_texts", path))]
    merged = [_Entry(entry, f"merged_texts[{i}] of {path}", num_frames) for i, entry in enumerate(_entries(content, "merged_texts", path))]
    if not chunks and not merged and not description:
        return None
    width = max((len(entry.instructions) for entry in chunks), default=1) - 1
    summaries = [(entry, text) for entry in merged for text in entry.instructions]
    return Captions(
        captioner="traceextract",
        episode_text=description,
        event_start=np.array([entry.start for entry in chunks], np.int32),
        event_stop=np.array([entry.stop for entry in chunks], np.int32),
        event_ok=np.array([bool(entry.instructions) for entry in chunks], np.uint8),
        event_before=[entry.text("before") for entry in chunks],
        event_interaction=[entry.text("interaction") for entry in chunks],
        event_after=[entry.text("after") for entry in chunks],
        event_text=[(entry.instructions or [""])[0] for entry in chunks],
        event_paraphrases=[(entry.instructions[1:] + [""] * width)[:width] for entry in chunks],
        summary_start=np.array([entry.start for entry, _ in summaries], np.int32),
        summary_stop=np.array([entry.stop for entry, _ in summaries], np.int32),
        summary_level=np.array([entry.num_chunks for entry, _ in summaries], np.int32),
        summary_text=[text for _, text in summaries],
    )


def texts_of(captions: Captions, name: str, num_frames: int) -> dict[str, Any]:
    """The content of curated_training_texts.json. More than three ways to say something go into instruction_4 and so on, and what an
    event changes into `before`, `interaction` and `after`: the trainer passes over them, and `read_captions` finds them again."""
    chunks = []
    for i, (start, stop) in enumerate(zip(captions.event_start.tolist(), captions.event_stop.tolist(), strict=True)):
        if start < stop:
            said = [captions.event_text[i], *captions.event_paraphrases[i]] if captions.event_ok[i] else []
            parts = {
                "before": captions.event_before[i],
                "interaction": captions.event_interaction[i],
                "after": captions.event_after[i],
            }
            chunks.append(
                {"chunk_id": i, **_span(start, stop), **_instructions(said), **{key: text for key, text in parts.items() if text}}
            )
    merged = []
    summaries = zip(captions.summary_start.tolist(), captions.summary_stop.tolist(), captions.summary_level.tolist(), strict=True)
    for (start, stop, level), same in itertools.groupby(enumerate(summaries), key=lambda item: item[1]):
        ids = [chunk["chunk_id"] for chunk in chunks if start <= chunk["start_idx"] and chunk["end_idx"] < stop]
        kind = "full" if start == 0 and stop == num_frames else {2: "pair", 3: "triple"}.get(level, "window")
        said = [captions.summary_text[i] for i, _ in same]
        merged.append({"merge_type": kind, "source_chunk_ids": ids, **_span(start, stop), **_instructions(said)})
    return {"video_id": name, "n_frames": num_frames, "chunk_texts": chunks, "merged_texts": merged}


def _span(start: int, stop: int) -> dict[str, int]:
    return {"start_idx": start, "end_idx": stop - 1}


def _instructions(texts: list[str]) -> dict[str, str]:
    said = [text for text in texts if text]
    said += [""] * (_NUM_RELEASE_INSTRUCTIONS - len(said))
    return {f"instruction_{number}": text for number, text in enumerate(said, start=1)}


class _Entry:
    """One caption of the file, checked."""

    def __init__(self, entry: Any, name: str, num_frames: int) -> None:
        if not isinstance(entry, dict):
            raise BadDataError(f"{name} is no JSON object")
        self._entry, self._name = entry, name
        first, last = self._frame("start_idx"), self._frame("end_idx")
        if not 0 <= first <= last < num_frames:
            raise BadDataError(f"{name} covers frames {first} to {last}, but the episode has frames 0 to {num_frames - 1}")
        self.start, self.stop = first, last + 1
        texts = [self.text(f"instruction_{number}") for number in range(1, _MOST_INSTRUCTIONS + 1)]
        self.instructions = [text for text in texts if text]
        ids = entry.get("source_chunk_ids")
        self.num_chunks = len(ids) if isinstance(ids, list) and ids else 1

    def text(self, key: str) -> str:
        value = self._entry.get(key, "")
        if not isinstance(value, str):
            raise BadDataError(f"{self._name}: {key} is no text")
        return clean(value, _MOST_CHARACTERS)

    def _frame(self, key: str) -> int:
        value = self._entry.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadDataError(f"{self._name}: {key} is {str(value)[:40]!r}, but a frame is expected")
        return value


def _entries(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise BadDataError(f"{path}: {key} is no list")
    return entries
