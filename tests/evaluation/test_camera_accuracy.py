import cv2
import numpy as np
import pytest

from tracekit.evaluation.camera_accuracy import camera_accuracy
from tracekit.extract.alignment import align_poses
from tracekit.geometry import se3


def poses(number: int = 20) -> np.ndarray:
    time = np.linspace(0, 1, number)
    rotation = np.stack([cv2.Rodrigues(np.array([0.1 * t, 0.4 * np.sin(3 * t), -0.2 * t]))[0] for t in time])
    return se3.from_rotation_translation(rotation, np.stack([np.sin(2 * time), 0.3 * time, time**2], axis=1))


def test_the_true_cameras_in_another_world_are_perfect() -> None:
    other = se3.from_rotation_translation(cv2.Rodrigues(np.array([1.0, 2.0, -0.5]))[0], np.array([3.0, -1, 4]))
    found = other @ poses()
    scores = camera_accuracy(found, poses(), align_poses(found, poses()))
    assert max(scores.ate_rmse_m, scores.rpe_translation_m, scores.rpe_rotation_deg) < 1e-6


def test_trajectory_error_is_the_root_mean_square_of_distances() -> None:
    found = poses(4)
    found[:, 0, 3] += [0.3, 0.0, 0.0, 0.4]
    assert camera_accuracy(found, poses(4), np.eye(4)).ate_rmse_m == pytest.approx(0.25)


def test_a_steady_drift_is_the_same_every_frame() -> None:
    """Each step goes 1 cm too far and turns 0.5 degrees too much, in the camera's own axes."""
    true = poses()
    extra = se3.from_rotation_translation(cv2.Rodrigues(np.array([0.0, np.radians(0.5), 0]))[0], np.array([0, 0, 0.01]))
    found = [true[0]]
    for step in se3.inverse(true[:-1]) @ true[1:]:
        found.append(found[-1] @ step @ extra)
    scores = camera_accuracy(np.stack(found), true, np.eye(4))
    assert scores.rpe_translation_m == pytest.approx(0.01) and scores.rpe_rotation_deg == pytest.approx(0.5)
    assert scores.ate_rmse_m > 0.05


def test_one_jump_among_many_steps() -> None:
    found = poses(17)
    found[8:, :3, 3] += [0.2, 0, 0]
    scores = camera_accuracy(found, poses(17), np.eye(4))
    assert scores.rpe_translation_m == pytest.approx(np.sqrt(0.2**2 / 16)) and scores.rpe_rotation_deg < 1e-6


def test_without_lengths_only_turns_are_told() -> None:
    scores = camera_accuracy(poses(), poses(), None)
    assert scores.ate_rmse_m is None and scores.rpe_translation_m is None and scores.rpe_rotation_deg < 1e-6


def test_a_single_frame_has_no_steps() -> None:
    scores = camera_accuracy(poses(1), poses(1), np.eye(4))
    assert scores.ate_rmse_m == 0 and scores.rpe_translation_m is None and scores.rpe_rotation_deg is None
