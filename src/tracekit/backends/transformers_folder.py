"""What everything has in common that reads networks of transformers from a folder: exactly these weights, or an error, and no talk."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tracekit.errors import BadDataError
from tracekit.format.json_file import read_json_object

SAFELY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""For every from_pretrained: the folder is somebody's. See also `refuse_foreign_parts`."""
STRICTLY: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True, **SAFELY}
"""For networks: wrong shapes are told, not raised, so that `refuse_other_weights` names them together with what is missing."""


def refuse_foreign_parts(folder: Path) -> None:
    """Raise BadDataError where the folder would have transformers run or fetch more than the network and its weights.

    Its configuration can name kernels that transformers then fetches from the hub and imports, whatever else was said to it, or
    quantisation by other packages; an adapter would change the weights behind our digest.
    """
    if (folder / "adapter_config.json").exists():
        raise BadDataError(f"{folder} holds an adapter beside the weights", hint="merge it into them")
    unread = [read_json_object(folder / "config.json")]
    while unread:
        for key, value in unread.pop().items():
            if isinstance(value, dict):
                unread.append(value)
            if key in ("attn_implementation", "_attn_implementation") and value not in (None, "eager", "sdpa"):
                raise BadDataError(f"{folder / 'config.json'} asks for the attention {value!r}", hint=f'take out "{key}"')
            if key == "quantization_config" and value is not None:
                raise BadDataError(f"{folder / 'config.json'}: quantised weights are not read", hint="take those in full precision")


def refuse_other_weights(told: Mapping[str, Any], weights: Path) -> None:
    """Raise BadDataError unless loading found every weight of the network and no other.

    transformers gives what it does not find random values, leaves out what it does not know, and goes on; `told` is what it says of that.
    """
    faults = [f"{name} is missing" for name in sorted(told["missing_keys"])]
    faults += [f"{name} has the shape {tuple(found)}, not {tuple(wanted)}" for name, found, wanted in sorted(told["mismatched_keys"])]
    faults += [f"there is no place for {name}" for name in sorted(told["unexpected_keys"]) if re.search(r"\.\d+\.", name)]
    if faults:
        more = f", and {len(faults) - 1} more such faults" if len(faults) > 1 else ""
        raise BadDataError(f"{weights}: these are not the weights of the network that config.json describes: {faults[0]}{more}")


@contextlib.contextmanager
def silent_transformers() -> Iterator[None]:
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
