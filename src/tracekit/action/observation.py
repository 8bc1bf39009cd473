"""What a policy is shown. Imports no torch: simulators, in processes of their own, make observations, too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Observation:
    """What a policy is shown of one moment of a robot."""

    agentview_image: np.ndarray
    """(H, W, 3) uint8 RGB, a camera that sees the scene."""
    gripper_image: np.ndarray | None
    """(H', W', 3) uint8 RGB, the camera on the gripper."""
    state: np.ndarray
    """(P,) proprioception, in the robot's own units."""
    language: str
    """What is to be done."""
