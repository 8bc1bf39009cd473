"""What a finetuning would be: the resolved expert, its weights, and what it would learn from."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from tracekit.action.heads import build_head
from tracekit.action.training import Plan
from tracekit.training.loop import micro_batches
from tracekit.training.optimiser import trained_parameters
from tracekit.training.recipe import uses_bf16


def preview(plan: Plan, device: str, num_processes: int) -> dict[str, Any]:
    """As plain data. The expert is built without memory for its weights; nothing is trained or written."""
    with torch.device("meta"):
        model = build_head(plan.config, plan.world.widths if plan.world else None)
    size, parts = micro_batches(plan.recipe, plan.engine, num_processes)
    splits = [head.split for _, head in plan.index.demos]
    return {
        "head": plan.config.to_json(),
        "recipe": dataclasses.asdict(plan.recipe),
        "engine": dataclasses.asdict(plan.engine),
        "data": dataclasses.asdict(plan.data),
        "seed": plan.seed,
        "world_model": str(plan.world.checkpoint.folder) if plan.world else None,
        "num_parameters": sum(value.numel() for value in model.parameters()),
        "parts": {
            name: sum(value.numel() for value in trained_parameters(part).values())
            for name, part in model.named_children()
            if any(True for _ in part.parameters())
        },
        "processes": num_processes,
        "micro_batch": size,
        "micro_batches_per_step": parts,
        # Where it will run is often not where one tries it.
        "arithmetic": "bf16" if uses_bf16(plan.engine.precision, "cuda" if device == "auto" else device) else "fp32",
        "demonstrations": {name: splits.count(name) for name in ("train", "valid")},
        "frames": len(plan.index),
        "samples": len(plan.index.frames("train")),
        "sentences": len(set(plan.index.language)),
    }


def as_text(content: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{section}: " + ", ".join(f"{name}={value}" for name, value in content[section].items())
        for section in ("recipe", "engine", "data", "head")
    ]
    lines.append(f"world model: {content['world_model'] or 'none'}")
    lines.append(
        f"batch: {content['recipe']['batch_size']} = {content['processes']} processes x {content['micro_batches_per_step']} times"
        f" {content['micro_batch']} samples, in {content['arithmetic']}"
    )
    lines.append("")
    lines += [f"{name:40} {number:15,}" for name, number in content["parts"].items()]
    lines.append(f"{'weights':40} {content['num_parameters']:15,}")
    lines.append("")
    demos, times = content["demonstrations"], content["recipe"]["steps"] * content["recipe"]["batch_size"] / content["samples"]
    lines.append(
        f"demonstrations: {demos['train']:,} to learn from, {content['samples']:,} frames, each {times:.3g} times; {demos['valid']:,} to validate"
        f" on; {content['sentences']:,} different sentences"
    )
    return "\n".join(lines)
