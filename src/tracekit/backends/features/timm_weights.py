"""Vision transformers of timm with weights from a file: exactly these weights, or an error; nothing in the folder can run code."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from pathlib import Path
from typing import Any

from tracekit.backends.features import transformers_dinov2
from tracekit.backends.foreign.safe_weights import differences
from tracekit.backends.weights import read_tensors
from tracekit.errors import BadDataError
from tracekit.format.json_file import read_json_object

FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in a folder of the hub."""
NOT_SHAPE = {"self", "device", "dtype", "weight_init", "fix_init", "block_fn", "embed_layer", "attn_layer"}
"""What a constructor takes besides the shape of the network."""
# For a bare file of weights: its width gives the architecture.
DINOV2 = {384: "vit_small", 768: "vit_base", 1024: "vit_large", 1536: "vit_giant"}
DINOV3 = {384: "vit_small", 768: "vit_base", 1024: "vit_large", 1280: "vit_huge_plus", 4096: "vit_7b"}


def configuration(weights: Path) -> dict[str, Any] | None:
    """What stands in the config.json beside weights that are named as in a folder of the hub; None where there is none."""
    path = weights.parent / "config.json"
    return read_json_object(path) if weights.name in FILES and path.is_file() else None


def architecture_in(weights: Path) -> str | None:
    """The architecture (of timm) or type (of transformers) that the config.json beside the weights names, without reading them; None where
    it names none."""
    try:
        config = configuration(weights) or {}
    except BadDataError:  # told when the weights are loaded
        return None
    named = config.get("architecture", config.get("model_type"))
    return named if isinstance(named, str) else None


def load_timm(weights: Path, family: str = "") -> Any:
    """The network, ready to run, its `pretrained_cfg` saying what pictures it expects ("mean" and "std" of pixels in [0, 1]).

    The name of a bare file's architecture, which its tensors tell, must contain `family`. Raises BadDataError when the file is damaged, is
    that of another network, or when the network is no plain vision transformer.
    """
    config = configuration(weights)
    state = read_tensors(weights)
    arguments: dict[str, Any] = {}
    if config is None:
        architecture = _architecture_of(state, weights)
        if family not in architecture:
            own = architecture.rpartition("_")[2]
            raise BadDataError(f"{weights}: its tensors are those of a {own}, not of a {family}", hint=f"--features {own} takes it")
    else:
        architecture, arguments = _read_config(config, weights.parent / "config.json")
    if config is not None and "architecture" not in config:
        state = _renamed(state, weights)
    model = _create(architecture, arguments, weights)
    _load(model, state, weights, architecture)
    if config is not None:
        model.pretrained_cfg = {**model.pretrained_cfg, **_pictures(config, weights.parent / "config.json")}
    return model.eval()


def _create(architecture: str, arguments: dict[str, Any], weights: Path) -> Any:
    import timm
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    plain = f"{weights}: {architecture!r} is not a plain vision transformer (VisionTransformer or Eva of timm)"
    known = set(inspect.signature(VisionTransformer).parameters) | set(inspect.signature(Eva).parameters)
    if foreign := set(arguments) - (known - NOT_SHAPE):
        # Among them is what makes timm open another file, or a place in the network.
        raise BadDataError(f"{weights.parent / 'config.json'}: model_args must not hold {', '.join(sorted(foreign))}")
    ours: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}
    try:
        home = timm.models.model_entrypoint(architecture).__module__
        if home == "timm.models.vision_transformer":
            ours["weight_init"] = "skip"  # every weight is read from the file
        elif home not in ("timm.models.eva", "timm.models.deit"):
            raise BadDataError(plain, hint="name another model")
        model = timm.create_model(architecture, pretrained=False, **{**arguments, **ours})
    except (RuntimeError, TypeError, ValueError, KeyError, AssertionError) as error:
        raise BadDataError(f"{weights}: timm cannot make {architecture!r}: {error}", hint="name another model, or update timm") from error
    if not isinstance(model, VisionTransformer | Eva):
        raise BadDataError(plain, hint="name another model")
    return model


