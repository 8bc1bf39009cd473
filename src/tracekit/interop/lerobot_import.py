"""A LeRobotDataset as our file of demonstrations, episode by episode: rows and pictures pass through memory a few at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracekit import __version__
from tracekit.errors import BadDataError, UsageError
from tracekit.format.demos_writer import DemoRecord, DemosWriter, new_demos
from tracekit.format.provenance import Step
from tracekit.interop.lerobot_layout import LerobotEpisode, LerobotFolder
from tracekit.interop.lerobot_pictures import EpisodeVideos, packed_image
from tracekit.interop.parquet_rows import ParquetRows, numbers
from tracekit.report import Report

NONE = "none"
_ON_THE_GRIPPER = ("eye_in_hand", "wrist", "gripper", "hand")
_SEES_THE_SCENE = ("agentview", "front", "third", "scene", "high", "top", "overhead", "base", "side", "exterior")
_FOR_VALIDATION = ("val", "valid", "validation", "test", "eval")
_GYMNASIUM = 2
"""robomimic's number of this type of environment."""
_OUTCOMES = ("next.reward", "next.done", "next.success")
_ROWS = ("timestamp", "frame_index", "episode_index", "task_index")


@dataclass(frozen=True)
class Chosen:
    """What of a dataset is brought in."""

    agentview: str
    """Key of the camera that sees the scene."""
    gripper: str
    """Key of the one on the gripper; "": none."""
    state: tuple[str, ...]
    """Keys of the states, put one after the other."""
    max_size: int = 0
    """Longest side of the pictures; larger ones are shrunk. 0: never."""

    @property
    def cameras(self) -> list[str]:
        return [camera for camera in (self.agentview, self.gripper) if camera]


@dataclass(frozen=True)
class Recording:
    """What is known about the recordings besides the rows."""

    kind: str
    """Which command brings them in."""
    env_args: dict[str, Any]
    """robomimic's description of the environment."""
    actions: Callable[[np.ndarray], np.ndarray] = lambda actions: actions
    """Brings actions (T, a) into another order."""
    about: Callable[[LerobotEpisode], dict[str, Any] | None] = lambda episode: None
    """How the environment begins an episode again; None where nobody says."""


def env_args_of(folder: LerobotFolder) -> dict[str, Any]:
    """robomimic's description of an environment of which only the robot's name is known."""
    return {"env_name": f"lerobot/{folder.robot or 'unknown'}", "type": _GYMNASIUM, "env_kwargs": {}}


def choose_cameras(folder: LerobotFolder, agentview: str | None, gripper: str | None, report: Report) -> tuple[str, str]:
    """Keys of the camera that sees the scene and of the one on the gripper ("" for none), by name; by guess, which is reported, for None.

    A name is the whole key, or its end behind `observation.images.`. Raises UsageError naming the cameras there are.
    """
    cameras = list(folder.cameras)
    there_are = f"its cameras are: {', '.join(map(_short, cameras)) or 'none'}"
    if not cameras:
        raise BadDataError(f"{folder.path} has no camera", hint="a feature whose dtype is video or image is expected in meta/info.json")

    def named(flag: str, name: str) -> str:
        for camera in cameras:
            if name in (camera, _short(camera)):
                return camera
        raise UsageError(f"{flag} is {name!r}, but {folder.path} has no such camera", hint=there_are)

    chosen_gripper = "" if gripper == NONE else named("--gripper", gripper) if gripper is not None else None
    if agentview is not None:
        chosen = named("--agentview", agentview)
    else:
        left = [camera for camera in cameras if camera != chosen_gripper]
        chosen = min(left or cameras, key=lambda camera: (_is_of_gripper(camera), _rank(camera, _SEES_THE_SCENE), camera))
    if chosen_gripper is None:
        of_gripper = [camera for camera in cameras if camera != chosen and _is_of_gripper(camera)]
        chosen_gripper = min(of_gripper, key=lambda camera: (_rank(camera, _ON_THE_GRIPPER), camera), default="")
    if chosen == chosen_gripper:
        raise UsageError(f"{_short(chosen)} cannot be both cameras", hint=f"{there_are}; --gripper {NONE} takes one alone")
    if agentview is None or gripper is None:
        report.note(
            f"cameras: agentview {_short(chosen)}, gripper {_short(chosen_gripper) or NONE} (--agentview, --gripper change that); {there_are}"
        )
    return chosen, chosen_gripper


def choose_state(folder: LerobotFolder, names: str) -> tuple[str, ...]:
    """Keys of the states named in a list by comma. Raises UsageError naming those there are."""
    keys = tuple(name.strip() for name in names.split(",") if name.strip())
    there_are = [
        name
        for name, feature in folder.features.items()
        if feature["dtype"].startswith(("float", "int")) and not name.startswith("next.") and name not in (*_ROWS, "action", "index")
    ]
    for key in keys:
        if key not in there_are:
            raise UsageError(
                f"{folder.path} has no state {key!r}", hint=f"what may be a state: {', '.join(there_are) or 'nothing'} (--state)"
            )
    if not keys:
        raise UsageError("--state names nothing", hint=f"what may be a state: {', '.join(there_are)}")
    return keys


