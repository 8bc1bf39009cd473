"""Frozen weights that a checkpoint names instead of holding: which they are, and whether they are still the same."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracekit.errors import BadDataError
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.model import Mu0

# Part of a network: what the names of its weights begin with.
_PARTS = {"vlm": "vlm.smolvlm.", "dino": "local.model."}


@dataclass(frozen=True)
class Reference:
    """Where the frozen weights of a part come from."""

    source: str
    """Hub id, or a folder."""
    revision: str
    """Commit of the hub repository; "" for a folder."""
    sha256: str
    """Digest of the weights as bfloat16, in the order of their names."""

    def to_json(self) -> dict[str, str]:
        return dataclasses.asdict(self)


def referenced_weights(model: Mu0) -> dict[str, dict[str, Tensor]]:
    """Frozen weights from elsewhere: part to names to weights. Empty for networks that start from random weights."""
    return {part: frozen for part, source in _sources(model.config).items() if source and (frozen := _frozen(model, _PARTS[part]))}


def make_references(model: Mu0) -> dict[str, Reference]:
    """Say where a network's frozen weights came from. Reads all of them: seconds for gigabytes."""
    return {
        part: Reference(_sources(model.config)[part], _revision(_sources(model.config)[part]), _digest(weights))
        for part, weights in referenced_weights(model).items()
    }


def check_references(model: Mu0, references: dict[str, Reference], where: str) -> None:
    """Raises BadDataError when the weights that were put into the network are not those of the checkpoint `where`."""
    weights = referenced_weights(model)
    for part, reference in references.items():
        if _digest(weights.get(part, {})) != reference.sha256:
            raise BadDataError(
                f"the weights of {_sources(model.config)[part] or part} are not those that {where} was trained with",
                hint=f"it needs {reference.source}" + (f" at revision {reference.revision}" if reference.revision else ""),
            )


def references_from_json(content: Any, where: str) -> dict[str, Reference]:
    """Raises BadDataError for anything but what `to_json` wrote."""
    names = {field.name for field in dataclasses.fields(Reference)}
    if not isinstance(content, dict) or not set(content) <= set(_PARTS):
        raise BadDataError(f"{where}: references are not of {', '.join(_PARTS)}")
    for value in content.values():
        if not isinstance(value, dict) or set(value) != names or not all(isinstance(entry, str) for entry in value.values()):
            raise BadDataError(f"{where}: a reference does not hold exactly the texts {', '.join(sorted(names))}")
    return {part: Reference(**value) for part, value in content.items()}


def _sources(config: Mu0Config) -> dict[str, str]:
    return {"vlm": config.vlm_source, "dino": config.dino_source if config.local_features == "dinov2" else ""}


def _frozen(model: Mu0, prefix: str) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters() if name.startswith(prefix) and not value.requires_grad}


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].to(torch.bfloat16).contiguous().cpu().view(torch.int16).numpy().data)
    return digest.hexdigest()


def _revision(source: str) -> str:
    """The commit in the hub's cache from which `source` was read."""
    if os.path.isdir(source):
        return ""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source, "config.json")
    return Path(cached).parent.name if isinstance(cached, str) else ""
