"""Training reads a second: a frame of 512 x 512 and the traces of its keypoints, by torch's DataLoader with 0 and 2 workers.

Ours is a corpus with embedded pictures, in random order. Peers hold the same: JPEG and arrays in tar files, read in their order (webdataset
where it is installed, else the standard library's tarfile), and a video with a keyframe every second frame beside arrays on disk, in
random order (as LeRobot keeps its data sets).
"""

from __future__ import annotations

import gc
import importlib.util
import io
import itertools
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from statistics import median

import av
import cv2
import numpy as np
import torch
from table import print_table
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from tracekit.extract.build_corpus import CorpusBuilder, add_episode
from tracekit.extract.corpus_pictures import PictureParameters
from tracekit.extract.corpus_scales import CorpusScales
from tracekit.extract.fit_bspline import FitBsplineParameters
from tracekit.format.file import Target, open_records, write_records
from tracekit.format.schema import CORPUS, EPISODE
from tracekit.mu0.corpus_reader import CorpusReader, read_head
from tracekit.pictures import decode_jpeg, encode_jpeg
from tracekit.report import Report
from tracekit.video import open_clip, write_video

SIDE, NUM_READS, BATCH, ROUNDS, NUM_TARS = 512, 480, 8, 5, 4
GOALS = {"webdataset": 1.2, "tarfile": 1.2, "mp4, GOP 2": 1.7}
SAMPLE = "pick-place-v3_orbit_0_0"

Read = tuple[np.ndarray, dict[str, np.ndarray]]


class Ours(Dataset):
    def __init__(self, path: Path) -> None:
        self.reader = CorpusReader(read_head(path))

    def __getitem__(self, sample: int) -> Read:
        return self.reader.picture(sample), self.reader.rows(sample)


class VideoAndArrays(Dataset):
    """Frame i by seeking, rows i from memory-mapped arrays."""

    def __init__(self, folder: Path, offset: np.ndarray) -> None:
        self.folder, self.offset = folder, offset
        self.container: av.container.InputContainer | None = None

    def __getitem__(self, sample: int) -> Read:
        if self.container is None:
            self.container = av.open(str(self.folder / "video.mp4"))
            self.container.streams.video[0].thread_type = "NONE"
            self.arrays = {path.stem: np.load(path, mmap_mode="r") for path in self.folder.glob("*.npy")}
        stream = self.container.streams.video[0]
        target = round(sample / (stream.average_rate * stream.time_base))
        self.container.seek(target, stream=stream)
        frame = next(frame for frame in self.container.decode(stream) if frame.pts >= target)
        start, stop = self.offset[sample : sample + 2]
        return frame.to_ndarray(format="rgb24"), {name: np.array(values[start:stop]) for name, values in self.arrays.items()}


