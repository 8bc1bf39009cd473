"""Cached features: what μ0 itself says, whatever happens while they are written."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from demo_features import TOKENIZER, WORLD, expert, two_files, world
from demo_recordings import pictures, write_recordings

from tracekit.action import feature_writer
from tracekit.action.batch import ActionBatch, Features
from tracekit.action.collate import ActionCollate
from tracekit.action.config import ActionConfig
from tracekit.action.dataset import DemoDataset
from tracekit.action.demo_index import DemoIndex
from tracekit.action.feature_cache import FeatureCache, build_cache, find_cache, world_digest
from tracekit.action.frozen import FrozenMu0, feature_widths
from tracekit.action.model import ActionExpert
from tracekit.action.normalisation import Normalisation
from tracekit.errors import BadDataError, ResumableError, StorageError
from tracekit.format.demo_file import DemoLayout
from tracekit.mu0.model import Mu0
from tracekit.report import Report

PLAIN = Normalisation("identity", (0.0,) * 2, (1.0,) * 2, (0.0,) * 3, (1.0,) * 3)
COLLATE = ActionCollate(TOKENIZER)


@pytest.fixture(scope="module")
def model() -> Mu0:
    return world()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_writer, "_FRAMES_PER_BLOCK", 4)
    monkeypatch.setattr(feature_writer, "_BATCH", 3)


def batches(index: DemoIndex, config: ActionConfig, cache: FeatureCache | None, size: int = 7) -> list[ActionBatch]:
    samples = DemoDataset(index, None, config, WORLD, PLAIN, seed=3, split="all", features=cache)
    return [COLLATE([samples[position] for position in range(first, first + size)]) for first in range(0, len(samples), size)]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("gripper", ["dinov2", "stem", "none"])
@pytest.mark.parametrize("use_trace", [True, False])
def test_cached_features_are_those_of_the_world_model_to_the_rounding_of_float16(
    tmp_path: Path, model: Mu0, gripper: str, use_trace: bool
) -> None:
    index = DemoIndex(two_files(tmp_path))
    config = expert(gripper_features=gripper, use_trace=use_trace)
    frozen = FrozenMu0(model, config)
    cache = build_cache(tmp_path / "cache", index, config, lambda: frozen, TOKENIZER)
    assert len(cache) == len(index) == 21
    for cached, batch in zip(batches(index, config, pickle.loads(pickle.dumps(cache))), batches(index, config, None), strict=True):
        assert cached.image is None and (cached.gripper is None) == (gripper != "stem")
        assert torch.equal(cached.position, batch.position) and torch.equal(cached.noise, batch.noise)
        truth, kept = frozen.complete(batch), frozen.complete(cached)
        assert kept is cached.features
        pooled = truth
        if truth.gripper is not None:  # what the expert takes of it first
            pooled = dataclasses.replace(truth, gripper=F.adaptive_avg_pool2d(truth.gripper.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))
        for field in dataclasses.fields(Features):
            one, other = getattr(pooled, field.name), getattr(kept, field.name)
            if one is None:
                assert other is None, field.name
                continue
            assert other is not None and other.shape == one.shape, field.name
            if one.dtype == torch.bool:
                assert torch.equal(one, other), field.name
                continue
            assert other.dtype == torch.float16
            present = {"vlm": truth.vlm_present, "words": truth.words_present}.get(field.name)
            if present is not None:
                one, other = one[present], other[present]
            torch.testing.assert_close(other.float(), one, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("gripper", ["dinov2", "stem"])
def test_an_expert_says_the_same_of_cached_features(tmp_path: Path, model: Mu0, gripper: str) -> None:
    index = DemoIndex(two_files(tmp_path))
    config = expert(gripper_features=gripper, stem_width=32)
    frozen = FrozenMu0(model, config)
    widths = feature_widths(model)
    torch.manual_seed(0)
    head = ActionExpert(config, widths.vlm, widths.trace, widths.gripper).eval()
    cache = build_cache(tmp_path / "cache", index, config, lambda: frozen, TOKENIZER)
    for cached, batch in zip(batches(index, config, cache), batches(index, config, None), strict=True):
        with torch.no_grad():
            one, other = (head(dataclasses.replace(each, features=frozen.complete(each))) for each in (batch, cached))
        torch.testing.assert_close(other, one, rtol=2e-3, atol=2e-3)
        assert one.std() > 0.1


def test_a_cache_is_found_without_a_world_model_and_only_when_it_is_whole(tmp_path: Path, model: Mu0) -> None:
    index = DemoIndex(two_files(tmp_path))
    digest = world_digest(model)
    folder = tmp_path / "cache"
    config = expert()
    assert find_cache(folder, index, config, digest, TOKENIZER) is None and not folder.exists()
    built = build_cache(folder, index, config, lambda: FrozenMu0(model, config), TOKENIZER)
    found = find_cache(folder, index, config, digest, TOKENIZER)
    assert found is not None
    np.testing.assert_array_equal(found.frame(20).vlm, built.frame(20).vlm)
    assert not list(folder.rglob("*.growing")) and not list(folder.rglob("progress.json"))
    next(folder.rglob("vlm.npy")).unlink()
    assert find_cache(folder, index, config, digest, TOKENIZER) is None


def count_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of frames that world models look at from now on."""
    seen: list[int] = []
    real = FrozenMu0.complete

    def counted(self: FrozenMu0, batch: ActionBatch) -> Features:
        seen.append(len(batch))
        return real(self, batch)

    monkeypatch.setattr(FrozenMu0, "complete", counted)
    return seen


