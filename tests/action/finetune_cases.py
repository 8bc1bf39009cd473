"""What tests of finetuning share: a tiny world model as pretrain leaves it, demonstrations, and a plan of four steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from demo_recordings import write_recordings

from tracekit.action.finetune_options import DemoOptions, HeadOptions
from tracekit.action.head_choice import choose_head, is_without_world_model
from tracekit.action.training import Plan, finetune, load_demos, open_world_model
from tracekit.mu0.checkpoint import save, stored_weights
from tracekit.mu0.presets import PRESETS, build
from tracekit.mu0.statistics import CorpusStatistics
from tracekit.report import Report
from tracekit.training.optimiser import trained_parameters
from tracekit.training.processes import Processes
from tracekit.training.recipe import EngineParameters, Recipe
from tracekit.training.run_folder import RunFolder
from tracekit.training.stop_signals import StopRequest
from tracekit.training.train_state import OPTIMISER_STATE, TrainState

ALONE = Processes(0, 1, torch.device("cpu"))


def write_world_model(folder: Path, seed: int = 0) -> Path:
    """A checkpoint of μ0 in the middle of its training."""
    model = build(PRESETS["tiny-random"], seed)
    optimiser = {
        f"{kind}/{name}": torch.zeros(value.shape if kind != "step" else ())
        for name, value in trained_parameters(model).items()
        for kind in OPTIMISER_STATE
    }
    statistics = CorpusStatistics((0.1, 0.2, 0.3), (-1.0, 1.5), 0.1, False, True)
    save(folder, model.config, stored_weights(model, embed_frozen=True), statistics, train_state=TrainState(5, 0.5, optimiser))
    return folder


def write_demos(path: Path, *, valid: bool = True, **changes: Any) -> Path:
    masks = {"train": [0, 1, 2, 3], "valid": [4]} if valid else None
    languages = ["push it", "lift the red block up there", "push it", "push it", "lift the red block up there"]
    return write_recordings(path, [5, 7, 3, 6, 5], masks=masks, languages=languages, **changes)


def plan(
    world: Path | None, demos: Path, *, engine: dict[str, Any] | None = None, head: dict[str, Any] | None = None, **changes: Any
) -> Plan:
    """Four steps of the smallest head; `changes` are of the recipe, of what is learnt from, or of the plan."""
    recipe: dict[str, Any] = {"steps": 4, "batch_size": 4, "warmup": 1, "learning_rate": 1e-3, "clip_norm": 1.0}
    recipe |= {name: changes.pop(name) for name in list(changes) if name in Recipe.__dataclass_fields__}
    data: dict[str, Any] = {"workers": 0, "draws": 2}
    data |= {name: changes.pop(name) for name in list(changes) if name in DemoOptions.__dataclass_fields__}
    settings = {"micro_batch": 4, "validate_every": 0, "precision": "fp32"} | (engine or {})
    options = HeadOptions(**{"head": "pico", "horizon": 4, "execute": 2, **(head or {})})
    index = load_demos([str(demos)], DemoOptions(**data), Report())
    opened = None if is_without_world_model(options.head) else open_world_model(str(world))
    widths = opened.widths if opened is not None else None
    config = choose_head("tiny", options, index.action_size, index.state_size, widths, Report(), has_gripper_camera=True)
    # So that a test takes no longer than it must.
    config = dataclasses.replace(config, grid=4, gripper_size=32, sampling_steps=2)
    return Plan(config, Recipe(**recipe), EngineParameters(**settings), DemoOptions(**data), index, opened, **changes)


def train(what: Plan, folder: Path, **options: Any) -> RunFolder:
    run = RunFolder(folder)
    finetune(what, run, ALONE, StopRequest(), Report(), **options)
    return run
