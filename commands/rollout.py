"""tracekit rollout: what μ0 expects to happen, or what a policy makes happen in a simulator."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer
from tracekit.commands.rollout_options import EXAMPLE, EnvironmentOptions, RolloutOptions

from tracekit import options
from tracekit.errors import UsageError
from tracekit.mu0.rollout_parameters import RolloutParameters

_WITH_BOTH = {"output", "caption", "seed", "device", "force", "dry_run", "quiet", "verbose"}
"""Options that mean something for predictions and for environments."""


class RolloutCommand:
    """Predictions without --env, closed-loop episodes with it."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "rollout",
            self.run,
            {"parameters": RolloutParameters, "choice": RolloutOptions, "environment": EnvironmentOptions},
            sources="A checkpoint or the folder of a training run, and corpora or episode files; - or no file is standard input. None with --env.",
            metavar="CHECKPOINT [SOURCE...]",
            flags={"caption": ("--caption", "--text")},
            own=("parameters", "environment"),
            about="Predict the traces of all keypoints that move, from a picture and a sentence (paper 3, B.3); or, with --env, let a policy act in"
            " a simulator and count how often it succeeds."
            "\n\nReads: a checkpoint; corpora, or video, geometry, tracks, motion and captions of episodes, or a picture.  Writes: predictions,"
            " with the truth where it is known."
            f"\n\nExamples:\n\n  {EXAMPLE}"
            '\n\n  tracekit rollout mu0 --image scene.png --text "open the drawer" --picture traces.png'
            "\n\n  tracekit rollout --env metaworld/drawer-open-v3 --policy policy --num-episodes 50 --num-envs 2 --video videos",
        )

    def run(self, sources: list[str], parameters: RolloutParameters, choice: RolloutOptions, environment: EnvironmentOptions) -> None:
        if environment.env is None:
            if meant := _changed(environment):
                raise UsageError(f"--{meant[0]} is about a policy in an environment", hint="say which with --env")
            from tracekit.commands.rollout_predictions import predict_command

            predict_command(sources, parameters, choice)
            return
        if meant := [*_changed(parameters), *(name for name in _changed(choice) if name.replace("-", "_") not in _WITH_BOTH)]:
            raise UsageError(f"--{meant[0]} is about predictions", hint="leave it out, or --env")
        if sources:
            raise UsageError(f"with --env there is nothing to predict, but {sources[0]} was named", hint="a policy is named with --policy")
        from tracekit.commands.rollout_environments import act_command

        act_command(choice, environment)


def _changed(values: Any) -> list[str]:
    """Options that are not at their default."""
    return [field.name.replace("_", "-") for field in dataclasses.fields(values) if getattr(values, field.name) != field.default]


command = RolloutCommand()
