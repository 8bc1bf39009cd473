"""tracekit export and tracekit import traceextract as users meet them: folders, corpora, batches, faults."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from corpus_clips import HEIGHT, WIDTH
from release_episodes import NUM_FRAMES, write_moving_episode, write_release_folder
from run_command import peak_kilobytes, shell, tracekit

from tracekit.format.file import open_records
from tracekit.format.schema import CORPUS, EPISODE

QUICK = ("--future-len", 40, "--history-len", 12)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("episodes")
    return [write_moving_episode(folder, number) for number in range(2)]


@pytest.fixture(scope="module")
def folders(episodes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    done = tracekit("export", "traceextract", *episodes, *QUICK, "-d", folder, "-q")
    assert done.returncode == 0, done.stderr.decode()
    return folder


def test_folders_are_named_after_their_sources(folders: Path) -> None:
    assert sorted(path.name for path in folders.iterdir() if not path.name.startswith(".")) == ["clip-0", "clip-1"]
    assert json.loads((folders / "clip-1/curated_training_texts.json").read_text())["video_id"] == "clip-1"
    assert np.load(folders / "clip-0/images.npy", mmap_mode="r").shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
    assert np.load(folders / "clip-0/samples/traj.npy", mmap_mode="r").shape[1:] == (40, 3)


def test_the_sources_are_not_changed(episodes: list[Path], folders: Path, tmp_path: Path) -> None:
    before = episodes[0].read_bytes()
    assert tracekit("export", "traceextract", episodes[0], *QUICK, "-d", tmp_path / "out").returncode == 0
    assert episodes[0].read_bytes() == before
    one, other = (folder / "clip-0/samples/raw_traj.npy" for folder in (folders, tmp_path / "out"))
    assert one.read_bytes() == other.read_bytes(), "the same again"


def test_from_folders_to_a_corpus_with_pictures(folders: Path, episodes: list[Path], tmp_path: Path) -> None:
    done = tracekit("import", "traceextract", folders / "clip-0", folders / "clip-1", "-d", tmp_path / "back")
    assert done.returncode == 0, done.stderr.decode()
    back = sorted((tmp_path / "back").glob("*.h5"))
    assert [path.name for path in back] == ["clip-0.h5", "clip-1.h5"]
    for path in back:
        done = tracekit("info", "--validate", path)
        assert done.returncode == 0, done.stderr.decode()
    done = tracekit("fit-bspline", *back, "--moving-only", "--embed-images", "--embed-depth", "-o", tmp_path / "back-corpus.h5")
    assert done.returncode == 0, done.stderr.decode()
    done = tracekit("fit-bspline", *episodes, "--moving-only", "--embed-images", "-o", tmp_path / "corpus.h5")
    assert done.returncode == 0, done.stderr.decode()
    with open_records(tmp_path / "back-corpus.h5", CORPUS) as one, open_records(tmp_path / "corpus.h5", CORPUS) as other:
        one.validate_everything()
        found, expected = one.read(""), other.read("")
    # A row of the original outside the image is none in the release; nothing else is lost.
    inside = (np.abs(expected.current[:, :2]) <= 1).all(axis=1)
    assert found.sample_frame.tolist() == expected.sample_frame.tolist() and len(found.current) == inside.sum() > 100
    by_place = [
        np.lexsort((c.current[:, 2].round(2), c.entity, np.repeat(np.arange(len(c.sample_frame)), np.diff(c.sample_offset))))
        for c in (found, expected)
    ]
    a, b = by_place[0], by_place[1][inside[by_place[1]]]
    np.testing.assert_allclose(found.current[a], expected.current[b], atol=5e-3)
    np.testing.assert_array_equal(found.valid_future[a], expected.valid_future[b])
    np.testing.assert_allclose(found.future[a], expected.future[b], atol=0.02)
    assert {"reach", "go there", "approach", "grasp", "pick up", "grip", "reach and grasp", "tidy up"} == set(found.caption_text)


def test_one_folder_to_a_file_or_a_pipe(tmp_path: Path) -> None:
    write_release_folder(tmp_path / "episode_7")
    done = tracekit("import", "traceextract", tmp_path / "episode_7", "--source-fps", 5, "-o", tmp_path / "out.h5")
    assert done.returncode == 0, done.stderr.decode()
    with open_records(tmp_path / "out.h5", EPISODE) as file:
        assert file.clip_id == "episode_7" and file.read("video").fps == 5
        assert file.read("tracks").entity.tolist() == [7, 3]
        assert file.steps()[-1].command == "import traceextract"
    assert tracekit("import", "traceextract", tmp_path / "episode_7").stdout.startswith(b"\x89HDF")


def test_their_statistics_scale_our_corpus(episodes: list[Path], tmp_path: Path) -> None:
    stats = tmp_path / "normalizer_stats.json"
    assert tracekit("fit-bspline", *episodes, "-o", tmp_path / "own.h5").returncode == 0
    done = tracekit("export", "stats", tmp_path / "own.h5", "-o", stats)
    assert done.returncode == 0, done.stderr.decode()
    content = json.loads(stats.read_text())
    assert content["history_len"] == 8 and content["future_len"] == 32
    stats.write_text(json.dumps({**content, "delta_scale_y": 0.5}))
    assert tracekit("fit-bspline", *episodes, "--scale", stats, "-o", tmp_path / "scaled.h5").returncode == 0
    with open_records(tmp_path / "own.h5", CORPUS) as own, open_records(tmp_path / "scaled.h5", CORPUS) as scaled:
        own_scale, scale = own.value("", "delta_scale"), scaled.value("", "delta_scale")
        assert scale.tolist() == [own_scale[0], 0.5, own_scale[2]]
        assert scaled.value("", "depth_log_range").tolist() == own.value("", "depth_log_range").tolist()
    stats.write_text(json.dumps({**content, "target_kind": "step"}))
    done = tracekit("fit-bspline", *episodes, "--scale", stats, "-o", tmp_path / "refused.h5")
    assert done.returncode == 65 and b"target_kind is 'step'" in done.stderr and not (tmp_path / "refused.h5").exists()
    assert tracekit("export", "stats", tmp_path / "own.h5", "-o", stats).returncode == 73
    assert tracekit("export", "stats", episodes[0], "-o", tmp_path / "x.json").returncode == 65
    before = (tmp_path / "own.h5").read_bytes()
    done = tracekit("export", "stats", tmp_path / "own.h5", "-o", tmp_path / "own.h5", "--force")
    assert done.returncode == 2 and b"inputs are never changed" in done.stderr and (tmp_path / "own.h5").read_bytes() == before


def test_done_folders_are_skipped_and_force_makes_them_again(episodes: list[Path], tmp_path: Path) -> None:
    command = ("export", "traceextract", *episodes, *QUICK, "-d", tmp_path)
    assert tracekit(*command).returncode == 0
    before = (tmp_path / "clip-0").stat().st_ctime_ns
    done = tracekit(*command)
    assert done.returncode == 0 and b"2 of 2 episode folders are there already" in done.stderr
    assert (tmp_path / "clip-0").stat().st_ctime_ns == before
    assert tracekit(*command, "--force").returncode == 0
    assert (tmp_path / "clip-0").stat().st_ctime_ns != before
    assert not list(tmp_path.glob(".*part"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_full_disk_leaves_the_folder_that_was_to_be_replaced(folders: Path, episodes: list[Path], tmp_path: Path) -> None:
    shutil.copytree(folders / "clip-0", tmp_path / "clip-0")
    before = contents(tmp_path / "clip-0")
    done = shell(f"ulimit -f 20; tracekit export traceextract {episodes[0]} -d {tmp_path} --force")
    assert done.returncode == 74, done.stderr.decode()
    assert contents(tmp_path / "clip-0") == before and [path.name for path in tmp_path.iterdir()] == ["clip-0"]


def test_a_folder_that_the_episode_was_imported_from_is_never_replaced(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "clip-0", tmp_path / "clip-0")
    before = contents(tmp_path / "clip-0")
    assert tracekit("import", "traceextract", tmp_path / "clip-0", "-o", tmp_path / "clip-0.h5").returncode == 0
    done = tracekit("export", "traceextract", tmp_path / "clip-0.h5", *QUICK, "-d", tmp_path, "--force")
    assert done.returncode == 2 and b"images.npy, which the episode comes from" in done.stderr, done.stderr.decode()
    assert contents(tmp_path / "clip-0") == before
    assert tracekit("export", "traceextract", tmp_path / "clip-0.h5", *QUICK, "-d", tmp_path / "elsewhere").returncode == 0


def test_only_episode_folders_are_ever_replaced(episodes: list[Path], tmp_path: Path) -> None:
    (tmp_path / "clip-0").mkdir()
    (tmp_path / "clip-0" / "precious.txt").write_text("mine")
    done = tracekit("export", "traceextract", episodes[0], *QUICK, "-d", tmp_path, "--force")
    assert done.returncode == 73 and b"is no episode folder" in done.stderr
    assert (tmp_path / "clip-0" / "precious.txt").read_text() == "mine"


def test_a_failure_leaves_nothing_and_the_others_are_made(episodes: list[Path], tmp_path: Path) -> None:
    untracked = tmp_path / "untracked.h5"
    untracked.write_bytes(episodes[0].read_bytes())
    with h5py.File(untracked, "r+") as file:
        del file["tracks"]
    (tmp_path / "out").mkdir()
    done = tracekit("export", "traceextract", untracked, episodes[1], *QUICK, "-d", tmp_path / "out")
    assert done.returncode == 65 and b"untracked" in done.stderr
    assert [path.parent.name for path in (tmp_path / "out").rglob("images.npy")] == ["clip-1"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{0}"], 2, b"-d DIR"),
        (["-d", "out"], 2, b"name episode files"),
        (["-", "-d", "out"], 2, b"no name"),
        (["{0}", "-d", "out", "--future-len", 1], 2, b"--future-len"),
        (["absent.h5", "-d", "out"], 66, b"absent.h5"),
    ],
)
def test_mistakes(episodes: list[Path], tmp_path: Path, arguments: list[object], code: int, message: bytes) -> None:
    done = tracekit("export", "traceextract", *(str(argument).format(episodes[0]) for argument in arguments), cwd=tmp_path)
    assert done.returncode == code and message in done.stderr, done.stderr.decode()
    assert not (tmp_path / "out" / "clip-0").exists()


def test_dry_run_touches_nothing(episodes: list[Path], tmp_path: Path) -> None:
    done = tracekit("export", "traceextract", episodes[0], "-d", tmp_path / "out", "--dry-run")
    assert done.returncode == 0 and b"would read" in done.stderr and not (tmp_path / "out").exists()


def test_a_video_that_changed_is_refused(episodes: list[Path], tmp_path: Path) -> None:
    moved = tmp_path / "clip-0.h5"
    moved.write_bytes(episodes[0].read_bytes())
    other = episodes[1].with_suffix(".mp4")
    done = tracekit("export", "traceextract", moved, "--video", other, *QUICK, "-d", tmp_path / "out")
    assert done.returncode == 65 and not (tmp_path / "out" / "clip-0").exists(), done.stderr.decode()


class _Harmful:
    def __reduce__(self) -> tuple:
        return os.system, ("touch harmed",)


def test_hostile_folders_are_refused_one_by_one(tmp_path: Path) -> None:
    """In one batch: an array of Python objects, one that is cut off, one that claims a petabyte, and a good folder."""
    for name in ("pickled", "cut", "absurd", "good"):
        write_release_folder(tmp_path / name)
    np.save(tmp_path / "pickled/samples/raw_traj.npy", np.array([_Harmful()], object), allow_pickle=True)
    images = tmp_path / "cut/images.npy"
    images.write_bytes(images.read_bytes()[:-7])
    claimed = b"{'descr': '<f2', 'fortran_order': False, 'shape': (38, 9000000000000, 3), }\n"
    (tmp_path / "absurd/samples/raw_traj.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(claimed).to_bytes(2, "little") + claimed)
    sources = [tmp_path / name for name in ("pickled", "cut", "absurd", "good")]
    done = tracekit("import", "traceextract", *sources, "-d", tmp_path / "out", cwd=tmp_path)
    said = done.stderr.decode()
    assert done.returncode == 65, said
    for message in ("raw_traj.npy holds object", "images.npy is cut off: 7 bytes", "raw_traj.npy is cut off"):
        assert message in said
    assert [path.name for path in (tmp_path / "out").glob("*.h5")] == ["good.h5"]
    assert not (tmp_path / "harmed").exists() and "Traceback" not in said


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """Ten times the frames (31 to 307 MB of images and depth): at most a tenth of that more memory, there and back."""
    height, width, peaks = 480, 640, []
    for num_frames in (20, 200):
        folder = tmp_path / f"episode_{num_frames}"
        write_release_folder(folder)
        for name, dtype, inner in (("images", np.uint8, (3,)), ("depth", np.float16, ())):
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (num_frames, height, width, *inner)).flush()
        stored = dict(np.load(folder / "cameras.npz"))
        for name in ("intrinsics", "extrinsics"):
            stored[name] = np.resize(stored[name][:1], (num_frames, *stored[name].shape[1:]))
        np.savez(folder / "cameras.npz", **{**stored, "height": np.int32(height), "width": np.int32(width)})
        file = tmp_path / f"{num_frames}.h5"
        importing = peak_kilobytes("import", "traceextract", "-q", folder, "-o", file)
        peaks.append((importing, peak_kilobytes("export", "traceextract", "-q", file, "-d", tmp_path / "out")))
    assert max(large - small for small, large in zip(*peaks, strict=True)) < 30_000, peaks
