"""The networks that have names, and how one is made (paper 3.1, B.1, E.2; docs/model.md has their cards)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from tracekit.backends.transformers_folder import silent_transformers
from tracekit.errors import BadDataError, MissingInputError
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.local_features import DinoFeatures
from tracekit.mu0.model import Mu0

_LAYERS = 20
"""L_vlm: the first text layers of the VLM, and the layers of the expert."""


def _smolvlm(vision: dict[str, Any], text: dict[str, Any], scale_factor: int, *, tied: bool = False) -> dict[str, Any]:
    return {
        "vision_config": {"hidden_act": "gelu_pytorch_tanh", **vision},
        "text_config": {
            "model_type": "llama",
            "rms_norm_eps": 1e-5,
            "attention_bias": False,
            "pad_token_id": 0,
            **text,
        },
        "scale_factor": scale_factor,
        "tie_word_embeddings": tied,
    }


_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
_SIGLIP_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
_DINO_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 518, "patch_size": 14}


def _smollm(width: int, heads: int, key_value_heads: int, inner: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": 64,
        "intermediate_size": inner,
        "num_hidden_layers": _LAYERS,
        "vocab_size": 49280,
        "max_position_embeddings": 8192,
    }


def _paper(name: str, source: str, vlm: dict[str, Any]) -> Mu0Config:
    return Mu0Config(name, vlm, image_size=512, dino=_DINO_BASE, vlm_source=source, dino_source="facebook/dinov2-base")


_NANO = Mu0Config(
    "nano",
    _smolvlm(
        {
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "image_size": 128,
            "patch_size": 16,
        },
        {
            "hidden_size": 256,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "head_dim": 32,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "vocab_size": 4096,
            "max_position_embeddings": 512,
        },
        scale_factor=1,
        tied=True,
    ),
    image_size=128,
    expert_width=0.75,
    local_features="stem",
    depth_lora_rank=0,
    tokenizer="words",
    freeze_vlm=False,
)

PRESETS: dict[str, Mu0Config] = {
    "2.59b": _paper("2.59b", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", _smolvlm(_SO400M, _smollm(2048, 32, 32, 8192), 3)),
    "568m": _paper("568m", "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", _smolvlm(_SIGLIP_BASE, _smollm(960, 15, 5, 2560), 4)),
    "342m": _paper("342m", "HuggingFaceTB/SmolVLM2-256M-Video-Instruct", _smolvlm(_SIGLIP_BASE, _smollm(576, 9, 3, 1536), 4)),
    "nano": _NANO,
    # Every part of the large ones, at sizes for tests.
    "tiny-random": Mu0Config(
        "tiny-random",
        _smolvlm(
            {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
            },
            {
                "hidden_size": 32,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "intermediate_size": 48,
                "num_hidden_layers": 4,
                "vocab_size": 128,
                "max_position_embeddings": 256,
            },
            scale_factor=2,
        ),
        image_size=32,
        depth_lora_rank=2,
        depth_lora_alpha=4.0,
        dino={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        dino_size=28,
        tokenizer="words",
    ),
}


def build(config: Mu0Config, seed: int = 0) -> Mu0:
    """A network with random weights that follow from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Mu0(config)


def on_meta(config: Mu0Config) -> Mu0:
    """The network without memory for its weights: to count them, or to load others into it."""
    with torch.device("meta"):
        return Mu0(config)


def load_pretrained_parts(model: Mu0, *, download: bool = False) -> None:
    """Put the pretrained VLM and DINOv2 that the configuration names into the network.

    Sources are folders, or hub ids that are read from the local cache, and fetched only with `download`.
    Raises MissingInputError saying what to do when they are not to be had, BadDataError when they are of another architecture.
    """
    from transformers import Dinov2Model, SmolVLMForConditionalGeneration

    if model.config.vlm_source:
        # The VLM is cut to its first layers by the configuration: the weights of the others stay on disk.
        pretrained = _from_hub(SmolVLMForConditionalGeneration, model.config.vlm_source, model.vlm.smolvlm.config, download, _OF_VLM)
        model.vlm.adopt(pretrained)
    if isinstance(model.local, DinoFeatures) and model.config.dino_source:
        pretrained = _from_hub(Dinov2Model, model.config.dino_source, model.local.model.config, download, _OF_DINO)
        model.local.adopt(pretrained)


# Commands that load pretrained parts name the same folder by different flags.
_OF_VLM = "--vlm-weights of pretrain, --vlm of rollout"
_OF_DINO = "--dino-weights of pretrain, --dino of rollout"


def _what_to_do(flags: str, download: bool) -> str:
    """Where pretrained parts are not to be had."""
    fetching = "check the connection" if download else "allow fetching with --download, or fill the hub's cache"
    return f"{fetching}, or name the folder where it is ({flags}); pretrain needs no hub at all with --random-weights or --preset nano"


def _from_hub(architecture: Any, source: str, config: Any, download: bool, flags: str) -> Any:
    try:
        with silent_transformers():
            # Wrong shapes are told, not raised, so that they are named here together with what is missing.
            model, told = architecture.from_pretrained(
                source,
                config=config,
                local_files_only=not download,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingInputError(f"the weights of {source} are not to be had: {reason}", hint=_what_to_do(flags, download)) from None
    # transformers gives these random values and goes on.
    faults = sorted(told["missing_keys"]) + sorted(f"{name} of shape {tuple(want)}" for name, _, want in told["mismatched_keys"])
    if faults:
        raise BadDataError(
            f"the weights of {source} are of another architecture than {architecture.__name__} of this size: they do not hold {faults[0]}"
            + (f", and {len(faults) - 1} more" if len(faults) > 1 else ""),
            hint="--preset says which size of the VLM is wanted",
        )
    return model


def tokenizer_of(config: Mu0Config, folder: str | Path | None = None, *, download: bool = False) -> Any:
    """The tokenizer of a network, from `folder` (a checkpoint that holds one) or from where its VLM comes from."""
    from tracekit.mu0.text import HubTokenizer, WordTokenizer

    if config.tokenizer == "words":
        return WordTokenizer(config.vlm["text_config"]["vocab_size"], config.max_text_tokens)
    from transformers import AutoTokenizer

    source = str(folder or config.vlm_source)
    try:
        # A folder may ask for a program of its own to be run: it is refused, where the default is to ask on standard input.
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=not download, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise MissingInputError(
            f"the tokenizer of {source} is not to be had: {str(error).strip().splitlines()[0]}",
            hint=_what_to_do(_OF_VLM, download),
        ) from None
    return HubTokenizer(tokenizer, config.max_text_tokens)


def without(config: Mu0Config, *, bspline: bool = False, dino: bool = False, depth: bool = False, history: bool = False) -> Mu0Config:
    """The same network without what Table 6 leaves out."""
    changes: dict[str, Any] = {}
    if bspline:
        changes["use_bspline"] = False
    if dino:
        changes["local_features"] = "none"
    if depth:
        changes["use_depth"] = False
    if history:
        changes["use_history"] = False
    return dataclasses.replace(config, **changes)
