"""From a preset, options, demonstrations and a world model to the configuration of an action expert."""

from __future__ import annotations

import dataclasses

from tracekit.action.config import ActionConfig
from tracekit.action.finetune_options import HeadOptions
from tracekit.action.frozen import FeatureWidths
from tracekit.action.presets import HEADS
from tracekit.action.recipes import SIZES
from tracekit.errors import ConfigurationError, UsageError
from tracekit.report import Report


def is_without_world_model(head: str) -> bool:
    """Whether a head is a baseline that looks at pictures itself."""
    return HEADS[head].get("method", ActionConfig.method) == "diffusion"


def choose_head(
    preset: str,
    options: HeadOptions,
    action_size: int,
    state_size: int,
    widths: FeatureWidths | None,
    report: Report,
    *,
    has_gripper_camera: bool,
) -> ActionConfig:
    """The expert of a preset as the options change it, for a robot of these sizes. `widths` are those of the world model's features.

    Raises ConfigurationError for another robot than the preset's, and when the network cannot be; UsageError for options of the wrong kind.
    """
    known = SIZES.get(preset)
    for what, there, wanted in (("actions", action_size, known and known.action), ("states", state_size, known and known.state)):
        if wanted and there != wanted:
            raise ConfigurationError(
                f"{what} have {there} numbers in the demonstrations, but {wanted} in the preset {preset}",
                hint="for another robot: --preset metaworld, and the options of this preset's recipe",
            )
    head = {"use_trace": options.trace, **HEADS[options.head]}
    if not head["use_trace"] and not is_without_world_model(options.head):
        report.note("the expert is not shown any motion: --no-trace")
    config = ActionConfig(
        **{"name": options.head, **head},
        action_size=action_size,
        state_size=state_size,
        horizon=options.horizon,
        execute=options.execute,
        gate_init=options.gate_init,
        action_width=options.action_width,
        queries=options.queries,
    )
    if not has_gripper_camera:
        config = dataclasses.replace(config, gripper_features="none")
    elif config.gripper_features == "dinov2" and widths is not None and not widths.gripper:
        report.note("the world model has no DINOv2: the gripper's camera gets convolutions that are trained")
        config = dataclasses.replace(config, gripper_features="stem")
    config.check()
    if widths is not None and config.use_trace and widths.vlm % config.fusion_heads:
        raise ConfigurationError(
            f"the {config.fusion_heads} heads that fuse motion of --head {options.head} cannot share the {widths.vlm} numbers of the world"
            " model's features evenly",
            hint="choose another --head",
        )
    if is_without_world_model(options.head) and options.queries != ActionConfig.queries:
        raise UsageError(f"--queries is about a world model, and --head {options.head} has none")
    return config
