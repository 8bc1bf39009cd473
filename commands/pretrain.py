"""tracekit pretrain: train μ0 on corpora."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import typer

from tracekit import options
from tracekit.console import ConsoleReport
from tracekit.errors import MissingInputError, ResumableError, UsageError
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.network_options import NetworkOptions
from tracekit.mu0.recipe import PRESETS, Mu0Engine, Mu0Recipe
from tracekit.mu0.sampling_parameters import SamplingParameters
from tracekit.parameters import parameter
from tracekit.training.start_options import StartOptions


@dataclass(frozen=True)
class DataOptions:
    """What is learnt from, and what is held out."""

    hold_out: float = parameter(
        0.02, "Fraction of the clips, one at least, that are validated on and not learnt from.", minimum=0.0, maximum=0.9
    )
    validation: str = parameter("", "Validate on this corpus instead of clips that are held out; several by comma.")
    videos: str | None = parameter(None, "A folder of videos that are not where the corpora say.")
    workers: int = parameter(4, "Processes that read samples, for each process that trains.", minimum=0)


@dataclass(frozen=True)
class RunOptions(StartOptions):
    """Where the run is, and how it is started."""

    output: str | None = parameter(None, "The folder of the run: checkpoints, log, pointers to the last and the best checkpoint.")
    preset: str = parameter("2.59b", "The network, and how it is trained. Defaults shown here are those of 2.59b.", choices=tuple(PRESETS))
    dry_run: bool = parameter(False, "Print the configuration, weights, memory and first batch; touch nothing. Works without a corpus.")


class PretrainCommand:
    """Corpora in, a run out. The same command goes on where it stopped."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "pretrain",
            self.run,
            {
                "network": NetworkOptions,
                "recipe": Mu0Recipe,
                "weights": LossWeights,
                "sampling": SamplingParameters,
                "data": DataOptions,
                "engine": Mu0Engine,
                "start": RunOptions,
            },
            own=("network", "recipe", "weights", "sampling", "data", "engine"),
            sources="Corpora, which share their scales.",
            metavar="CORPUS...",
            presets=PRESETS,
            about="Train μ0, the trace world model (paper 3, B, C). The same command goes on where a run stopped; SIGTERM and SIGUSR1 stop it after a"
            " checkpoint, with exit code 75. Several GPUs: torchrun -m tracekit pretrain ..., or srun tracekit pretrain ..."
            "\n\nReads: corpora of fit-bspline.  Writes: a folder with checkpoints/step-*, log.jsonl, last.json, best.json."
            "\n\nExample:  tracekit pretrain corpus.h5 --preset nano -o mu0",
        )

    def run(
        self,
        sources: list[str],
        network: NetworkOptions,
        recipe: Mu0Recipe,
        weights: LossWeights,
        sampling: SamplingParameters,
        data: DataOptions,
        engine: Mu0Engine,
        start: RunOptions,
    ) -> None:
        if not start.dry_run and not (sources and start.output):
            raise UsageError("say what to learn from and where the run goes: tracekit pretrain CORPUS... -o RUN")
        if start.json and not start.dry_run:
            raise UsageError("--json is for --dry-run", hint="the log of a run is RUN/log.jsonl")
        for source in sources:
            if not Path(source).is_file():
                raise MissingInputError(f"{source} does not exist", hint="tracekit fit-bspline EPISODE... -o CORPUS makes corpora")

        from tracekit.mu0.corpus_reader import read_head
        from tracekit.mu0.network_choice import choose_network
        from tracekit.mu0.training import Plan, pretrain
        from tracekit.training.processes import join_processes
        from tracekit.training.run_folder import RunFolder
        from tracekit.training.stop_signals import heed_stop_signals

        report = ConsoleReport("pretrain", quiet=start.quiet, verbose=start.verbose)
        config = choose_network(start.preset, network, read_head(sources[0]) if sources else None, report)
        plan = Plan(
            config,
            recipe,
            weights,
            sampling,
            engine,
            sources,
            validation=[path for path in data.validation.split(",") if path],
            held_out=data.hold_out,
            videos=data.videos,
            seed=start.seed,
            num_workers=data.workers,
            download=start.download,
        )
        if start.dry_run:
            _say_what_would_be(plan, start, report)
            return
        assert start.output is not None
        with heed_stop_signals() as request, join_processes(start.device) as processes:
            if not processes.is_first:
                report = ConsoleReport("pretrain", quiet=True)
            try:
                pretrain(plan, RunFolder(Path(start.output)), processes, request, report, force=start.force)
            except ResumableError as stopped:
                if processes.is_first:
                    raise
                raise typer.Exit(stopped.exit_code) from None  # one voice is enough
            finally:
                report.finish()


def _say_what_would_be(plan: object, start: RunOptions, report: ConsoleReport) -> None:
    from tracekit.mu0.preview import as_text, preview
    from tracekit.training.processes import meeting_place

    place = meeting_place(os.environ)
    content = preview(plan, start.device, place[1] if place else 1, report)  # type: ignore[arg-type]
    content = {"preset": start.preset, **content}
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) if start.json else as_text(content))


command = PretrainCommand()
