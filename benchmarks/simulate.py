"""`simulate` against the bare calls of MuJoCo's renderer that it stands on, and how long ten episodes take.

The peer draws colour, depth and segmentation of the same states with `mujoco.Renderer`, as its documentation shows, and keeps
nothing: no H.264, no tracks, no files.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tracekit.envs.gl import choose_gl
from tracekit.report import Report

TASK, WIDTH, HEIGHT = "drawer-open-v3", 320, 240
EVERY = 4
ROUNDS = 5
NUM_EPISODES, JOBS = 10, 2
SECONDS_ALLOWED = 300


def main() -> list[dict]:
    choose_gl()
    from tracekit.simulation.episode import EpisodeRequest, perform

    request = EpisodeRequest(TASK, "corner2", 0, 0, WIDTH, HEIGHT, 20.0, 10)
    take = perform(request, Report())
    kept = slice(None, None, EVERY)
    rollout = dataclasses.replace(take.rollout, states=take.rollout.states[kept])
    take = dataclasses.replace(take, rollout=rollout, cameras=take.cameras[kept])
    ours, peer = [], []
    for _ in range(ROUNDS):
        peer.append(_seconds(lambda: _bare(take)))
        ours.append(_seconds(lambda: _ours(take)))
    per_frame = 1e3 / len(take.cameras)
    return [
        {
            "work": f"a frame of an episode, {WIDTH} x {HEIGHT}: video, depth, bodies, truth",
            "ours": f"{np.median(ours) * per_frame:.0f} ms",
            "peer": f"{np.median(peer) * per_frame:.0f} ms",
            "ratio": float(np.median(peer) / np.median(ours)),
            "goal": 1.0,
        },
        _farm([request] * NUM_EPISODES),
    ]


def _ours(take) -> None:
    from tracekit.simulation.episode import write_episode

    with tempfile.TemporaryDirectory() as folder:
        write_episode(take, Path(folder), argv=[], report=Report())


def _bare(take) -> None:
    import mujoco

    model, data = take.env.model, take.env.data
    model.vis.global_.offwidth, model.vis.global_.offheight = 640, 480
    model.vis.quality.offsamples, model.vis.quality.shadowsize = 4, 4096  # MuJoCo's defaults
    camera = next(i for i in range(model.ncam) if model.cam_bodyid[i] == 0)
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        for state in take.rollout.states:
            take.env.restore(state)
            renderer.update_scene(data, camera)
            renderer.render()
            renderer.enable_depth_rendering()
            renderer.render()
            renderer.enable_segmentation_rendering()
            renderer.render()
            renderer.disable_segmentation_rendering()


def _farm(requests) -> dict:
    """Ten episodes with all processes that they take."""
    from tracekit.simulation.farm import simulate
    from tracekit.workers import Crew

    requests = [dataclasses.replace(request, number=number) for number, request in enumerate(requests)]
    with tempfile.TemporaryDirectory() as folder:
        crew = Crew("simulate", Path(folder), "episodes", JOBS, fresh=True, quiet=True)
        seconds = _seconds(lambda: simulate(requests, crew, force=False, argv=sys.argv, report=Report()))
        num_frames = _count_frames(Path(folder))
    work = f"{NUM_EPISODES} episodes of {num_frames / NUM_EPISODES:.0f} frames, {WIDTH} x {HEIGHT}, --jobs {JOBS}"
    return {"work": work, "ours": f"{seconds:.0f} s", "peer": None, "ratio": None, "goal": f"{SECONDS_ALLOWED} s"}


def _count_frames(folder: Path) -> int:
    from tracekit.format.file import open_records

    total = 0
    for path in folder.glob("*.truth.h5"):
        with open_records(path) as file:
            total += len(file.read("video").pts)
    return total


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    from table import print_table

    print_table(main())
