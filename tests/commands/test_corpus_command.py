"""tracekit fit-bspline: many episodes to one corpus, in one go or in shards that are merged, with or without pictures."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from corpus_clips import clip, pictures, write_clip
from run_command import peak_kilobytes, shell

from tracekit.cli import run
from tracekit.format.file import Target, in_millimetres, open_records, write_records
from tracekit.format.schema import CORPUS, PREDICTIONS
from tracekit.records import Corpus, Predictions
from tracekit.video import open_clip

EMBED = ("--embed-images", "--embed-depth")


def fit(*arguments: object) -> tuple[int, str]:
    """Exit code and what was said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = run(["fit-bspline", *map(str, arguments)])
    return code, said.getvalue()


def corpus_of(*arguments: object) -> Path:
    code, said = fit(*arguments)
    assert code == 0, said
    return Path(str(arguments[-1]))


def read(path: Path) -> Corpus:
    with open_records(path, CORPUS) as file:
        file.validate_everything()
        return file.read("")


def contents(path: Path) -> dict[str, object]:
    """Every attribute and the bytes of every dataset but the history of the file."""
    found: dict[str, object] = {}
    with h5py.File(path) as file:
        found.update(file.attrs)
        file.visititems(
            lambda name, item: (
                found.update({name: (item.shape, item.dtype, item.chunks, item[()].tobytes())}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [
        write_clip(folder, 0),
        write_clip(folder, 1, num_frames=90),
        write_clip(folder, 2, depth=False),
        write_clip(folder, 3, captioned=False),
    ]


@pytest.fixture(scope="module")
def whole(clips: list[Path]) -> Path:
    return corpus_of(*clips, *EMBED, "-o", clips[0].parent / "whole.h5")


# --- shards and merges


def test_shards_with_common_scales_merge_to_the_corpus_of_one_go(clips: list[Path], whole: Path, tmp_path: Path) -> None:
    assert fit(*clips, "--stats-only", "-o", tmp_path / "stats.json")[0] == 0
    parts = [clips[:2], clips[2:3], clips[3:]]
    shards = [
        corpus_of(*part, *EMBED, "--scale", tmp_path / "stats.json", "-o", tmp_path / f"{number}.h5") for number, part in enumerate(parts)
    ]
    merged = corpus_of(*shards, "-o", tmp_path / "merged.h5")
    assert contents(merged) == contents(whole)
    of_merges = corpus_of(corpus_of(*shards[:2], "-o", tmp_path / "some.h5"), shards[2], "-o", tmp_path / "again.h5")
    assert contents(of_merges) == contents(whole)


def test_the_same_episodes_give_the_same_corpus(clips: list[Path], whole: Path, tmp_path: Path) -> None:
    assert contents(corpus_of(*clips, *EMBED, "-o", tmp_path / "again.h5")) == contents(whole)
    # Scales do not depend on the order of the episodes.
    other = read(corpus_of(*clips[::-1], "-o", tmp_path / "other.h5"))
    np.testing.assert_array_equal(other.delta_scale, read(whole).delta_scale)
    np.testing.assert_array_equal(other.depth_log_range, read(whole).depth_log_range)


def test_array_tasks_take_every_nth_episode(clips: list[Path], whole: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "episodes.txt"
    manifest.write_text("\n".join(map(str, clips)))
    shards = [
        corpus_of("--manifest", manifest, "--shard", f"{task}/3", "--scale", whole, "-o", tmp_path / f"{task}.h5") for task in range(3)
    ]
    assert [read(shard).clip_name for shard in shards] == [["clip-0", "clip-3"], ["clip-1"], ["clip-2"]]
    nothing = corpus_of(clips[0], "--shard", "1/2", "--scale", whole, "-o", tmp_path / "nothing.h5")
    assert read(nothing).clip_name == [] and fit(nothing, *shards, "-o", tmp_path / "merged.h5")[0] == 0


def test_a_merge_names_the_shards_that_are_missing(clips: list[Path], whole: Path, tmp_path: Path) -> None:
    there = corpus_of(clips[0], "--scale", whole, "-o", tmp_path / "shard-0.h5")
    manifest = tmp_path / "shards.txt"
    manifest.write_text("shard-0.h5\nshard-1.h5\nshard-2.h5\n")
    code, said = fit("--manifest", manifest, "-o", tmp_path / "merged.h5")
    assert code == 65 and "2 of 3 sources do not exist: shard-1, shard-2" in said
    assert fit(there, tmp_path / "absent.h5", "-o", tmp_path / "merged.h5")[0] == 66
    assert not (tmp_path / "merged.h5").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (("--ridge", 0.3), "ridge is 0.2 in {0} and 0.3 in {1}"),
        (("--horizon", 16), "future has 32 steps or points in {0} and 16 in {1}"),
        (("--clip", 3), "clip_limit is 1.5 in {0} and 3.0 in {1}"),
        (("--basis", "uniform"), "basis is bezier in {0} and uniform in {1}"),
        (("--retarget",), "retargeted is 0 in {0} and 1 in {1}"),
        (("--embed-images",), "{1} embeds pictures, {0} does not"),
        (("--embed-depth",), "{1} embeds depth, {0} does not"),
    ],
)
def test_shards_that_do_not_go_together_are_refused_by_both_names(
    clips: list[Path], whole: Path, tmp_path: Path, changes: tuple, match: str
) -> None:
    one = corpus_of(clips[0], "--scale", whole, "-o", tmp_path / "one.h5")
    other = corpus_of(clips[1], "--scale", whole, *changes, "-o", tmp_path / "other.h5")
    code, said = fit(one, other, "-o", tmp_path / "merged.h5")
    assert code == 65 and match.format(one, other) in said.replace("True", "1").replace("False", "0"), said
    assert not (tmp_path / "merged.h5").exists()


def test_shards_with_scales_of_their_own_are_refused(clips: list[Path], tmp_path: Path) -> None:
    shards = [corpus_of(path, "-o", tmp_path / f"own-{path.stem}.h5") for path in clips[:2]]
    code, said = fit(*shards, "-o", tmp_path / "merged.h5")
    assert code == 65 and "delta_scale is" in said and "--scale FILE" in said


def test_a_clip_that_comes_twice_is_refused(clips: list[Path], whole: Path, tmp_path: Path) -> None:
    shard = corpus_of(clips[0], *EMBED, "--scale", whole, "-o", tmp_path / "shard.h5")
    copy = tmp_path / "copy.h5"
    copy.write_bytes(clips[0].read_bytes())
    for sources in ((shard, whole), (clips[0], copy)):
        code, said = fit(*sources, "-o", tmp_path / "twice.h5")
        assert code == 65 and f"{sources[0]} and {sources[1]} are both of the clip clip-0" in said


def test_what_has_no_meaning_in_a_merge_is_refused(whole: Path, tmp_path: Path) -> None:
    for flag in (["--stats-only"], ["--scale", whole], ["--embed-images"], ["--skip-bad"]):
        code, said = fit(whole, *flag, "-o", tmp_path / "out.h5")
        assert code == 2 and str(flag[0]) in said


def test_episodes_and_corpora_do_not_mix(clips: list[Path], whole: Path, tmp_path: Path) -> None:
    code, said = fit(clips[0], whole, "-o", tmp_path / "out.h5")
    assert code == 65 and "tracekit/corpus, but tracekit/episode is expected" in said


def test_what_is_neither_is_told_what_both_are(clips: list[Path], tmp_path: Path) -> None:
    rows = np.zeros((1, 1, 2, 3), np.float32)
    one = np.zeros(1, np.int32)
    predictions = Predictions(["c"], one, [""], one, one, one.astype(np.uint8), rows[0, 0, :1], rows)
    with write_records(Target(tmp_path / "predictions.h5"), PREDICTIONS) as writer:
        writer.put(predictions)
    code, said = fit(tmp_path / "predictions.h5", "-o", tmp_path / "out.h5")
    assert code == 65 and "predictions.h5 is of format tracekit/predictions, but tracekit/episode or tracekit/corpus is expected" in said
    code, said = fit("--skip-bad", tmp_path / "predictions.h5", clips[0], "-o", tmp_path / "out.h5")
    assert code == 0 and "left out" in said and read(tmp_path / "out.h5").clip_name == ["clip-0"]


# --- pictures and depth


def test_embedded_pictures_are_the_frames_within_the_error_of_jpeg(clips: list[Path], whole: Path) -> None:
    corpus = read(whole)
    assert corpus.image_offset is not None and corpus.image_jpeg is not None
    for sample, (number, frame) in enumerate(zip(corpus.sample_clip, corpus.sample_frame, strict=True)):
        encoded = corpus.image_jpeg[slice(*corpus.image_offset[sample : sample + 2])]
        picture = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        truth = pictures(number, 90 if number == 1 else 64)[frame]
        assert picture.shape == truth.shape and np.abs(picture.astype(float) - truth).mean() < 6


def test_embedded_depth_is_that_of_the_geometry_in_millimetres(clips: list[Path], whole: Path) -> None:
    corpus = read(whole)
    assert corpus.depth_offset is not None and corpus.depth_png is not None
    truth = in_millimetres(clip(clips[0].parent, 0).geometry.depth[0])[0]
    for sample, number in enumerate(corpus.sample_clip):
        encoded = corpus.depth_png[slice(*corpus.depth_offset[sample : sample + 2])]
        if number == 2:  # has none
            assert len(encoded) == 0
        else:
            np.testing.assert_array_equal(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), truth)
    with open_records(whole, CORPUS) as file:
        assert file.steps()[-1].counts["samples without depth"] == np.count_nonzero(corpus.sample_clip == 2)


def test_pictures_can_be_stretched_to_a_square_of_any_quality(clips: list[Path], tmp_path: Path) -> None:
    sizes = []
    for quality in (30, 95):
        corpus = read(corpus_of(clips[0], *EMBED, "--image-size", 40, "--jpeg-quality", quality, "-o", tmp_path / f"{quality}.h5"))
        assert corpus.image_jpeg is not None and corpus.image_offset is not None
        assert corpus.depth_png is not None and corpus.depth_offset is not None
        first = slice(*corpus.image_offset[:2])
        assert cv2.imdecode(corpus.image_jpeg[first], cv2.IMREAD_COLOR).shape == (40, 40, 3)
        assert cv2.imdecode(corpus.depth_png[slice(*corpus.depth_offset[:2])], cv2.IMREAD_UNCHANGED).shape == (40, 40)
        sizes.append(len(corpus.image_jpeg))
    assert sizes[0] < sizes[1]


def test_without_embedding_a_corpus_names_video_and_frame(clips: list[Path], tmp_path: Path) -> None:
    corpus = read(corpus_of(clips[0], "-o", tmp_path / "corpus.h5"))
    assert corpus.image_jpeg is None and corpus.depth_png is None
    video, _ = open_clip(corpus.clip_uri[0])
    assert video.sha256 == corpus.clip_sha256[0]
    np.testing.assert_array_equal(corpus.sample_source_frame, corpus.sample_frame)


# --- what fails


def test_an_episode_that_fails_half_way_leaves_nothing_behind(clips: list[Path], tmp_path: Path) -> None:
    """Its rows are written before its pictures turn out to be missing."""
    lost = write_clip(tmp_path, 9)
    (tmp_path / "clip-9.mp4").unlink()
    for order in ([lost, *clips[:2]], [clips[0], lost, clips[1]]):
        code, said = fit(*order, *EMBED, "-o", tmp_path / "stopped.h5")
        assert code == 66 and "clip-9.mp4 is not there" in said and not (tmp_path / "stopped.h5").exists()
        result = corpus_of(*order, *EMBED, "--skip-bad", "--force", "-o", tmp_path / "skipped.h5")
        assert contents(result) == contents(corpus_of(*clips[:2], *EMBED, "--force", "-o", tmp_path / "without.h5"))
        with open_records(result, CORPUS) as file:
            step = file.steps()[-1]
        assert step.counts["episodes left out because they could not be read"] == 1
        assert step.counts["samples"] == len(read(result).sample_clip) and step.inputs == ["clip-0", "clip-1"]


@pytest.mark.parametrize("flags", ["", "--skip-bad"])
def test_a_full_disk_is_what_the_user_is_told(clips: list[Path], tmp_path: Path, flags: str) -> None:
    done = shell(
        f"ulimit -f 60; tracekit fit-bspline {' '.join(map(str, clips))} --embed-images --embed-depth {flags} -o {tmp_path}/out.h5"
    )
    assert done.returncode == 74 and b"size limit" in done.stderr, done.stderr.decode()
    assert not list(tmp_path.iterdir())


_FILLS_THE_DISK = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from tracekit.extract.build_corpus import CorpusBuilder
from tracekit.extract.corpus_pictures import PictureParameters, without_samples
from tracekit.extract.fit_bspline import FitBsplineParameters, empty
from tracekit.format.file import Target, write_records
from tracekit.format.schema import CORPUS

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
head = without_samples(empty(FitBsplineParameters()), PictureParameters())
said = []
with write_records(Target(Path(sys.argv[1]), False), CORPUS) as writer:
    builder = CorpusBuilder(writer)
    truncated = writer.truncate
    writer.truncate = lambda *arguments: said.append("taken back") or truncated(*arguments)
    for name, number in (("large", 60_000), ("small", 1)):
        try:
            with builder.source(head, name, has_rows=True):
                builder.append("future", np.random.default_rng(0).random((number, *head.future.shape[1:])).astype(head.future.dtype))
        except (OSError, RuntimeError) as error:
            said.append(name + (" failed" if "errno = 27" in str(error) else str(error)))
    print("; ".join(said), flush=True)
    os._exit(0)
"""


def test_nothing_is_taken_back_on_a_full_disk_nor_added_later(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _FILLS_THE_DISK, tmp_path / "out.h5"], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "large failed; small failed", (done.stdout, done.stderr)


def test_scales_that_are_none_are_refused(clips: list[Path], tmp_path: Path) -> None:
    scales = tmp_path / "scales.json"
    for text in ('{"delta_scale": [1, 0, 1], "depth_log_range": [0, 1]}', '{"delta_scale": [1, 1]}', "{broken"):
        scales.write_text(text)
        assert fit(clips[0], "--scale", scales, "-o", tmp_path / "out.h5")[0] == 65
    scales.write_text(json.dumps({"delta_scale": [0.5, 0.5, 0.1], "depth_log_range": [0.0, 1.0]}))
    np.testing.assert_array_equal(read(corpus_of(clips[0], "--scale", scales, "-o", tmp_path / "out.h5")).delta_scale, [0.5, 0.5, 0.1])


def test_a_flipped_bit_in_a_shard_stops_the_merge_and_is_named(clips: list[Path], whole: Path, tmp_path: Path) -> None:
    shard = corpus_of(clips[0], *EMBED, "--scale", whole, "-o", tmp_path / "shard.h5")
    with h5py.File(shard) as file:
        place = file["rows/future"].id.get_chunk_info(0).byte_offset + 100
    damaged = bytearray(shard.read_bytes())
    damaged[place] ^= 1
    shard.write_bytes(damaged)
    code, said = fit(shard, "-o", tmp_path / "merged.h5")
    assert code == 65 and "rows/future" in said and "checksum" in said and not (tmp_path / "merged.h5").exists()


def test_many_names_are_shortened_in_the_history() -> None:
    from tracekit.commands.fit_bspline import shortened

    names = [str(number) for number in range(2500)]
    assert shortened(names[:1000]) == names[:1000]
    assert shortened(names) == [*names[:1000], "... and 1500 more"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Of the bundled sample under many names, fitted and merged: three times the clips, at most 1.3 times the memory."""
    sample = Path(str(files("tracekit") / "samples" / "pick-place-v3_orbit_0_0.truth.h5"))
    (tmp_path / "pick-place-v3_orbit_0_0.mp4").write_bytes(sample.with_name("pick-place-v3_orbit_0_0.mp4").read_bytes())
    copies = []
    for number in range(24):
        copies.append(tmp_path / f"copy-{number}.h5")
        copies[-1].write_bytes(sample.read_bytes())
        with h5py.File(copies[-1], "r+") as file:
            file.attrs["clip_id"] = f"copy-{number}"
    peaks = []
    for episodes in (copies[:8], copies):
        corpus, merged = tmp_path / f"{len(episodes)}.h5", tmp_path / f"{len(episodes)}-merged.h5"
        fitting = peak_kilobytes("fit-bspline", "-q", *episodes, "--every", 1, "--embed-images", "-o", corpus)
        peaks.append((fitting, peak_kilobytes("fit-bspline", "-q", corpus, "-o", merged)))
    assert corpus.stat().st_size > 150e6
    assert peaks[1][0] <= 1.3 * peaks[0][0] and peaks[1][1] <= 1.3 * peaks[0][1], peaks
