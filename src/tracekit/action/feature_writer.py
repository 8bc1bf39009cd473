"""Computing the cached features of one file of demonstrations, block by block; what is done survives a kill."""

from __future__ import annotations

import bisect
import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tracekit.action.batch import ActionBatch, Features
from tracekit.action.demo_index import DemoIndex
from tracekit.action.feature_part import VERSION, VLM, WORDS, FeaturePart, write_json
from tracekit.action.frozen import FrozenMu0
from tracekit.errors import BadDataError, MissingInputError, ResumableError, StorageError
from tracekit.format.atomic import new_file
from tracekit.format.json_file import read_json_object
from tracekit.pictures import to_square
from tracekit.report import Report

_FRAMES_PER_BLOCK = 256
_BATCH = 32
_ABOUT, _PROGRESS = "about.json", "progress.json"


class FeatureWriter:
    """Computes what is missing of a part, block by block."""

    def __init__(
        self,
        part: FeaturePart,
        index: DemoIndex,
        frozen: FrozenMu0,
        report: Report,
        should_stop: Callable[[], bool],
        frames_before: int,
        all_frames: int,
    ) -> None:
        self._part, self._index, self._frozen, self._report, self._should_stop = part, index, frozen, report, should_stop
        self._frames_before, self._all_frames = frames_before, all_frames
        self._names = part.missing()

    def run(self) -> int:
        """Leaves whole arrays, or those of whole blocks. Returns how many frames were computed: not those of a build that was stopped before."""
        part = self._part
        self._write_about()
        total = part.about.num_frames
        done, ends = self._progress()
        computed = total - done
        with contextlib.ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            while done < total:
                block = self._block(done, min(done + _FRAMES_PER_BLOCK, total))
                if not files:
                    self._check_space(block, total - done)
                    files = {name: stack.enter_context(self._opened(name, block[name], ends.get(name, 0))) for name in self._names}
                for name, file in files.items():
                    file.write(block[name].tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                done = min(done + _FRAMES_PER_BLOCK, total)
                ends = {name: file.tell() for name, file in files.items()}
                write_json(part.folder / _PROGRESS, {"frames": done, "ends": ends})
                self._report.progress(self._frames_before + done, self._all_frames)
                if done < total and self._should_stop():
                    raise ResumableError(
                        f"stopped after the features of {self._frames_before + done} of {self._all_frames} frames",
                        hint="the same command goes on from here",
                    )
        for name in self._names:
            os.replace(self._growing(name), part.path(name))
        (part.folder / _PROGRESS).unlink(missing_ok=True)
        return computed

    def _write_about(self) -> None:
        about, part = self._part.about, self._part
        write_json(
            part.folder / _ABOUT,
            {
                "format": "tracekit/features",
                "format_version": VERSION,
                "source": self._index.files[part.number].path,
                "frames": about.num_frames,
                "words": about.text_present.sum(axis=1).tolist(),
            },
        )
        with torch.no_grad():
            ids = torch.from_numpy(about.text).to(self._frozen.device)
            words = _half(self._frozen.model.vlm.text.embed_tokens(ids), "the embeddings of words")
        with new_file(part.path(WORDS), force=True) as temporary, open(temporary, "wb") as file:
            np.save(file, words * about.text_present[..., None].astype(np.float16), allow_pickle=False)

    def _progress(self) -> tuple[int, dict[str, int]]:
        """Frames that are done, and where each array ends after them; (0, {}) when there is nothing to go on with."""
        try:
            content = read_json_object(self._part.folder / _PROGRESS)
        except (MissingInputError, BadDataError):
            return 0, {}
        done, ends = content.get("frames"), content.get("ends")
        if type(done) is not int or not 0 < done <= self._part.about.num_frames or not isinstance(ends, dict) or list(ends) != self._names:
            return 0, {}
        for name, end in ends.items():
            path = self._growing(name)
            if type(end) is not int or not path.is_file() or path.stat().st_size < end:
                return 0, {}
        return done, ends

    def _growing(self, name: str) -> Path:
        return self._part.folder / f"{name}.npy.growing"

    def _opened(self, name: str, block: np.ndarray, end: int) -> BinaryIO:
        """The file of an array, cut after `end` bytes, or new."""
        path = self._growing(name)
        if end:
            file: BinaryIO = path.open("r+b")
            file.truncate(end)
            file.seek(end)
            return file
        file = path.open("wb")
        shape = (self._part.about.num_frames, *block.shape[1:])
        description = {"descr": np.lib.format.dtype_to_descr(block.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, description)
        return file

    def _check_space(self, block: dict[str, np.ndarray], frames: int) -> None:
        """Say what it takes, and stop before the disk is full of it."""
        of_frame = sum(values[0].nbytes for values in block.values())
        total = of_frame * max(frames, self._all_frames - self._frames_before)
        free = shutil.disk_usage(self._part.folder).free
        self._report.note(
            f"features take {of_frame / 1e3:.0f} kB a frame, {total / 1e9:.1f} GB in {self._part.folder.parent}; {free / 1e9:.1f} GB are free"
        )
        if total > free:
            raise StorageError(
                f"features need {total / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free in {self._part.folder.parent}",
                hint="name a folder on a larger disk, or train without a cache",
            )

    def _block(self, start: int, stop: int) -> dict[str, np.ndarray]:
        batches = [self._features(range(first, min(first + _BATCH, stop))) for first in range(start, stop, _BATCH)]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in self._names}

    def _features(self, rows: range) -> dict[str, np.ndarray]:
        part, about = self._part, self._part.about
        batch = self._batch(rows)
        features = self._frozen.complete(batch)
        where = f"the features of frames {rows.start} to {rows.stop - 1} of {self._index.files[part.number].path}"
        present = features.vlm_present.cpu().numpy()
        result = {VLM: _half(features.vlm, where) * present[..., None].astype(np.float16)}
        assert result[VLM].shape[1] > about.text.shape[1]
        if part.trace:
            assert features.trace is not None and features.trace_present is not None
            result[part.trace] = _half(features.trace, where)
            result[f"{part.trace}-present"] = features.trace_present.cpu().numpy()
        if part.gripper:
            result[part.gripper] = _half(_pooled_gripper(features, part.config.gripper_pool), where)
        return result

    def _batch(self, rows: range) -> ActionBatch:
        part, about = self._part, self._part.about
        size = self._frozen.model.config.image_size
        file = self._index.files[part.number]
        images, grippers, sentences = [], [], []
        for row in rows:
            demo = bisect.bisect_right(about.first_frame, row) - 1
            key, step = file.demos[demo].key, row - about.first_frame[demo]
            images.append(to_square(file.agentview(key, step), size))
            if part.gripper:
                grippers.append(to_square(file.gripper(key, step), size))
            sentences.append(about.sentence_of_demo[demo])
        nothing = torch.zeros(len(rows), 0)
        return ActionBatch(
            position=torch.tensor(rows),
            image=_channels_first(images),
            gripper=_channels_first(grippers) if grippers else None,
            text=torch.from_numpy(about.text[sentences]),
            text_present=torch.from_numpy(about.text_present[sentences]),
            state=nothing,
            actions=nothing,
            action_valid=nothing,
            noise=nothing,
            tau=nothing,
        ).to(self._frozen.device)


def _channels_first(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _pooled_gripper(features: Features, pool: int) -> Tensor:
    """(B, pool, pool, C): the mean that the expert takes first; it takes it once more, of one value each."""
    assert features.gripper is not None
    return F.adaptive_avg_pool2d(features.gripper.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1)


def _half(values: Tensor, what: str) -> np.ndarray:
    half = values.detach().to(torch.float16).cpu().numpy()
    if not np.isfinite(half).all():
        raise BadDataError(f"{what} hold numbers that float16 cannot", hint="train without a cache of features")
    return half
