"""The checkpoint that the authors published (hub id furonghuang-lab/mu0): a LeRobot SmolVLA policy with a trace branch.

Facts read from github.com/Yoonkyo/mu0 (src/lerobot/policies/mu0). A folder holds config.json and model.safetensors. Loading is
strict: every tensor has its place, or the error names it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tracekit.errors import BadDataError, MissingInputError
from tracekit.format.json_file import read_json_object
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.model import Mu0
from tracekit.mu0.presets import PRESETS, build

# Tensors of the release, without the leading "model.", and ours. The first pattern that fits is taken.
_NAMES = (
    # Where depth has low-rank paths, the vision tower lies in a wrapper of peft.
    (
        r"vlm_with_expert\.vlm\.model\.vision_model\.base_model\.model\.(.+)\.lora_([AB])\.default\.weight",
        r"vlm.smolvlm.model.vision_model.\1.lora_\2",
    ),
    (
        r"vlm_with_expert\.vlm\.model\.vision_model\.base_model\.model\.(.+)\.base_layer\.(weight|bias)",
        r"vlm.smolvlm.model.vision_model.\1.\2",
    ),
    (r"vlm_with_expert\.vlm\.model\.vision_model\.base_model\.model\.(.+)", r"vlm.smolvlm.model.vision_model.\1"),
    (r"vlm_with_expert\.vlm\.(.+)", r"vlm.smolvlm.\1"),
    (r"vlm_with_expert\._depth_patch_embedding\.(.+)", r"vlm.depth_stem.\1"),
    (r"vlm_with_expert\.lm_expert\.(.+)", r"expert.\1"),
    (r"trace_time_embedding\.(.+)", r"tokens.group.\1"),
    (r"trace_seg_embedding\.(.+)", r"tokens.segment.\1"),
    (r"trace_uv_pos_mlp\.(.+)", r"tokens.place.\1"),
    (r"trace_in_proj_history\.(.+)", r"tokens.lift_history.\1"),
    (r"trace_in_proj_future\.(.+)", r"tokens.lift_target.\1"),
    (r"trace_dino_fuse_(in|out)\.(.+)", r"tokens.fuse_\1.\2"),
    (r"trace_out_proj_future\.(.+)", r"velocity.\1"),
    (r"trace_done_proj_bsp\.(.+)", r"validity.\1"),
    (r"trace_timestep_embedder\.mlp\.(.+)", r"flow_time.embed.\1"),
    (r"trace_adaln_modulation\.(.+)", r"flow_time.heads.\1"),
    (r"dino\.(.+)", r"local.model.\1"),
)

# Left over from SmolVLA's action branch: in the file, and used by nothing.
_UNUSED = re.compile(r"action_time_mlp_(in|out)\.(weight|bias)")

# What the release's configuration may say, and what of it ours cannot follow.
_ONLY = {
    "trace_mode": True,
    "trace_dim": 3,
    "attention_mode": "cross_attn",
    "self_attn_every_n_layers": 2,
    "add_image_special_tokens": False,
    "dino_num_prefix_tokens": 1,
    "depth_clone_stem": True,
}


def is_release(folder: Path) -> bool:
    """Whether a folder holds a policy of the release rather than a checkpoint of ours."""
    try:
        return read_json_object(folder / "config.json").get("type") == "smolvla"
    except (MissingInputError, BadDataError):
        return False


def load_release(folder: Path) -> Mu0:
    """The published network, in evaluation mode, in float32.

    Raises BadDataError for a configuration that ours cannot follow, and for tensors that are missing, left over or of another shape.
    """
    config = release_config(folder / "config.json")
    model = build(config)
    own = model.state_dict()
    tensors = _renamed(_tensors(folder / "model.safetensors"), folder)
    embedding, head = "vlm.smolvlm.model.text_model.embed_tokens.weight", "vlm.smolvlm.lm_head.weight"
    if head not in tensors and embedding in tensors:  # tied weights are stored once
        tensors[head] = tensors[embedding]
    if not read_json_object(folder / "config.json").get("trace_done_head", False):
        tensors |= {name: own[name] for name in ("validity.weight", "validity.bias")}
    check_tensors(tensors, own, str(folder / "model.safetensors"))
    model.load_state_dict(tensors)
    return model.eval()


def release_config(path: Path) -> Mu0Config:
    """Our configuration of a network whose config.json is the release's."""
    content = read_json_object(path)
    for name, only in _ONLY.items():
        if content.get(name, only) != only:
            raise BadDataError(f"{path}: {name} is {content[name]!r}, but only {only!r} can be loaded")
    try:
        if content.get("num_expert_layers", -1) not in (-1, 0, content["num_vlm_layers"]):
            raise BadDataError(f"{path}: num_expert_layers is {content['num_expert_layers']}, but as many as the VLM has are expected")
        size, other = content["resize_imgs_with_padding"]
        if size != other:
            raise BadDataError(f"{path}: pictures of {size} x {other} pixels, but squares are expected")
        config = Mu0Config(
            name="release",
            vlm=_vlm(content["vlm_model_name"], content["num_vlm_layers"], path),
            image_size=size,
            history=content["history_len"],
            horizon=content["future_len"],
            control_points=content["trace_bspline_n_ctrl"],
            history_group=content["trace_group_horizon"],
            control_group=content["trace_bspline_ctrl_per_token"],
            use_depth=content["use_depth"],
            depth_lora_rank=content["depth_lora_rank"],
            depth_lora_alpha=float(content["depth_lora_alpha"]),
            expert_width=content["expert_width_multiplier"],
            fourier_bands=content["trace_uv_num_freqs"],
            time_features=content["trace_adaln_freq_embed_size"],
            shortest_period=content["min_period"],
            longest_period=content["max_period"],
            local_features="dinov2" if content["use_dino"] else "none",
            dino=_dino(content["dino_model_name"], path) if content["use_dino"] else {},
            dino_size=content["dino_input_size"],
            max_text_tokens=content["tokenizer_max_length"],
            vlm_source=content["vlm_model_name"],
        )
    except KeyError as error:
        raise BadDataError(f"{path} has no {error.args[0]}") from None
    except (TypeError, ValueError) as error:  # null, or a text where a number belongs
        raise BadDataError(f"{path} holds a value of another type than expected: {error}") from None
    config.check()
    return config


