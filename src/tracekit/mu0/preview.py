"""What a training would be: the resolved configuration, the network's weights, the memory it takes, and its first batch."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from tracekit.errors import MissingInputError
from tracekit.mu0.collate import Collate
from tracekit.mu0.cost import StepOperations, count, count_parts, estimate_memory
from tracekit.mu0.presets import on_meta, tokenizer_of
from tracekit.mu0.training import Plan, training_dataset, validation_dataset
from tracekit.report import Report
from tracekit.training.loader import loader
from tracekit.training.loop import micro_batches
from tracekit.training.recipe import uses_bf16

_GIB = 1 << 30


def preview(plan: Plan, device: str, num_processes: int, report: Report) -> dict[str, Any]:
    """As plain data. The network is built without memory for its weights; nothing is trained, fetched or written."""
    model = on_meta(plan.config)
    size, parts = micro_batches(plan.recipe, plan.engine, num_processes)
    # Where it will run is often not where one tries it.
    bf16 = uses_bf16(plan.engine.precision, "cuda" if device == "auto" else device)
    memory = estimate_memory(
        model,
        size,
        plan.sampling.max_keypoints,
        bf16=bf16,
        checkpointing=plan.engine.gradient_checkpointing,
        shares=num_processes if plan.engine.fsdp else 1,
        num_text=plan.config.max_text_tokens,
    )
    counts = count(model)
    return {
        "network": plan.config.to_json(),
        "recipe": dataclasses.asdict(plan.recipe),
        "loss": dataclasses.asdict(plan.weights),
        "sampling": dataclasses.asdict(plan.sampling),
        "engine": dataclasses.asdict(plan.engine),
        "seed": plan.seed,
        "num_parameters": counts.total,
        "num_trainable": counts.trained,
        "parts": {name: part.to_json() for name, part in count_parts(model).items()},
        "processes": num_processes,
        "micro_batch": size,
        "micro_batches_per_step": parts,
        "arithmetic": "bf16" if bf16 else "fp32",
        "memory_bytes": memory.to_json(),
        **(_data(plan, StepOperations(model), size, report) if plan.corpora else {}),
    }


def _data(plan: Plan, operations: StepOperations, size: int, report: Report) -> dict[str, Any]:
    dataset = training_dataset(plan, report)
    validation = validation_dataset(plan, dataset.index, report)
    result: dict[str, Any] = {"samples": len(dataset), "validation_samples": len(validation) if validation else 0}
    try:
        tokenizer = tokenizer_of(plan.config)
    except MissingInputError as error:
        report.note(f"no first batch: {error.message}")
        return result
    batch = next(loader(dataset, Collate(tokenizer), size, stop=size))
    shapes = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    result["first_batch"] = {name: list(value.shape) if isinstance(value, Tensor) else None for name, value in shapes.items()}
    result["first_batch_teraflops"] = operations(batch) / 1e12
    return result


def as_text(content: dict[str, Any]) -> str:
    """For people."""
    lines = []
    for section in ("recipe", "loss", "sampling", "engine"):
        lines.append(f"{section}: " + ", ".join(f"{name}={value}" for name, value in content[section].items()))
    network = content["network"]
    lines.append("network: " + ", ".join(f"{name}={value}" for name, value in network.items() if not isinstance(value, dict)))
    lines.append(
        f"batch: {content['recipe']['batch_size']} = {content['processes']} processes x {content['micro_batches_per_step']} times"
        f" {content['micro_batch']} samples"
    )
    lines.append("")
    lines.append(f"{'weights':40} {'all':>15} {'trained':>15}")
    lines += [f"{name:40} {part['total']:15,} {part['trained']:15,}" for name, part in content["parts"].items()]
    lines.append(f"{'sum':40} {content['num_parameters']:15,} {content['num_trainable']:15,}")
    lines.append("")
    memory = ", ".join(f"{name} {value / _GIB:.2f}" for name, value in content["memory_bytes"].items())
    lines.append(f"memory per device in {content['arithmetic']}, estimated, GiB: {memory}")
    if "samples" in content:
        times = content["recipe"]["steps"] * content["recipe"]["batch_size"] / content["samples"]
        lines.append(
            f"corpus: {content['samples']:,} samples to learn from, each {times:.3g} times; {content['validation_samples']:,} to validate on"
        )
    if "first_batch" in content:
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, shape)) or '1' if shape is not None else 'none'}" for name, shape in content["first_batch"].items()
        )
        lines.append(f"first batch: {shapes}")
        lines.append(f"first batch, forward and backward: {content['first_batch_teraflops']:.3g} TFLOP")
    return "\n".join(lines)
