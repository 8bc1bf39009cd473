"""Configurations of the release that lack a value, or hold one of another type, are told so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tracekit.errors import BadDataError
from tracekit.mu0.release import release_config


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({}, "has no num_vlm_layers"),
        ({"num_vlm_layers": 2}, "has no resize_imgs_with_padding"),
        ({"num_vlm_layers": 2, "resize_imgs_with_padding": None}, "holds a value of another type"),
        ({"num_vlm_layers": 2, "num_expert_layers": 3}, "num_expert_layers is 3"),
    ],
)
def test_a_configuration_that_is_not_whole_is_bad_data(tmp_path: Path, content: dict, fault: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(BadDataError, match=fault):
        release_config(tmp_path / "config.json")
