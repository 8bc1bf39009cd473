"""The published checkpoint as one of ours, which every command takes."""

from __future__ import annotations

from pathlib import Path

from tracekit.errors import BadDataError, MissingInputError
from tracekit.interop.release_stats import read_release_stats
from tracekit.mu0.checkpoint import save, stored_weights
from tracekit.mu0.presets import tokenizer_of
from tracekit.mu0.release import is_release, load_release
from tracekit.mu0.statistics import CorpusStatistics
from tracekit.report import Report

_STATS = "delta_stats.json"


def adopt_release(folder: Path, stats: Path | None, target: Path, report: Report, *, download: bool = False) -> None:
    """Write the checkpoint in `folder` to the new folder `target`, all weights in it.

    `stats` is the JSON of the scales, delta_stats.json beside the weights when None. Raises MissingInputError and BadDataError naming
    what is missing or does not fit, CannotCreateError and StorageError for the target.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder} is no folder", hint="give the folder that holds config.json and model.safetensors")
    if not is_release(folder):
        raise BadDataError(f"{folder} holds no policy of type smolvla", hint="its config.json says what it is")
    delta_scale, depth_log_range = read_release_stats(stats or folder / _STATS)
    model = load_release(folder)
    try:
        tokenizer = tokenizer_of(model.config, download=download)
    except MissingInputError as error:
        tokenizer = None
        report.note(f"{error.message}; the checkpoint has none, and `rollout` needs it then: {error.hint}")
    # The release trains on paths of constant speed and metric depth (src/lerobot/datasets/trace_dataset.py).
    statistics = CorpusStatistics(
        tuple(delta_scale.tolist()), tuple(depth_log_range.tolist()), stride_seconds=0.0, retargeted=True, metric=True
    )
    save(target, model.config, stored_weights(model, embed_frozen=True), statistics, tokenizer=tokenizer)
