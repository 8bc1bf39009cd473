"""Checkpoints come back as they were, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tracekit.errors import BadDataError, CannotCreateError, MissingInputError, StorageError
from tracekit.format.atomic_folder import new_folder
from tracekit.mu0.checkpoint import Checkpoint, load_model, save, stored_weights
from tracekit.mu0.example_batch import example_batch
from tracekit.mu0.model import Mu0
from tracekit.mu0.presets import PRESETS, build, load_pretrained_parts, tokenizer_of
from tracekit.mu0.references import make_references
from tracekit.mu0.statistics import CorpusStatistics
from tracekit.training.optimiser import trained_parameters
from tracekit.training.run_folder import RunFolder, find_checkpoint
from tracekit.training.train_state import TrainState

STATISTICS = CorpusStatistics((0.1, 0.2, 0.3), (-1.0, 1.5), 0.1, False, True)
TINY = PRESETS["tiny-random"]


def write(folder: Path, model: Mu0, *, embed_frozen: bool = False, step: int = 7) -> Path:
    references = {} if embed_frozen else make_references(model)
    optimiser = {
        f"{kind}/{name}": torch.full(value.shape if kind != "step" else (), 0.25)
        for name, value in trained_parameters(model).items()
        for kind in ("exp_avg", "exp_avg_sq", "step")
    }
    save(
        folder,
        model.config,
        stored_weights(model, embed_frozen=not references),
        STATISTICS,
        references=references,
        train_state=TrainState(step, 0.5, optimiser),
    )
    return folder


def forge(folder: Path) -> None:
    """Make the manifest agree with whatever the files are now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def same_forecast(one: Mu0, other: Mu0) -> bool:
    batch = example_batch(one.config)
    with torch.no_grad():
        a, b = one.eval()(batch), other.eval()(batch)
    return torch.equal(a.velocity, b.velocity) and torch.equal(a.validity_logits, b.validity_logits)


@pytest.mark.parametrize("preset", ["tiny-random", "nano"])
def test_comes_back_as_it_was(tmp_path: Path, preset: str) -> None:
    model = build(PRESETS[preset], seed=3)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.01
    folder = write(tmp_path / "one", model)
    back, statistics = load_model(folder)
    assert same_forecast(model, back) and statistics == STATISTICS and back.config == model.config and not back.training
    assert not same_forecast(model, build(PRESETS[preset], seed=3))
    state = Checkpoint(folder).train_state()
    assert (state.step, state.score) == (7, 0.5)
    Checkpoint(folder).check_optimiser(state, {name: tuple(value.shape) for name, value in trained_parameters(model).items()})
    with pytest.raises(CannotCreateError):
        write(folder, model)


@pytest.fixture
def hub_folders(tmp_path: Path) -> tuple[str, str]:
    """Pretrained parts as a hub would give them."""
    donor = build(TINY, seed=11)
    donor.vlm.smolvlm.save_pretrained(tmp_path / "vlm")
    donor.local.model.save_pretrained(tmp_path / "dino")  # type: ignore[union-attr]
    return str(tmp_path / "vlm"), str(tmp_path / "dino")


def with_pretrained_parts(vlm: str, dino: str) -> Mu0:
    config = dataclasses.replace(TINY, vlm_source=vlm, dino_source=dino, depth_lora_rank=0)
    model = build(config, seed=1)
    load_pretrained_parts(model)
    return model


def test_frozen_hub_weights_are_named_not_stored(tmp_path: Path, hub_folders: tuple[str, str]) -> None:
    model = with_pretrained_parts(*hub_folders)
    folder = write(tmp_path / "named", model)
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    assert set(stored) == set(trained_parameters(model))
    assert same_forecast(model, load_model(folder)[0])
    whole = write(tmp_path / "whole", model, embed_frozen=True)
    assert (whole / "model.safetensors").stat().st_size > (folder / "model.safetensors").stat().st_size

    moved = tmp_path / "elsewhere"
    os.rename(hub_folders[0], moved)
    assert same_forecast(model, load_model(whole)[0]), "nothing but the checkpoint is needed"
    with pytest.raises(MissingInputError, match=r"weights of .*vlm"):
        load_model(folder)
    assert same_forecast(model, load_model(folder, vlm=str(moved))[0])
    build(TINY, seed=12).vlm.smolvlm.save_pretrained(moved)
    with pytest.raises(BadDataError, match=r"are not those that .*named was trained with"):
        load_model(folder, vlm=str(moved))


