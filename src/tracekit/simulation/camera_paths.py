"""Where the camera of a simulated clip is: fixed, or moving as cameras of real clips do. Poses are world_from_camera, OpenCV axes, z up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tracekit.errors import UsageError
from tracekit.geometry import se3

FOV_Y = 60.0
"""Vertical field of view, degrees: that of Meta-World's corner2."""
WORKSPACE = np.array([0.0, 0.65, 0.12])
"""Middle of the table where things happen, metres."""

CORNER2_POSITION = np.array([0.75, 0.075, 0.7])
"""Nearer than Meta-World's own (1.3, -0.2, 1.1), which shows mostly floor; LeRobot places it here, too."""
CORNER2_FORWARD = np.array([-0.74570521, 0.4582421, -0.48367129])
"""Meta-World's direction of view; its picture, upside down, is turned upright here."""
CORNER2_DOWN = np.array([0.37620774, -0.30954914, -0.87329666])

ORBIT_DEGREES = 60.0
HAND_SWAY = 0.02
"""Metres by which a hand that holds a camera wanders, root mean square per axis."""
HAND_TURN = np.radians(1.5)
HEAD_POSITION = np.array([-0.5, 0.3, 0.75])
"""Left of the arm, which reaches in from the right as one's own would."""
HEAD_SWAY = 0.015
HEAD_TURN = np.radians(0.7)


def corner2(hand: np.ndarray, fps: float, rng: np.random.Generator) -> np.ndarray:
    """A fixed camera."""
    pose = np.eye(4)
    pose[:3, :3] = np.stack([np.cross(CORNER2_DOWN, CORNER2_FORWARD), CORNER2_DOWN, CORNER2_FORWARD], axis=1)
    pose[:3, :3] = se3.nearest_rotation(pose[:3, :3])
    pose[:3, 3] = CORNER2_POSITION
    return np.tile(pose, (len(hand), 1, 1))


def orbit(hand: np.ndarray, fps: float, rng: np.random.Generator) -> np.ndarray:
    """A sixth of a circle around the table, to either side, starting and ending gently."""
    start = np.radians(rng.uniform(-45, -30))
    turn = np.radians(ORBIT_DEGREES)
    progress = np.linspace(0, 1, len(hand))
    angle = start + turn * (3 * progress**2 - 2 * progress**3)
    if rng.random() < 0.5:
        angle = angle[::-1]
    position = WORKSPACE + np.stack([0.85 * np.cos(angle), 0.85 * np.sin(angle), np.full(len(hand), 0.5)], axis=1)
    return look_at(position, np.broadcast_to(WORKSPACE, position.shape))


def handheld(hand: np.ndarray, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Somebody films from the corner: the camera wanders by centimetres and degrees."""
    middle = CORNER2_POSITION + rng.uniform(-0.05, 0.05, 3)
    position = middle + _wander(len(hand), fps, HAND_SWAY, rng)
    poses = look_at(position, np.broadcast_to(WORKSPACE, position.shape))
    return _turned(poses, _wander(len(hand), fps, HAND_TURN, rng))


def egocentric(hand: np.ndarray, fps: float, rng: np.random.Generator) -> np.ndarray:
    """A head beside the arm that looks where the hand is, a little behind it, as eyes and head do."""
    position = HEAD_POSITION + rng.uniform(-0.03, 0.03, 3) + _wander(len(hand), fps, HEAD_SWAY, rng)
    gaze = _followed(0.5 * hand + 0.5 * WORKSPACE, lag=0.5 * fps)
    return _turned(look_at(position, gaze), _wander(len(hand), fps, HEAD_TURN, rng))


PATHS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "corner2": corner2,
    "orbit": orbit,
    "handheld": handheld,
    "egocentric": egocentric,
}
"""Each makes poses (T, 4, 4) from where the robot's hand is (T, 3), the frame rate of the clip and a source of chance."""


def parse_cameras(text: str) -> list[str]:
    """Names of "corner2,orbit". Raises UsageError for unknown ones."""
    result = []
    for name in text.split(","):
        if name.strip() not in PATHS:
            raise UsageError(f"there is no camera {name.strip()!r}", hint=f"known: {', '.join(PATHS)}")
        result.append(name.strip())
    return list(dict.fromkeys(result))


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Poses (T, 4, 4) of upright cameras at `position` (T, 3) that look at `target` (T, 3)."""
    forward = target - position
    forward = forward / np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right, axis=1, keepdims=True)
    rotation = np.stack([right, np.cross(forward, right), forward], axis=-1)
    return se3.from_rotation_translation(rotation, position)


def _wander(num_frames: int, fps: float, size: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth random motion (T, 3) of standard deviation `size` per axis over time: a few slow waves, none above 1.2 Hz."""
    seconds = np.arange(num_frames)[:, None, None] / fps
    frequency = rng.uniform(0.1, 1.2, (1, 6, 3))
    phase = rng.uniform(0, 2 * np.pi, (1, 6, 3))
    weight = 1 / frequency  # slow waves are the large ones
    waves = (weight * np.sin(2 * np.pi * frequency * seconds + phase)).sum(axis=1)
    return size * waves / np.sqrt((weight**2 / 2).sum(axis=1))


def _turned(poses: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Poses (T, 4, 4) turned in place by rotation vectors (T, 3) in their own axes, radians."""
    from scipy.spatial.transform import Rotation

    result = poses.copy()
    result[:, :3, :3] = poses[:, :3, :3] @ Rotation.from_rotvec(angles).as_matrix()
    return result


def _followed(target: np.ndarray, lag: float) -> np.ndarray:
    """A point (T, 3) that goes after `target`, about `lag` frames behind."""
    result = target.copy()
    for frame in range(1, len(target)):
        result[frame] = result[frame - 1] + (target[frame] - result[frame - 1]) / max(lag, 1.0)
    return result
