"""Where a clip is cut for everything that works chunk by chunk: keypoints, dense reconstruction, tracking (paper 2.2, T_chunk)."""

from __future__ import annotations

FEW_FRAMES = 8
"""A last chunk shorter than this has too little motion and too few anchors to stand alone."""


def chunk_bounds(num_frames: int, chunk: int) -> list[tuple[int, int]]:
    """Cut `num_frames` into runs (start, stop) of at most `chunk` frames that follow each other without overlap.

    All chunks but the last are full. Where that would leave only a few frames at the end, the last two chunks share
    theirs evenly instead: no chunk ever exceeds `chunk`, so memory stays bounded by it. No frames, no chunks.
    """
    if num_frames < 0 or chunk < 1:
        raise ValueError(f"cannot cut {num_frames} frames into chunks of {chunk}")
    starts = list(range(0, num_frames, chunk))
    if len(starts) > 1 and num_frames - starts[-1] < min(FEW_FRAMES, chunk // 2):
        starts[-1] = (starts[-2] + num_frames + 1) // 2
    return list(zip(starts, [*starts[1:], num_frames], strict=True)) if starts else []
