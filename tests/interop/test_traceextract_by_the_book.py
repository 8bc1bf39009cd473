"""Against plain loops over the documentation of the release: its rows, its trainer's arithmetic, its equal lengths of path."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from release_folders import HEIGHT, LEAVES, NOT_BORN, STATIC, WIDTH, N, T, moving_camera_episode, write_by_the_book

from tracekit.extract.fit_bspline import FitBsplineParameters, episode_samples
from tracekit.interop.traceextract import open_release_episode
from tracekit.interop.traceextract_records import records_of
from tracekit.interop.traceextract_writer import TraceextractParameters, write_release_episode
from tracekit.records import Clip, Episode, Geometry, Motion, Tracks
from tracekit.report import Report

MOVING = np.setdiff1d(np.arange(N), STATIC)


def imported(folder: Path) -> Episode:
    names = {Clip: "video", Geometry: "geometry", Tracks: "tracks", Motion: "motion"}
    records = records_of(open_release_episode(folder), None, None, Report())
    return Episode(folder.name, **{names[type(record)]: record for record in records})  # type: ignore[arg-type]


def tracks_of(folder: Path) -> Tracks:
    tracks = imported(folder).tracks
    assert tracks is not None
    return tracks


def partners(found: Tracks, true: Tracks) -> np.ndarray:
    """The found track of each moving true one; asserts that they are one to one."""
    assert found.valid.shape[1] == len(MOVING)
    distance = np.zeros((len(MOVING), len(MOVING)))
    for row, n in enumerate(MOVING):
        both = (found.valid & true.valid[:, n, None]).astype(bool)
        gap = np.where(both[..., None], found.xyz_world - true.xyz_world[:, n, None], 0)
        distance[row] = np.linalg.norm(gap, axis=2).max(axis=0)
    result = distance.argmin(axis=1)
    assert sorted(result.tolist()) == list(range(len(MOVING)))
    return result


@pytest.fixture(scope="module")
def episode() -> Episode:
    return moving_camera_episode()


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory, episode: Episode) -> Path:
    return write_by_the_book(tmp_path_factory.mktemp("release") / "walk", episode)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, episode: Episode) -> Path:
    """Our own export, keypoints that rest included."""
    folder = tmp_path_factory.mktemp("everything")
    write_release_episode(episode, episode.video.frames, folder, "walk", TraceextractParameters(moving_only=False), Report())  # type: ignore[arg-type]
    return folder / "samples"


@pytest.fixture
def copied(tmp_path: Path, book: Path) -> Path:
    return shutil.copytree(book, tmp_path / "walk")


def test_rows_become_the_tracks_that_they_were_cut_from(book: Path, episode: Episode) -> None:
    found, true = tracks_of(book), episode.tracks
    assert true is not None
    order = partners(found, true)
    np.testing.assert_array_equal(found.valid[:, order], true.valid[:, MOVING])
    np.testing.assert_array_equal(found.entity[order], true.entity[MOVING])
    np.testing.assert_array_equal(found.born[order], true.born[MOVING])
    np.testing.assert_array_equal(found.visible[:-1, order], true.visible[:-1, MOVING])  # no row speaks of the last frame
    # 16-bit floats: half of an eighth of a pixel at 1.5 m and f = 150, and half a thousandth of a metre.
    gap = np.linalg.norm(found.xyz_world[:, order] - true.xyz_world[:, MOVING], axis=2)
    known = true.valid[:, MOVING].astype(bool)
    assert gap[known & (np.abs(true.uv[:, MOVING, 0]) < WIDTH)].max() < 1.5e-3
    assert gap[known].max() < 6e-3
    assert not true.visible[24, LEAVES] and found.valid[24, order[LEAVES]], "the path goes on outside the image"
    assert found.born[order[NOT_BORN]] == 20


def test_training_rows_are_those_of_the_authors_trainer(book: Path) -> None:
    """fit-bspline on the imported episode against u / W * 2 - 1 on the stored rows, anchor at step 0, history reversed without it."""
    corpus = episode_samples(imported(book), FitBsplineParameters(every=1), Report())
    stored = {path.stem: np.load(path) for path in (book / "samples").iterdir()}
    compared = 0
    for sample, frame in enumerate(corpus.sample_frame):
        ours = slice(*corpus.sample_offset[sample : sample + 2])
        slot = int(np.searchsorted(stored["frame_indices"], frame))
        rows = slice(*stored["offsets"][slot : slot + 2])
        future = stored["raw_traj"][rows, 1:33].astype(float)
        history = stored["raw_traj_history"][rows, 1:9].astype(float)[:, ::-1]
        anchor = stored["raw_traj"][rows, 0].astype(float)
        for array in (future, history, anchor):
            array[..., :2] = array[..., :2] / [WIDTH, HEIGHT] * 2 - 1
        partner = np.linalg.norm(corpus.current[ours][:, None] - anchor, axis=2).argmin(axis=1)
        assert len(set(partner.tolist())) == len(partner)
        np.testing.assert_allclose(corpus.current[ours], anchor[partner], atol=2e-3)
        for mine, its, valid in (
            (corpus.future, future[partner], corpus.valid_future),
            (corpus.history, history[partner], corpus.valid_history),
        ):
            known = valid[ours].astype(bool)
            np.testing.assert_array_equal(known, np.isfinite(its).all(axis=2))
            near = known & (np.abs(its[..., :2]) < 1.2).all(axis=2)
            np.testing.assert_allclose(mine[ours][near], (its - anchor[partner][:, None])[near], atol=6e-3)
            compared += int(near.sum())
    assert compared > 5000


def test_our_rows_are_those_of_the_book(tmp_path: Path, book: Path, episode: Episode) -> None:
    write_release_episode(episode, episode.video.frames, tmp_path, "walk", TraceextractParameters(), Report())  # type: ignore[arg-type]
    samples = tmp_path / "samples"
    frames, offsets = np.load(samples / "frame_indices.npy"), np.load(samples / "offsets.npy")
    # The last frames, after which nothing moves by one step of traj, have no rows; the book leaves out only the very last.
    assert T - 4 <= len(frames) < T
    for path in sorted((book / "samples").iterdir()):
        mine = np.load(samples / path.name)
        its = np.load(path)[: {"frame_indices": len(frames), "offsets": len(frames) + 1}.get(path.stem, offsets[-1])]
        assert (mine.shape, mine.dtype) == (its.shape, its.dtype), path.name
        if its.dtype.kind != "f":
            np.testing.assert_array_equal(mine, its)
            continue
        finite = np.isfinite(its)
        np.testing.assert_array_equal(np.isfinite(mine), finite)
        np.testing.assert_allclose(mine[finite].astype(float), its[finite].astype(float), rtol=2**-10, atol=2e-3)
    mine, its = dict(np.load(tmp_path / "cameras.npz")), dict(np.load(book / "cameras.npz"))
    assert {name: value.dtype for name, value in mine.items()} == {name: value.dtype for name, value in its.items()}
    for name, value in its.items():
        np.testing.assert_allclose(mine[name], value, atol=1e-4)


def test_traj_is_the_path_at_equal_lengths(everything: Path, episode: Episode) -> None:
    """Of 12 keypoints the fastest 2 % are one, so that the path of the group grows by the largest step of any. In frames that show all
    tracks the rows themselves tell it, up to their rounding."""
    assert episode.tracks is not None
    traj, valid = np.load(everything / "traj.npy").astype(float), np.load(everything / "valid_steps.npy")
    raw, offsets = np.load(everything / "raw_traj.npy").astype(float), np.load(everything / "offsets.npy")
    raw[np.isinf(raw)] = np.nan
    compared = 0
    for slot, (start, stop) in enumerate(itertools.pairwise(offsets)):
        paths = raw[start:stop] / [WIDTH, HEIGHT, 1]
        if stop - start < episode.tracks.valid[slot].sum():
            continue
        targets, place, length = 0, 0, 0.0
        while place < T - slot - 1:
            step = np.linalg.norm(paths[:, place + 1] - paths[:, place], axis=1).max()
            while 0.05 * targets <= length + step and targets < 128:
                expected = paths[:, place] + (0.05 * targets - length) / step * (paths[:, place + 1] - paths[:, place])
                if valid[start:stop, targets].all():
                    np.testing.assert_allclose(traj[start:stop, targets] / [WIDTH, HEIGHT, 1], expected, atol=0.02)
                    compared += 1
                targets += 1
            length, place = length + step, place + 1
        assert abs(valid[start:stop].sum(axis=1).max() - targets) <= 1
    assert compared > 100


def test_rows_in_another_order_make_the_same_tracks(copied: Path, episode: Episode) -> None:
    samples = copied / "samples"
    offsets, random = np.load(samples / "offsets.npy"), np.random.default_rng(0)
    order = np.concatenate([start + random.permutation(stop - start) for start, stop in itertools.pairwise(offsets)])
    for path in samples.iterdir():
        if path.stem not in ("offsets", "frame_indices"):
            np.save(path, np.load(path)[order])
    assert episode.tracks is not None
    partners(tracks_of(copied), episode.tracks)


def test_rows_in_one_place_are_told_apart_by_their_cluster_and_their_order(copied: Path) -> None:
    """Each row three times, the third in a cluster of its own."""
    samples = copied / "samples"
    for path in samples.iterdir():
        values = np.load(path)
        if path.stem == "offsets":
            np.save(path, values * 3)
        elif path.stem != "frame_indices":
            values = np.repeat(values, 3, axis=0)
            if path.stem == "cluster_ids":
                values[2::3] += 100
            np.save(path, values)
    found = tracks_of(copied)
    assert found.valid.shape[1] == 3 * len(MOVING)
    assert (found.entity >= 100).sum() == len(MOVING)
    for n in range(0, 3 * len(MOVING), 3):
        np.testing.assert_array_equal(found.xyz_world[:, n], found.xyz_world[:, n + 1])


def test_an_episode_without_rows_has_no_tracks(copied: Path) -> None:
    for path in (copied / "samples").iterdir():
        np.save(path, np.zeros(1, np.int64) if path.stem == "offsets" else np.load(path)[:0])
    assert tracks_of(copied).valid.shape == (T, 0)
