"""Whether a policy can act in an environment."""

from __future__ import annotations

from tracekit.action.config import ActionConfig
from tracekit.errors import UsageError
from tracekit.rollouts.env_process import EnvFacts


def check_fit(policy: str, config: ActionConfig, facts: EnvFacts) -> None:
    """Raise UsageError naming both where numbers of actions or states differ, or a camera is missing."""
    for what, has, wants in (
        ("actions", facts.action_size, config.action_size),
        ("states", facts.state_size, config.state_size),
    ):
        if has != wants:
            raise UsageError(
                f"{policy} knows {what} of {wants} numbers, but those of {facts.name} have {has}",
                hint="a policy acts in environments like those of its demonstrations",
            )
    if config.gripper_features != "none" and not facts.has_gripper_camera:
        raise UsageError(
            f"{policy} looks through a camera on the gripper, but {facts.name} has none", hint="name one with --gripper-camera"
        )
