"""States and actions on a common scale."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tracekit.action.normalisation import KINDS, Normalisation, fit_normalisation, normalisation_from_json
from tracekit.errors import BadDataError, ConfigurationError


def recorded(num: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    states = rng.normal([0, 5, -1e4, 1e-3], [1, 0.1, 3, 1e-4], (num, 4)).astype(np.float32)
    actions = rng.uniform(-1, 1, (num, 3)).astype(np.float32)
    actions[:, 2] = -0.3
    return states, actions


def test_quantiles_become_the_ends_of_the_scale_and_nothing_is_clipped() -> None:
    values = np.stack([np.linspace(0, 100, 101), np.linspace(-3, 1, 101)], axis=1)  # the percentiles are known: 1 and 99, -2.96 and 0.96
    fitted = fit_normalisation(values, values, "quantile")
    normalised = fitted.normalise_state(np.array([[1.0, -2.96], [99.0, 0.96], [50.0, -1.0], [0.0, 1.0], [148.0, -8.84]]))
    np.testing.assert_allclose(normalised, [[-1, -1], [1, 1], [0, 0], [-50 / 49, 2 / 1.96], [2, -4]], rtol=1e-6, atol=1e-7)


def test_mean_and_deviation() -> None:
    states, actions = recorded()
    fitted = fit_normalisation(states, actions, "mean_std")
    normalised = fitted.normalise_state(states).astype(np.float64)
    np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(normalised.std(axis=0), 1, rtol=1e-4)


def test_identity_changes_nothing() -> None:
    states, actions = recorded()
    fitted = fit_normalisation(states, actions, "identity")
    np.testing.assert_array_equal(fitted.normalise_state(states), states)
    np.testing.assert_array_equal(fitted.normalise_actions(actions), actions)
    np.testing.assert_array_equal(fitted.unnormalise_actions(actions), actions)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str) -> None:
    _, actions = recorded()
    scales = np.array([1.0, 1e3, 1.0], np.float32)
    fitted = fit_normalisation(actions, actions * scales, kind)
    back = fitted.unnormalise_actions(fitted.normalise_actions(actions * scales))
    np.testing.assert_allclose(back, actions * scales, rtol=1e-6, atol=1e-6)
    assert back.dtype == np.float32
    chunk = actions[:24].reshape(2, 3, 4, 3)
    np.testing.assert_array_equal(fitted.normalise_actions(chunk), fitted.normalise_actions(actions[:24]).reshape(2, 3, 4, 3))


@pytest.mark.parametrize("kind", ["quantile", "mean_std"])
@pytest.mark.parametrize("value", [0.0, -0.3, 7.25, 1e6])
def test_a_number_that_never_changes_is_0_and_itself_again(kind: str, value: float) -> None:
    rng = np.random.default_rng(0)
    values = np.stack([np.full(100, value), rng.normal(size=100)], axis=1).astype(np.float32)
    noise = 1e-8 * max(1.0, abs(value)) * rng.normal(size=100)
    for constant in (values, values + np.stack([noise, np.zeros(100)], axis=1)):
        fitted = fit_normalisation(constant, constant, kind)
        normalised = fitted.normalise_actions(constant)
        assert (normalised[:, 0] == 0).all() and np.isfinite(normalised).all()
        np.testing.assert_allclose(fitted.unnormalise_actions(normalised)[:, 0], np.float32(value), rtol=1e-6, atol=1e-6)
        # Whatever a policy says of it: it is what it always was. Whatever a robot shows of it: it is nothing new.
        np.testing.assert_allclose(fitted.unnormalise_actions(np.array([[0.4, 0.0]]))[0, 0], value, rtol=1e-6, atol=1e-6)
        assert fitted.normalise_state(np.array([value + 3.0, 0.0]))[0] == 0


def test_a_gripper_that_closes_once_in_a_thousand_steps_keeps_its_range() -> None:
    values = np.full((1000, 1), -1.0)
    values[500:503] = 1.0
    fitted = fit_normalisation(values, values, "quantile")
    np.testing.assert_array_equal(np.unique(fitted.normalise_actions(values)), [-1, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_into_a_checkpoint_comes_back(kind: str) -> None:
    fitted = fit_normalisation(*recorded(), kind)
    assert normalisation_from_json(json.loads(json.dumps(fitted.to_json())), "normalisation.json") == fitted


def changed(**changes: Any) -> dict[str, Any]:
    return {**Normalisation("quantile", (0.0,), (1.0,), (0.0, 1.0), (1.0, 0.0)).to_json(), **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not hold exactly kind"),
        ([], "does not hold exactly kind"),
        ({"kind": "quantile"}, "does not hold exactly kind"),
        (changed(more=1), "does not hold exactly kind"),
        (changed(kind="minmax"), "no normalisation 'minmax'"),
        (changed(kind=["quantile"]), "no normalisation"),
        (changed(state_offset=0.0), "state_offset is no list of finite numbers"),
        (changed(state_offset=["0"]), "state_offset is no list"),
        (changed(state_offset=[True]), "state_offset is no list"),
        (changed(action_scale=[1.0, float("nan")]), "action_scale is no list"),
        (changed(action_scale=[1.0, 10**400]), "action_scale is no list"),
        (changed(action_scale=[1.0, -1.0]), "action_scale holds a number below 0"),
        (changed(action_scale=[1.0]), "action_offset has 2 numbers, but action_scale has 1"),
    ],
)
def test_anything_else_is_refused(content: Any, message: str) -> None:
    with pytest.raises(BadDataError, match=f"normalisation.json.*{message}"):
        normalisation_from_json(content, "normalisation.json")


def test_an_unknown_kind() -> None:
    with pytest.raises(ConfigurationError, match="quantile, mean_std, identity"):
        fit_normalisation(*recorded(), "minmax")