def test_what_is_there_is_not_computed_again_and_serves_whatever_needs_no_more(
    tmp_path: Path, model: Mu0, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two_files(tmp_path)
    seen = count_computed(monkeypatch)

    def computed(files: list[Path], config: ActionConfig, network: Mu0 = model, **changes: Any) -> int:
        seen.clear()
        report = Report()
        index = DemoIndex(files, changes.get("layout"), language=changes.get("language", ""))
        build_cache(tmp_path / "cache", index, config, lambda: FrozenMu0(network, config), TOKENIZER, report=report)
        assert report.counts["frames whose features were computed"] == sum(seen)
        assert report.counts["frames whose features were cached already"] == len(index) - sum(seen)
        return sum(seen)

    assert computed([one], expert()) == 11
    assert computed([one], expert()) == 0
    # Another policy of the same world.
    assert computed([one], expert(use_trace=False, gripper_features="none", horizon=8, width=64, gate_init=-4.0)) == 0
    assert computed([one, other], expert()) == 10
    assert computed([other, one], expert()) == 0
    moved = one.rename(tmp_path / "moved.h5")
    assert computed([moved], expert()) == 0
    # Other questions, other eyes.
    assert computed([moved], expert(grid=8)) == 11
    assert computed([moved], expert(grid_pool=1)) == 11
    assert computed([moved], expert(gripper_pool=1)) == 11
    assert computed([moved], expert(), world(seed=1)) == 11
    swapped = DemoLayout("eye_in_hand_image", "agentview_image")
    assert computed([moved], expert(), layout=swapped) == 11
    # Other sentences: only the file of the demonstration without one has changed.
    assert computed([moved, other], expert(), language="wait") == 10
    # The same file but for one pixel, of the same size, written within the same moment.
    stamp = moved.stat()
    content = bytearray(moved.read_bytes())
    where = content.find(pictures(0, 3)[0].tobytes()[:32])
    content[where] ^= 1
    moved.write_bytes(content)
    os.utime(moved, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert computed([moved], expert()) == 11


def test_what_another_process_computes_meanwhile_is_not_counted_and_needs_no_world_model(tmp_path: Path, model: Mu0) -> None:
    """It looks before the other process is done, and gets the lock after."""
    index = DemoIndex(two_files(tmp_path))
    config, digest, folder = expert(), world_digest(model), tmp_path / "cache"
    reports = Report(), Report()

    def work_of_the_other() -> FrozenMu0:
        build_cache(folder, DemoIndex([index.files[1].path]), config, lambda: FrozenMu0(model, config), TOKENIZER, report=reports[1])
        return FrozenMu0(model, config)

    build_cache(folder, index, config, work_of_the_other, TOKENIZER, digest=digest, report=reports[0])
    assert [report.counts["frames whose features were computed"] for report in reports] == [11, 10]
    assert [report.counts["frames whose features were cached already"] for report in reports] == [10, 0]

    def never() -> FrozenMu0:
        raise AssertionError

    assert len(build_cache(folder, index, config, never, TOKENIZER, digest=digest)) == 21


def test_traces_join_what_was_made_without_them(tmp_path: Path, model: Mu0) -> None:
    index = DemoIndex(two_files(tmp_path))
    config = expert(use_trace=False, gripper_features="none")
    build_cache(tmp_path / "cache", index, config, lambda: FrozenMu0(model, config), TOKENIZER)
    before = files_of(tmp_path / "cache")
    assert not any("trace" in name for name in before)
    config = dataclasses.replace(config, use_trace=True)
    build_cache(tmp_path / "cache", index, config, lambda: FrozenMu0(model, config), TOKENIZER)
    after = files_of(tmp_path / "cache")
    assert all(after[name] == content for name, content in before.items() if name.endswith(".npy"))
    assert sum("trace" in name for name in after) == 4


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_build_that_is_stopped_goes_on_after_the_last_block(
    tmp_path: Path, model: Mu0, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    index = DemoIndex([write_recordings(tmp_path / "d.h5", [5, 7, 3])])
    config = expert()
    frozen = FrozenMu0(model, config)
    build_cache(tmp_path / "at-once", index, config, lambda: frozen, TOKENIZER)
    asked = iter(range(100))
    with pytest.raises(ResumableError, match=f"features of {4 * blocks} of 15 frames"):
        build_cache(tmp_path / "cache", index, config, lambda: frozen, TOKENIZER, should_stop=lambda: next(asked) == blocks - 1)
    assert find_cache(tmp_path / "cache", index, config, world_digest(model), TOKENIZER) is None
    # A block that was half written when the process died.
    for path in (tmp_path / "cache").rglob("*.growing"):
        with path.open("ab") as file:
            file.write(b"half a block")
    seen = count_computed(monkeypatch)
    report = Report()
    build_cache(tmp_path / "cache", index, config, lambda: frozen, TOKENIZER, report=report)
    assert sum(seen) == 15 - 4 * blocks == report.counts["frames whose features were computed"]
    one, other = files_of(tmp_path / "at-once"), files_of(tmp_path / "cache")
    assert one == other


_BUILD = """
import sys, time
from pathlib import Path
from tracekit.action import feature_cache, feature_writer
from demo_features import TOKENIZER, expert, world
from tracekit.action.demo_index import DemoIndex
from tracekit.action.frozen import FrozenMu0
from tracekit.report import Report

class Slow(Report):
    def progress(self, done, total, unit="frames"):
        print("block", flush=True)
        time.sleep(float(sys.argv[2]))

feature_writer._FRAMES_PER_BLOCK, feature_writer._BATCH = 4, 3
folder = Path(sys.argv[1])
index = DemoIndex([folder / "one.h5", folder / "other.h5"])
feature_cache.build_cache(folder / "cache", index, expert(), lambda: FrozenMu0(world(), expert()), TOKENIZER, report=Slow())
"""


def start_build(folder: Path, slow: float) -> subprocess.Popen[str]:
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", _BUILD, str(folder), str(slow)], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_a_build_that_is_killed_goes_on_and_two_at_once_do_not_disturb_each_other(tmp_path: Path, model: Mu0) -> None:
    index = DemoIndex(two_files(tmp_path))
    config = expert()
    build_cache(tmp_path / "at-once", index, config, lambda: FrozenMu0(model, config), TOKENIZER)
    killed = start_build(tmp_path, 60)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "block\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert find_cache(tmp_path / "cache", index, config, world_digest(model), TOKENIZER) is None
    assert list((tmp_path / "cache").rglob("*.growing"))
    both = [start_build(tmp_path, 0.05) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(output.count("block") for output in outputs) == 3 + 3 - 1  # each block once, and not the one that the killed process made
    assert without_memory(files_of(tmp_path / "at-once")) == without_memory(files_of(tmp_path / "cache"))


def without_memory(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name != "sources.json"}


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path: Path, model: Mu0, monkeypatch: pytest.MonkeyPatch) -> None:
    index = DemoIndex(two_files(tmp_path))
    config = expert()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    report = Report()
    with pytest.raises(StorageError, match=r"features need .* free in .*cache\n"):
        build_cache(tmp_path / "cache", index, config, lambda: FrozenMu0(model, config), TOKENIZER, report=report)
    assert not list((tmp_path / "cache").rglob("*.growing"))
    assert "kB a frame" in report.notes[0]


def test_a_disk_that_fills_up_stops_the_build_in_words_and_it_goes_on_later(tmp_path: Path, model: Mu0) -> None:
    """A real limit on the size of files."""
    index = DemoIndex(two_files(tmp_path))
    frozen = FrozenMu0(model, expert())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7_000, before[1]))
    try:
        with pytest.raises(StorageError, match="the file grew past the size limit"):
            build_cache(tmp_path / "cache", index, expert(), lambda: frozen, TOKENIZER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "cache").rglob("vlm.npy"))
    build_cache(tmp_path / "cache", index, expert(), lambda: frozen, TOKENIZER)
    build_cache(tmp_path / "at-once", index, expert(), lambda: frozen, TOKENIZER)
    assert files_of(tmp_path / "at-once") == files_of(tmp_path / "cache")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def pickled(path: Path) -> None:
    np.save(path, np.array([object()] * 11, dtype=object), allow_pickle=True)


