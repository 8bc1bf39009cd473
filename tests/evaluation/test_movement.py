from dataclasses import replace

import numpy as np
import pytest
from true_episode import extraction, scene

from tracekit.evaluation.movement import moving_agreement, true_diameters
from tracekit.extract.filter import FilterParameters, filter_moving
from tracekit.report import Report


def test_the_rule_is_that_of_filter() -> None:
    """Random paths, hidden here and there, one behind the cameras, one never visible."""
    rng = np.random.default_rng(1)
    geometry = scene().geometry()
    shape = (scene().num_frames, 40)
    xyz = rng.normal([0, 0, 3], [1, 1, 0.5], (1, 40, 3)) + np.cumsum(rng.normal(0, 0.05, (*shape, 3)), axis=0)
    xyz[:, 3, 2] -= 3
    visible = rng.random(shape) > 0.3
    visible[:, 7] = False
    born = rng.integers(0, shape[0], 40)
    tracks = replace(extraction().tracks, xyz_world=xyz, visible=visible.astype(np.uint8), born=born)
    motion = filter_moving(tracks, geometry, 320, 240, FilterParameters(lambda_z=25.0), report=Report())
    found = true_diameters(xyz, visible, born, geometry.intrinsics, geometry.world_from_camera, 25.0)
    np.testing.assert_allclose(found, motion.diameter_px, rtol=1e-5)
    assert np.isnan(found[7]) and np.isfinite(np.delete(found, [3, 7])).all()


def test_precision_and_recall_by_hand() -> None:
    called, true = np.array([1, 1, 1, 0, 0, 0], bool), np.array([1, 0, 1, 1, 1, 0], bool)
    scores = moving_agreement(called, true)
    assert scores.moving_precision == pytest.approx(2 / 3) and scores.moving_recall == 0.5
    assert (scores.num_called_moving, scores.num_truly_moving) == (3, 4)


def test_a_share_of_nothing_is_not_told() -> None:
    none = np.zeros(4, bool)
    assert moving_agreement(none, none).moving_precision is None and moving_agreement(none, none).moving_recall is None
    assert moving_agreement(none, ~none).moving_recall == 0.0
