"""Policies come back as they were, with the world model that they were trained on, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from finetune_cases import plan, train, write_demos, write_world_model

from tracekit.action.checkpoint import PolicyCheckpoint, load_policy
from tracekit.action.example_batch import example_batch
from tracekit.action.training import open_world_model
from tracekit.errors import BadDataError, MissingInputError
from tracekit.mu0.checkpoint import Checkpoint, load_model


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, both of which are kept."""
    folder = tmp_path_factory.mktemp("trained")
    what = plan(write_world_model(folder / "mu0"), write_demos(folder / "demos.h5"), steps=2, engine={"save_every": 1})
    return train(what, folder / "run").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def step(run: Path) -> Path:
    return run / "checkpoints" / "step-00000002"


def forge(folder: Path) -> None:
    """Make the manifest agree with whatever the files are now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change(folder: Path, name: str, path: str, value: Any) -> None:
    """Set an entry of a JSON file, "head.horizon", as a stranger would."""
    content = json.loads((folder / name).read_text())
    *outer, last = path.split(".")
    part = content
    for entry in outer:
        part = part[entry]
    part[last] = value
    (folder / name).write_text(json.dumps(content))
    forge(folder)


def chunks(path: Path, **options: Any) -> torch.Tensor:
    """What a policy does in a situation that is always the same."""
    policy = load_policy(path, **options)
    assert policy.frozen is not None
    batch = example_batch(policy.config, image_size=policy.image_size, vocabulary=60)
    return policy.expert.sample(dataclasses.replace(batch, features=policy.frozen.complete(batch)))


def test_comes_back_as_it_was(run: Path, step: Path) -> None:
    policy = load_policy(run)
    assert policy.checkpoint == step and not policy.expert.training
    assert policy.layout.agentview == "agentview_image" and policy.normalisation.kind == "quantile"
    learnt = policy.description.trained_on
    assert (learnt.demonstrations, learnt.frames, learnt.picture_size) == (4, 21, (16, 12)), "what is validated on is not learnt from"
    assert learnt.sentences == ("push it", "lift the red block up there")
    assert torch.equal(chunks(run), chunks(step)) and not torch.equal(chunks(run), chunks(step.with_name("step-00000001")))
    assert PolicyCheckpoint(step).train_state().step == 2


def test_the_run_holds_a_world_model_to_use(run: Path) -> None:
    model, statistics = load_model(run / "world_model")
    assert statistics == load_policy(run).statistics and model.config.name == "tiny-random"
    with pytest.raises(BadDataError, match="holds no state of a training"):
        Checkpoint(run / "world_model").train_state()


def test_the_world_model_must_be_the_one_that_it_was_trained_on(run: Path, step: Path, tmp_path: Path) -> None:
    expected = chunks(run)
    moved = shutil.move(run / "world_model", tmp_path / "elsewhere")
    with pytest.raises(MissingInputError, match=r"the world model of .*step-00000002 is not in .*world_model"):
        load_policy(run)
    assert torch.equal(chunks(run, world_model=moved), expected)
    other = write_world_model(tmp_path / "other", seed=1)
    with pytest.raises(BadDataError, match=r"was not trained on the world model in .*other"):
        load_policy(run, world_model=other)
    path = Path(moved) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadDataError, match=r"model\.safetensors is damaged"):
        load_policy(run, world_model=moved)


def test_a_damaged_world_model_of_a_run_is_written_anew(tmp_path: Path) -> None:
    world, demos = write_world_model(tmp_path / "mu0"), write_demos(tmp_path / "demos.h5")
    folder = tmp_path / "run"
    train(plan(world, demos, steps=1), folder)
    (folder / "checkpoints" / "step-00000001").rename(tmp_path / "gone")
    (folder / "world_model" / "stats.json").write_text("{}")
    train(plan(world, demos, steps=1), folder)
    assert Checkpoint(folder / "world_model").digest == Checkpoint(world).digest


def test_a_policy_is_no_world_model_and_a_world_model_no_policy(run: Path, step: Path) -> None:
    with pytest.raises(BadDataError, match=r"step-00000002/manifest.json is not of format tracekit/checkpoint"):
        open_world_model(run)
    with pytest.raises(BadDataError, match=r"world_model/manifest.json is not of format tracekit/policy"):
        load_policy(run / "world_model")
    with pytest.raises(MissingInputError, match="does not exist"):
        load_policy(run / "nothing")
    with pytest.raises(MissingInputError, match="there is no checkpoint in"):
        load_policy(run / "checkpoints")


FILES = ["model.safetensors", "config.json", "normalisation.json", "train_state/optimizer.safetensors", "train_state/state.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_file_is_named(step: Path, name: str, damage: str) -> None:
    content = bytearray((step / name).read_bytes())
    if damage == "gone":
        (step / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (step / name).write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(BadDataError) as caught:
        load_policy(step)
    assert str(step / name) in caught.value.message


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("config.json", "head.horizon", 10**9, "horizon is 1000000000"),
        ("config.json", "head.width", 64, "has shape"),
        ("config.json", "head.width", "wide", "width is 'wide'"),
        ("config.json", "head.method", "diffusion", "has no world model"),
        ("config.json", "head.surplus", 1, "unknown field surplus"),
        ("config.json", "surplus", 1, "exactly head, layout, world_model and trained_on"),
        ("config.json", "layout.state", "proprio", "names of datasets"),
        ("config.json", "world_model", None, "no digest"),
        ("config.json", "world_model", "", "a policy of method flow needs a world model"),
        ("config.json", "trained_on.frames", -1, "frames of trained_on"),
        ("config.json", "trained_on.picture_size", [0, 5], "picture_size of trained_on"),
        ("config.json", "trained_on.sentences", [3], "are no sentences"),
        ("normalisation.json", "action_scale", [1.0], "action_offset has 3 numbers"),
        ("normalisation.json", "kind", "best", "no normalisation 'best'"),
    ],
)
def test_descriptions_of_strangers_that_make_no_sense_are_bad_data(step: Path, name: str, path: str, value: Any, message: str) -> None:
    change(step, name, path, value)
    with pytest.raises(BadDataError, match=message):
        load_policy(step)


def test_scales_of_another_robot_are_refused(step: Path) -> None:
    for name in ("action_offset", "action_scale"):
        change(step, "normalisation.json", name, [1.0, 2.0])
    with pytest.raises(BadDataError, match="is about actions of 2 numbers, but 3 are expected"):
        load_policy(step)


def test_missing_unknown_and_misshapen_weights_are_named(step: Path) -> None:
    path = step / "model.safetensors"
    whole = safetensors.torch.load_file(path)
    for changed, message in (
        ({name: value for name, value in whole.items() if name != "action_out.bias"}, "has no action_out.bias"),
        ({**whole, "surplus": torch.zeros(1)}, "has the unknown surplus"),
        ({**whole, "action_out.bias": torch.zeros(2)}, r"action_out.bias has shape \(2,\), but \(32,\) is expected"),
    ):
        safetensors.torch.save_file(changed, path)
        forge(step)
        with pytest.raises(BadDataError, match=message):
            load_policy(step)


def test_files_that_the_manifest_does_not_list_are_refused_where_folders_are_read(step: Path) -> None:
    (step / "train_state" / "more.safetensors").write_text("{}")
    with pytest.raises(BadDataError, match=rf"{re.escape('train_state/more.safetensors')} is not listed"):
        load_policy(step)