def _load(model: Any, state: dict[str, Any], weights: Path, architecture: str) -> None:
    from timm.models import eva, vision_transformer

    home = eva if isinstance(model, eva.Eva) else vision_transformer
    try:
        # Brings weights of the networks' own repositories into timm's form. It prints, and stdout may be an episode file.
        with contextlib.redirect_stdout(None):
            state = home.checkpoint_filter_fn(dict(state), model)
        # What classifies pictures is left out; everything else must be there.
        heads = model.pretrained_cfg.get("classifier") or "head"
        for head in (heads,) if isinstance(heads, str) else heads:
            state = {name: value for name, value in state.items() if not name.startswith(f"{head}.")}
        model.load_state_dict(state, strict=True)
    except (RuntimeError, KeyError, AttributeError, IndexError) as error:
        reason = differences(model.state_dict(), state)
        raise BadDataError(f"{weights}: these are not the weights of {architecture}: {reason}") from error


def _read_config(config: dict[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    of_transformers = config.get("model_type") if "architecture" not in config else None
    if of_transformers is not None and of_transformers not in transformers_dinov2.MODEL_TYPES:
        raise BadDataError(
            f"{path}: these weights are in the form of transformers ({of_transformers}), not of timm",
            hint="take the same network from timm, for example --weights timm/vit_base_patch16_dinov3.lvd1689m",
        )
    try:
        if of_transformers is not None:
            return transformers_dinov2.architecture(config)
        architecture, arguments = config["architecture"], dict(config.get("model_args") or {})
        # The folder is somebody's: "hf-hub:..." and "local-dir:..." would have timm open another place.
        if not re.fullmatch(r"\w+(\.\w+)?", architecture):
            raise ValueError(f"{architecture!r} is no name of a timm architecture")
        return architecture, arguments
    except (ValueError, KeyError, TypeError) as error:
        hint = 'it must hold {"architecture": ...}'
        raise BadDataError(f"{path}: not the configuration of a vision transformer: {error}", hint=hint) from error


def _renamed(state: dict[str, Any], weights: Path) -> dict[str, Any]:
    try:
        return transformers_dinov2.by_authors_names(state)
    except (KeyError, RuntimeError) as error:
        raise BadDataError(f"{weights}: not the weights of a DINOv2 in the form of transformers: {error} is missing") from error


def _pictures(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """What the configuration says of the pictures that the network was trained with."""
    said = config.get("pretrained_cfg") or config
    found: dict[str, Any] = {key: said[key] for key in ("mean", "std") if isinstance(said, dict) and key in said}
    for key, values in found.items():
        good = isinstance(values, list) and len(values) == 3 and all(isinstance(value, int | float) for value in values)
        if not good or not all(math.isfinite(value) and (key == "mean" or value > 0) for value in values):
            raise BadDataError(f"{path}: {key} is {values!r}", hint="it must be three numbers, one for each of red, green and blue")
    return found


def _architecture_of(state: dict[str, Any], weights: Path) -> str:
    """Of a bare file, by its tensors. Both scale what their layers add; DINOv2 has patches of 14 px and a learned embedding of positions,
    DINOv3 patches of 16 px and registers, its positions being rotary."""
    width = state["cls_token"].shape[-1] if "cls_token" in state else None
    registers = {"reg_token", "register_tokens", "storage_tokens"} & set(state)
    patch = tuple(state["patch_embed.proj.weight"].shape[2:]) if "patch_embed.proj.weight" in state else None
    # timm would resample patches of another size, and other networks have the same widths.
    if not any(name.endswith((".ls1.gamma", ".gamma_1")) for name in state):
        patch = None
    if "pos_embed" in state and patch == (14, 14) and width in DINOV2:
        return f"{DINOV2[width]}_patch14{'_reg4' if registers else ''}_dinov2"
    if "pos_embed" not in state and registers and patch == (16, 16) and width in DINOV3:
        gated = any(name.endswith(("fc1_g.weight", "w1.weight")) for name in state)
        size = DINOV3[width] + ("_plus" if gated and width == 384 else "")
        return f"{size}_patch16_dinov3"
    raise BadDataError(
        f"{weights}: neither the weights of a DINOv2 nor of a DINOv3",
        hint="put them in a folder with a config.json that says which they are",
    )