def check_tensors(tensors: dict[str, Tensor], own: dict[str, Tensor], where: str) -> None:
    """Raise BadDataError naming what is missing, left over or of another shape."""
    faults = [f"missing {name}" for name in sorted(own.keys() - tensors.keys())]
    faults += [f"unexpected {name}" for name in sorted(tensors.keys() - own.keys())]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}, but {tuple(own[name].shape)} is expected"
        for name in sorted(own.keys() & tensors.keys())
        if tensors[name].shape != own[name].shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise BadDataError(f"{where} does not fit its configuration: {shown}")


def _renamed(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        short = name.removeprefix("model.")
        if _UNUSED.fullmatch(short):
            continue
        for pattern, ours in _NAMES:
            if match := re.fullmatch(pattern, short):
                renamed[match.expand(ours)] = tensor
                break
        else:
            raise BadDataError(f"{folder / 'model.safetensors'}: nothing is known of a tensor {name}")
    return renamed


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MissingInputError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).to(torch.float32) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BadDataError(f"{path} is no whole file of safetensors: {error}", hint="fetch it again") from None


def _vlm(name: str, num_layers: int, path: Path) -> dict[str, Any]:
    """The configuration of the VLM: known by its name, or in a folder of that name."""
    for preset in PRESETS.values():
        if preset.vlm_source == name:
            return {**preset.vlm, "text_config": {**preset.vlm["text_config"], "num_hidden_layers": num_layers}}
    if not (Path(name) / "config.json").is_file():
        raise BadDataError(f"{path}: the VLM {name!r} is unknown", hint="its three sizes are known by their hub ids; others as a folder")
    content = read_json_object(Path(name) / "config.json")
    return {
        "vision_config": content["vision_config"],
        "text_config": {**content["text_config"], "num_hidden_layers": num_layers},
        "scale_factor": content["scale_factor"],
        "tie_word_embeddings": content.get("tie_word_embeddings", False),
    }


def _dino(name: str, path: Path) -> dict[str, Any]:
    for preset in PRESETS.values():
        if preset.dino_source == name:
            return preset.dino
    if not (Path(name) / "config.json").is_file():
        raise BadDataError(
            f"{path}: the DINOv2 {name!r} is unknown", hint="facebook/dinov2-base is known by its hub id; others as a folder"
        )
    return read_json_object(Path(name) / "config.json")
