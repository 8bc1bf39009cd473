"""DINOv2 in the form of transformers (facebook/dinov2-base), which μ0 takes, too: the same weights by their authors' names."""

from __future__ import annotations

import re
from typing import Any

MODEL_TYPES = ("dinov2", "dinov2_with_registers")
_NAMES = (
    (r"^(dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
)


def architecture(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of timm's architecture, and what else it is made with, of a configuration of transformers. Raises KeyError for what it lacks."""
    registers = config.get("num_register_tokens", 4) if config["model_type"] == "dinov2_with_registers" else 0
    size = "giant" if config.get("use_swiglu_ffn") else "base"
    arguments = {"embed_dim": config["hidden_size"], "depth": config["num_hidden_layers"], "num_heads": config["num_attention_heads"]}
    arguments |= {"img_size": config["image_size"], "patch_size": config["patch_size"]}
    return f"vit_{size}_patch14{'_reg4' if registers else ''}_dinov2", arguments | ({"reg_tokens": registers} if registers else {})


def by_authors_names(state: dict[str, Any]) -> dict[str, Any]:
    """The tensors under the names of DINOv2's own repository, queries, keys and values in one. Raises KeyError where some of them lack."""
    import torch

    renamed: dict[str, Any] = {}
    for name, value in state.items():
        if query := re.fullmatch(r"(.*encoder\.layer\.\d+)\.attention\.attention\.query\.(weight|bias)", name):
            layer, kind = query.groups()
            value = torch.cat([state[f"{layer}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")])
            name = f"{layer}.attn.qkv.{kind}"
        elif ".attention.attention." in name:
            continue
        for theirs, ours in _NAMES:
            name = re.sub(theirs, ours, name)
        renamed[name] = value
    return renamed
