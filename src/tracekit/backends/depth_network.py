"""Depth networks of transformers with weights from a folder: exactly these weights, or an error; nothing in the folder can run code."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracekit.errors import BadDataError

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"


def load_depth_network(folder: Path, device: Any) -> tuple[Any, Any]:
    """The network, ready to run, and what makes its input of frames.

    Raises BadDataError when a file is damaged, when the weights are those of another network, or when frames would not be seen whole.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    safely: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _silent_transformers():
            # Wrong shapes are told, not raised, so that they are named here together with what is missing. Depth Pro's file is float16.
            model, told = AutoModelForDepthEstimation.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **safely
            )
            processor = AutoImageProcessor.from_pretrained(folder, **safely)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BadDataError(f"{folder}: not a readable network of transformers: {reason}", hint="fetch it again") from error
    # transformers gives what it does not find random values, leaves out what it does not know, and goes on.
    faults = [f"{name} is missing" for name in sorted(told["missing_keys"])]
    faults += [f"{name} has the shape {tuple(found)}, not {tuple(wanted)}" for name, found, wanted in sorted(told["mismatched_keys"])]
    faults += [f"there is no place for {name}" for name in sorted(told["unexpected_keys"]) if re.search(r"\.\d+\.", name)]
    if faults:
        more = f", and {len(faults) - 1} more such faults" if len(faults) > 1 else ""
        raise BadDataError(f"{folder / WEIGHTS}: these are not the weights of the network that {CONFIG} describes: {faults[0]}{more}")
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


@contextlib.contextmanager
def _silent_transformers() -> Iterator[None]:
    """No bars, and no tables of what was loaded: what is wrong is told by us."""
    from transformers.utils import logging

    before, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if had_bars:
            logging.enable_progress_bar()
