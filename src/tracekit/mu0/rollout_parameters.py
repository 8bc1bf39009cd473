"""What a rollout may look at, and how futures are drawn. Imports no torch: the command line derives from it."""

from __future__ import annotations

from dataclasses import dataclass

from tracekit.parameters import parameter
from tracekit.training.recipe import PRECISIONS


@dataclass(frozen=True)
class RolloutParameters:
    """By default the condition of the paper's Table 1: a picture and a sentence, neither history nor depth."""

    samples: int = parameter(5, "Futures drawn for each keypoint.", minimum=1, maximum=1000)
    steps: int = parameter(4, "Steps of Euler's method from noise to a future (B.3).", minimum=1, maximum=1000)
    history: bool = parameter(False, "Show the network where keypoints were before, where that is known.")
    depth: bool = parameter(False, "Show the network depth, where that is known.")
    max_keypoints: int = parameter(0, "Keypoints of a sample, spread over those that move; 0: all of them.", minimum=0)
    end_threshold: float = parameter(
        0.5, "A trace ends, and is held, at the first step whose probability to exist is less.", minimum=0.0, maximum=1.0
    )
    batch_size: int = parameter(8, "Samples that are predicted at once; what comes out does not depend on it.", minimum=1)
    precision: str = parameter("auto", "Arithmetic: bf16 autocast or fp32; auto is bf16 on CUDA, fp32 elsewhere.", choices=PRECISIONS)
