"""What makes two starts the same finetuning."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from tracekit.action.config import ActionConfig
from tracekit.action.demo_index import DemoIndex
from tracekit.action.finetune_options import DemoOptions
from tracekit.training.recipe import Recipe
from tracekit.training.run_identity import NETWORK, OPTIONS


def identity(config: ActionConfig, recipe: Recipe, data: DemoOptions, seed: int, index: DemoIndex, world_model: str) -> dict[str, Any]:
    """Plain data, as JSON gives it back. Where files lie does not matter, what they hold does. `world_model` is its digest, "" without one."""
    options = {**dataclasses.asdict(recipe), **dataclasses.asdict(data), "seed": seed}
    del options["workers"]
    # Features from a cache are those of pictures as they are, in float16: where it lies changes nothing.
    options["cache_features"] = data.cache_features is not None
    content = {NETWORK: config.to_json(), OPTIONS: options, "demos": _digest(index), "world_model": world_model}
    return json.loads(json.dumps(content))


def _digest(index: DemoIndex) -> str:
    """Of actions, states, sentences and splits; the pictures are taken to follow from these."""
    digest = hashlib.sha256()
    for file in index.files:
        digest.update(file.all_actions.tobytes())
        digest.update(file.all_states.tobytes())
    demos = [[head.key, head.num_samples, head.split, language] for (_, head), language in zip(index.demos, index.language, strict=True)]
    digest.update(json.dumps(demos).encode())
    return digest.hexdigest()
