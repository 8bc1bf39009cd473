"""Folders of colour images, depth images and camera files, as RGB-D datasets are usually shipped.

DIR/rgb/000.jpg ...      colour, any format that OpenCV reads
DIR/depth/000.png ...    16-bit depth of the same names; the unit is a parameter (millimetres by default)
DIR/intrinsics.{txt,npy,json}   3 x 3 matrix of the colour camera, or {"fx", "fy", "cx", "cy"}
DIR/poses.{txt,npy}      optional: T rows of 12 or 16 numbers, or (T, 4, 4)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracekit.errors import BadDataError, MissingInputError, UsageError
from tracekit.format.json_file import read_json
from tracekit.geometry import se3
from tracekit.image_folder import natural_order
from tracekit.records import Frames
from tracekit.report import Report

_SUFFIXES = {".png", ".tif", ".tiff", ".npy"}


class DepthImages:
    """Depth images on disk as float32 metres (T, h, w); 0 where there is no return. Read on demand."""

    def __init__(self, paths: Sequence[Path | None], metres_per_unit: float, report: Report) -> None:
        self._paths = paths
        self._scale = metres_per_unit
        self._report = report
        first = next((path for path in paths if path is not None), None)
        self._size: tuple[int, ...] = self._load(first).shape if first else (1, 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._paths), *self._size)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            frames = [self._frame(path) for path in self._paths[index]]
            return np.stack(frames) if frames else np.empty((0, *self._size), np.float32)
        return self._frame(self._paths[index])

    def _frame(self, path: Path | None) -> np.ndarray:
        if path is None:
            return np.zeros(self._size, np.float32)
        depth = self._load(path)
        if depth.shape != self._size:
            raise BadDataError(
                f"{path} has {depth.shape[1]} x {depth.shape[0]} pixels, but the first depth image {self._size[1]} x {self._size[0]}"
            )
        metres = depth.astype(np.float32) * np.float32(self._scale)
        unusable = ~np.isfinite(metres) | (metres <= 0)
        self._report.count("depth pixels without a return", int(unusable.sum()))
        return np.where(unusable, np.float32(0), metres)

    @staticmethod
    def _load(path: Path) -> np.ndarray:
        depth = _load_npy(path) if path.suffix == ".npy" else _decode_image(path)
        if depth.ndim == 3:
            raise BadDataError(f"{path} has {depth.shape[2]} channels, but a depth image has one", hint="colour-coded depth cannot be used")
        if depth.ndim != 2 or depth.dtype.kind not in "uif" or depth.size == 0:
            raise BadDataError(f"{path} holds {depth.dtype} of shape {depth.shape}, but a picture of numbers is expected")
        return depth


def _decode_image(path: Path) -> np.ndarray:
    packed = np.frombuffer(path.read_bytes(), np.uint8)  # imread cannot open every Unicode path
    depth = cv2.imdecode(packed, cv2.IMREAD_UNCHANGED) if packed.size else None
    if depth is None:
        raise BadDataError(f"{path} is not an image that can be read")
    return depth


def match_depth(images: Sequence[Path], folder: Path, *, metres_per_unit: float, allow_missing: bool, report: Report) -> Frames:
    """The depth image of every colour image: the one of the same name, or the one at the same place when no names agree.

    Raises BadDataError for a colour image without depth, unless `allow_missing`: its depth is then unknown, and it is counted.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder} does not exist", hint="depth images lie in DIR/depth; --depth-folder names another one")
    found = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES}
    if not found:
        raise BadDataError(f"{folder} holds no depth images ({', '.join(sorted(_SUFFIXES))})")
    stems = [image.stem for image in images]
    if not set(stems) & set(found):
        if len(found) != len(images):
            raise BadDataError(f"{folder} has {len(found)} depth images for {len(images)} colour images, and their names do not agree")
        report.note("depth and colour images have other names: matched in order")
        in_order = sorted(found.values(), key=natural_order)
        return DepthImages(in_order, metres_per_unit, report)
    missing = [image.name for image in images if image.stem not in found]
    if missing and not allow_missing:
        raise BadDataError(
            f"{folder} has no depth for {missing[0]} ({len(missing)} of {len(images)} images)",
            hint="--allow-partial takes such frames with unknown depth, and counts them",
        )
    report.count("frames without a depth image", len(missing))
    return DepthImages([found.get(stem) for stem in stems], metres_per_unit, report)


