"""A folder of images as a video: natural order of the file names, one size for all."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tracekit.errors import BadDataError, MissingInputError, StorageError

NAME = f"images opencv {cv2.__version__}"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def list_images(folder: str | os.PathLike) -> list[Path]:
    """The images of a folder in natural order (2.png before 10.png). Hidden files and other files are left aside.

    Raises MissingInputError when there is no such folder, BadDataError when it holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingInputError(f"there is no folder {folder}")
    images = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()]
    if not images:
        raise BadDataError(f"there is no image in {folder}", hint=_what_it_may_be(folder))
    return sorted(images, key=natural_order)


def _what_it_may_be(folder: Path) -> str:
    if (folder / "rgb").is_dir():
        return f"colour and depth images? tracekit import rgbd {folder}"
    videos = [path.name for path in folder.iterdir() if path.suffix.lower() in (".mp4", ".mkv", ".mov", ".avi", ".webm")]
    if videos:
        return f"a folder of videos? name them ({folder / '*'}{Path(videos[0]).suffix}), with -d DIR for the outputs"
    return f"images end in {', '.join(SUFFIXES)}"


def natural_order(path: Path) -> tuple:
    """Sort key of file names in which frame2 comes before frame10."""
    pieces = re.split(r"([0-9]+)", path.name)
    # Odd pieces are numbers; the name itself decides between 01 and 1.
    return tuple(int(piece) if place % 2 else piece for place, piece in enumerate(pieces)), path.name


@dataclass(frozen=True)
class FolderIndex:
    """Which images of a folder can be read, and their size."""

    sha256: str
    width: int
    height: int
    num_images: int
    readable: np.ndarray
    """(T,) int32: which of the images, in natural order, can be decoded."""


def index_folder(folder: Path, *, allow_partial: bool = False) -> FolderIndex:
    """Read every image once: its bytes into the digest, its size for comparison.

    Raises BadDataError for images of different sizes, and, without `allow_partial`, for one that cannot be decoded.
    """
    images = list_images(folder)
    digest = hashlib.sha256()
    shapes: list[tuple[int, int] | None] = []
    with ThreadPoolExecutor(2) as pool:
        # In batches, so that no more than a few files are in memory.
        for start in range(0, len(images), 16):
            batch = images[start : start + 16]
            for path, (content, shape) in zip(batch, pool.map(_content_and_shape, batch), strict=True):
                _add_to_digest(digest, path.name, content)
                shapes.append(shape)
    readable = [index for index, shape in enumerate(shapes) if shape is not None]
    if len(readable) < len(images) and not (allow_partial and readable):
        raise _undecodable(next(path for path, shape in zip(images, shapes, strict=True) if shape is None))
    first = readable[0]
    for index in readable:
        if shapes[index] != shapes[first]:
            raise _other_size(images[index], shapes[index], images[first], shapes[first])
    height, width = shapes[first] or (0, 0)
    return FolderIndex(digest.hexdigest(), width, height, len(images), np.array(readable, np.int32))


def hash_folder(folder: Path) -> str:
    """The digest that `index_folder` gives, without decoding."""
    digest = hashlib.sha256()
    for path in list_images(folder):
        _add_to_digest(digest, path.name, _content(path))
    return digest.hexdigest()


def _add_to_digest(digest: hashlib._Hash, name: str, content: bytes) -> None:
    """Lengths first: a name can never run into the content behind it."""
    encoded = os.fsencode(name)
    digest.update(f"{len(encoded)} {len(content)}\n".encode())
    digest.update(encoded)
    digest.update(content)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        raise MissingInputError(f"{path} cannot be opened: permission denied") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from None


def _decode(content: bytes) -> np.ndarray | None:
    """(height, width, 3) uint8 BGR, turned as the image's EXIF tag says; None if it is no image."""
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None


def _content_and_shape(path: Path) -> tuple[bytes, tuple[int, int] | None]:
    content = _content(path)
    image = _decode(content)
    return content, None if image is None else (image.shape[0], image.shape[1])


def _undecodable(path: Path) -> BadDataError:
    return BadDataError(f"{path} cannot be decoded as an image", hint="remove or replace it, or leave such images out with --allow-partial")


def _other_size(path: Path, shape: tuple[int, int] | None, first: Path, first_shape: tuple[int, int] | None) -> BadDataError:
    (height, width), (first_height, first_width) = shape or (0, 0), first_shape or (0, 0)
    return BadDataError(
        f"{path} is {width} x {height} pixels, but {first.name} is {first_width} x {first_height}",
        hint="all images of a folder must have one size",
    )


class FolderReader:
    """Reads chosen images of a folder in any order."""

    def __init__(self, folder: Path, source_frame: np.ndarray) -> None:
        """`source_frame` (T,): which of the images, in natural order, can be asked for."""
        images = list_images(folder)
        if source_frame.max() >= len(images):
            raise BadDataError(f"{folder} holds {len(images)} images, but frame {source_frame.max()} is asked for")
        self._images = [images[index] for index in source_frame]

    def read(self, index: int) -> np.ndarray:
        """Frame `index` as (height, width, 3) uint8 RGB. Raises BadDataError when it cannot be decoded."""
        image = _decode(_content(self._images[index]))
        if image is None:
            raise _undecodable(self._images[index])
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)

    def close(self) -> None:
        """Images are open only while they are read."""
