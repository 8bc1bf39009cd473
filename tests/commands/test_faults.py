"""The fault table: each fault is provoked for real. Numbers are its rows.

After any fault an output path holds the old complete file or the new complete file, and no input has changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pty
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import small_episode, write_episode
from run_command import PROGRAM, environment, shell, tracekit

from tracekit import records
from tracekit.format.file import open_records
from tracekit.format.schema import CORPUS, EPISODE


@pytest.fixture
def big_episode_file(tmp_path: Path) -> Path:
    """About 9 MB that do not compress: writing it takes a while."""
    episode = small_episode()
    noise = np.random.default_rng(0).integers(0, 256, (6, 700, 700, 3), dtype=np.uint8)
    video = dataclasses.replace(episode.video, width=700, height=700, frames=noise)
    return write_episode(tmp_path / "big.h5", dataclasses.replace(episode, video=video, truth=None))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def is_whole(path: Path) -> bool:
    with open_records(path, EPISODE) as file:
        file.validate_everything()
        return True


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_row_1_empty_stdin() -> None:
    done = tracekit("filter")
    assert done.returncode == 66
    assert b"upstream produced nothing" in done.stderr and done.stdout == b""


def on_terminal(arguments: list[str], descriptor: str) -> tuple[int, bytes]:
    """Run with stdin or stdout on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, descriptor: theirs}
    process = subprocess.Popen([*PROGRAM, *arguments], env=environment(), **streams)
    os.close(theirs)
    _, error = process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, error


def test_row_2_stdin_is_a_terminal() -> None:
    code, error = on_terminal(["filter"], "stdin")
    assert code == 2 and b"no source" in error


def test_row_3_stdout_is_a_terminal(episode_file: Path) -> None:
    code, error = on_terminal(["filter", str(episode_file)], "stdout")
    assert code == 2 and b"-o" in error


@pytest.mark.parametrize("kept", [-1, 0.5])
def test_row_4_a_cut_stream(episode_file: Path, kept: float) -> None:
    whole = episode_file.read_bytes()
    size = len(whole) - 1 if kept == -1 else len(whole) // 2
    done = tracekit("filter", stdin=whole[:size])
    assert done.returncode == 65
    assert f"got {size} of {len(whole)} bytes".encode() in done.stderr and done.stdout == b""


def test_row_5_two_files_in_one_stream(episode_file: Path) -> None:
    done = tracekit("filter", stdin=episode_file.read_bytes() * 2)
    assert done.returncode == 65 and b"concatenated" in done.stderr


def test_row_6_not_hdf5_or_of_another_kind(tmp_path: Path, episode_file: Path) -> None:
    done = tracekit("filter", stdin=b"no such format" * 100)
    assert done.returncode == 65 and b"not an HDF5 file" in done.stderr
    with h5py.File(tmp_path / "corpus.h5", "w", libver=("v110", "v110")) as file:
        file.attrs["format"], file.attrs["format_version"] = CORPUS.name, 1
    done = tracekit("filter", tmp_path / "corpus.h5", "-o", tmp_path / "out.h5")
    assert done.returncode == 65 and b"is of format tracekit/corpus, but tracekit/episode is expected" in done.stderr
    done = tracekit(
        "segment", write_episode(tmp_path / "part.h5", small_episode(), without=("motion", "events", "captions")), "-o", tmp_path / "out.h5"
    )
    assert done.returncode == 65 and b"has no motion" in done.stderr and b"tracekit filter" in done.stderr
    assert not (tmp_path / "out.h5").exists()


def test_row_7_upstream_fails(tmp_path: Path) -> None:
    done = shell(f"sh -c 'exit 3' | tracekit filter -o {tmp_path}/out.h5")
    assert done.returncode == 66
    assert list(tmp_path.iterdir()) == []


