"""How a network is trained. Defaults are those of μ0's pretraining (paper B.1, C.1); presets of commands say what others do otherwise.

`Recipe` decides what comes out; `EngineParameters` decide how fast, on what, and what is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracekit.parameters import parameter

PRECISIONS = ("auto", "bf16", "fp32")


def uses_bf16(precision: str, device_type: str) -> bool:
    """Whether one of PRECISIONS is bf16 autocast on a device of this type: "cuda", "cpu", "mps"."""
    return precision == "bf16" or (precision == "auto" and device_type == "cuda")


@dataclass(frozen=True)
class Recipe:
    """What follows from these, the corpus, the network and the seed is the same however many processes share the work, but for rounding."""

    steps: int = parameter(200_000, "Optimiser steps.", minimum=1)
    batch_size: int = parameter(24, "Samples in a step, over all processes and micro-batches.", minimum=1)
    learning_rate: float = parameter(1e-4, "Peak learning rate of AdamW.", minimum=0.0)
    final_learning_rate: float = parameter(2.5e-6, "Learning rate at the last step, to which a cosine falls.", minimum=0.0)
    warmup: int = parameter(1000, "Steps over which the learning rate rises linearly; at most a tenth of all.", minimum=0)
    beta1: float = parameter(0.9, "Decay of AdamW's mean of gradients.", minimum=0.0, maximum=1.0)
    beta2: float = parameter(0.95, "Decay of AdamW's mean of squared gradients.", minimum=0.0, maximum=1.0)
    weight_decay: float = parameter(1e-10, "Weight decay of AdamW.", minimum=0.0)
    clip_norm: float = parameter(10.0, "Norm to which gradients are clipped; 0 leaves them.", minimum=0.0)


@dataclass(frozen=True)
class EngineParameters:
    """How the work is done. May change from one start to the next of a run."""

    micro_batch: int = parameter(6, "Samples that a process computes at a time; gradients add up until the batch is done.", minimum=1)
    precision: str = parameter(
        "auto", "Arithmetic: bf16 autocast over float32 weights, or fp32; auto is bf16 on CUDA, fp32 elsewhere.", choices=PRECISIONS
    )
    stop_after: int = parameter(0, "Stop after this many steps of this start, as a signal would; 0: go on to the end.", minimum=0)
    save_every: int = parameter(1000, "Steps between checkpoints.", minimum=1)
    keep_last: int = parameter(2, "Newest checkpoints that are kept.", minimum=1)
    keep_best: int = parameter(1, "Checkpoints that are kept for the best validation.", minimum=0)
    log_every: int = parameter(1, "Steps between lines of log.jsonl.", minimum=1)
    tensorboard: bool = parameter(False, "Write TensorBoard events to RUN/tensorboard (needs the package tensorboard).")
    wandb: str = parameter("", "Send the log to this project of Weights & Biases (needs the package wandb).")
    validate_every: int = parameter(1000, "Steps between validations; 0: none.", minimum=0)
    validation_samples: int = parameter(128, "Samples of a validation; the same ones each time.", minimum=1)
