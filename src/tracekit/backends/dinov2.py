"""DINOv2 patch features through timm: what the paper clusters into entities (paper 2.1, A.1)."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tracekit.backends.devices import torch_device
from tracekit.backends.protocols import BackendSetup, PatchFeatures
from tracekit.errors import BadDataError, UnavailableError
from tracekit.format.json_file import read_json_object

DEFAULT_MODEL = "vit_base_patch14_dinov2.lvd142m"
PATCHES_ACROSS = 37
"""Patches along the longer side of a frame: 518 px, the size that DINOv2 was trained for."""
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
# For a bare file of weights: its width gives the architecture.
ARCHITECTURE = {384: "vit_small", 768: "vit_base", 1024: "vit_large", 1536: "vit_giant"}


MODEL_ARGUMENTS = {
    *("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values"),
    *("class_token", "reg_tokens", "no_embed_class", "global_pool", "mlp_layer", "act_layer", "dynamic_img_size", "num_classes"),
}
"""What "model_args" of a configuration may say: the shape of the network."""


class DinoV2:
    """Normalised patch tokens of the last block.

    `setup.weights` is the name of a timm model on the hub (default DINOv2-B), a folder in the hub's layout (config.json with
    "architecture" and perhaps "model_args", and model.safetensors), or a file of weights.
    """

    name: ClassVar[str] = "dinov2"

    def __init__(self, setup: BackendSetup) -> None:
        if reason := self.missing(setup):
            raise UnavailableError(f"features backend dinov2 cannot run here: {reason}")
        self.device = torch_device(setup.device)
        self.weights = _local_weights(setup.weights) or _download(setup.weights)
        self.model = _load(self.weights).to(self.device)

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        for package in ("torch", "timm", "safetensors"):
            if importlib.util.find_spec(package) is None:
                return f"the package {package} is not installed: pip install {package}"
        if _local_weights(setup.weights) is not None:
            return None
        if _is_path(setup.weights):
            return f"there are no weights at {setup.weights}: give a .safetensors file, or a folder with config.json and model.safetensors"
        if not setup.download:
            return (
                f"its weights ({_repository(setup.weights)}) are not on this machine: "
                "allow the download with --download, or give --weights a local .safetensors file or folder"
            )
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"its weights ({_repository(setup.weights)}) are not on this machine and HF_HUB_OFFLINE forbids their download"
        return None

    def weights_sha256(self) -> str:
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def describe(self, frames: np.ndarray) -> PatchFeatures:
        """`frames` (n, H, W, 3) uint8 RGB -> (n, gh, gw, F); the longer side has 37 patches, and the grid covers the frame."""
        import torch

        height, width = frames.shape[1:3]
        rows, columns = (max(1, round(PATCHES_ACROSS * side / max(height, width))) for side in (height, width))
        side = self.model.patch_embed.patch_size[0]
        mean, std = (torch.tensor(self.model.pretrained_cfg[key], device=self.device).reshape(1, 3, 1, 1) * 255 for key in ("mean", "std"))
        features = np.empty((len(frames), rows, columns, self.model.num_features), np.float32)
        # One frame at a time: attention over its patches keeps any device busy, and memory does not grow with the number of frames.
        for index, frame in enumerate(frames):
            with torch.inference_mode():
                image = torch.from_numpy(np.ascontiguousarray(frame)).to(self.device).permute(2, 0, 1)[None].float()
                image = torch.nn.functional.interpolate(image, (rows * side, columns * side), mode="bilinear", antialias=True)
                tokens = self.model.forward_intermediates((image - mean) / std, indices=1, norm=True, intermediates_only=True)
            features[index] = tokens[0][0].permute(1, 2, 0).cpu().numpy()
        return PatchFeatures(features)


def _repository(weights: str | None) -> str:
    name = (weights or DEFAULT_MODEL).removeprefix("hf-hub:")
    return name if "/" in name else f"timm/{name}"


def _is_path(weights: str | None) -> bool:
    """A hub id has one slash at most, and no suffix of a file; anything else can only be a path."""
    if weights is None:
        return False
    path = Path(weights)
    named_as_file = path.suffix in (".safetensors", ".bin", ".pth", ".pt")
    return named_as_file or path.is_absolute() or weights.startswith((".", "~")) or len(path.parts) > 2


def _local_weights(weights: str | None) -> Path | None:
    """The file of weights, where it is on this machine already: at the path given, or in the hub's cache."""
    if weights is not None:
        path = Path(weights).expanduser()
        if path.is_file():
            return path
        if path.is_dir():
            return _file_in(path)
    if _is_path(weights):
        return None
    # The layout of the cache is public; importing the hub's client to ask it costs more than all of the lowlevel backend.
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    repository = cache / ("models--" + _repository(weights).replace("/", "--"))
    current = repository / "refs" / "main"
    return _file_in(repository / "snapshots" / current.read_text().strip()) if current.is_file() else None