def read_intrinsics(text: str | None, folder: Path) -> np.ndarray:
    """K (3, 3) float64 from "fx,fy,cx,cy", from a file, or from the folder's own intrinsics file."""
    if text and re.fullmatch(r"[-+.\deE,\s]+", text):
        try:
            numbers = [float(number) for number in text.split(",")]
            fx, fy, cx, cy = numbers
        except ValueError:
            raise UsageError(f"--intrinsics is {text!r}", hint="give fx,fy,cx,cy in pixels of the colour images") from None
        return _checked(_pinhole(fx, fy, cx, cy), "--intrinsics")
    candidates = [Path(text)] if text else [folder / f"intrinsics{suffix}" for suffix in (".txt", ".npy", ".json")]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise MissingInputError(
            f"no intrinsics: looked for {', '.join(str(candidate) for candidate in candidates)}",
            hint="give --intrinsics fx,fy,cx,cy, in pixels of the colour images",
        )
    if path.suffix == ".json":
        matrix = _intrinsics_from_json(path)
    else:
        matrix = _numbers(path)
        matrix = _pinhole(*matrix.ravel()) if matrix.size == 4 else matrix
    return _checked(matrix, str(path))


def _checked(matrix: np.ndarray, name: str) -> np.ndarray:
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise BadDataError(f"{name} is no pinhole matrix: 3 x 3 with positive focal lengths is expected")
    return matrix


def read_poses(path: str | None, folder: Path, num_frames: int, direction: str) -> np.ndarray | None:
    """`world_from_camera` (T, 4, 4) from a file, or None when there is none. `direction` says which way the file's matrices go."""
    candidates = [Path(path)] if path else [folder / "poses.txt", folder / "poses.npy"]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        if path:
            raise MissingInputError(f"{path} does not exist")
        return None
    numbers = _numbers(found)
    rows = numbers.reshape(len(numbers), -1) if numbers.ndim > 1 else numbers.reshape(1, -1)
    if rows.shape[1] not in (12, 16) or len(rows) != num_frames:
        raise BadDataError(f"{found} has {len(rows)} rows of {rows.shape[1]} numbers, but {num_frames} rows of 12 or 16 are expected")
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    poses[:, : rows.shape[1] // 4] = rows.reshape(num_frames, -1, 4)
    wrong = ~se3.is_pose(poses)
    if wrong.any():
        raise BadDataError(f"{found}: pose {int(np.argmax(wrong))} is no rigid motion (rotation with determinant +1)")
    return se3.inverse(poses) if direction == "camera_from_world" else poses


def _pinhole(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def _intrinsics_from_json(path: Path) -> np.ndarray:
    content = read_json(path)
    try:
        if isinstance(content, list):
            return np.array(content, dtype=np.float64)
        return _pinhole(*(float(content[key]) for key in ("fx", "fy", "cx", "cy")))
    except (ValueError, KeyError, TypeError) as error:
        raise BadDataError(
            f"{path} holds no intrinsics: {error}", hint='expected {"fx": .., "fy": .., "cx": .., "cy": ..} or a 3 x 3 list'
        ) from None


def _numbers(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.asarray(_load_npy(path), dtype=np.float64)
    try:
        return np.loadtxt(path, dtype=np.float64, delimiter="," if "," in path.read_text("utf-8") else None)
    except (ValueError, UnicodeDecodeError) as error:
        raise BadDataError(f"{path} is not a table of numbers: {error}") from None


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadDataError(f"{path} is not a NumPy array: {error}") from None