class Tars(IterableDataset):
    """Every worker takes its share of the files, over and over."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[Read]:
        worker = get_worker_info()
        mine = self.paths[worker.id :: worker.num_workers] if worker else self.paths
        for path in itertools.cycle(mine):
            with tarfile.open(path) as tar:
                content = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
            for name in content:
                if name.endswith(".jpg"):
                    picture = decode_jpeg(np.frombuffer(content[name], np.uint8), name)
                    yield picture, dict(np.load(io.BytesIO(content[name.replace(".jpg", ".npz")])))


def webdataset(paths: list[str]) -> IterableDataset:
    import webdataset

    pipeline = webdataset.WebDataset(paths, shardshuffle=False, nodesplitter=None).decode("rgb8").to_tuple("jpg", "npz").repeat()
    return pipeline.map_tuple(np.asarray, dict)


def collate(reads: list[Read]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    pictures, rows = zip(*reads, strict=True)
    return torch.from_numpy(np.stack(pictures)), {
        name: torch.from_numpy(np.concatenate([columns[name] for columns in rows])) for name in rows[0]
    }


def one_thread(worker: int) -> None:
    cv2.setNumThreads(0)


def cpu_seconds() -> float:
    """Of this process and of the workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def reads_per_second(dataset: Dataset, order: list[int] | None, num_workers: int) -> tuple[float, float]:
    """By the clock, and by the processor time of all processes, which a busy machine changes less."""
    before = cpu_seconds()
    gc.collect()  # an encoder that is garbage must not be freed in a worker
    loader = DataLoader(
        dataset,
        BATCH,
        sampler=order,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        collate_fn=collate,
        worker_init_fn=one_thread,
    )
    batches = iter(loader)
    next(batches)  # workers have started, files are open
    start, num_read = time.perf_counter(), 0
    for pictures, _ in itertools.islice(batches, NUM_READS // BATCH):
        assert pictures.shape[1:] == (SIDE, SIDE, 3)
        num_read += len(pictures)
    seconds = time.perf_counter() - start
    del batches  # ends the workers
    return num_read / seconds, num_read / (cpu_seconds() - before)


def write_corpus(path: Path) -> None:
    """Every frame of the sample is a reference frame."""
    episode_path = Path(str(files("tracekit") / "samples" / f"{SAMPLE}.truth.h5"))
    parameters, pictures, scales = FitBsplineParameters(every=1), PictureParameters(embed_images=True, image_size=SIDE), CorpusScales()
    _, frames = open_clip(episode_path.with_name(f"{SAMPLE}.mp4"))
    with open_records(episode_path, EPISODE) as file, write_records(Target(path), CORPUS) as writer:
        builder = CorpusBuilder(writer)
        add_episode(builder, file.episode(), SAMPLE, frames, parameters, pictures, scales, Report())
        delta_scale, depth_log_range = scales.result(Report())
        builder.fit(delta_scale, parameters, Report())
        builder.finish(delta_scale, depth_log_range)


def write_peers(corpus: Path, folder: Path) -> tuple[list[str], np.ndarray]:
    """The same samples in tar files, and as video and arrays. Returns the tar files and where each sample's rows begin."""
    reader = CorpusReader(read_head(corpus))
    reads = [(reader.picture(sample), reader.rows(sample)) for sample in range(reader.head.num_samples)]
    tars = []
    for number in range(NUM_TARS):
        tars.append(str(folder / f"{number}.tar"))
        with tarfile.open(tars[-1], "w") as tar:
            for sample in range(number, len(reads), NUM_TARS):
                picture, rows = reads[sample]
                arrays = io.BytesIO()
                np.savez(arrays, **rows)
                for suffix, content in (("jpg", encode_jpeg(picture, 90).tobytes()), ("npz", arrays.getvalue())):
                    member = tarfile.TarInfo(f"{sample:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    write_video(str(folder / "video.mp4"), np.stack([picture for picture, _ in reads]), 20, crf=23, gop=2)
    for name in reads[0][1]:
        np.save(folder / f"{name}.npy", np.concatenate([rows[name] for _, rows in reads]))
    reader.close()
    return tars, reader.head.sample_offset


def main() -> list[dict]:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus.h5"
        write_corpus(corpus)
        tars, offset = write_peers(corpus, folder)
        random = np.random.default_rng(0)
        order = random.integers(len(offset) - 1, size=NUM_READS + 8 * BATCH).tolist()
        has_webdataset = importlib.util.find_spec("webdataset") is not None
        tar_name, tar_peer = ("webdataset", webdataset) if has_webdataset else ("tarfile", Tars)
        if not has_webdataset:
            print("webdataset is not installed: tar files are read with the standard library")
        make: dict[str, Callable[[], tuple[Dataset, list[int] | None]]] = {
            "ours": lambda: (Ours(corpus), order),
            tar_name: lambda: (tar_peer(tars), None),
            "mp4, GOP 2": lambda: (VideoAndArrays(folder, offset), order),
        }
        rows = []
        for num_workers in (0, 2):
            rates: dict[str, list[tuple[float, float]]] = {key: [] for key in make}
            for _ in range(ROUNDS):
                for key, build in make.items():
                    rates[key].append(reads_per_second(*build(), num_workers))
            for unit, what in enumerate(("second", "second of processor time")):
                ours = median(rate[unit] for rate in rates["ours"])
                for key in list(make)[1:]:
                    peer = median(rate[unit] for rate in rates[key])
                    rows.append(
                        {
                            "work": f"training reads a {what}, {num_workers} workers, against {key}",
                            "ours": f"{ours:.0f}",
                            "peer": f"{peer:.0f}",
                            "ratio": ours / peer,
                            "goal": f">= {GOALS[key]}" if (num_workers, unit) == (2, 0) else "",
                        }
                    )
        return rows


if __name__ == "__main__":
    print_table(main())
