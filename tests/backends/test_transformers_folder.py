"""What a folder of weights may not ask transformers for."""

import json

import pytest

from tracekit.backends.transformers_folder import refuse_foreign_parts
from tracekit.errors import BadDataError


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": "kernels-community/flash-attn"},
        {"_attn_implementation": "flash_attention_2"},
        {"text_config": {"vision": {"attn_implementation": "someone/kernel"}}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
def test_kernels_and_quantisation_are_refused_wherever_they_stand(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "smolvlm", **config}))
    with pytest.raises(BadDataError, match=r"config\.json"):
        refuse_foreign_parts(tmp_path)


def test_an_adapter_beside_the_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    refuse_foreign_parts(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadDataError, match="adapter"):
        refuse_foreign_parts(tmp_path)


def test_plain_configurations_pass(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"attn_implementation": "sdpa", "text_config": {"_attn_implementation": None}}))
    refuse_foreign_parts(tmp_path)