def test_row_8_downstream_stops_reading(big_episode_file: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "filter", "-q", str(big_episode_file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_row_9_unbuffered_and_interrupted_by_signals(tmp_path: Path, big_episode_file: Path) -> None:
    """Byte-exact through a pipe, while signals interrupt the system calls."""
    reference = tmp_path / "reference.h5"
    env = {"PYTHONUNBUFFERED": "1", "SOURCE_DATE_EPOCH": "0"}
    arguments = ["filter", "-q", str(big_episode_file)]
    reference_run = tracekit(*arguments, env={"SOURCE_DATE_EPOCH": "0"})
    assert reference_run.returncode == 0
    reference.write_bytes(reference_run.stdout)
    received = hashlib.sha256()
    with subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, env=environment(env)) as process:
        assert process.stdout is not None
        while block := process.stdout.read(65536):
            process.send_signal(signal.SIGSTOP)
            process.send_signal(signal.SIGCONT)
            received.update(block)
    assert process.returncode == 0
    assert received.hexdigest() == digest(reference)


@pytest.mark.slow
def test_row_9_more_than_two_gibibytes() -> None:
    size = (2 << 30) + 12345
    script = f"from tracekit.format import streams\nspool = streams.Spool()\nspool.stream.truncate({size})\nstreams.emit(spool)\nspool.forget_name()"
    received = 0
    with subprocess.Popen([PROGRAM[0], "-c", script], stdout=subprocess.PIPE, env=environment({"PYTHONUNBUFFERED": "1"})) as process:
        assert process.stdout is not None
        while block := process.stdout.read(1 << 22):
            received += len(block)
    assert process.returncode == 0 and received == size


def test_row_10_disk_full_in_the_output_folder(tiny_disk: Path, big_episode_file: Path) -> None:
    target = write_episode(tiny_disk / "out.h5", dataclasses.replace(small_episode(), depth_sensor=None, clip_id="old"))
    before = digest(target)
    done = tracekit("filter", big_episode_file, "-o", target, "--force")
    assert done.returncode == 74, done.stderr
    assert b"no space left" in done.stderr and str(tiny_disk).encode() in done.stderr and b"Traceback" not in done.stderr
    assert digest(target) == before
    assert [path.name for path in tiny_disk.iterdir()] == ["out.h5"]


def test_row_10_disk_full_while_records_are_written(tiny_disk: Path, tmp_path: Path) -> None:
    """The copy of the source fits, what the stage adds does not: HDF5 itself meets the full disk."""
    source = write_episode(tmp_path / "in.h5", small_episode(), without=("motion", "events", "captions"))
    num_blocks = -(-source.stat().st_size // 4096)
    (tiny_disk / "filler").write_bytes(b"x" * (256 * 1024 - num_blocks * 4096))
    done = tracekit("filter", source, "-o", tiny_disk / "out.h5")
    assert done.returncode == 74, (done.returncode, done.stderr)
    assert [path.name for path in tiny_disk.iterdir()] == ["filler"]


def test_row_10_file_size_limit(tmp_path: Path, big_episode_file: Path) -> None:
    done = shell(f"ulimit -f 2000; tracekit filter {big_episode_file} -o {tmp_path}/out.h5")
    assert done.returncode == 74 and b"size limit" in done.stderr
    assert not (tmp_path / "out.h5").exists()


def test_row_11_disk_full_in_tmpdir(tiny_disk: Path, big_episode_file: Path, tmp_path: Path) -> None:
    env = {"TMPDIR": str(tiny_disk)}
    done = tracekit("filter", "-o", tmp_path / "out.h5", stdin=big_episode_file.read_bytes(), env=env)
    assert done.returncode == 74 and b"TMPDIR" in done.stderr
    done = tracekit("filter", big_episode_file, env=env)
    assert done.returncode == 74 and b"TMPDIR" in done.stderr and done.stdout == b""
    assert list(tiny_disk.iterdir()) == []


EIO_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
/* The n-th write to a file whose name holds ".tracekit-part" fails with EIO. */
static int is_target(int fd) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0) return 0;
    name[length] = 0;
    return strstr(name, ".tracekit-part") != NULL;
}
static int must_fail(int fd) {
    static int seen = 0;
    return is_target(fd) && ++seen == atoi(getenv("FAIL_AT"));
}
ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (must_fail(fd)) { errno = EIO; return -1; }
    return real(fd, data, size);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (must_fail(fd)) { errno = EIO; return -1; }
    return real(fd, data, size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }
