"""From a preset, options and a corpus to the configuration of a network."""

from __future__ import annotations

import dataclasses

from tracekit.errors import UsageError
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.corpus_reader import CorpusHead
from tracekit.mu0.network_options import NetworkOptions
from tracekit.mu0.presets import PRESETS, without
from tracekit.report import Report


def choose_network(preset: str, options: NetworkOptions, corpus: CorpusHead | None, report: Report) -> Mu0Config:
    """The network of a preset as the options change it, with the steps and splines of the corpus.

    Raises UsageError for options that exclude each other, ConfigurationError when the network cannot be.
    """
    given = [flag for flag, source in (("--vlm-weights", options.vlm_weights), ("--dino-weights", options.dino_weights)) if source]
    if options.random_weights and given:
        raise UsageError(f"--random-weights and {' and '.join(given)} exclude each other", hint="leave out the one or the other")
    config = without(
        PRESETS[preset], bspline=not options.bspline, dino=not options.dino, depth=not options.depth, history=not options.history
    )
    if options.vlm_weights:
        config = dataclasses.replace(config, vlm_source=options.vlm_weights)
    if options.dino_weights:
        config = dataclasses.replace(config, dino_source=options.dino_weights)
    if options.random_weights:
        config = dataclasses.replace(config, vlm_source="", dino_source="", tokenizer="words")
    if options.train_vlm:
        config = dataclasses.replace(config, freeze_vlm=False)
    if corpus is not None:
        config = _fitted(config, corpus, report)
    config.check()
    return config


def _fitted(config: Mu0Config, corpus: CorpusHead, report: Report) -> Mu0Config:
    changes: dict[str, object] = {}
    for name in ("history", "horizon", "control_points", "basis"):
        there, here = getattr(corpus, name), getattr(config, name)
        if there != here:
            changes[name] = there
            report.note(f"{name} is {there}, as in {corpus.path} ({here} in the preset)")
    # A token that held all steps or all points still does.
    if "history" in changes and config.history_group == config.history:
        changes["history_group"] = corpus.history
    if "control_points" in changes and config.control_group == config.control_points:
        changes["control_group"] = corpus.control_points
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]
