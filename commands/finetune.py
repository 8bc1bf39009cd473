"""tracekit finetune: train an action expert on demonstrations."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import typer

from tracekit import options
from tracekit.action.finetune_options import DemoOptions, HeadOptions
from tracekit.action.recipes import PRESETS
from tracekit.console import ConsoleReport
from tracekit.errors import MissingInputError, ResumableError, UsageError
from tracekit.parameters import parameter
from tracekit.training.recipe import EngineParameters, Recipe
from tracekit.training.start_options import StartOptions


@dataclass(frozen=True)
class RunOptions(StartOptions):
    """On what the expert stands, where the run is, and how it is started."""

    world_model: str | None = parameter(None, "The world model: a checkpoint of pretrain, or the folder of its run.")
    vlm_weights: str = parameter("", "The world model's pretrained VLM, when it is not where it was in training.")
    dino_weights: str = parameter("", "The world model's pretrained DINOv2, when it is not where it was in training.")
    output: str | None = parameter(
        None, "The folder of the run: the world model, checkpoints of the policy, log, pointers to the last and the best."
    )
    preset: str = parameter(
        "metaworld", "The head, and how it is trained. Defaults shown here are those of metaworld.", choices=tuple(PRESETS)
    )
    dry_run: bool = parameter(False, "Print the configuration, weights and demonstrations; touch nothing.")


class FinetuneCommand:
    """Demonstrations in, a policy out. The same command goes on where it stopped."""

    def typer_app(self) -> typer.Typer:
        return options.typer_app(
            "finetune",
            self.run,
            {"head": HeadOptions, "data": DemoOptions, "recipe": Recipe, "engine": EngineParameters, "start": RunOptions},
            own=("head", "data", "recipe", "engine"),
            sources="Files of demonstrations: of simulate --demos, of import, or any of robomimic's layout.",
            metavar="DEMOS...",
            presets=PRESETS,
            about="Train an action expert on top of μ0, which stays as it is (paper 3.4, B.4). The same command goes on where a run stopped; SIGTERM and"
            " SIGUSR1 stop it after a checkpoint, with exit code 75. Several GPUs: torchrun -m tracekit finetune ..., or srun tracekit finetune ..."
            "\n\nReads: a world model of pretrain, demonstrations.  Writes: a folder with world_model/, checkpoints/step-*, log.jsonl, last.json,"
            " best.json."
            "\n\nExample:  tracekit finetune --world-model mu0 drawer-open.h5 -o policy",
        )

    def run(
        self, sources: list[str], head: HeadOptions, data: DemoOptions, recipe: Recipe, engine: EngineParameters, start: RunOptions
    ) -> None:
        _check_nothing_is_missing(sources, head.head, start)
        if data.gripper_camera == "none":
            data = dataclasses.replace(data, gripper_camera="")
        if start.json and not start.dry_run:
            raise UsageError("--json is for --dry-run", hint="the log of a run is RUN/log.jsonl")
        for source in sources:
            if not Path(source).is_file():
                raise MissingInputError(
                    f"{source} does not exist", hint="tracekit simulate --demos makes demonstrations, tracekit import reads others'"
                )

        from tracekit.action.head_choice import choose_head, is_without_world_model
        from tracekit.action.training import Plan, finetune, load_demos, open_world_model
        from tracekit.training.processes import join_processes
        from tracekit.training.run_folder import RunFolder
        from tracekit.training.stop_signals import heed_stop_signals

        _check_world_model(start, data, head.head, is_needed=not is_without_world_model(head.head))
        report = ConsoleReport("finetune", quiet=start.quiet, verbose=start.verbose)
        index = load_demos(sources, data, report)
        if missing := index.language.count(""):
            what = "demonstration has" if missing == 1 else "demonstrations have"
            report.note(f"{missing:,} of {len(index.demos):,} {what} no sentence that says what is done; --language gives one")
        world = None
        if start.world_model is not None:
            world = open_world_model(start.world_model, vlm=start.vlm_weights, dino=start.dino_weights, download=start.download)
        config = choose_head(
            start.preset,
            head,
            index.action_size,
            index.state_size,
            world.widths if world is not None else None,
            report,
            has_gripper_camera=bool(data.gripper_camera),
        )
        plan = Plan(config, recipe, engine, data, index, world, start.seed)
        if start.dry_run:
            _say_what_would_be(plan, start)
            report.finish()
            return
        assert start.output is not None
        with heed_stop_signals() as request, join_processes(start.device) as processes:
            if not processes.is_first:
                report = ConsoleReport("finetune", quiet=True)
            try:
                finetune(plan, RunFolder(Path(start.output)), processes, request, report, force=start.force)
            except ResumableError as stopped:
                if processes.is_first:
                    raise
                raise typer.Exit(stopped.exit_code) from None  # one voice is enough
            finally:
                report.finish()


def _check_nothing_is_missing(sources: list[str], head: str, start: RunOptions) -> None:
    missing = [] if sources else ["demonstrations to learn from (DEMOS...)"]
    if not (start.output or start.dry_run):
        missing.append("a folder for the policy (-o POLICY)")
    if missing:
        from tracekit.action.head_choice import is_without_world_model

        if start.world_model is None and not is_without_world_model(head):
            missing.append("a world model to stand on (--world-model CHECKPOINT)")
        hint = "tracekit finetune --world-model CHECKPOINT DEMOS... -o POLICY"
        raise UsageError(f"missing: {', '.join(missing)}", hint=hint)


def _check_world_model(start: RunOptions, data: DemoOptions, head: str, *, is_needed: bool) -> None:
    if is_needed and start.world_model is None:
        raise UsageError(f"--head {head} stands on a world model", hint="--world-model: a checkpoint of pretrain, or the folder of its run")
    if not is_needed:
        for flag, value in (("--world-model", start.world_model), ("--cache-features", data.cache_features)):
            if value is not None:
                raise UsageError(f"--head {head} is the baseline without a world model", hint=f"leave out {flag}, or choose another --head")


def _say_what_would_be(plan: object, start: RunOptions) -> None:
    from tracekit.action.preview import as_text, preview
    from tracekit.training.processes import meeting_place

    place = meeting_place(os.environ)
    content = {"preset": start.preset, **preview(plan, start.device, place[1] if place else 1)}  # type: ignore[arg-type]
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) if start.json else as_text(content))


command = FinetuneCommand()
