"""μ0's rollout: what remembering the prefix is worth, and what more draws cost. Random weights: the work is the same.

The peer is the same network asked anew for every step of the solver, picture and sentence and all; its traces are the same.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from turns import in_turns

from tracekit.mu0.config import Mu0Config
from tracekit.mu0.example_batch import example_batch
from tracekit.mu0.model import Mu0
from tracekit.mu0.presets import PRESETS, build
from tracekit.mu0.rollout_parameters import RolloutParameters

NUM_KEYPOINTS = 16
NUM_ROUNDS = 5
DRAWS = 5


def main() -> list[dict]:
    torch.manual_seed(0)
    return [against_recomputing(), against_one_draw()]


def against_recomputing() -> dict:
    """16 layers of the text and expert sizes of `342m`, a prefix of 1,100 tokens."""
    small = PRESETS["342m"]
    vlm = copy.deepcopy(small.vlm)
    vlm["text_config"]["num_hidden_layers"] = 16
    config = dataclasses.replace(small, vlm=vlm, local_features="none", use_depth=False)
    model = awake(config)
    batch = example_batch(config, 1, NUM_KEYPOINTS, num_text_tokens=1100 - 64, depth=False)
    noise = torch.randn(1, 1, NUM_KEYPOINTS, config.target_points, 3)
    difference = float((model.sample(batch, noise).points[:, 0] - recomputed(model, batch, noise)).abs().max())
    assert difference < 1e-4, f"traces differ by {difference}"
    mine, theirs = in_turns(lambda: model.sample(batch, noise), lambda: recomputed(model, batch, noise), rounds=NUM_ROUNDS)
    return {
        "work": f"4 steps of the solver, 16 layers of 342m, 1,100 prefix tokens, float32, largest difference {difference:.0e}",
        "ours": f"prefix once {1e3 * mine:.0f} ms",
        "peer": f"prefix at each step {1e3 * theirs:.0f} ms",
        "ratio": round(theirs / mine, 2),
        "goal": ">= 2.1",
    }


def against_one_draw() -> dict:
    """All of `342m` with its DINOv2, one picture, a short sentence."""
    config = dataclasses.replace(PRESETS["342m"], use_depth=False)
    model = awake(config)
    batch = example_batch(config, 1, NUM_KEYPOINTS, num_text_tokens=12, depth=False)
    noise = torch.randn(1, DRAWS, NUM_KEYPOINTS, config.target_points, 3)
    five, one = in_turns(lambda: model.sample(batch, noise), lambda: model.sample(batch, noise[:, :1]), rounds=NUM_ROUNDS)
    return {
        "work": f"342m on one picture, {NUM_KEYPOINTS} keypoints, {DRAWS} draws against one, float32",
        "ours": f"{DRAWS} draws {1e3 * five:.0f} ms",
        "peer": f"one draw {1e3 * one:.0f} ms",
        "ratio": round(five / one, 2),
        "goal": "<= 1.4",
    }


@torch.no_grad()
def awake(config: Mu0Config) -> Mu0:
    """A network whose layers do something: fresh ones are the identity, and their traces do not depend on the prefix."""
    model = build(config).eval()
    for head in model.flow_time.heads:
        head[1].bias.normal_(std=0.3)
    return model


@torch.no_grad()
def recomputed(model: Mu0, batch, noise: torch.Tensor) -> torch.Tensor:
    """Euler's method with a whole pass for every step."""
    points = noise[:, 0]
    for step in range(RolloutParameters.steps):
        tau = torch.full((len(batch),), 1 - step / RolloutParameters.steps)
        points = points - model(dataclasses.replace(batch, noise=points, target=points, tau=tau)).velocity / RolloutParameters.steps
    return points


if __name__ == "__main__":
    from table import print_table

    print_table(main())
