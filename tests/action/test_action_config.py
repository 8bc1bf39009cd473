"""Configurations of action experts: every rule is kept, and files are not believed."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from action_examples import SMALL

from tracekit.action.config import ActionConfig, config_from_json
from tracekit.action.presets import HEADS
from tracekit.errors import BadDataError, ConfigurationError


@pytest.mark.parametrize("head", HEADS)
def test_round_trip_through_json(head: str):
    config = ActionConfig(head, action_size=7, state_size=9, **HEADS[head])
    config.check()
    assert config_from_json(json.loads(json.dumps(config.to_json())), "config.json") == config


def test_a_closed_gate_makes_the_round_trip():
    config = dataclasses.replace(SMALL, gate_init=-math.inf)
    config.check()
    assert config_from_json(json.loads(json.dumps(config.to_json())), "config.json") == config


REFUSALS = [
    ({"width": 0}, "width is 0"),
    ({"layers": 1_001}, "layers is 1001"),
    ({"horizon": 0}, "horizon is 0"),
    ({"state_size": 0}, "state_size is 0"),
    ({"sampling_steps": 0}, "sampling_steps is 0"),
    ({"max_entities": 0}, "max_entities is 0"),
    ({"gripper_size": 5_000}, "gripper_size is 5000"),
    ({"rope_base": 0.0}, "rope_base is 0.0"),
    ({"norm_epsilon": math.inf}, "norm_epsilon is inf"),
    ({"shortest_period": math.nan}, "shortest_period is nan"),
    ({"longest_period": -1.0}, "longest_period is -1.0"),
    ({"gate_init": math.nan}, "gate_init is not a number"),
    ({"method": "guess"}, "method is 'guess'"),
    ({"gripper_features": "eyes"}, "gripper_features is 'eyes'"),
    ({"queries": "all"}, "queries is 'all'"),
    ({"execute": 5}, "5 actions of a chunk of 4 cannot be executed"),
    ({"action_size": 8}, "actions of 8 numbers do not fit into 7"),
    ({"heads": 5}, "5 heads cannot share 2 key-value heads evenly"),
    ({"head_width": 7}, "widths must be even"),
    ({"width": 23}, "widths must be even"),
    ({"grid": 5}, "a grid of 5 points a side cannot be averaged 2 by 2"),
    ({"stem_width": 20}, "stem_width is 20"),
    ({"method": "diffusion", "use_trace": False}, "the baseline has no world model whose features"),
    ({"method": "diffusion", "gripper_features": "stem"}, "the baseline has no world model whose traces"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSALS, ids=[str(changes) for changes, _ in REFUSALS])
def test_what_makes_no_network_is_refused(changes: dict, message: str):
    config = dataclasses.replace(SMALL, **changes)
    with pytest.raises(ConfigurationError, match=message):
        config.check()
    with pytest.raises(BadDataError, match=message) as refused:
        config_from_json(config.to_json(), "policy/config.json")
    assert "policy/config.json" in refused.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no configuration"),
        ({**SMALL.to_json(), "speed": 1}, "unknown field speed"),
        ({name: value for name, value in SMALL.to_json().items() if name != "action_size"}, "no field action_size"),
        ({**SMALL.to_json(), "layers": "3"}, "layers is '3', but int is expected"),
        ({**SMALL.to_json(), "layers": True}, "layers is True, but int is expected"),
        ({**SMALL.to_json(), "use_trace": 1}, "use_trace is 1, but bool is expected"),
        ({**SMALL.to_json(), "gate_init": None}, "gate_init is None, but float is expected"),
        ({**SMALL.to_json(), "name": 3}, "name is 3, but str is expected"),
    ],
)
def test_files_are_not_believed(content: object, message: str):
    with pytest.raises(BadDataError, match=message):
        config_from_json(content, "policy/config.json")


def test_whole_numbers_are_numbers():
    assert config_from_json({**SMALL.to_json(), "gate_init": -4}, "").gate_init == -4


def test_tokens_of_motion():
    assert ActionConfig("paper", action_size=12, state_size=16, **HEADS["300m"]).trace_tokens == 100
    assert dataclasses.replace(SMALL, grid=6, grid_pool=2).trace_tokens == 9
    assert dataclasses.replace(SMALL, queries="entities", max_entities=42).trace_tokens == 42