def test_pretrained_weights_of_another_architecture_are_refused(tmp_path: Path, hub_folders: tuple[str, str]) -> None:
    """transformers would give what is missing random values."""
    vlm, dino = hub_folders
    with pytest.raises(BadDataError, match=r"weights of .*dino are of another architecture"):
        with_pretrained_parts(dino, dino)
    with pytest.raises(BadDataError, match=r"weights of .*vlm are of another architecture"):
        with_pretrained_parts(vlm, vlm)
    path = Path(vlm) / "model.safetensors"
    stored = safetensors.torch.load_file(path)
    name = "model.text_model.layers.1.mlp.down_proj.weight"
    safetensors.torch.save_file({**stored, name: torch.zeros(3, 4)}, path, metadata={"format": "pt"})
    with pytest.raises(BadDataError, match=rf"do not hold {re.escape(name)} of shape \(32, 48\)"):
        with_pretrained_parts(vlm, dino)
    del stored[name]
    safetensors.torch.save_file(stored, path, metadata={"format": "pt"})
    with pytest.raises(BadDataError, match=rf"do not hold {re.escape(name)}(\n|$)"):
        with_pretrained_parts(vlm, dino)


def test_a_tokenizer_with_a_program_of_its_own_is_refused(tmp_path: Path) -> None:
    asks = {"tokenizer_class": "Strange", "auto_map": {"AutoTokenizer": ["strange.Strange", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(asks))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "strange.py").write_text("raise SystemError('was run')")
    with pytest.raises(MissingInputError, match=r"is not to be had"):
        tokenizer_of(dataclasses.replace(TINY, tokenizer="hub", vlm_source=str(tmp_path)))


def test_the_vlms_tokenizer_comes_along(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "Task": 1, ":": 2, "lift": 3, "it": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path / "hub")
    config = dataclasses.replace(TINY, tokenizer="hub", vlm_source=str(tmp_path / "hub"), max_text_tokens=4)
    model = build(config)
    tokenizer = tokenizer_of(config)
    save(tmp_path / "one", config, stored_weights(model, embed_frozen=True), STATISTICS, tokenizer=tokenizer)
    os.rename(tmp_path / "hub", tmp_path / "gone")
    ids, present = Checkpoint(tmp_path / "one").tokenizer()(["lift it", ""])
    assert ids.tolist() == [[1, 2, 3, 4], [1, 2, 0, 0]] and present.all()


FILES = ["model.safetensors", "config.json", "stats.json", "train_state/optimizer.safetensors", "train_state/state.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    folder = write(tmp_path / "one", build(TINY))
    content = bytearray((folder / name).read_bytes())
    if damage == "gone":
        (folder / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(BadDataError) as caught:
        load_model(folder)
    assert str(folder / name) in caught.value.message


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple:
        return open, (str(self._canary), "w")


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_is_refused_and_nothing_in_it_runs(tmp_path: Path, writer: str) -> None:
    folder, canary = write(tmp_path / "one", build(TINY)), tmp_path / "canary"
    if writer == "pickle":
        (folder / "model.safetensors").write_bytes(pickle.dumps(_Bomb(canary)))
    else:
        torch.save(_Bomb(canary), folder / "model.safetensors")
    forge(folder)
    with pytest.raises(BadDataError, match=r"model.safetensors is no safetensors file"):
        load_model(folder)
    assert not canary.exists()


def test_missing_unknown_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", build(TINY))
    path = folder / "model.safetensors"
    whole = safetensors.torch.load_file(path)
    for changed, message in (
        ({name: value for name, value in whole.items() if name != "velocity.bias"}, "has no velocity.bias"),
        ({**whole, "surplus": torch.zeros(1)}, "has the unknown surplus"),
        ({**whole, "velocity.bias": torch.zeros(2)}, r"velocity.bias has shape \(2,\), but \(30,\) is expected"),
    ):
        safetensors.torch.save_file(changed, path)
        forge(folder)
        with pytest.raises(BadDataError, match=message):
            load_model(folder)


def test_the_optimisers_state_must_be_that_of_the_network(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", build(TINY))
    checkpoint = Checkpoint(folder)
    shapes = {name: tuple(value.shape) for name, value in trained_parameters(build(TINY)).items()}
    with pytest.raises(BadDataError, match="has no exp_avg/other"):
        checkpoint.check_optimiser(checkpoint.train_state(), {**shapes, "other": (1,)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version 2, but this tracekit reads version 1"),
        ({"format": "something/else"}, "is not of format tracekit/checkpoint"),
        ({"files": {}}, "does not list config.json"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    folder = write(tmp_path / "one", build(TINY))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(BadDataError, match=message):
        load_model(folder)


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", build(TINY))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../etc/passwd"] = {"bytes": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadDataError, match="outside the checkpoint"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("stats.json", {"delta_scale": [1.0, 0.0, 1.0]}, "positive numbers"),
        ("stats.json", {"metric": "yes"}, "metric is 'yes'"),
        ("config.json", {"surplus": 1}, "exactly network and references"),
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path: Path, name: str, change: dict, message: str) -> None:
    folder = write(tmp_path / "one", build(TINY))
    (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **change}))
    forge(folder)
    with pytest.raises(BadDataError, match=message):
        load_model(folder)


def change_network(folder: Path, path: str, value: object) -> None:
    """Set an entry of the configuration, "vlm.text_config.hidden_size", as a stranger would."""
    content = json.loads((folder / "config.json").read_text())
    *outer, name = path.split(".")
    part = content["network"]
    for entry in outer:
        part = part[entry]
    part[name] = value
    (folder / "config.json").write_text(json.dumps(content))
    forge(folder)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("history_group", 0, "history_group is 0"),
        ("history", -8, "history is -8"),
        ("history_group", 3, "tokens of 3 do not divide"),
        ("horizon", 10**12, r"horizon is 1000000000000"),
        ("basis", "haar", "haar"),
        ("expert_width", math.nan, "expert_width is nan"),
        ("expert_width", 1e-9, "describes no network|has shape"),
        ("vlm", {}, "vocab_size"),
        ("vlm", {"text_config": [], "vision_config": 3}, "vlm.text_config is"),
        ("vlm.text_config.num_hidden_layers", 10**9, "1000000000 layers"),
        ("vlm.vision_config.num_hidden_layers", "two", "'two' layers"),
        ("vlm.text_config.vocab_size", 0, "vocab_size"),
        ("vlm.text_config.model_type", "no-such", "describes no network"),
        ("vlm.text_config.hidden_size", "wide", "describes no network"),
        ("vlm.text_config.num_attention_heads", 0, "describes no network|has shape"),
        ("vlm.attn_implementation", "somebody/kernel", "chooses attn_implementation"),
        ("dino.hidden_size", 10**30, "describes no network"),
        ("dino.patch_size", 0, "describes no network"),
    ],
)
def test_configurations_of_strangers_that_make_no_network_are_bad_data(tmp_path: Path, path: str, value: object, message: str) -> None:
    folder = write(tmp_path / "one", build(TINY))
    change_network(folder, path, value)
    with pytest.raises(BadDataError, match=message):
        load_model(folder)


def test_an_absurd_size_is_refused_before_there_is_memory_for_it(tmp_path: Path) -> None:
    """A terabyte of embeddings, in a process that may have four gigabytes more than it has now."""
    folder = write(tmp_path / "one", build(TINY))
    change_network(folder, "vlm.text_config.vocab_size", 8_000_000_000 // 4 - 1)
    change_network(folder, "vlm.text_config.pad_token_id", None)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    try:
        with pytest.raises(BadDataError, match=r"embed_tokens.weight has shape|lm_head.weight has shape"):
            load_model(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    "content", ['{"step": 1e999, "score": null}', '{"step": -1, "score": 1}', '{"step": 1, "score": NaN}', "[1]", "[" * 100_000]
)
def test_a_state_that_makes_no_sense_is_bad_data(tmp_path: Path, content: str) -> None:
    folder = write(tmp_path / "one", build(TINY))
    (folder / "train_state/state.json").write_text(content)
    forge(folder)
    with pytest.raises(BadDataError, match=r"state\.json"):
        Checkpoint(folder).train_state()


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.json", "train_state/more.safetensors", "tokenizer/deep/in/it"])
@pytest.mark.parametrize("is_link", [False, True])
def test_files_that_the_manifest_does_not_list_are_refused_where_folders_are_read(tmp_path: Path, name: str, is_link: bool) -> None:
    folder = write(tmp_path / "one", build(TINY))
    (folder / "notes.txt").write_text("nobody reads it")
    Checkpoint(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if is_link:
        (folder / name).symlink_to(tmp_path)
    else:
        (folder / name).write_text("{}")
    with pytest.raises(BadDataError, match=rf"{re.escape(name)} is not listed"):
        Checkpoint(folder)


def test_a_run_gives_its_best_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(MissingInputError, match="does not exist"):
        find_checkpoint(run.path)
    run.create()
    with pytest.raises(MissingInputError, match="no checkpoint"):
        find_checkpoint(run.path)
    model = build(TINY)
    for step in (10, 20, 30, 40):
        write(run.step_folder(step), model, step=step)
    assert find_checkpoint(run.path) == run.step_folder(40), "the newest where nothing was validated"
    scores = {10: 0.3, 20: 0.1, 30: 0.2}
    run.point(scores, "ade")
    assert find_checkpoint(run.path) == run.step_folder(20) and run.last() == run.step_folder(40)
    assert find_checkpoint(run.step_folder(10)) == run.step_folder(10)
    assert json.loads((run.path / "best.json").read_text())["checkpoint"] == "checkpoints/step-00000020"
    run.prune(scores, keep_last=1, keep_best=1)
    assert list(run.steps()) == [20, 40]
    assert [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")] == []


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CannotCreateError, match="holds other things"):
        RunFolder(tmp_path).create()
    with pytest.raises(CannotCreateError, match="is a file"):
        RunFolder(tmp_path / "thesis.txt").create()


def test_a_folder_that_fails_half_way_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "target") as folder:
        (folder / "half").write_text("of it")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds one checkpoint of the tiny network and half of another."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_leaves_the_one_before(small_disk: Path) -> None:
    model = build(TINY)
    write(small_disk / "one", model)
    with pytest.raises(StorageError, match="no space left"):
        write(small_disk / "two", model)
    assert [path.name for path in small_disk.iterdir()] == ["one"]
    assert same_forecast(model, load_model(small_disk / "one")[0])


def test_a_kill_at_any_moment_leaves_whole_checkpoints(tmp_path: Path) -> None:
    model, moments, interrupted = build(TINY), random.Random(0), 0
    for attempt in range(12):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        child = os.fork()
        if child == 0:  # saves until it is killed
            step = 0
            while True:
                step += 1
                write(folder / f"step-{step:08d}", model, step=step)
        time.sleep(moments.uniform(0.05, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for number, saved in enumerate(sorted(folder.glob("step-*")), 1):
            assert Checkpoint(saved).train_state().step == number
        interrupted += any(path.name.startswith(".") for path in folder.iterdir())
        write(folder / "after", model)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")], "what the killed process left is swept"
    assert interrupted, "no kill came while something was written"
