"""What `tracekit finetune` may be told about the action expert and about the demonstrations."""

from __future__ import annotations

from dataclasses import dataclass

from tracekit.action.config import QUERIES, ActionConfig
from tracekit.action.normalisation import KINDS
from tracekit.action.presets import HEADS
from tracekit.parameters import parameter


@dataclass(frozen=True)
class HeadOptions:
    """What is trained."""

    head: str = parameter("300m", "What is trained on top of the world model, by its size, or without one.", choices=tuple(HEADS))
    trace: bool = parameter(ActionConfig.use_trace, "Show the expert the motion that the world model foresees (Table 8).")
    horizon: int = parameter(ActionConfig.horizon, "Actions in a chunk.", minimum=1)
    execute: int = parameter(ActionConfig.execute, "Actions of a chunk that are carried out before the next is predicted.", minimum=1)
    gate_init: float = parameter(ActionConfig.gate_init, "Gate of the motion before training, g of Eq. 11; -4 starts weak.")
    action_width: int = parameter(
        ActionConfig.action_width, "Numbers to which actions are padded, so that robots share a layout.", minimum=1
    )
    queries: str = parameter(
        ActionConfig.queries, "Points that the world model is asked about: a uniform grid, or those of entities.", choices=QUERIES
    )


@dataclass(frozen=True)
class DemoOptions:
    """What is learnt from."""

    camera: str = parameter("agentview_image", "The camera that sees the scene, as the demonstrations call it (obs/NAME).")
    gripper_camera: str = parameter("eye_in_hand_image", "The camera on the gripper, or none.")
    state: str = parameter("proprio", "Proprioception (obs/NAME); several by comma are put one after the other.")
    language: str = parameter("", "What is done in demonstrations that do not say so.")
    normalise: str = parameter(
        "quantile", "How states and actions are scaled.", choices=tuple(kind for kind in KINDS if kind != "identity")
    )
    draws: int = parameter(1, "Draws of noise for each sample; what comes before the noise is computed once for all.", minimum=1)
    augment: bool = parameter(True, "Shift and light pictures differently each time; that of the scene only without --cache-features.")
    cache_features: str | None = parameter(None, "Keep what the world model sees in each frame in this folder, which trainings may share.")
    workers: int = parameter(4, "Processes that read samples, for each process that trains.", minimum=0)