"""


@pytest.mark.parametrize("write_that_fails", [1, 2, 4])
def test_row_12_an_input_output_error(tmp_path: Path, episode_file: Path, write_that_fails: int) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("provoking EIO needs a C compiler")
    (tmp_path / "shim.c").write_text(EIO_SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "shim.so", tmp_path / "shim.c", "-ldl"], check=True, capture_output=True)
    folder = tmp_path / "out"
    folder.mkdir()
    env = {"LD_PRELOAD": str(tmp_path / "shim.so"), "FAIL_AT": str(write_that_fails)}
    done = tracekit("filter", episode_file, "-o", folder / "out.h5", env=env)
    assert done.returncode == 74, (done.returncode, done.stderr)
    assert b"Input/output error" in done.stderr
    assert list(folder.iterdir()) == []


def test_row_13_kill_at_any_moment(tmp_path: Path, big_episode_file: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "out.h5"
    write_episode(target, dataclasses.replace(small_episode(), clip_id="old"))
    before, source_before = digest(target), digest(big_episode_file)
    started = time.monotonic()
    assert tracekit("filter", "-q", big_episode_file, "-o", tmp_path / "timing.h5").returncode == 0
    duration = time.monotonic() - started
    outcomes = set()
    for fraction in random.Random(0).choices(np.linspace(0.5, 1.1, 60).tolist(), k=12):
        process = subprocess.Popen([*PROGRAM, "filter", "-q", str(big_episode_file), "-o", str(target), "--force"], env=environment())
        time.sleep(fraction * duration)
        process.kill()
        process.wait()
        assert is_whole(target)
        outcomes.add("old" if digest(target) == before else "new")
    assert digest(big_episode_file) == source_before
    assert tracekit("filter", "-q", big_episode_file, "-o", target, "--force").returncode == 0
    assert [path.name for path in folder.iterdir()] == ["out.h5"], "stale temporaries are swept"


def test_row_15_interrupt_removes_temporaries(tmp_path: Path, big_episode_file: Path) -> None:
    folder, spool = tmp_path / "out", tmp_path / "spool"
    folder.mkdir()
    spool.mkdir()
    for number, delay in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        # A producer that never ends keeps the command waiting in the middle of its work.
        process = subprocess.Popen(
            [*PROGRAM, "filter", "-o", str(folder / "out.h5")],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment({"TMPDIR": str(spool)}),
        )
        assert process.stdin is not None
        process.stdin.write(big_episode_file.read_bytes()[:1_000_000])
        process.stdin.flush()
        while not list(spool.iterdir()):
            time.sleep(0.02)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert process.returncode == delay and b"Traceback" not in error
        assert list(folder.iterdir()) == [] and list(spool.iterdir()) == []


def test_row_16_two_writers_on_one_target(tmp_path: Path, big_episode_file: Path) -> None:
    target = tmp_path / "out.h5"
    writers = [
        subprocess.Popen(
            [*PROGRAM, "filter", "-q", str(big_episode_file), "-o", str(target), "--threshold", str(threshold)],
            env=environment(),
            stderr=subprocess.PIPE,
        )
        for threshold in (10, 20)
    ]
    errors = [writer.communicate(timeout=60)[1] for writer in writers]
    codes = [writer.returncode for writer in writers]
    assert sorted(codes) == [0, 73], errors
    assert is_whole(target)
    with open_records(target) as file:
        assert file.read("motion").threshold_px == (10, 20)[codes.index(0)], "the winner's file is there"


def test_row_17_a_locked_file(tmp_path: Path, episode_file: Path) -> None:
    with h5py.File(episode_file, "r+"):
        done = tracekit("filter", episode_file, "-o", tmp_path / "out.h5")
    assert done.returncode == 75 and b"locked" in done.stderr


def test_rows_18_to_21_bad_content_is_65(tmp_path: Path, episode_file: Path) -> None:
    """Which messages: tests/format. Here: that they reach the shell."""
    whole = bytearray(episode_file.read_bytes())
    with h5py.File(episode_file) as file:
        chunk = file["tracks/xyz_world"].id.get_chunk_info(0)
    whole[chunk.byte_offset + 5] ^= 1
    done = tracekit("filter", stdin=bytes(whole))
    assert done.returncode == 65 and b"tracks/xyz_world" in done.stderr and b"bits have flipped" in done.stderr
    with h5py.File(episode_file, "r+") as file:
        file["extra"] = h5py.ExternalLink("/etc/passwd", "/")
    done = tracekit("info", episode_file)
    assert done.returncode == 65 and b"extra" in done.stderr and b"link" in done.stderr
    with h5py.File(episode_file, "r+") as file:
        del file["extra"]
        file.attrs["format_version"] = 2
    done = tracekit("info", episode_file)
    assert done.returncode == 65 and b"format_version 2" in done.stderr and b"version 1" in done.stderr


@pytest.mark.parametrize(("num_frames", "num_tracks"), [(0, 5), (1, 5), (6, 0)])
def test_row_23_nothing_to_work_on(tmp_path: Path, num_frames: int, num_tracks: int) -> None:
    """No frame, one frame, no track: every stage that needs no video gives a valid, empty result."""
    path = write_episode(tmp_path / "in.h5", cut(small_episode(), num_frames, num_tracks))
    done = shell(f"tracekit filter {path} | tracekit segment | tracekit caption -o {tmp_path}/out.h5")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert is_whole(tmp_path / "out.h5")
    done = tracekit("fit-bspline", tmp_path / "out.h5", "-o", tmp_path / "corpus.h5")
    assert done.returncode == 0, done.stderr
    with open_records(tmp_path / "corpus.h5", CORPUS) as file:
        assert np.isfinite(file.read("").delta_scale).all()


def cut(episode: records.Episode, num_frames: int, num_tracks: int) -> records.Episode:
    def shorter(record: object) -> object:
        changes = {}
        for field in dataclasses.fields(record):  # type: ignore[arg-type]
            shape, value = field.metadata["spec"].shape, getattr(record, field.name)
            if shape is None or value is None or isinstance(value, list):
                continue
            lengths = {"T": num_frames, "N": num_tracks, "A": min(2, num_frames), "B": min(1, num_frames), "C": min(1, num_frames)}
            value = value[tuple(slice(0, lengths.get(axis)) for axis in shape)]
            if field.name in ("anchor_frame", "born", "reference_frame"):
                value = np.zeros_like(value)
            changes[field.name] = np.minimum(value, num_frames) if field.name in ("chunk_stop",) else value
        return dataclasses.replace(record, **changes)  # type: ignore[type-var]

    keypoints = episode.keypoints if num_frames else None
    kept = {name: shorter(getattr(episode, name)) for name in ("video", "depth_sensor", "camera_sensor", "geometry", "tracks", "motion")}
    if num_frames == 0:
        num_tracks = 0
        kept = {name: shorter(getattr(episode, name)) for name in kept}
        empty = {
            f.name: np.zeros((0, *np.shape(getattr(episode.keypoints, f.name))[1:]), np.asarray(getattr(episode.keypoints, f.name)).dtype)
            for f in dataclasses.fields(episode.keypoints)
            if f.metadata["spec"].shape
        }
        keypoints = dataclasses.replace(episode.keypoints, **empty)
    return records.Episode(episode.clip_id, keypoints=keypoints, **kept)


def test_row_24_every_point_occluded(tmp_path: Path) -> None:
    episode = small_episode()
    nothing = dataclasses.replace(
        episode.tracks,
        visible=np.zeros_like(episode.tracks.visible),
        valid=np.zeros_like(episode.tracks.valid),
        xyz_world=np.full_like(episode.tracks.xyz_world, np.nan),
        uv=np.full_like(episode.tracks.uv, np.nan),
    )
    path = write_episode(tmp_path / "in.h5", dataclasses.replace(episode, tracks=nothing))
    done = tracekit("filter", path, "-o", tmp_path / "out.h5")
    assert done.returncode == 0 and b"never visible" in done.stderr
    with open_records(tmp_path / "out.h5") as file:
        motion = file.read("motion")
    assert np.isnan(motion.diameter_px).all() and not motion.moving.any()


def test_row_33_an_unwritable_folder(tmp_path: Path, episode_file: Path) -> None:
    """Refused before anything is read: the source does not even exist."""
    for folder in (tmp_path / "no" / "such", Path("/proc")):
        done = tracekit("filter", tmp_path / "missing.h5", "-o", folder / "out.h5")
        assert done.returncode == 73, done.stderr
    done = tracekit("filter", episode_file, "-d", "/proc/out")
    assert done.returncode == 73
    done = tracekit("filter", tmp_path / "missing.h5", "-o", episode_file)
    assert done.returncode == 73 and b"exists" in done.stderr
    if os.geteuid() != 0:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o555)
        assert tracekit("filter", tmp_path / "missing.h5", "-o", locked / "out.h5").returncode == 73


def test_row_34_odd_paths(tmp_path: Path) -> None:
    for name in ("mit Leerzeichen und Ümläut.h5", "-dash.h5", "☃ 'quoted' \"twice\".h5", "new\nline.h5"):
        write_episode(tmp_path / name, small_episode())
        output = f"out {name}"
        done = tracekit("filter", "-q", "-o", output, "--", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert is_whole(tmp_path / output)


def test_inputs_are_never_changed(tmp_path: Path, episode_file: Path) -> None:
    before = digest(episode_file)
    assert tracekit("fit-bspline", episode_file, "-o", episode_file, "--force").returncode == 2
    assert shell(f"tracekit filter -o {episode_file} --force < {episode_file}").returncode == 2
    assert digest(episode_file) == before


def test_standard_output_that_cannot_be_written(tmp_path: Path, episode_file: Path) -> None:
    assert shell(f"tracekit info {episode_file} > /dev/full").returncode == 74
    assert shell(f"tracekit filter -q {episode_file} > /dev/full").returncode == 74
    done = shell(f"(ulimit -f 4; tracekit view --what timeline {episode_file} -o {tmp_path}/v.png)")
    assert done.returncode == 74 and b"Traceback" not in done.stderr
    assert not (tmp_path / "v.png").exists()


@pytest.mark.parametrize("flag", ["--json", "--validate"])
def test_info_into_a_pipe_that_closes(episode_file: Path, flag: str) -> None:
    with subprocess.Popen(
        [*PROGRAM, "info", flag, *[str(episode_file)] * 60], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 141


def test_many_writers_in_one_folder_leave_each_other_alone(tmp_path: Path) -> None:
    """Sweeping removes what dead writers left, never what live ones are at."""
    script = f"""
