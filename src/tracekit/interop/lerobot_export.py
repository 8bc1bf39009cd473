"""Our demonstrations as a folder of LeRobotDataset, codebase v3.0 or v2.1 (see `lerobot_layout`), which the package lerobot loads.

Training demonstrations come first, those for validation after them, and `splits` of meta/info.json says which are which.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracekit import __version__
from tracekit.errors import BadDataError, UsageError
from tracekit.format.demo_file import DemoFile, DemoHead
from tracekit.format.demo_outcomes import Outcome, read_origin, read_outcomes
from tracekit.interop.lerobot_stats import PictureStats, Stats, stats_of
from tracekit.interop.parquet_rows import arrow
from tracekit.parameters import parameter
from tracekit.report import Report
from tracekit.video_writer import write_video

_CHUNK_SIZE = 1000
"""Files of a folder `chunk-000`, which is lerobot's default."""
_DATA_MB, _VIDEO_MB = 100, 200
"""Sizes after which v3.0 begins a new file; lerobot's defaults."""
_DEFAULT_FPS = 20
_DATA_PATHS = {
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
_VIDEO_PATHS = {
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


@dataclass(frozen=True)
class LerobotParameters:
    """How demonstrations are written."""

    codebase: str = parameter("v3.0", "Layout of the folder: what lerobot 0.4 loads, or lerobot 0.3 and older.", choices=("v3.0", "v2.1"))
    images: bool = parameter(False, "Pack the pictures into the rows as PNG, without loss, instead of H.264 videos.")
    crf: int = parameter(18, "Quality of the videos, x264's: 0 is best, 51 is worst.", minimum=0, maximum=51)
    fps: int | None = parameter(None, "Steps a second, a whole number; else what the file says, else 20.", minimum=1, maximum=10_000)
    robot: str | None = parameter(None, "Type of the robot that meta/info.json names; else the name of the environment.")


@dataclass(frozen=True)
class _Camera:
    """One camera of the file: its dataset under `obs`, and its key in LeRobotDataset."""

    dataset: str
    key: str


@dataclass(frozen=True)
class _Place:
    """Where an episode lies: numbers of a chunk and a file, and seconds at which it begins there."""

    chunk: int
    file: int
    start: float = 0.0


def export_lerobot(file: DemoFile, folder: Path, parameters: LerobotParameters, *, argv: list[str], report: Report) -> None:
    """Fill `folder`, which exists and is empty. Raises BadDataError for a file that cannot be read, UsageError for a rate that is no whole
    number, UnavailableError without pyarrow, StorageError when the disk fails."""
    arrow()
    heads = sorted(file.demos, key=lambda head: head.split == "valid")
    if heads != file.demos:
        report.note("demonstrations for validation are put behind the others, so the order is not that of the file")
    outcomes = list(read_outcomes(file.path, [head.key for head in heads], [head.num_samples for head in heads]))
    _Exporter(file, heads, outcomes, folder, parameters, report).write(argv)


class _Exporter:
    def __init__(
        self,
        file: DemoFile,
        heads: list[DemoHead],
        outcomes: list[Outcome],
        folder: Path,
        parameters: LerobotParameters,
        report: Report,
    ) -> None:
        self._file, self._heads, self._outcomes, self._folder = file, heads, outcomes, folder
        self._parameters, self._report = parameters, report
        origin = read_origin(file.path)
        self._fps = self._rate(origin.control_freq)
        self._robot = parameters.robot or origin.env_name or "unknown"
        layout = file.layout
        self._cameras = [
            _Camera(dataset, f"observation.images.{dataset.removesuffix('_image')}")
            for dataset in (layout.agentview, layout.gripper)
            if dataset
        ]
        self._tasks = list(dict.fromkeys(head.language for head in heads))
        report.count("demonstrations without a sentence about what is done", sum(not head.language for head in heads))
        report.count("demonstrations that the masks name in no split, put with those for training", sum(not head.split for head in heads))
        self._stats: list[dict[str, Stats]] = [{} for _ in heads]
        self._picture_stats: dict[str, PictureStats] = {camera.key: PictureStats() for camera in self._cameras}
        self._sizes: dict[str, tuple[int, int]] = {}
        """Height and width of each camera's pictures as they are written."""
        self._done = 0

    def write(self, argv: list[str]) -> None:
        (self._folder / "meta").mkdir()
        is_new = self._parameters.codebase == "v3.0"
        videos: dict[str, list[_Place]] = {}
        if not self._parameters.images:
            for camera in self._cameras:
                videos[camera.key] = self._shared_videos(camera) if is_new else self._own_videos(camera)
        data = self._rows(shared=is_new)
        self._write_info()
        if is_new:
            self._write_metadata_v30(data, videos)
        else:
            self._write_metadata_v21()
        with open(self._file.path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        about = {
            "command": "export lerobot",
            "argv": argv,
            "version": __version__,
            "parameters": vars(self._parameters),
            "inputs": [digest],
            "notes": self._report.notes,
        }
        self._json("meta/tracekit.json", about)

    def _rate(self, of_environment: float | None) -> int:
        if self._parameters.fps is not None:
            return self._parameters.fps
        rates = {outcome.fps for outcome in self._outcomes if outcome.fps is not None}
        if len(rates) > 1:
            raise UsageError(f"{self._file.path} holds demonstrations of several rates: {sorted(rates)}", hint="say one with --fps")
        rate = rates.pop() if rates else of_environment
        if rate is None:
            self._report.note(f"the file does not say how many steps a second has: {_DEFAULT_FPS} taken (--fps)")
            return _DEFAULT_FPS
        if rate != int(rate):
            raise UsageError(f"{self._file.path} has {rate:g} steps a second", hint="lerobot knows whole numbers only: say one with --fps")
        return int(rate)

    # Pictures

    def _pictures(self, camera: _Camera, number: int) -> Iterator[np.ndarray]:
        """The pictures of one demonstration, counted as they go by."""
        head, stats = self._heads[number], PictureStats()
        for step in range(head.num_samples):
            gripper = camera.dataset != self._file.layout.agentview
            picture = self._file.gripper(head.key, step) if gripper else self._file.agentview(head.key, step)
            size = self._sizes.setdefault(camera.key, (picture.shape[0], picture.shape[1]))
            if size != picture.shape[:2]:
                raise BadDataError(
                    f"`{camera.dataset}` of {head.key} in {self._file.path} has {picture.shape[1]} x {picture.shape[0]} pixels, but earlier "
                    f"demonstrations {size[1]} x {size[0]}",
                    hint="a LeRobotDataset has one size of pictures for each camera",
                )
            stats.add(picture)
            self._done += 1
            self._report.progress(self._done, self._file.num_samples * len(self._cameras), "pictures")
            yield picture
        self._stats[number][camera.key] = stats.result()
        self._picture_stats[camera.key].merge(stats)

    def _own_videos(self, camera: _Camera) -> list[_Place]:
        """A video for each episode."""
        places = []
        for number in range(len(self._heads)):
            values = {"episode_chunk": number // _CHUNK_SIZE, "episode_index": number, "video_key": camera.key}
            self._video(_VIDEO_PATHS["v2.1"].format(**values), self._pictures(camera, number))
            places.append(_Place(number // _CHUNK_SIZE, number))
        return places

    def _shared_videos(self, camera: _Camera) -> list[_Place]:
        """Videos of several episodes, up to a size."""
        places: list[_Place] = []
        ahead = deque(range(len(self._heads)))
        file = 0
        while ahead:
            chunk, in_chunk = divmod(file, _CHUNK_SIZE)
            name = _VIDEO_PATHS["v3.0"].format(video_key=camera.key, chunk_index=chunk, file_index=in_chunk)

            def frames(chunk: int = chunk, in_chunk: int = in_chunk, path: Path = self._folder / name) -> Iterator[np.ndarray]:
                num_frames = 0
                while ahead and (num_frames == 0 or path.stat().st_size < _VIDEO_MB << 20):
                    number = ahead.popleft()
                    places.append(_Place(chunk, in_chunk, num_frames / self._fps))
                    yield from self._pictures(camera, number)
                    num_frames += self._heads[number].num_samples

            self._video(name, frames())
            file += 1
        return places

    def _video(self, name: str, frames: Iterator[np.ndarray]) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames, self._fps, crf=self._parameters.crf)

    # Rows

    def _rows(self, *, shared: bool) -> list[_Place]:
        """Write data/, in files of several episodes each or of one."""
        places: list[_Place] = []
        writer: Any = None
        file, num_bytes, first = -1, 0, 0
        try:
            for number, head in enumerate(self._heads):
                table = self._table(number, first)
                first += head.num_samples
                if writer is None or not shared or num_bytes + table.nbytes > _DATA_MB << 20:
                    if writer is not None:
                        writer.close()
                    file, num_bytes = file + 1, 0
                    writer = self._new_data_file(file, table.schema, shared=shared)
                writer.write_table(table)
                num_bytes += table.nbytes
                places.append(_Place(*divmod(file, _CHUNK_SIZE)))
        finally:
            if writer is not None:
                writer.close()
        return places

    def _new_data_file(self, file: int, schema: Any, *, shared: bool) -> Any:
        chunk, in_chunk = divmod(file, _CHUNK_SIZE)
        if shared:
            name = _DATA_PATHS["v3.0"].format(chunk_index=chunk, file_index=in_chunk)
        else:
            name = _DATA_PATHS["v2.1"].format(episode_chunk=chunk, episode_index=file)
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return arrow().parquet.ParquetWriter(path, schema, compression="snappy")

    def _table(self, number: int, first: int) -> Any:
        """The rows of a demonstration whose first has index `first` among all."""
        pyarrow = arrow()
        columns = self._columns(number, first)
        self._stats[number] |= {key: stats_of(values) for key, values in columns.items()}
        arrays = {key: _array(values) for key, values in columns.items()}
        if self._parameters.images:
            kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
            for camera in self._cameras:
                cells = [
                    {"bytes": _png(picture), "path": f"frame-{step:06d}.png"} for step, picture in enumerate(self._pictures(camera, number))
                ]
                arrays[camera.key] = pyarrow.array(cells, kind)
        return pyarrow.table(arrays)

    def _columns(self, number: int, first: int) -> dict[str, np.ndarray]:
        """All features of a demonstration but the pictures, (T,) or (T, k), in the order of the files."""
        head, outcome = self._heads[number], self._outcomes[number]
        steps = np.arange(head.num_samples)
        last = steps == head.num_samples - 1
        return {
            "action": self._file.actions(head.key),
            "observation.state": self._file.states(head.key),
            "next.reward": np.zeros(len(steps), np.float32) if outcome.rewards is None else outcome.rewards,
            "next.done": last if outcome.dones is None else outcome.dones,
            "next.success": last & (outcome.success is not False),
            "timestamp": (steps / self._fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(len(steps), number),
            "index": first + steps,
            "task_index": np.full(len(steps), self._tasks.index(head.language)),
        }

    # meta/

    def _features(self) -> dict[str, Any]:
        features: dict[str, Any] = {}
        for key, values in self._columns(0, 0).items():
            features[key] = {"dtype": str(values.dtype), "shape": [values[0].size], "names": None}
        for camera in self._cameras:
            height, width = self._sizes[camera.key]
            feature: dict[str, Any] = {"dtype": "image", "names": ["height", "width", "channels"]}
            if not self._parameters.images:
                if height % 2 or width % 2:
                    self._report.note(
                        f"pictures of {width} x {height} pixels grow to even sides: H.264 knows no others (--images keeps them)"
                    )
                height, width = height + height % 2, width + width % 2
                feature["dtype"] = "video"
                feature["info"] = {
                    "video.height": height,
                    "video.width": width,
                    "video.channels": 3,
                    "video.codec": "h264",
                    "video.pix_fmt": "yuv420p",
                    "video.is_depth_map": False,
                    "video.fps": self._fps,
                    "has_audio": False,
                }
            features[camera.key] = {**feature, "shape": [height, width, 3]}
        return features

    def _write_info(self) -> None:
        num_train = sum(head.split != "valid" for head in self._heads)
        num_all, codebase = len(self._heads), self._parameters.codebase
        splits = {"train": f"0:{num_train}"} if num_train else {}
        info: dict[str, Any] = {
            "codebase_version": codebase,
            "robot_type": self._robot,
            "total_episodes": num_all,
            "total_frames": self._file.num_samples,
            "total_tasks": len(self._tasks),
            "chunks_size": _CHUNK_SIZE,
            "fps": self._fps,
            "splits": splits | ({"valid": f"{num_train}:{num_all}"} if num_train < num_all else {}),
            "data_path": _DATA_PATHS[codebase],
            "video_path": None if self._parameters.images else _VIDEO_PATHS[codebase],
            "features": self._features(),
        }
        if codebase == "v3.0":
            info |= {"data_files_size_in_mb": _DATA_MB, "video_files_size_in_mb": _VIDEO_MB}
        else:
            num_videos = 0 if self._parameters.images else num_all * len(self._cameras)
            info |= {"total_videos": num_videos, "total_chunks": (num_all - 1) // _CHUNK_SIZE + 1}
        self._json("meta/info.json", info)

    def _write_metadata_v21(self) -> None:
        heads = list(enumerate(self._heads))
        self._json_lines("meta/tasks.jsonl", [{"task_index": index, "task": task} for index, task in enumerate(self._tasks)])
        self._json_lines(
            "meta/episodes.jsonl",
            [{"episode_index": number, "tasks": [head.language], "length": head.num_samples} for number, head in heads],
        )
        self._json_lines("meta/episodes_stats.jsonl", [{"episode_index": number, "stats": self._stats[number]} for number, _ in heads])

    def _write_metadata_v30(self, data: Sequence[_Place], videos: dict[str, list[_Place]]) -> None:
        pyarrow = arrow()
        rows: list[dict[str, Any]] = []
        first = 0
        for number, head in enumerate(self._heads):
            row: dict[str, Any] = {
                "episode_index": number,
                "tasks": [head.language],
                "length": head.num_samples,
                "data/chunk_index": data[number].chunk,
                "data/file_index": data[number].file,
                "dataset_from_index": first,
                "dataset_to_index": first + head.num_samples,
            }
            first += head.num_samples
            for key, places in videos.items():
                place = places[number]
                row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"] = place.chunk, place.file
                row[f"videos/{key}/from_timestamp"] = place.start
                row[f"videos/{key}/to_timestamp"] = place.start + head.num_samples / self._fps
            for key, stats in self._stats[number].items():
                row |= {f"stats/{key}/{name}": value for name, value in stats.items()}
            rows.append({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        path = self._folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        path.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression="snappy")
        pyarrow.parquet.write_table(_tasks_table(self._tasks), self._folder / "meta" / "tasks.parquet")
        self._json("meta/stats.json", self._stats_of_all())

    def _stats_of_all(self) -> dict[str, Stats]:
        """Over the rows of all episodes."""
        starts = np.cumsum([0, *(head.num_samples for head in self._heads)])
        parts = [self._columns(number, int(starts[number])) for number in range(len(self._heads))]
        numbers = {key: stats_of(np.concatenate([columns[key] for columns in parts])) for key in parts[0]}
        return numbers | {key: stats.result() for key, stats in self._picture_stats.items()}

    def _json(self, name: str, content: Any) -> None:
        (self._folder / name).write_text(json.dumps(content, indent=4, ensure_ascii=False), "utf-8")

    def _json_lines(self, name: str, lines: list[dict[str, Any]]) -> None:
        (self._folder / name).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")


def _array(values: np.ndarray) -> Any:
    """A plain column for one number a row, as lerobot has it, lists of fixed length for several."""
    pyarrow = arrow()
    if values.ndim == 1 or values.shape[1] == 1:
        return pyarrow.array(values.ravel())
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1])


def _png(picture: np.ndarray) -> bytes:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def _tasks_table(tasks: Sequence[str]) -> Any:
    """Sentences and their numbers. lerobot reads the file with pandas and expects the sentences to be the index, which pandas' own
    description in the schema says."""
    pyarrow = arrow()

    def described(name: str, kind: str, numpy_kind: str) -> dict[str, Any]:
        return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [described("task_index", "int64", "int64"), described("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.0.0",
    }
    table = pyarrow.table({"task_index": pyarrow.array(np.arange(len(tasks))), "task": pyarrow.array(list(tasks), pyarrow.string())})
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})