def of_other_numbers(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float32))


def shorter(path: Path) -> None:
    np.save(path, np.load(path)[:1])


@pytest.mark.parametrize("spoil", [cut, pickled, of_other_numbers, shorter, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["vlm.npy", "words.npy", "trace-grid4-pool2.npy"])
def test_a_damaged_cache_is_named(tmp_path: Path, model: Mu0, spoil: Callable[[Path], object], name: str) -> None:
    index = DemoIndex([write_recordings(tmp_path / "d.h5", [3, 8], languages=["one", "two"])])
    config = expert()
    build_cache(tmp_path / "cache", index, config, lambda: FrozenMu0(model, config), TOKENIZER)
    spoil(next((tmp_path / "cache").rglob(name)))
    with pytest.raises(BadDataError, match=f"{name}(.|\n)*remove the folder .*cache"):
        find_cache(tmp_path / "cache", index, config, world_digest(model), TOKENIZER)


def test_numbers_that_float16_cannot_hold_are_not_cached(tmp_path: Path) -> None:
    network = world()
    with torch.no_grad():
        network.vlm.text.norm.weight.mul_(1e5)
    index = DemoIndex(two_files(tmp_path))
    with pytest.raises(BadDataError, match=r"frames 0 to 2 of .*one\.h5 hold numbers that float16 cannot"):
        build_cache(tmp_path / "cache", index, expert(), lambda: FrozenMu0(network, expert()), TOKENIZER)


def test_a_memory_of_sources_that_is_spoilt_costs_time_only(tmp_path: Path, model: Mu0, monkeypatch: pytest.MonkeyPatch) -> None:
    index = DemoIndex(two_files(tmp_path))
    build_cache(tmp_path / "cache", index, expert(), lambda: FrozenMu0(model, expert()), TOKENIZER)
    memory = tmp_path / "cache" / "sources.json"
    seen = count_computed(monkeypatch)
    for content in ("{", "[]", json.dumps({str(index.files[0].path): "x"}), json.dumps({"a": None})):
        memory.write_text(content)
        build_cache(tmp_path / "cache", index, expert(), lambda: FrozenMu0(model, expert()), TOKENIZER)
        assert len(json.loads(memory.read_text())) >= 2
    memory.unlink()
    memory.mkdir()  # cannot be written
    assert find_cache(tmp_path / "cache", index, expert(), world_digest(model), TOKENIZER) is not None
    assert not seen


def test_the_digest_of_a_world_is_that_of_its_weights_and_of_how_they_are_used() -> None:
    first = world_digest(world())
    assert first == world_digest(world())
    changed = world()
    with torch.no_grad():
        changed.velocity.bias[1] += 1e-3
    configured = world()
    configured.config = dataclasses.replace(configured.config, rope_base=5000.0)
    assert (
        len({first, world_digest(changed), world_digest(configured), world_digest(world().to(torch.bfloat16)), world_digest(world(1))}) == 5
    )