import sys, time
from pathlib import Path
from tracekit.format.atomic import new_file
stop = time.monotonic() + 3
number = 0
while time.monotonic() < stop:
    with new_file(Path({str(tmp_path)!r}) / f"{{sys.argv[1]}}.txt", force=True) as path:
        path.write_text(str(number))
    number += 1
print(number)
"""
    writers = [subprocess.Popen([PROGRAM[0], "-c", script, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(4)]
    for i, writer in enumerate(writers):
        output, error = writer.communicate(timeout=60)
        assert writer.returncode == 0, error.decode()
        assert (tmp_path / f"{i}.txt").read_text() == str(int(output) - 1)


@pytest.mark.parametrize("content", ["cycle", "deep", "odd integer", "provenance", "scale", "text bomb"])
def test_crafted_files_are_65(tmp_path: Path, episode_file: Path, content: str) -> None:
    with h5py.File(episode_file, "r+") as file:
        if content == "cycle":
            file["tracks/again"] = file["tracks"]
        elif content == "deep":
            file.create_group("/".join(["g"] * 60))
        elif content == "odd integer":
            kind = h5py.h5t.STD_I32LE.copy()
            kind.set_size(3)
            h5py.h5d.create(file.id, b"odd", kind, h5py.h5s.create_simple((4,)))
        elif content == "provenance":
            del file["provenance"]
            file["provenance"] = 3
        elif content == "scale":
            file["geometry/depth"].attrs["metres_per_unit"] = "abc"
        else:
            del file["captions/event_text"]
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            texts = file["captions"].create_dataset("event_text", (1,), h5py.string_dtype(), data=["x"])
            del texts, plist
            file["captions/event_text"][0] = "y" * 70_000_000
            file["captions"].create_dataset(
                "summary", (4000,), h5py.string_dtype(), chunks=(4000,), compression="gzip", fillvalue="z" * 60_000
            )
            del file["captions/summary_text"]
            file["captions/summary_text"] = file["captions/summary"]
            del file["captions/summary"]
    done = tracekit("info", "--validate", episode_file)
    assert done.returncode == 65 and b"Traceback" not in done.stderr, done.stderr.decode()
