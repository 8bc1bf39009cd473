"""An environment in a process of its own: episodes go there, questions come back, and in the end what came of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracekit.action.observation import Observation
from tracekit.envs.live import EnvRequest, LiveEnv
from tracekit.envs.suites import make_env
from tracekit.errors import TracekitError
from tracekit.rollouts.episode import Chunk, Driver, Episode, EpisodePlan, EpisodeResult, baseline_driver, run_episode
from tracekit.workers import interrupts_held, manner_of_exit

_ALIVE = "alive"
_SECONDS_BETWEEN_SIGNS = 0.5


@dataclass(frozen=True)
class EnvFacts:
    """What an environment turned out to be."""

    name: str
    action_size: int
    state_size: int
    has_gripper_camera: bool
    versions: dict[str, str]


@dataclass(frozen=True)
class Question:
    """What is to be done, after so many steps?"""

    observation: Observation
    step: int


Message = EnvFacts | Question | EpisodeResult | TracekitError
"""A TracekitError is something that would happen to every episode, and that the user can act on."""


class EnvProcess:
    """The parent's end. Spawned: OpenGL and threads of the parent do not survive a fork."""

    def __init__(self, plan: EpisodePlan, stall_timeout: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._stall_timeout = stall_timeout
        self.connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, plan), daemon=True)
        with interrupts_held():
            self._process.start()
        other_end.close()

    def assign(self, episode: Episode) -> None:
        self.episode = episode
        self._send(episode)

    def answer(self, chunk: Chunk) -> None:
        self._send(chunk)

    def receive(self, is_ready: bool) -> Message | None:
        """What there is to hear, if anything. A process that died or hangs has an episode that failed to run as its last message."""
        if is_ready:
            self._last_sign = time.monotonic()
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                self._process.join(10)
                return self._failed(f"the environment's process ended {manner_of_exit(self._process.exitcode)}")
            return None if message == _ALIVE else message
        if time.monotonic() - self._last_sign > self._stall_timeout:
            return self._failed(f"no progress for {self._stall_timeout:g} s; the environment's process was ended (see --stall-timeout)")
        return None

    def stop(self) -> None:
        """Not by SIGTERM: a simulator that hangs would not hear it."""
        self._process.kill()
        self._process.join()
        self.connection.close()
        self._process.close()

    def _send(self, message: Any) -> None:
        self._last_sign = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died just now: `receive` will see
            self.connection.send(message)

    def _failed(self, why: str) -> EpisodeResult:
        return EpisodeResult(self.episode.env.name, self.episode.number, self.episode.seed, error=why)


def _serve(connection: Any, plan: EpisodePlan) -> None:
    """The environment's end: one episode after the other, until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    made: tuple[EnvRequest, LiveEnv] | None = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            episode: Episode = connection.recv()
            try:
                if made is None or made[0] != episode.env:
                    if made is not None:
                        made[1].close()
                    made = episode.env, make_env(episode.env)
                    connection.send(_facts(*made))
                env = made[1]
                driver = baseline_driver(plan.baseline, env, episode) if plan.baseline else _asking(connection)
                answer: EpisodeResult | TracekitError = run_episode(env, episode, plan, driver, _signs_of_life(connection))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except TracekitError as error:
                answer = error
            except Exception as error:  # the simulator's own: nobody knows what state it is in
                traceback.print_exc()
                why = f"{type(error).__name__}: {error}"
                connection.send(EpisodeResult(episode.env.name, episode.number, episode.seed, error=why))
                return
            connection.send(answer)


def _facts(request: EnvRequest, env: LiveEnv) -> EnvFacts:
    return EnvFacts(request.name, env.action_size, env.state_size, env.has_gripper_camera, env.versions)


def _asking(connection: Any) -> Driver:
    """The policy is where the parent is."""

    def ask(observe: Callable[[], Observation], step: int) -> Chunk:
        connection.send(Question(observe(), step))
        return connection.recv()

    return ask


def _signs_of_life(connection: Any) -> Callable[[], None]:
    last = time.monotonic()

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS_BETWEEN_SIGNS:
            last = time.monotonic()
            connection.send(_ALIVE)

    return alive
