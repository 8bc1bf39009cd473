"""A control step of the action expert: from two pictures and a sentence to 16 actions, head `nano` on the μ0 of that name.

Random weights: the work is the same. The peers: the time there is; the same policy that looks at the pictures anew for every step of the
solver, whose actions are the same; the same policy without traces; and what μ0 alone takes of it.
"""

from __future__ import annotations

import dataclasses

import torch
from turns import in_turns

from tracekit.action.batch import ActionBatch
from tracekit.action.config import ActionConfig
from tracekit.action.example_batch import example_batch
from tracekit.action.flow import euler
from tracekit.action.frozen import FrozenMu0, feature_widths
from tracekit.action.heads import build_head
from tracekit.action.model import ActionExpert
from tracekit.action.presets import HEADS
from tracekit.mu0.presets import PRESETS, build

NUM_THREADS = 2
NUM_ROUNDS = 9
BUDGET = 0.1
"""Seconds."""


def main() -> list[dict]:
    torch.set_num_threads(NUM_THREADS)
    world = PRESETS["nano"]
    model = build(world)
    config = ActionConfig("nano", action_size=4, state_size=4, **HEADS["nano"])
    without = dataclasses.replace(config, use_trace=False)
    batch = example_batch(config, 1, draws=1, image_size=world.image_size, vocabulary=world.vlm["text_config"]["vocab_size"], num_words=10)
    frozen, frozen_without = FrozenMu0(model, config), FrozenMu0(model, without)
    expert, expert_without = awake(build_head(config, feature_widths(model))), awake(build_head(without, feature_widths(model)))
    difference = float((control_step(frozen, expert, batch) - looking_again(frozen, expert, batch)).abs().max())
    assert difference < 1e-4, f"actions differ by {difference}"
    ours, again, traceless, features = in_turns(
        lambda: control_step(frozen, expert, batch),
        lambda: looking_again(frozen, expert, batch),
        lambda: control_step(frozen_without, expert_without, batch),
        lambda: frozen.complete(batch),
        rounds=NUM_ROUNDS,
    )
    step, steps = f"pictures once {1e3 * ours:.0f} ms", config.sampling_steps
    return [
        {
            "work": f"control step, {config.horizon} actions, {steps} steps of the solver, {NUM_THREADS} threads, float32",
            "ours": step,
            "peer": f"budget {1e3 * BUDGET:.0f} ms",
            "ratio": round(ours / BUDGET, 2),
            "goal": "<= 1",
        },
        {
            "work": f"the same, against looking anew at each of {steps} steps, largest difference {difference:.0e}",
            "ours": step,
            "peer": f"pictures at each step {1e3 * again:.0f} ms",
            "ratio": round(again / ours, 2),
            "goal": ">= 3",
        },
        {
            "work": "the same, against --no-trace",
            "ours": step,
            "peer": f"without traces {1e3 * traceless:.0f} ms",
            "ratio": round(ours / traceless, 2),
            "goal": None,
        },
        {
            "work": "share of the world model in it",
            "ours": step,
            "peer": f"features of μ0 {1e3 * features:.0f} ms",
            "ratio": round(features / ours, 2),
            "goal": None,
        },
    ]


def control_step(frozen: FrozenMu0, expert: ActionExpert, batch: ActionBatch) -> torch.Tensor:
    return expert.sample(dataclasses.replace(batch, features=frozen.complete(batch)))


@torch.no_grad()
def looking_again(frozen: FrozenMu0, expert: ActionExpert, batch: ActionBatch) -> torch.Tensor:
    """Euler's method with a whole pass, picture and sentence and all, for every step."""

    def velocity(actions: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return expert.velocity(actions, tau, expert.read(dataclasses.replace(batch, features=frozen.complete(batch))))

    return euler(velocity, batch.noise, expert.config.sampling_steps)


@torch.no_grad()
def awake(expert: ActionExpert) -> ActionExpert:
    """An expert whose layers do something: of a fresh one actions do not depend on what is seen."""
    for name, parameter in expert.named_parameters():
        if ".modulation." in name:
            parameter.normal_(std=0.05)
    return expert.eval()


if __name__ == "__main__":
    from table import print_table

    print_table(main())
