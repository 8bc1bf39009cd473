"""Depth networks of transformers with weights from a folder: exactly these weights, or an error; nothing in the folder can run code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tracekit.backends.transformers_folder import SAFELY, STRICTLY, refuse_foreign_parts, refuse_other_weights, silent_transformers
from tracekit.errors import BadDataError

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"


def load_depth_network(folder: Path, device: Any) -> tuple[Any, Any]:
    """The network, ready to run, and what makes its input of frames.

    Raises BadDataError when a file is damaged, when the weights are those of another network, or when frames would not be seen whole.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    refuse_foreign_parts(folder)
    try:
        with silent_transformers():
            # Depth Pro's file is float16.
            model, told = AutoModelForDepthEstimation.from_pretrained(folder, dtype=torch.float32, **STRICTLY)
            processor = AutoImageProcessor.from_pretrained(folder, **SAFELY)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BadDataError(f"{folder}: not a readable network of transformers: {reason}", hint="fetch it again") from error
    refuse_other_weights(told, folder / WEIGHTS)
    for option in ("do_center_crop", "do_pad"):
        if getattr(processor, option, False):
            raise BadDataError(f"{folder / PREPROCESSOR}: {option} is set, but depth is wanted of whole frames", hint="set it to false")
    in_full_precision(model.head, device)
    if getattr(model, "fov_model", None) is not None:
        in_full_precision(model.fov_model.head, device)
    return model.eval().to(device), processor


def in_full_precision(module: Any, device: Any) -> None:
    """Have a module compute in float32 where the rest is multiplied in bfloat16: 8 bits for the depth itself would be steps of 0.4 %."""
    import torch

    forward = module.forward

    def with_float32(*inputs: Any) -> Any:
        with torch.autocast(device.type, enabled=False):
            return forward(*(_as_float32(value) for value in inputs))

    module.forward = with_float32


def _as_float32(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_float32(each) for each in value]
    return value.float() if hasattr(value, "float") else value
