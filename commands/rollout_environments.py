"""tracekit rollout --env: let a policy act in simulators, and count how often it succeeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracekit.commands.rollout_options import EnvironmentOptions, RolloutOptions
from tracekit.commands.simulate import parse_size

from tracekit import __version__
from tracekit.console import ConsoleReport
from tracekit.errors import MissingInputError, UsageError
from tracekit.format.provenance import Step
from tracekit.report import Report

if TYPE_CHECKING:  # these import torch
    from tracekit.action.policy import LearntPolicy
    from tracekit.rollouts.engine import Decider

DEFAULT_SIZE = (256, 192)
"""That of `simulate --demo-size`."""


def act_command(choice: RolloutOptions, environment: EnvironmentOptions) -> None:
    """All of the command's work. Whatever can be known to be wrong is found before a network is loaded or a simulator started."""
    from tracekit.rollouts.episode import BASELINES

    if environment.policy is not None and environment.policy not in BASELINES and not Path(environment.policy).exists():
        raise MissingInputError(
            f"--policy {environment.policy}: there is no such folder",
            hint=f"tracekit finetune makes policies; {' and '.join(BASELINES)} need none",
        )
    from tracekit.envs import gl
    from tracekit.envs.live import EnvRequest
    from tracekit.envs.suites import draws_with_mujoco, parse_envs
    from tracekit.rollouts.engine import run_episodes
    from tracekit.rollouts.episode import Episode, EpisodePlan
    from tracekit.rollouts.outputs import Outputs
    from tracekit.rollouts.summary import as_table, raise_failures, summary

    if environment.policy is None:
        raise UsageError("say what is to act", hint=f"--policy: the folder of a policy, or one of: {', '.join(BASELINES)}")
    assert environment.env is not None
    names = parse_envs(environment.env)
    baseline = environment.policy if environment.policy in BASELINES else ""
    if baseline and (environment.execute is not None or environment.world_model):
        raise UsageError(f"--policy {baseline} decides anew at every step, and has no world model")
    size = parse_size("--size", environment.size) if environment.size is not None else None
    outputs = Outputs(_path(choice.output), _path(environment.video), force=choice.force)

    def episodes_of(size: tuple[int, int]) -> list[Episode]:
        state = tuple(key for key in environment.state.split(",") if key)
        requests = [EnvRequest(name, *size, choice.caption, environment.camera, environment.gripper_camera, state) for name in names]
        return [Episode(request, choice.seed, number) for request in requests for number in range(environment.num_episodes)]

    if choice.dry_run:
        print(f"tracekit rollout: would run {len(episodes_of(DEFAULT_SIZE))} episodes of {', '.join(names)}", file=sys.stderr)
        return
    report = ConsoleReport("rollout", quiet=choice.quiet, verbose=choice.verbose)
    try:
        outputs.check(episodes_of(DEFAULT_SIZE))
        decider = None if baseline else _decider(choice, environment, report)
        episodes = episodes_of(size or (decider.policy.picture_size if decider else None) or DEFAULT_SIZE)
        step = _step(choice, environment, baseline or f"policy {decider.policy.config.name if decider else ''}")
        plan = EpisodePlan(baseline, environment.max_steps, outputs.recording(step))
        if any(map(draws_with_mujoco, names)) and (decider or plan.recording.keeps_pictures):
            gl.choose_gl()
        outcome = run_episodes(
            episodes, plan, decider, num_envs=environment.num_envs, stall_timeout=environment.stall_timeout, report=report
        )
        outputs.finish(episodes, outcome.results, step)
    finally:
        outputs.clean_up()
        report.finish()
    content = {
        "policy": environment.policy,
        "seed": choice.seed,
        **summary(outcome),
    }
    content["versions"] = {"tracekit": __version__, **content["versions"]}
    print(json.dumps(content, indent=2) if environment.json else as_table(content))
    raise_failures(outcome)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _decider(choice: RolloutOptions, environment: EnvironmentOptions, report: Report) -> Decider[LearntPolicy]:
    """The policy that was trained. Raises MissingInputError when it is not there, UsageError when it cannot be used like that."""
    from tracekit.action.policy import LearntPolicy
    from tracekit.backends.devices import torch_device
    from tracekit.rollouts.engine import Decider
    from tracekit.rollouts.fit import SentenceCheck, check_fit

    assert environment.policy is not None
    path = Path(environment.policy)
    policy = LearntPolicy.load(path, torch_device(choice.device), world_model=environment.world_model, execute=environment.execute)
    return Decider(
        policy,
        policy.execute,
        environment.video is not None,
        lambda facts: check_fit(str(path), policy.config, facts),
        SentenceCheck(str(path), policy.sentences, report),
    )


def _step(choice: RolloutOptions, environment: EnvironmentOptions, policy: str) -> Step:
    """What the files of episodes say about how they came about."""
    asked: dict[str, Any] = {name: getattr(environment, name) for name in ("env", "num_episodes", "max_steps", "execute", "size")}
    return Step(
        command="rollout",
        argv=sys.argv[1:],
        version=__version__,
        parameters={**asked, "caption": choice.caption},
        inputs=[],
        backend=policy,
        seed=choice.seed,
    )
