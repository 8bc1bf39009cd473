"""What came of many episodes, as plain data and as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tracekit.cli import EXIT_BUG
from tracekit.evaluation.success import CONFIDENCE, wilson_interval
from tracekit.rollouts.engine import Outcome
from tracekit.rollouts.episode import EpisodeResult
from tracekit.workers import SomeFailedError


def summary(outcome: Outcome) -> dict[str, Any]:
    """Successes over all episodes that were run, and by task. Episodes that failed to run say nothing about the policy: they are counted apart."""
    tasks: dict[str, list[EpisodeResult]] = {}
    for result in outcome.results:
        tasks.setdefault(result.env, []).append(result)
    return {
        **_successes(outcome.results),
        "confidence": CONFIDENCE,
        "num_plans": outcome.num_plans,
        "seconds_per_plan": outcome.seconds_planning / outcome.num_plans if outcome.num_plans else None,
        "tasks": {name: {**_successes(results), "episodes": [_episode(result) for result in results]} for name, results in tasks.items()},
        "versions": outcome.versions,
    }


def raise_failures(outcome: Outcome) -> None:
    """Raise SomeFailedError when episodes failed to run."""
    failed = [result for result in outcome.results if result.error]
    if failed:
        first = failed[0]
        raise SomeFailedError(
            f"{len(failed)} of {len(outcome.results)} episodes failed to run, and do not count",
            EXIT_BUG,
            f"the first: {first.env}, episode {first.number}: {first.error}",
        )


def _successes(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    run = [result for result in results if not result.error]
    steps = [result.steps for result in run if result.success]
    return {
        "success_rate": len(steps) / len(run) if run else None,
        "interval": list(wilson_interval(len(steps), len(run))),
        "num_episodes": len(run),
        "successes": len(steps),
        "failed_to_run": len(results) - len(run),
        "mean_steps_to_success": sum(steps) / len(steps) if steps else None,
    }


def _episode(result: EpisodeResult) -> dict[str, Any]:
    content = dataclasses.asdict(result)
    del content["env"]
    if not result.error:
        del content["error"]
        return content
    return {name: content[name] for name in ("number", "seed", "error")}


def as_table(content: dict[str, Any]) -> str:
    """A line for every task, and one for all where there are several. "-" is what cannot be told."""
    rows = [(name, task) for name, task in content["tasks"].items()]
    if len(rows) > 1:
        rows.append(("all", content))
    width = max(len("task"), *(len(name) for name, _ in rows))
    lines = [f"{'task':{width}} {'episodes':>9} {'successes':>10} {'rate':>7} {'95 % interval':>15} {'steps':>7} {'failed to run':>14}"]
    for name, part in rows:
        low, high = part["interval"]
        rate, steps = part["success_rate"], part["mean_steps_to_success"]
        lines.append(
            f"{name:{width}} {part['num_episodes']:>9} {part['successes']:>10} {_text(rate, '.1%'):>7} {f'{low:.1%} - {high:.1%}':>15}"
            f" {_text(steps, '.1f'):>7} {part['failed_to_run']:>14}"
        )
    lines.append("steps: of episodes that succeeded, on average")
    if content["seconds_per_plan"] is not None:
        lines.append(f"{content['num_plans']:,} plans, {1000 * content['seconds_per_plan']:.1f} ms each")
    return "\n".join(lines)


def _text(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)
