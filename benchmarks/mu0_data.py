"""Training steps of nano with samples read by workers, against the same steps with their batches in memory already."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tracekit.commands.demo import SAMPLE

import tracekit
from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.collate import Collate
from tracekit.mu0.dataset import TraceDataset
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.losses import loss_counts, losses
from tracekit.mu0.presets import PRESETS, build, tokenizer_of
from tracekit.mu0.recipe import PRESETS as RECIPES
from tracekit.mu0.sampling_parameters import SamplingParameters
from tracekit.training.loader import loader

NUM_STEPS, WARM_UP, NUM_ROUNDS = 12, 4, 5
NUM_WORKERS = 2


def main() -> list[dict]:
    config = PRESETS["nano"]
    batch_size = RECIPES["nano"]["batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder))
        dataset = TraceDataset([corpus], config, SamplingParameters(max_keypoints=RECIPES["nano"]["max_keypoints"]))
        collate = Collate(tokenizer_of(config))
        model = build(config).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def batches(workers: int) -> Iterable[TraceBatch]:
            return loader(dataset, collate, batch_size, stop=(WARM_UP + NUM_STEPS) * batch_size, num_workers=workers)

        in_memory = list(batches(0))
        seconds: dict[str, list[float]] = {"workers": [], "memory": []}
        for _ in range(NUM_ROUNDS):
            seconds["workers"].append(time_steps(model, optimiser, iter(batches(NUM_WORKERS))))
            seconds["memory"].append(time_steps(model, optimiser, iter(in_memory)))
    read, kept = (NUM_STEPS / statistics.median(measured) for measured in seconds.values())
    return [
        {
            "work": f"training steps of nano, {batch_size} samples, {NUM_WORKERS} workers that read, against batches in memory",
            "ours": f"{read:.2f} steps/s",
            "peer": f"in memory {kept:.2f} steps/s",
            "ratio": round(read / kept, 2),
            "goal": ">= 0.95",
        }
    ]


def time_steps(model: torch.nn.Module, optimiser: torch.optim.Optimizer, batches: Iterator[TraceBatch]) -> float:
    """Seconds of NUM_STEPS steps, after the workers have started."""
    for _ in range(WARM_UP):
        step(model, optimiser, next(batches))
    start = time.perf_counter()
    for _ in range(NUM_STEPS):
        step(model, optimiser, next(batches))
    return time.perf_counter() - start


def step(model: torch.nn.Module, optimiser: torch.optim.Optimizer, batch: TraceBatch) -> None:
    losses(model(batch), batch, LossWeights(), loss_counts(batch)).total.backward()
    optimiser.step()
    optimiser.zero_grad()


def make_corpus(folder: Path) -> Path:
    """The bundled sample's truth as a corpus with pictures."""
    truth = Path(tracekit.__file__).parent / "samples" / f"{SAMPLE}.truth.h5"
    command = ["fit-bspline", str(truth), "--every", "1", "--embed-images", "-o", str(folder / "corpus.h5")]
    subprocess.run([sys.executable, "-m", "tracekit", *command], check=True, capture_output=True)
    return folder / "corpus.h5"


if __name__ == "__main__":
    from table import print_table

    print_table(main())