def choose_episodes(folder: LerobotFolder, text: str | None) -> list[LerobotEpisode]:
    """The episodes of "0:50", "7" or "0:10,20:30": numbers, and ranges without their ends. Raises UsageError naming those there are."""
    if text is None:
        return folder.episodes
    last = folder.episodes[-1].index
    wanted: list[range] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})|(\d{0,9}):(\d{0,9})", part.strip(), re.ASCII)
        if not match:
            raise UsageError(f"--episodes is {text!r}", hint="give numbers and ranges, for example 0:50 or 3,7,20:30")
        one, start, stop = match.groups()
        wanted.append(range(int(one), int(one) + 1) if one else range(int(start or 0), int(stop) if stop else last + 1))
    chosen = [episode for episode in folder.episodes if any(episode.index in numbers for numbers in wanted)]
    if not chosen:
        raise UsageError(f"--episodes {text} takes none", hint=f"{folder.path} has episodes {folder.episodes[0].index} to {last}")
    return chosen


def import_lerobot(
    folder: LerobotFolder,
    chosen: Chosen,
    episodes: Sequence[LerobotEpisode],
    recording: Recording,
    target: Path,
    *,
    parameters: dict[str, Any],
    argv: list[str],
    force: bool,
    report: Report,
) -> None:
    """Write `target`, a file of demonstrations.

    Which are for validation is as the dataset's splits say where it has such a split, otherwise the last tenth. Raises BadDataError and
    MissingInputError naming the file and episode that is damaged, missing or not what meta/ says, CannotCreateError and StorageError.
    """
    cameras = [EpisodeVideos(folder.fps, report) if folder.cameras[camera] == "video" else None for camera in chosen.cameras]
    reader = _EpisodeReader(folder, chosen, report)
    try:
        with new_demos(target, force=force) as writer:
            for done, episode in enumerate(episodes):
                report.progress(done, len(episodes), "episodes")
                _import_episode(reader, cameras, episode, recording, writer, done)
            step = Step(
                command=recording.kind,
                argv=argv,
                version=__version__,
                parameters=parameters,
                inputs=[hashlib.sha256((folder.path / "meta" / "info.json").read_bytes()).hexdigest()],
                counts=report.counts,
                notes=report.notes,
            )
            writer.finish(recording.env_args, step, _for_validation(folder, episodes))
    finally:
        reader.close()
        for camera in cameras:
            if camera is not None:
                camera.close()


def _import_episode(
    reader: _EpisodeReader,
    videos: list[EpisodeVideos | None],
    episode: LerobotEpisode,
    recording: Recording,
    writer: DemosWriter,
    number: int,
) -> None:
    folder, chosen, name = reader.folder, reader.chosen, reader.folder.name(episode)
    columns = reader.small_columns(episode)
    streams = [
        reader.packed(camera, episode)
        if opened is None
        else opened.frames(episode.videos[camera], columns["timestamp"].astype(np.float64), name)
        for camera, opened in zip(chosen.cameras, videos, strict=True)
    ]
    record = DemoRecord(
        name=f"episode_{episode.index:06d}",
        parameters={
            "source": recording.kind.split()[-1],
            "episode": episode.index,
            "number": number,
            "fps": folder.fps,
            "cameras": chosen.cameras,
            "state": list(chosen.state),
        },
        language=reader.language(columns, name),
        success=reader.success(columns),
        actions=recording.actions(columns["action"]),
        proprio=np.concatenate([columns[key] for key in chosen.state], axis=1),
        rewards=columns.get("next.reward", np.zeros(episode.length, np.float32)),
        dones=columns.get("next.done", np.arange(episode.length) == episode.length - 1),
        about=recording.about(episode),
    )
    writer.add(record, _shrunk(streams, chosen.max_size))


