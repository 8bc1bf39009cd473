"""Pictures and points that come from anywhere: read for what they are, refused by line where they are none."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from tracekit.errors import BadDataError, MissingInputError
from tracekit.mu0.bare_image import MOST_POINTS, grid_points, read_picture, read_points

SIZE = (64, 48)


def points_of(tmp_path: Path, text: str | bytes) -> np.ndarray:
    path = tmp_path / "points.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_points(path, SIZE)


def test_a_picture_is_read_as_rgb(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])
    assert np.array_equal(read_picture(tmp_path / "a.png"), picture)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 100])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadDataError, match="is no picture"):
        read_picture(tmp_path / "a.png")


def test_an_absurd_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = (1_000_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )
    with pytest.raises(BadDataError, match="is no picture"):
        read_picture(tmp_path / "a.png")


def test_a_picture_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="does not exist"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(MissingInputError, match="is no file"):
        read_picture(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["u,v\n-0.5,-0.5\n63.5, 47.5\n31.5,23.5\n", "-0.5,-0.5\r\n\r\n63.5,47.5\r\n31.5,23.5", "\ufeffU,V\n-.5,-.5\n635e-1,47.5\n31.5,23.5"],
)
def test_pixels_become_normalised(tmp_path: Path, text: str) -> None:
    assert points_of(tmp_path, text).tolist() == [[-1, -1], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u,v\n1,2\n64,3\n", r"line 3 of .*: the point 64,3 is outside the picture, which has 64 x 48 pixels"),
        ("1,-1\n", "line 1 .* outside"),
        ("1,nan\n", "line 1 .* outside"),
        ("inf,1\n", "line 1 .* outside"),
        ("1,2\n1;2\n", "line 2 .* is '1;2', but two numbers"),
        ("1,2,3\n", "line 1 .* is '1,2,3', but two numbers"),
        ("v,u\n1,2\n", "line 1 .* is 'v,u', but two numbers"),
        ("1,2\nu,v\n", "line 2 .* is 'u,v', but two numbers"),
        ("", "holds 0 points"),
        ("u,v\n", "holds 0 points"),
        ("1,1\n" * (MOST_POINTS + 1), f"holds {MOST_POINTS + 1} points, but 1 to {MOST_POINTS}"),
        (b"\xff\xfe1,2\n", "is no CSV"),
        ("1,1\n" * (1 << 19), "has more than 1,048,576 bytes"),
    ],
)
def test_what_is_no_point_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(BadDataError, match=message):
        points_of(tmp_path, text)


def test_a_grid_has_the_centres_of_its_cells() -> None:
    assert grid_points(2).tolist() == [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    assert grid_points(1).tolist() == [[0, 0]]
    assert len(grid_points(20)) == 400 and np.abs(grid_points(20)).max() == np.float32(0.95)
