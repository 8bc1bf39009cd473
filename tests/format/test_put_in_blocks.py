"""A record that comes in blocks makes the file that the whole record makes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import small_episode

from tracekit.format.file import Target, write_records
from tracekit.format.schema import EPISODE
from tracekit.records import Tracks

LARGE = ("xyz_world", "uv", "visible", "valid")


def long_tracks(num_frames: int, num_tracks: int) -> Tracks:
    rng = np.random.default_rng(0)
    valid = (rng.random((num_frames, num_tracks)) < 0.7).astype(np.uint8)
    return Tracks(
        tracker="formulas",
        xyz_world=np.where(valid[..., None] == 1, rng.random((num_frames, num_tracks, 3)), np.nan).astype(np.float32),
        uv=np.where(valid[..., None] == 1, rng.random((num_frames, num_tracks, 2)), np.nan).astype(np.float32),
        visible=valid,
        valid=valid,
        keypoint=np.zeros(num_tracks, np.int32),
        entity=np.zeros(num_tracks, np.int32),
        born=np.zeros(num_tracks, np.int32),
        chunk=np.zeros(num_tracks, np.int32),
    )


@pytest.mark.parametrize(("num_frames", "num_tracks", "block"), [(6, 5, 4), (900, 700, 60), (6, 0, 4), (0, 0, 4)])
def test_blocks_make_the_file_that_the_whole_makes(tmp_path: Path, num_frames: int, num_tracks: int, block: int) -> None:
    tracks = long_tracks(num_frames, num_tracks)
    video = dataclasses.replace(small_episode().video, pts=np.arange(num_frames) / 10, source_frame=np.arange(num_frames), frames=None)
    with write_records(Target(tmp_path / "whole.h5"), EPISODE, "long") as writer:
        writer.put(video)
        writer.put(tracks)
    with write_records(Target(tmp_path / "blocks.h5"), EPISODE, "long") as writer:
        writer.put(video)
        writer.put_in_blocks(
            "tracks",
            {field.name: getattr(tracks, field.name) for field in dataclasses.fields(tracks) if field.name not in LARGE},
            {field: getattr(tracks, field).shape for field in LARGE},
            ((start, {field: getattr(tracks, field)[start : start + block] for field in LARGE}) for start in range(0, num_frames, block)),
        )
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "blocks.h5") as blocks:
        names: list[str] = []
        whole.visit(names.append)
        again: list[str] = []
        blocks.visit(again.append)
        assert names == again and "tracks/xyz_world" in names
        for name in names:
            assert dict(whole[name].attrs) == dict(blocks[name].attrs)
            if isinstance(whole[name], h5py.Dataset):
                assert (whole[name].chunks, whole[name].dtype, whole[name].compression) == (
                    blocks[name].chunks,
                    blocks[name].dtype,
                    blocks[name].compression,
                )
                np.testing.assert_array_equal(whole[name][...], blocks[name][...])
