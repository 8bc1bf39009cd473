"""All environments that a policy can act in, by name."""

from __future__ import annotations

from tracekit.envs import metaworld
from tracekit.envs.live import EnvRequest, LiveEnv
from tracekit.errors import UsageError

ROBOSUITE, ROBOCASA = "robosuite", "robocasa"
SUITES = (metaworld.SUITE, ROBOSUITE, ROBOCASA)


def parse_envs(text: str) -> list[str]:
    """Names of "metaworld/drawer-open-v3,door-open-v3,robosuite/Lift,CartPole-v1", each with its suite, each once, in order.

    A name without a suite belongs to that of the name before. Raises UsageError for unknown ones, UnavailableError where a package is
    missing.
    """
    result: list[str] = []
    suite = ""
    for part in text.split(","):
        before, slash, task = part.strip().partition("/")
        if not slash and suite:
            before, task = suite, before
        suite = before if before in SUITES and task else ""
        if suite == metaworld.SUITE:
            metaworld.versions()
            names = [f"{suite}/{known}" for known in metaworld.parse_tasks(task)]
        elif suite == ROBOSUITE:
            from tracekit.envs import robosuite

            names = [f"{suite}/{robosuite.known_task(task)}"]
        elif suite == ROBOCASA:
            from tracekit.envs import robocasa

            names = [f"{suite}/{robocasa.known_task(task)}"]
        else:
            from tracekit.envs import gymnasium

            names = [gymnasium.known_id(part.strip())]
        result += [name for name in names if name not in result]
    return result


def make_env(request: EnvRequest) -> LiveEnv:
    """The environment that is asked for. Raises UsageError for what it has not, UnavailableError where a package is missing."""
    suite = request.name.partition("/")[0]
    if request.state and suite in SUITES:
        raise UsageError(f"what a robot of {suite} feels is fixed", hint="--state is for other environments of Gymnasium")
    if suite == metaworld.SUITE:
        from tracekit.envs.metaworld_live import LiveMetaWorld

        return LiveMetaWorld(request)
    if suite == ROBOSUITE:
        from tracekit.envs.robosuite import LiveRobosuite

        return LiveRobosuite(request)
    if suite == ROBOCASA:
        from tracekit.envs.robocasa import LiveRoboCasa

        return LiveRoboCasa(request)
    from tracekit.envs.gymnasium import LiveGymnasium

    return LiveGymnasium(request)


def draws_with_mujoco(name: str) -> bool:
    """Whether pictures of an environment need OpenGL for MuJoCo (see `tracekit.envs.gl`)."""
    return name.partition("/")[0] in SUITES
