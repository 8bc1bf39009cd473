"""LeRobotDatasets of codebases v2.1 and v3.0, written file by file as lerobot lays them out, not with our exporter."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FPS = 10
HEIGHT, WIDTH = 24, 32
TOP, WRIST = "observation.images.top", "observation.images.wrist"


@dataclass
class Episode:
    """What goes into one episode of T steps."""

    actions: np.ndarray
    states: np.ndarray
    task: int
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return len(self.actions)


def episode(seed: int, length: int, *, task: int = 0, actions: int = 3, states: int = 2) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(rng.normal(size=(length, actions)).astype(np.float32), rng.normal(size=(length, states)).astype(np.float32), task)


def picture(camera: int, number: int, step: int) -> np.ndarray:
    """One colour that tells the camera, the episode and the step, far enough from all others to survive compression."""
    return np.full((HEIGHT, WIDTH, 3), (40 + 150 * camera, 20 + 40 * number, 15 + 18 * step), np.uint8)


def write_mp4(path: Path, frames: list[np.ndarray], codec: str = "libx264") -> None:
    """As lerobot does: yuv420p, a keyframe every second frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"g": "2", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))


def png(frame: np.ndarray) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": "frame.png"}


class Folder:
    """A dataset whose cameras are all videos or all images."""

    def __init__(
        self,
        path: Path,
        version: str,
        episodes: list[Episode],
        *,
        images: bool = False,
        codec: str = "libx264",
        cameras: tuple[str, ...] = (TOP, WRIST),
    ) -> None:
        self.path, self.version, self.episodes, self.images, self.codec = path, version, episodes, images, codec
        self.cameras = cameras
        self.tasks = ["push the block", "pull the block"]
        (path / "meta").mkdir(parents=True)
        if version == "v2.1":
            self._write_v21()
        else:
            self._write_v30()

    def info(self, **changes: Any) -> None:
        """Write meta/info.json, with changes."""
        first = self.episodes[0]
        old = self.version == "v2.1"
        features: dict[str, Any] = {
            "action": {"dtype": str(first.actions.dtype), "shape": [first.actions.shape[1]], "names": None},
            "observation.state": {"dtype": str(first.states.dtype), "shape": [first.states.shape[1]], "names": None},
            **{key: {"dtype": str(values.dtype), "shape": [1], "names": None} for key, values in first.extra.items()},
            **{
                camera: {
                    "dtype": "image" if self.images else "video",
                    "shape": [HEIGHT, WIDTH, 3],
                    "names": ["height", "width", "channel"],
                    "info": {"video.fps": float(FPS), "video.is_depth_map": False},
                }
                for camera in self.cameras
            },
            **{key: {"dtype": "int64", "shape": [1], "names": None} for key in ("frame_index", "episode_index", "index", "task_index")},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        }
        info = {
            "codebase_version": self.version,
            "robot_type": "arm",
            "total_episodes": len(self.episodes),
            "total_frames": sum(one.length for one in self.episodes),
            "chunks_size": 1000,
            "fps": FPS,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
            if old
            else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
            if old
            else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": features,
        }
        (self.path / "meta" / "info.json").write_text(json.dumps({**info, **changes}))

    def rows(self, number: int) -> pa.Table:
        """The rows of an episode: lists of variable length in v2.1, of fixed length in v3.0, as lerobot's writers leave them."""
        one = self.episodes[number]
        before = sum(earlier.length for earlier in self.episodes[:number])

        def lists(values: np.ndarray) -> pa.Array:
            flat = pa.array(values.ravel())
            if self.version == "v2.1":
                return pa.ListArray.from_arrays(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32), flat)
            return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

        columns: dict[str, Any] = {
            "action": lists(one.actions),
            "observation.state": lists(one.states),
            **{key: pa.array(values) for key, values in one.extra.items()},
            "timestamp": pa.array((np.arange(one.length) / FPS).astype(np.float32)),
            "frame_index": pa.array(np.arange(one.length)),
            "episode_index": pa.array(np.full(one.length, number)),
            "index": pa.array(before + np.arange(one.length)),
            "task_index": pa.array(np.full(one.length, one.task)),
        }
        if self.images:
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            for place, camera in enumerate(self.cameras):
                columns[camera] = pa.array([png(picture(place, number, step)) for step in range(one.length)], kind)
        return pa.table(columns)

    def frames(self, place: int, number: int) -> list[np.ndarray]:
        return [picture(place, number, step) for step in range(self.episodes[number].length)]

    def _write_v21(self) -> None:
        self.info()
        (self.path / "meta" / "tasks.jsonl").write_text(
            "".join(json.dumps({"task_index": index, "task": task}) + "\n" for index, task in enumerate(self.tasks))
        )
        lines = []
        for number, one in enumerate(self.episodes):
            lines.append(json.dumps({"episode_index": number, "tasks": [self.tasks[one.task]], "length": one.length}) + "\n")
            data = self.path / "data" / "chunk-000" / f"episode_{number:06d}.parquet"
            data.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(self.rows(number), data)
            for place, camera in enumerate(self.cameras) if not self.images else ():
                write_mp4(self.path / "videos" / "chunk-000" / camera / f"episode_{number:06d}.mp4", self.frames(place, number), self.codec)
        (self.path / "meta" / "episodes.jsonl").write_text("".join(lines))

    def _write_v30(self) -> None:
        """Episodes 0 and 1 share a file of rows and a video; every later one has files of its own. All rows of a file are one group."""
        self.info()
        tasks = pa.table({"task_index": pa.array(np.arange(len(self.tasks))), "__index_level_0__": pa.array(self.tasks)})
        pq.write_table(tasks, self.path / "meta" / "tasks.parquet")
        files = [range(min(2, len(self.episodes))), *([number] for number in range(2, len(self.episodes)))]
        rows: dict[str, list[Any]] = {}
        for file, numbers in enumerate(files):
            data = self.path / "data" / "chunk-000" / f"file-{file:03d}.parquet"
            data.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.concat_tables([self.rows(number) for number in numbers]), data)
            for place, camera in enumerate(self.cameras) if not self.images else ():
                frames = [frame for number in numbers for frame in self.frames(place, number)]
                write_mp4(self.path / "videos" / camera / "chunk-000" / f"file-{file:03d}.mp4", frames, self.codec)
            in_file = 0
            for number in numbers:
                one = self.episodes[number]
                before = sum(earlier.length for earlier in self.episodes[:number])
                row = {
                    "episode_index": number,
                    "tasks": [self.tasks[one.task]],
                    "length": one.length,
                    "data/chunk_index": 0,
                    "data/file_index": file,
                    "dataset_from_index": before,
                    "dataset_to_index": before + one.length,
                    "stats/action/min": one.actions.min(axis=0).tolist(),
                }
                for camera in self.cameras if not self.images else ():
                    row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file}
                    row |= {f"videos/{camera}/from_timestamp": in_file / FPS, f"videos/{camera}/to_timestamp": (in_file + one.length) / FPS}
                in_file += one.length
                for key, value in row.items():
                    rows.setdefault(key, []).append(value)
        path = self.path / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(rows), path)
