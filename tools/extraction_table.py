"""How good the extraction is: simulate, extract, evaluate, and write the tables and pictures of docs/extraction.md.

    python tools/extraction_table.py            # about an hour on two cores; goes on where it was interrupted

Needs the extra `sim`. Clips, extractions and scores stay in --folder; --again makes extractions and scores anew, not the clips.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.documentation import table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extraction.md"
IMAGES = ROOT / "docs" / "images"
BEGIN, END = "<!-- made by tools/extraction_table.py -->", "<!-- end of what tools/extraction_table.py made -->"

# Tasks on which nothing was tuned: those were drawer-open, pick-place, door-open, button-press, window-open and faucet-open.
TASKS = (
    "assembly-v3",
    "bin-picking-v3",
    "box-close-v3",
    "coffee-push-v3",
    "door-close-v3",
    "hammer-v3",
    "lever-pull-v3",
    "peg-insert-side-v3",
    "plate-slide-v3",
    "stick-push-v3",
)
CAMERAS = ("corner2", "orbit", "egocentric")
PICTURED = "box-close-v3"


@dataclass(frozen=True)
class Setting:
    """One way to run the chain."""

    name: str
    keypoints: Callable[[Path], list[str]]
    """Options of `keypoints`, given the truth file."""
    reconstruct: tuple[str, ...] = ()
    track: tuple[str, ...] = ()


SETTINGS = {
    "given": Setting("measured depth, given poses", lambda truth: ["--sensor", str(truth)]),
    "motion": Setting(
        "the same, `keypoints --quota motion`, `track --cover-dilation 0`",
        lambda truth: ["--sensor", str(truth), "--quota", "motion"],
        track=("--cover-dilation", "0"),
    ),
    "odometry": Setting("measured depth, RGB-D odometry", lambda truth: ["--sensor", str(truth), "--sensor-poses", "no"]),
    "planar": Setting("video alone (`planar`)", lambda truth: [], ("--backend", "planar")),
}


@dataclass(frozen=True)
class Job:
    """One clip, extracted in one way."""

    truth: Path
    setting: str
    folder: Path

    @property
    def clip(self) -> str:
        return self.truth.name.removesuffix(".truth.h5")

    @property
    def scores(self) -> Path:
        return self.folder / self.setting / f"{self.clip}.json"

    @property
    def episode(self) -> Path:
        return self.folder / self.setting / f"{self.clip}.h5"


def simulate(folder: Path, tasks: Iterable[str], cameras: Iterable[str], seed: int, jobs: int) -> list[Path]:
    """The truth files, simulated where they are not there yet."""
    environments = ",".join(f"metaworld/{task}" for task in tasks)
    what = ["--env", environments, "--camera", ",".join(cameras), "--num-episodes", "1", "--seed", str(seed)]
    run(["simulate", *what, "--jobs", str(jobs), "-d", str(folder)])
    return [folder / f"{task}_{camera}_{seed}_0.truth.h5" for task in tasks for camera in cameras]


def run(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "tracekit", *arguments], check=True)


def work(job: Job) -> None:
    """Run the chain as a user would type it, and score what comes out."""
    from tracekit.evaluation.extraction import evaluate_extraction
    from tracekit.format.file import open_records
    from tracekit.format.schema import EPISODE

    job.scores.parent.mkdir(parents=True, exist_ok=True)
    setting = SETTINGS[job.setting]
    video = job.truth.with_name(f"{job.clip}.mp4")
    stages = [
        ["keypoints", str(video), *setting.keypoints(job.truth)],
        ["reconstruct", *setting.reconstruct],
        ["track", *setting.track],
        ["filter"],
        ["segment"],
    ]
    chain(stages, job.episode)
    with open_records(job.episode, EPISODE) as extraction, open_records(job.truth, EPISODE) as truth:
        scores = evaluate_extraction(extraction, truth).as_json()
    job.scores.write_text(json.dumps(scores, indent=1))


def chain(stages: list[list[str]], output: Path) -> None:
    """tracekit A | tracekit B | ... -o OUTPUT"""
    processes: list[subprocess.Popen] = []
    for number, stage in enumerate(stages):
        is_last = number == len(stages) - 1
        command = [sys.executable, "-m", "tracekit", *stage, "--quiet", *(["-o", str(output), "--force"] if is_last else [])]
        before = processes[-1].stdout if processes else None
        processes.append(subprocess.Popen(command, stdin=before, stdout=None if is_last else subprocess.PIPE))
        if before:
            before.close()
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"{output.name}: exit codes {codes}")


@dataclass(frozen=True)
class Column:
    """One column of a table: how the scores of several clips become one text."""

    title: str
    text: Callable[[list[dict[str, Any]]], str]


def mean(key: str, *, times: float = 1.0, digits: int = 2) -> Callable[[list[dict[str, Any]]], str]:
    def text(scores: list[dict[str, Any]]) -> str:
        known = [score[key] for score in scores if score[key] is not None]
        return f"{times * float(np.mean(known)):.{digits}f}" if known else "-"

    return text


def pooled(key: str, weight: str, *, digits: int = 2) -> Callable[[list[dict[str, Any]]], str]:
    """A ratio over all clips together: clips with few cases do not count as much as those with many."""

    def text(scores: list[dict[str, Any]]) -> str:
        known = [(score[key], score[weight]) for score in scores if score[key] is not None]
        total = sum(number for _, number in known)
        return f"{sum(value * number for value, number in known) / total:.{digits}f}" if total else "-"

    return text


COLUMNS = [
    Column("error, cm", mean("track_error_median_m", times=100)),
    Column("90 %", mean("track_error_p90_m", times=100)),
    Column("δ_avg", mean("delta_avg")),
    Column("AJ", mean("average_jaccard")),
    Column("OA", mean("occlusion_accuracy")),
    Column("PCK", mean("pck_avg")),
    Column("moving precision", pooled("moving_precision", "num_called_moving")),
    Column("recall", pooled("moving_recall", "num_truly_moving")),
    Column("groups with 8", pooled("moving_groups_covered", "num_moving_groups")),
    Column("budget on moving", mean("moving_budget_share")),
    Column("over pixels", mean("budget_to_pixel_ratio", digits=1)),
    Column("ATE, cm", mean("ate_rmse_m", times=100)),
    Column("event F1", mean("event_f1")),
]


def page(scores: dict[tuple[str, str, str], dict[str, Any]], tasks: tuple[str, ...], cameras: tuple[str, ...], settings: list[str]) -> str:
    """The part of docs/extraction.md that is measured. Scores by (task, camera, setting)."""
    by_setting = []
    for setting in settings:
        for camera in (*cameras, "all"):
            chosen = [scores[task, one, setting] for task in tasks for one in cameras if camera in (one, "all")]
            by_setting.append(
                [SETTINGS[setting].name if camera == cameras[0] else "", camera, *(column.text(chosen) for column in COLUMNS)]
            )
    by_task = [
        [task, *(column.text([scores[task, camera, settings[0]] for camera in cameras]) for column in COLUMNS if column.title != "ATE, cm")]
        for task in tasks
    ]
    return "\n\n".join(
        [
            BEGIN,
            table(["", "camera", *(column.title for column in COLUMNS)], by_setting).rstrip(),
            f"By task, {SETTINGS[settings[0]].name}, mean of the {len(cameras)} cameras:",
            table(["task", *(column.title for column in COLUMNS if column.title != "ATE, cm")], by_task).rstrip(),
            END,
        ]
    )


def picture(job: Job, target: Path) -> None:
    """True traces of the clip's last frames beside extracted ones."""
    import cv2

    halves = []
    for source in (job.truth, job.episode):
        drawn = target.with_suffix(f".{len(halves)}.png")
        run(["view", str(source), "--what", "traces", "--num-frames", "3", "-o", str(drawn), "--force", "--quiet"])
        halves.append(cv2.imread(str(drawn)))
        drawn.unlink()
    width = min(half.shape[1] for half in halves)
    sheet_height = min(half.shape[0] for half in halves)
    cv2.imwrite(str(target), np.vstack([half[:sheet_height, :width] for half in halves]), [cv2.IMWRITE_JPEG_QUALITY, 85])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "extraction-table")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--cameras", default=",".join(CAMERAS))
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="extract and score anew")
    parser.add_argument("--print", action="store_true", help="print the tables and leave docs/ alone")
    arguments = parser.parse_args()
    tasks, cameras, settings = (tuple(text.split(",")) for text in (arguments.tasks, arguments.cameras, arguments.settings))

    truths = simulate(arguments.folder, tasks, cameras, arguments.seed, arguments.jobs)
    jobs = [Job(truth, setting, arguments.folder) for setting in settings for truth in truths]
    if arguments.again:
        for setting in settings:
            shutil.rmtree(arguments.folder / setting, ignore_errors=True)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for _ in pool.imap_unordered(work, [job for job in jobs if not job.scores.exists()]):
            print(".", end="", file=sys.stderr, flush=True)
    scores = {tuple([*job.clip.split("_")[:2], job.setting]): json.loads(job.scores.read_text()) for job in jobs}
    made = page(scores, tasks, cameras, list(settings))
    if arguments.print:
        print(made)
        return
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN)] + made + text[text.index(END) + len(END) :])
    for camera in cameras:
        truth = arguments.folder / f"{PICTURED}_{camera}_{arguments.seed}_0.truth.h5"
        picture(Job(truth, settings[0], arguments.folder), IMAGES / f"extraction-{camera}.jpg")


if __name__ == "__main__":
    main()
