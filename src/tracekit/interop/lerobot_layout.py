"""Folders of LeRobotDataset (github.com/huggingface/lerobot), codebases v2.1 and v3.0: where the rows and pictures of each episode lie.

    meta/info.json                            rate, features, and templates of the paths below
v2.1  meta/tasks.jsonl, meta/episodes.jsonl   an object a line
      data/chunk-000/episode_000000.parquet   the rows of one episode
      videos/chunk-000/CAMERA/episode_000000.mp4
v3.0  meta/tasks.parquet, meta/episodes/chunk-000/file-000.parquet
      data/chunk-000/file-000.parquet         the rows of several episodes
      videos/CAMERA/chunk-000/file-000.mp4    the frames of several; an episode begins at its from_timestamp

A camera's pictures are frames of such videos (dtype `video`), or images packed into the rows (dtype `image`). Frame i of an episode is the one shown
at the `timestamp` of row i.

Source: src/lerobot/datasets/{utils,lerobot_dataset}.py and v30/convert_dataset_v21_to_v30.py of lerobot 0.4.4.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tracekit.errors import BadDataError, MissingInputError
from tracekit.format.json_file import read_json_object
from tracekit.interop.parquet_rows import ParquetRows, arrow

VERSIONS = ("v2.1", "v3.0")
_MOST_LINE_BYTES = 1 << 20
_MOST_EPISODES = 1 << 22
_MOST_FPS = 10_000
_LONGEST_NAME, _LONGEST_PATH = 255, 1024
"""Bytes; what file systems take."""
_NUMBER_FORMAT = re.compile(r"(0?[1-9]?[0-9]?d)?")


@dataclass(frozen=True)
class VideoPart:
    """The frames of one episode in a video file: those from `start` seconds on."""

    path: Path
    start: float


@dataclass(frozen=True)
class LerobotEpisode:
    """Where an episode of `length` steps lies."""

    index: int
    length: int
    rows: Path
    first_row: int | None
    """Of the file; None where the file holds nothing else."""
    videos: dict[str, VideoPart]
    """By camera; of cameras whose dtype is `video`."""


@dataclass(frozen=True)
class LerobotFolder:
    """What a folder says about itself, checked."""

    path: Path
    version: str
    fps: float
    robot: str
    features: dict[str, dict[str, Any]]
    cameras: dict[str, str]
    """Name of each camera with pictures in colour, and its dtype, `video` or `image`."""
    tasks: dict[int, str]
    episodes: list[LerobotEpisode]
    splits: dict[str, str]

    def name(self, episode: LerobotEpisode) -> str:
        """What messages call an episode."""
        return f"episode {episode.index} of {self.path}"


def open_lerobot(path: Path) -> LerobotFolder:
    """Read meta/. Raises MissingInputError for a folder or a file that is not there, BadDataError for another version, for templates that
    lead out of the folder, and for anything that is not what it should be; UnavailableError without pyarrow."""
    arrow()
    if not path.is_dir():
        raise MissingInputError(f"{path} is no folder", hint="give the folder of a LeRobotDataset, with meta/ in it")
    info_path = path / "meta" / "info.json"
    info = read_json_object(info_path, hint="the folder of a LeRobotDataset has meta/info.json, data/ and mostly videos/")
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise BadDataError(
            f"{info_path} is of codebase_version {version!r}",
            hint=f"{' and '.join(VERSIONS)} are read; lerobot itself converts older ones",
        )
    fps, robot = info.get("fps"), info.get("robot_type")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= _MOST_FPS:
        raise BadDataError(f"{info_path}: fps is {fps!r}")
    features = _features(info, info_path)
    cameras = {
        name: feature["dtype"] for name, feature in features.items() if feature["dtype"] in ("video", "image") and not _is_depth(feature)
    }
    videos = [name for name, dtype in cameras.items() if dtype == "video"]
    meta = _Metadata(path, info, info_path, videos)
    tasks, episodes = (meta.tasks_v21(), meta.episodes_v21()) if version == "v2.1" else (meta.tasks_v30(), meta.episodes_v30())
    if not episodes:
        raise BadDataError(f"{path} holds no episodes")
    splits = info.get("splits")
    return LerobotFolder(
        path,
        version,
        float(fps),
        robot if isinstance(robot, str) else "",
        features,
        cameras,
        tasks,
        episodes,
        {name: text for name, text in splits.items() if isinstance(text, str)} if isinstance(splits, dict) else {},
    )


def _features(info: dict[str, Any], where: Path) -> dict[str, dict[str, Any]]:
    features = info.get("features")
    if not isinstance(features, dict) or not features:
        raise BadDataError(f"{where} lists no features")
    for name, feature in features.items():
        if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
            raise BadDataError(f"{where}: the feature {name!r} has no dtype")
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            raise BadDataError(f"{where}: {name!r} cannot name a feature")
    return features


def _is_depth(feature: dict[str, Any]) -> bool:
    """Whether pictures are depth: their numbers are no colours."""
    found = [feature.get(key) for key in ("info", "video_info")]
    return any(isinstance(info, dict) and info.get("video.is_depth_map") is True for info in found)


class _Metadata:
    """Reads what the versions keep in different ways."""

    def __init__(self, folder: Path, info: dict[str, Any], where: Path, videos: list[str]) -> None:
        self._folder, self._videos, self._where = folder, videos, where
        self._data_template = info.get("data_path")
        self._video_template = info.get("video_path")
        size = info.get("chunks_size")
        self._chunk_size = size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else 1000

    def tasks_v21(self) -> dict[int, str]:
        path = self._folder / "meta" / "tasks.jsonl"
        tasks = {}
        for number, line in _json_lines(path):
            tasks[_whole(line.get("task_index"), f"{path}, line {number}: task_index")] = _text(line.get("task"), f"{path}, line {number}")
        return tasks

    def episodes_v21(self) -> list[LerobotEpisode]:
        path = self._folder / "meta" / "episodes.jsonl"
        episodes = []
        for number, line in _json_lines(path):
            where = f"{path}, line {number}"
            index, length = _whole(line.get("episode_index"), f"{where}: episode_index"), _whole(line.get("length"), f"{where}: length")
            values = {"episode_chunk": index // self._chunk_size, "episode_index": index}
            videos = {
                name: VideoPart(self._path("video_path", self._video_template, {**values, "video_key": name}), 0.0) for name in self._videos
            }
            episodes.append(LerobotEpisode(index, length, self._path("data_path", self._data_template, values), None, videos))
        return self._checked(episodes, path)

    def tasks_v30(self) -> dict[int, str]:
        path = self._folder / "meta" / "tasks.parquet"
        names = _column_names(path)
        # pandas calls a column that was an index without a name __index_level_0__.
        text = next((name for name in ("task", "__index_level_0__") if name in names), "task")
        return {_whole(row["task_index"], f"{path}: task_index"): _text(row[text], str(path)) for row in _rows(path, ["task_index", text])}

    def episodes_v30(self) -> list[LerobotEpisode]:
        folder = self._folder / "meta" / "episodes"
        files = sorted(folder.glob("*/*.parquet"))
        if not files:
            raise MissingInputError(f"{folder} holds no Parquet file", hint="the dataset is not complete: was all of it downloaded?")
        places = ("chunk_index", "file_index")
        columns = ["episode_index", "length", "dataset_from_index", *(f"data/{place}" for place in places)]
        columns += [f"videos/{camera}/{part}" for camera in self._videos for part in (*places, "from_timestamp")]
        found: list[tuple[int, LerobotEpisode]] = []
        first_rows: dict[Path, int] = {}
        for path in files:
            for row in _rows(path, columns):
                where = f"{path}, episode {row['episode_index']}"
                index, length = (_whole(row[name], f"{where}: {name}") for name in ("episode_index", "length"))
                first = _whole(row["dataset_from_index"], f"{where}: dataset_from_index")
                numbers = {place: _whole(row[f"data/{place}"], f"{where}: data/{place}") for place in places}
                data = self._path("data_path", self._data_template, numbers)
                first_rows[data] = min(first, first_rows.get(data, first))
                videos = {camera: self._video_part(camera, row, where) for camera in self._videos}
                found.append((first, LerobotEpisode(index, length, data, None, videos)))
        episodes = [
            LerobotEpisode(episode.index, episode.length, episode.rows, first - first_rows[episode.rows], episode.videos)
            for first, episode in found
        ]
        return self._checked(episodes, folder)

    def _video_part(self, camera: str, row: dict[str, Any], where: str) -> VideoPart:
        numbers: dict[str, int | str] = {
            place: _whole(row[f"videos/{camera}/{place}"], f"{where}: videos/{camera}/{place}") for place in ("chunk_index", "file_index")
        }
        start = row[f"videos/{camera}/from_timestamp"]
        if not isinstance(start, float) or not 0 <= start < float("inf"):
            raise BadDataError(f"{where}: videos/{camera}/from_timestamp is {start!r}")
        return VideoPart(self._path("video_path", self._video_template, {**numbers, "video_key": camera}), start)

    def _path(self, name: str, template: Any, values: dict[str, Any]) -> Path:
        """A template filled in, when it names nothing but `values` and stays inside the folder."""
        refused = BadDataError(f"{self._where}: {name} is {template!r}, which names no file inside the folder")
        if not isinstance(template, str):
            raise refused
        try:
            pieces = list(string.Formatter().parse(template))
        except ValueError:
            raise refused from None
        text = ""
        for literal, field, specification, conversion in pieces:
            text += literal
            if field is None:
                continue
            value = values.get(field)
            fits = (isinstance(value, str) and not specification) or (
                isinstance(value, int) and _NUMBER_FORMAT.fullmatch(specification or "")
            )
            if conversion or not fits:
                raise refused
            text += format(value, specification or "")
        relative = PurePosixPath(text)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts or not _is_plain(text):
            raise refused
        if len(text.encode()) > _LONGEST_PATH or max(len(part.encode()) for part in relative.parts) > _LONGEST_NAME:
            raise refused
        return self._folder / relative

    def _checked(self, episodes: list[LerobotEpisode], where: Path) -> list[LerobotEpisode]:
        """In the order of their numbers, each there once and none empty."""
        episodes = sorted(episodes, key=lambda episode: episode.index)
        for position, episode in enumerate(episodes):
            if position and episode.index == episodes[position - 1].index:
                raise BadDataError(f"{where} lists episode {episode.index} twice")
            if episode.length < 1:
                raise BadDataError(f"{where}: episode {episode.index} has no steps")
        return episodes


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with one a line, and the number of each line."""
    if not path.is_file():
        raise MissingInputError(f"{path} does not exist", hint="the dataset is not complete: was all of it downloaded?")
    with open(path, "rb") as stream:
        for number in range(1, _MOST_EPISODES + 1):
            line = stream.readline(_MOST_LINE_BYTES)
            if not line:
                return
            if not line.strip():
                continue
            try:
                content = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError):
                raise BadDataError(f"{path}, line {number} is no JSON") from None
            if not isinstance(content, dict):
                raise BadDataError(f"{path}, line {number} holds no JSON object")
            yield number, content
    raise BadDataError(f"{path} has more than {_MOST_EPISODES} lines: refused")


def _column_names(path: Path) -> list[str]:
    with ParquetRows(path, []) as rows:
        return list(rows.schema.names)


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a small file as plain values."""
    with ParquetRows(path, columns) as rows:
        if rows.num_rows > _MOST_EPISODES:
            raise BadDataError(f"{path} has more than {_MOST_EPISODES} rows: refused")
        for batch in rows.batches(0, rows.num_rows):
            try:
                yield from batch.to_pylist()
            except (arrow().ArrowException, ValueError) as error:
                raise BadDataError(f"{path} is damaged: {str(error)[:200]}") from None


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadDataError(f"{where} is {value!r}, but a whole number is expected")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _is_plain(value):
        raise BadDataError(f"{where}: the task is {value!r}, but a sentence is expected")
    return value.strip()


def _is_plain(text: str) -> bool:
    """Whether a text can be stored: no NUL, and no halves of characters, both of which JSON can spell."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
