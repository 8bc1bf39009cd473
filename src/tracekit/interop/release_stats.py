"""The statistics file of the authors' training code: what targets are divided by, and the range of depth.

A JSON object with delta_scale_x, _y, _z (95th percentile of |future - anchor|, u and v in [-1, 1], z in metres), depth_log_min and
depth_log_max (log metres, null where no depth was seen) and target_kind "anchor". Source: src/lerobot/datasets/trace_delta_stats.py of
github.com/Yoonkyo/mu0.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.errors import BadDataError
from tracekit.format.atomic import new_file
from tracekit.format.json_file import read_json_object

_MOST_BYTES = 1 << 20
_DELTA = ("delta_scale_x", "delta_scale_y", "delta_scale_z")
_DEPTH = ("depth_log_min", "depth_log_max")


def read_release_stats(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """delta_scale (3,) in (1, 1, m) and depth_log_range (2,) in log metres. Raises BadDataError naming what is wrong."""
    return _release_stats(_read_object(path), str(path))


def read_scales(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The same from either layout: the release's, or that of `tracekit fit-bspline --stats-only` (delta_scale, depth_log_range)."""
    content = _read_object(path)
    if "delta_scale" not in content:
        return _release_stats(content, str(path))
    return _numbers(content, ("delta_scale",), 3, str(path)), _numbers(content, ("depth_log_range",), 2, str(path))


def write_release_stats(
    path: Path, delta_scale: np.ndarray, depth_log_range: np.ndarray, *, history: int, horizon: int, force: bool = False
) -> None:
    """Write what the authors' training code takes as its statistics. `history` and `horizon` are the steps that they were measured on."""
    near, far = (float(value) for value in depth_log_range)
    content = {
        **dict(zip(_DELTA, map(float, delta_scale), strict=True)),
        "percentile": 95.0,
        "history_len": history,
        "future_len": horizon,
        "target_kind": "anchor",
        "depth_log_min": near,
        "depth_log_max": far,
        "depth_p1_m": math.exp(near),
        "depth_p99_m": math.exp(far),
        "depth_percentile_low": 1.0,
        "depth_percentile_high": 99.0,
    }
    with new_file(path, force=force) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _release_stats(content: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    kind = content.get("target_kind", "anchor")
    if kind != "anchor":
        raise BadDataError(f"{name}: target_kind is {kind!r}, but only targets relative to the anchor are known")
    delta = _numbers(content, _DELTA, 3, name)
    if any(content.get(key, math.nan) is None for key in _DEPTH):
        raise BadDataError(f"{name} has no range of depth: it was measured on episodes without depth.npy")
    depth = _numbers(content, _DEPTH, 2, name)
    return delta, depth


def _numbers(content: dict[str, Any], keys: tuple[str, ...], length: int, name: str) -> np.ndarray:
    """`length` finite numbers under one key, a list, or under as many keys; scales above 0, ranges ascending."""
    values = content.get(keys[0]) if len(keys) == 1 else [content.get(key) for key in keys]
    label = keys[0] if len(keys) == 1 else ", ".join(keys)
    is_number = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in values] if isinstance(values, list) else []
    if len(is_number) != length or not all(is_number):
        raise BadDataError(f"{name}: {label} is {str(values)[:100]}, but {length} numbers are expected")
    assert isinstance(values, list)
    try:
        numbers = np.array([float(value) for value in values])
    except OverflowError:
        numbers = np.full(length, np.inf)
    if not np.isfinite(numbers).all():
        raise BadDataError(f"{name}: {label} is not finite")
    if length == 3 and (numbers <= 0).any():
        raise BadDataError(f"{name}: {label} is {numbers.tolist()}, but positive numbers are expected")
    if length == 2 and numbers[1] <= numbers[0]:
        raise BadDataError(f"{name}: {label} is {numbers.tolist()}, but an ascending range is expected")
    return numbers


def _read_object(path: str | Path) -> dict[str, Any]:
    hint = "a statistics file of the release, or what fit-bspline --stats-only wrote"
    return read_json_object(Path(path), most_bytes=_MOST_BYTES, hint=hint)
