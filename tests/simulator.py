"""What tests that simulate share: is the simulator there, and takes of its experts."""

from __future__ import annotations

import dataclasses
import os

import pytest

from tracekit.envs import gl, metaworld
from tracekit.errors import UnavailableError
from tracekit.report import Report
from tracekit.simulation.episode import EpisodeRequest, Take, perform


@pytest.fixture(scope="session")
def simulator() -> None:
    """Skips where Meta-World cannot be simulated or drawn; fails instead if TRACEKIT_REQUIRE_SIM is set."""
    try:
        metaworld.version()
        gl.choose_gl()
    except UnavailableError as error:
        (pytest.fail if os.environ.get("TRACEKIT_REQUIRE_SIM") else pytest.skip)(str(error))


def request(task: str, camera: str = "corner2", size: tuple[int, int] = (160, 120), number: int = 0) -> EpisodeRequest:
    return EpisodeRequest(task, camera, 0, number, *size, 20.0, 10)


def take_of(wanted: EpisodeRequest, every: int = 1) -> Take:
    """Every so manieth frame of an episode."""
    take, kept = perform(wanted, Report()), slice(None, None, every)
    arrays = {field.name: getattr(take.rollout, field.name)[kept] for field in dataclasses.fields(take.rollout)}
    return dataclasses.replace(take, rollout=dataclasses.replace(take.rollout, **arrays), cameras=take.cameras[kept])