class _EpisodeReader:
    """Reads rows of episodes. Files that episodes share stay open."""

    def __init__(self, folder: LerobotFolder, chosen: Chosen, report: Report) -> None:
        self.folder, self.chosen = folder, chosen
        self._report = report
        self._open: dict[tuple[str, ...], ParquetRows] = {}
        self._sizes: dict[str, int] = {}
        """How many numbers actions and states have, by column."""
        outcomes = [key for key in _OUTCOMES if key in folder.features]
        self._small = ("action", *chosen.state, *_ROWS, *outcomes)

    def close(self) -> None:
        for rows in self._open.values():
            rows.close()
        self._open = {}

    def small_columns(self, episode: LerobotEpisode) -> dict[str, np.ndarray]:
        """All but the pictures: action (T, a) and states (T, p) float32, the others (T,)."""
        name = self.folder.name(episode)
        parts: dict[str, list[np.ndarray]] = {column: [] for column in self._small}
        for batch in self._batches(episode, self._small):
            for column in self._small:
                parts[column].append(numbers(batch, column, f"{episode.rows}, {name}"))
        columns = {}
        for column, values in parts.items():
            if len({part.shape[1:] for part in values}) > 1:
                raise BadDataError(f"{episode.rows}, {name}: `{column}` has rows of different lengths")
            columns[column] = np.concatenate(values)
        for column in (*_ROWS, *(key for key in _OUTCOMES if key in columns)):
            columns[column] = columns[column].reshape(episode.length, -1)[:, 0]
        if (columns["episode_index"] != episode.index).any() or (columns["frame_index"] != np.arange(episode.length)).any():
            raise BadDataError(
                f"{episode.rows}: the rows of {name} are not its frames 0 to {episode.length - 1} in order",
                hint="episode_index or frame_index says otherwise",
            )
        for column in ("action", *self.chosen.state):
            columns[column] = self._finite(columns[column], column, episode)
            size = self._sizes.setdefault(column, columns[column].shape[1])
            if columns[column].shape[1] != size:
                raise BadDataError(
                    f"{episode.rows}, {name}: `{column}` has {columns[column].shape[1]} numbers, but {size} in earlier episodes"
                )
        for column in ("timestamp", "task_index"):
            if not np.isfinite(columns[column]).all():
                raise BadDataError(f"{episode.rows}, {name}: a {column} is not a number")
        if "next.reward" in columns:
            columns["next.reward"] = self._finite(columns["next.reward"], "next.reward", episode)[:, 0]
        return columns

    def packed(self, camera: str, episode: LerobotEpisode) -> Iterator[np.ndarray]:
        """The images of a camera that lie in the rows."""
        row = 0
        for batch in self._batches(episode, (camera,)):
            for value in batch.column(camera):
                yield packed_image(value, f"{episode.rows}, {self.folder.name(episode)}, row {row}: `{camera}`")
                row += 1

    def language(self, columns: dict[str, np.ndarray], name: str) -> str:
        """What is done. Of several tasks the one that lasts longest, and the episode is counted."""
        indices, lengths = np.unique(columns["task_index"], return_counts=True)
        if len(indices) > 1:
            self._report.count("episodes of several tasks, named after the longest")
        index = int(indices[np.argmax(lengths)])
        if index not in self.folder.tasks:
            raise BadDataError(f"{name} is of task {index}, which meta/ does not list")
        return self.folder.tasks[index]

    def success(self, columns: dict[str, np.ndarray]) -> bool:
        """Whether the task is done at any step; where nobody says, a demonstration is taken for one, and counted."""
        if "next.success" in columns:
            return bool(columns["next.success"].any())
        self._report.count("demonstrations that do not say whether they succeed, taken for successes")
        return True

    def _batches(self, episode: LerobotEpisode, columns: tuple[str, ...]) -> Iterator[Any]:
        rows = self._opened(episode.rows, columns)
        first = episode.first_row
        if first is None:
            if rows.num_rows != episode.length:
                raise BadDataError(f"{episode.rows} has {rows.num_rows} rows, but meta/episodes.jsonl says {episode.length}")
            first = 0
        return rows.batches(first, first + episode.length)

    def _opened(self, path: Path, columns: tuple[str, ...]) -> ParquetRows:
        rows = self._open.get(columns)
        if rows is None or rows.path != path:
            if rows is not None:
                del self._open[columns]
                rows.close()
            rows = self._open[columns] = ParquetRows(path, columns)
        return rows

    def _finite(self, values: np.ndarray, column: str, episode: LerobotEpisode) -> np.ndarray:
        """(T, k) float32."""
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused below
            single = values.reshape(len(values), -1).astype(np.float32)
        if not np.isfinite(single).all():
            row = int(np.argwhere(~np.isfinite(single))[0, 0])
            raise BadDataError(f"{episode.rows}, {self.folder.name(episode)}: `{column}` is not finite in row {row}")
        return single


def _shrunk(streams: Sequence[Iterator[np.ndarray]], max_size: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Pictures of one or two cameras side by side, None for the second where there is one camera, none longer than `max_size`."""
    for pictures in zip(*streams, strict=True):
        small = [_fit(picture, max_size) for picture in pictures]
        yield small[0], small[1] if len(small) > 1 else None


def _fit(picture: np.ndarray, max_size: int) -> np.ndarray:
    height, width = picture.shape[:2]
    longest = max(height, width)
    if not max_size or longest <= max_size:
        return picture
    size = max(1, round(width * max_size / longest)), max(1, round(height * max_size / longest))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _for_validation(folder: LerobotFolder, episodes: Sequence[LerobotEpisode]) -> list[int] | None:
    """Places of the episodes that the dataset's own splits keep from training; None where it has no such split."""
    held: set[int] = set()
    for name, text in folder.splits.items():
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text, re.ASCII)
        if name.lower() in _FOR_VALIDATION and match:
            held.update(episode.index for episode in episodes if int(match[1]) <= episode.index < int(match[2]))
    return [place for place, episode in enumerate(episodes) if episode.index in held] if held else None


def _short(camera: str) -> str:
    return camera.removeprefix("observation.images.").removeprefix("observation.")


def _is_of_gripper(camera: str) -> bool:
    return any(word in _short(camera).lower() for word in _ON_THE_GRIPPER)


def _rank(camera: str, words: tuple[str, ...]) -> int:
    """Place of the first of the words that a camera's name holds."""
    return next((place for place, word in enumerate(words) if word in _short(camera).lower()), len(words))