def _file_in(folder: Path) -> Path | None:
    if not (folder / "config.json").is_file():
        return None
    return next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)


def _download(weights: str | None) -> Path:
    import huggingface_hub

    repository = _repository(weights)
    try:
        huggingface_hub.hf_hub_download(repository, "config.json")
        return Path(huggingface_hub.hf_hub_download(repository, WEIGHTS_FILES[0]))
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise UnavailableError(
            f"could not fetch {repository}: {error}", hint="try again, or give --weights a local .safetensors file or folder"
        ) from error


def _load(weights: Path) -> Any:
    """The timm model with exactly these weights. Raises BadDataError when the file is damaged, or is that of another model."""
    import timm
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    state = _read(weights)
    config = weights.parent / "config.json"
    if weights.name in WEIGHTS_FILES and config.is_file():
        architecture, arguments = _read_config(config)
    else:
        architecture, arguments = _architecture_of(state, weights), {}
    try:
        ours = {"num_classes": 0, "dynamic_img_size": True, "weight_init": "skip"}  # every weight is read from the file
        model = timm.create_model(architecture, pretrained=False, **{**arguments, **ours})
    except (RuntimeError, TypeError) as error:
        raise BadDataError(f"{config}: timm cannot make {architecture!r}: {error}", hint="name a DINOv2 model") from error
    if not isinstance(model, VisionTransformer):
        raise BadDataError(f"{weights}: {architecture!r} is not a vision transformer", hint="name a DINOv2 model")
    try:
        model.load_state_dict(checkpoint_filter_fn(state, model), strict=True)
    except (RuntimeError, KeyError) as error:
        raise BadDataError(f"{weights}: these are not the weights of {architecture}: {error}") from error
    return model.eval()


def _read(weights: Path) -> dict[str, Any]:
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(weights)
        import torch

        # Never a full unpickling: a file of weights must not be able to run code.
        state = torch.load(weights, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("it holds something else than named tensors")
        return state
    except Exception as error:
        raise BadDataError(f"{weights}: not a readable file of weights: {error}", hint="fetch it again; .safetensors is best") from error


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    config = read_json_object(path)
    try:
        architecture, arguments = config["architecture"], dict(config.get("model_args") or {})
        # The folder is somebody's: nothing in it may name another file or a place in the network for timm to open.
        if not re.fullmatch(r"\w+(\.\w+)?", architecture):
            raise ValueError(f"{architecture!r} is no name of a timm architecture")
        if foreign := set(arguments) - MODEL_ARGUMENTS:
            raise ValueError(f"model_args must not hold {', '.join(sorted(foreign))}")
        return architecture, arguments
    except (ValueError, KeyError, TypeError) as error:
        raise BadDataError(f"{path}: not a timm configuration: {error}", hint='it must hold {"architecture": ...}') from error


def _architecture_of(state: dict[str, Any], weights: Path) -> str:
    width = state["cls_token"].shape[-1] if "cls_token" in state else None
    if width not in ARCHITECTURE:
        raise BadDataError(f"{weights}: not the weights of a DINOv2 model", hint="put them in a folder with a config.json that says which")
    registers = "_reg4" if {"reg_token", "register_tokens"} & set(state) else ""
    return f"{ARCHITECTURE[width]}_patch14{registers}_dinov2"
