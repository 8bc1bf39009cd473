"""What makes two starts the same pretraining."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from tracekit.mu0.config import Mu0Config
from tracekit.mu0.corpus_index import CorpusIndex
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.sampling_parameters import SamplingParameters
from tracekit.training.recipe import Recipe
from tracekit.training.run_identity import NETWORK, OPTIONS


def identity(
    config: Mu0Config, recipe: Recipe, weights: LossWeights, sampling: SamplingParameters, seed: int, held_out: float, corpus: CorpusIndex
) -> dict[str, Any]:
    """Plain data, as JSON gives it back. Where weights and corpora lie does not matter, what they hold does."""
    network = {key: value for key, value in config.to_json().items() if not key.endswith("_source")}
    options = {
        **dataclasses.asdict(recipe),
        **dataclasses.asdict(weights),
        **dataclasses.asdict(sampling),
        "seed": seed,
        "hold_out": held_out,
    }
    return json.loads(json.dumps({NETWORK: network, OPTIONS: options, "corpus": _digest(corpus)}))


def _digest(corpus: CorpusIndex) -> str:
    """Of the samples that are trained on and of what scales them; the rows themselves are taken to follow from these."""
    digest = hashlib.sha256()
    for head in corpus.heads:
        digest.update("\n".join([*head.clip_name, *head.clip_sha256]).encode())
        for values in (head.delta_scale, head.depth_log_range, head.sample_clip, head.sample_frame, head.sample_offset):
            digest.update(values.tobytes())
    digest.update(corpus.corpus.tobytes())
    digest.update(corpus.sample.tobytes())
    return digest.hexdigest()
