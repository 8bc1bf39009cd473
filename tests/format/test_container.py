"""Rows 4-6 and 17-20 of the fault table: what is refused before anything in a file is believed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tracekit.errors import BadDataError, MissingInputError
from tracekit.format.container import open_checked, read_dataset

LIBVER = ("v110", "v110")


def write(path: Path, fill: Callable[[h5py.File], object], **options: object) -> Path:
    with h5py.File(path, "w", **{"libver": LIBVER, **options}) as file:
        fill(file)
    return path


def plain(file: h5py.File) -> None:
    file.create_dataset(
        "group/data", data=np.arange(6000, dtype="f4").reshape(60, 100), chunks=(10, 100), compression="gzip", fletcher32=True
    )


@pytest.mark.parametrize("libver", [("earliest", "v108"), LIBVER])
def test_a_whole_file_opens(tmp_path: Path, libver: tuple[str, str]) -> None:
    path = write(tmp_path / "a.h5", plain, libver=libver)
    with open_checked(str(path), "a.h5") as file:
        assert read_dataset(file["group/data"], (3, slice(2))).tolist() == [300.0, 301.0]


@pytest.mark.parametrize("libver", [("earliest", "v108"), LIBVER])
@pytest.mark.parametrize("cut", ["one byte", "half", "header"])
def test_a_cut_file_is_refused_with_both_sizes(tmp_path: Path, cut: str, libver: tuple[str, str]) -> None:
    path = write(tmp_path / "a.h5", plain, libver=libver)
    whole = path.read_bytes()
    kept = {"one byte": len(whole) - 1, "half": len(whole) // 2, "header": 20}[cut]
    path.write_bytes(whole[:kept])
    with pytest.raises(BadDataError, match="cut off" if cut == "header" else f"got {kept} of {len(whole)} bytes"):
        open_checked(str(path), "a.h5")


def test_two_files_in_a_row_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", plain)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(BadDataError, match="concatenated"):
        open_checked(str(path), "a.h5")


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"hello, world" * 20, "not an HDF5 file")])
def test_no_hdf5_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(BadDataError, match=message):
        open_checked(str(path), "a.h5")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="does not exist"):
        open_checked(str(tmp_path / "no.h5"), "no.h5")
    with pytest.raises(BadDataError, match="folder"):
        open_checked(str(tmp_path), "tmp")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("group/data", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "data", (4,))
    file.create_virtual_dataset("group/data", layout)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (external_storage, "external storage"),
        (virtual, "virtual"),
        (lambda file: file.__setitem__("group/data", h5py.SoftLink("/other")), "soft or external link"),
        (lambda file: file.__setitem__("group/data", h5py.ExternalLink("/etc/passwd", "/")), "soft or external link"),
        (lambda file: file.__setitem__("group", h5py.ExternalLink("other.h5", "/group")), "soft or external link"),
        (lambda file: file.create_dataset("group/data", (1 << 20, 1 << 20, 7), "u1", chunks=(1, 1024, 1)), "declares shape"),
        (lambda file: file.create_dataset("group/data", (1 << 20, 1 << 20), "f8"), "declares shape"),
        (lambda file: file.create_dataset("group/data", (3,), h5py.ref_dtype), "neither numbers nor text"),
        (lambda file: file.create_group("group").attrs.create("data", file.ref, dtype=h5py.ref_dtype), "neither numbers nor text"),
    ],
)
def test_what_points_out_of_the_file_or_lies_about_its_size_is_refused(tmp_path: Path, fill: Callable, message: str) -> None:
    path = write(tmp_path / "a.h5", fill)
    with pytest.raises(BadDataError, match=message) as caught:
        open_checked(str(path), "a.h5")
    assert "group" in str(caught.value)


def test_a_declared_size_is_refused_without_allocating(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", lambda file: file.create_dataset("x", (7 << 40,), "u1", chunks=(1 << 20,)))
    assert path.stat().st_size < 5000
    script = f"""
import resource
from tracekit.format.container import open_checked
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_checked({str(path)!r}, "a.h5")
except Exception as error:
    print(error)
print("grown", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "7,696,581,394,432 bytes" in output
    assert int(output.split()[-1]) < 20_000, "kilobytes"


def test_a_flipped_bit_names_the_dataset(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", plain)
    with h5py.File(path) as file:
        chunk = file["group/data"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0x10
    path.write_bytes(content)
    with open_checked(str(path), "a.h5") as file, pytest.raises(BadDataError, match=r"group/data in a\.h5 .*bits have flipped"):
        read_dataset(file["group/data"])


def test_random_damage_never_crashes(tmp_path: Path) -> None:
    """Bit flips anywhere end in our own error, or in nothing at all where the bit meant nothing."""
    path = write(tmp_path / "a.h5", plain)
    script = f"""
import sys
import numpy as np
from tracekit.errors import TracekitError
from tracekit.format.container import open_checked, read_dataset
whole = open({str(path)!r}, "rb").read()
rng = np.random.default_rng(0)
refused = 0
for trial in range(300):
    content = bytearray(whole)
    for place in rng.integers(0, len(whole), 3):
        content[place] ^= 1 << int(rng.integers(8))
    name = {str(tmp_path / "damaged.h5")!r}
    open(name, "wb").write(content)
    try:
        with open_checked(name, "damaged.h5") as file:
            file.visititems(lambda path, item: read_dataset(item) if hasattr(item, "dtype") else None)
    except TracekitError:
        refused += 1
print(refused)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 150
