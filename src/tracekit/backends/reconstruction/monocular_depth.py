"""Reconstruction by a network that tells metric depth from one frame: the common part of `depth-anything` and `depth-pro`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tracekit.backends.batches import Batches, inference
from tracekit.backends.devices import torch_device
from tracekit.backends.memory import free_memory
from tracekit.backends.packages import missing_package
from tracekit.backends.protocols import BackendSetup, LocalGeometry
from tracekit.backends.reconstruction.depth_grid import thin_out
from tracekit.backends.reconstruction.depth_network import CONFIG, PREPROCESSOR, WEIGHTS, load_depth_network
from tracekit.backends.reconstruction.planar import guess_intrinsics
from tracekit.backends.reconstruction.sensor import recorded_poses
from tracekit.backends.weights import Published, find_weights, get_weights, missing_weights, sha256_of
from tracekit.errors import BadDataError, UnavailableError
from tracekit.extract.reconstruct import ReconstructParameters
from tracekit.format.json_file import read_json_object
from tracekit.geometry.odometry import Odometry
from tracekit.records import CameraSensor


class MonocularDepth:
    """Depth of every frame by itself, in metres; the camera from the pictures and this depth.

    Remembers the clip from call to call (see `tracekit.extract.reconstruct.SequentialBackend`). The calibration is the recording's, else what
    the network tells of it in the first call (the median over its frames, which then holds for the clip), else `planar.guess_intrinsics`. The
    poses are the recording's, else found by odometry, or those of a camera at rest with `--camera static`. Measured depth is passed over.

    Depth keeps the grid of the network, but is never finer than the frames (`depth_grid.thin_out`).
    """

    name: ClassVar[str]
    published: ClassVar[Published]
    """The default weights."""
    model_type: ClassVar[str]
    """What transformers calls the network."""
    frames_at_once: ClassVar[int]
    """Frames of one forward on a GPU, to begin with."""
    metric = True

    def __init__(self, setup: BackendSetup) -> None:
        if reason := self.missing(setup):
            raise UnavailableError(f"reconstruction backend {self.name} cannot run here: {reason}")
        self.device = torch_device(setup.device)
        self.weights = get_weights(setup, self.published)
        if reason := self._unfit(self.weights):  # what was fetched may be anything
            raise UnavailableError(reason)
        self.model, self.processor = load_depth_network(self.weights.parent, self.device)
        self.batches = Batches(self.device, self.frames_at_once)
        self._seed = setup.seed
        self._finds_camera_by = (setup.parameters or ReconstructParameters()).camera
        self.use_recording(None)

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        if reason := missing_package("torch", "torchvision", "transformers", "safetensors"):
            return reason
        if reason := missing_weights(setup, cls.published):
            return reason
        found = find_weights(setup, cls.published)
        return None if found is None else cls._unfit(found)

    @classmethod
    def _unfit(cls, weights: Path) -> str | None:
        """Why weights that are here are not for this backend, by what stands beside them; None where they may be."""
        if weights.name != WEIGHTS or not all((weights.parent / name).is_file() for name in (CONFIG, PREPROCESSOR)):
            return f"{weights} is not enough: give the folder with {CONFIG}, {PREPROCESSOR} and {WEIGHTS}"
        try:
            config = read_json_object(weights.parent / CONFIG)
        except BadDataError as error:
            return str(error)
        if config.get("model_type") != cls.model_type:
            return f"{weights.parent} is a {config.get('model_type')!r} of transformers, not a {cls.model_type!r}"
        return cls._not_metric(config, weights.parent)

    @classmethod
    def _not_metric(cls, config: dict[str, Any], folder: Path) -> str | None:
        """Why the network's depth is not in metres, by its configuration; None where it is."""
        return None

    def weights_sha256(self) -> str:
        return sha256_of(self.weights)

    def close(self) -> None:
        """Free the memory of the device. Nothing can be reconstructed any more."""
        self.model = None
        free_memory()

    def use_recording(self, camera: CameraSensor | None) -> None:
        """Begin a new clip with the calibration, and the poses if any, that were recorded with it."""
        self._recording = camera
        self._intrinsics: np.ndarray | None = None if camera is None else np.asarray(camera.intrinsics, np.float64)
        self._odometry: Odometry | None = None

    def reconstruct(self, frames: np.ndarray, frame_indices: np.ndarray, depth: np.ndarray | None) -> LocalGeometry:
        """See `ReconstructionBackend`; `depth` is ignored. Raises BadDataError, naming the frame, where the network returns only NaN."""
        size = (frames.shape[2], frames.shape[1])
        answers: Iterable[tuple[np.ndarray, np.ndarray]] = self._answers(frames, frame_indices)
        if self._intrinsics is None and self._tells_field_of_view:
            answers = list(answers)  # all of the frames have a say
            self._intrinsics = self._calibrate(size, np.concatenate([angles for _, angles in answers]), frame_indices)
        elif self._intrinsics is None:
            self._intrinsics = guess_intrinsics(size)
        metres: list[np.ndarray] = []
        cameras: list[Future[tuple[np.ndarray, np.ndarray]]] = []
        done = 0
        # While the network is at the next frames, the camera is followed through these: it takes a CPU about 50 ms a frame.
        with ThreadPoolExecutor(1) as beside:
            for told, _ in answers:
                part = slice(done, done + len(told))
                metres.append(self._in_metres(told, self._intrinsics, size[0]))
                cameras.append(beside.submit(self._cameras, frames[part], metres[-1], frame_indices[part]))
                done = part.stop
        poses, confidence = (np.concatenate(parts) for parts in zip(*(camera.result() for camera in cameras), strict=True))
        return LocalGeometry(np.tile(self._intrinsics, (len(frames), 1, 1)), poses, confidence, np.concatenate(metres))

    # What a network has to say, in its own terms

    @property
    def _tells_field_of_view(self) -> bool:
        return False

    def _read(self, outputs: Any, pixels: Any) -> tuple[Any, Any]:
        """Depth (b, h, w) in the unit of `_in_metres`, and horizontal fields of view (b,) in degrees, NaN where the network tells none."""
        raise NotImplementedError

    def _in_metres(self, told: np.ndarray, intrinsics: np.ndarray, width: int) -> np.ndarray:
        """Depth (n, h, w) as `_read` told it, of frames of this width and calibration, in metres."""
        return told

    def _ask(self, frames: Any) -> tuple[np.ndarray, np.ndarray]:
        height, width = frames.shape[2:]
        pixels = self.processor(images=list(frames), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
        with inference(self.device):
            depth, field_of_view = self._read(self.model(pixel_values=pixels.to(self.device)), pixels)
            thin: np.ndarray = thin_out(depth.float(), height, width).cpu().numpy()
        return thin, field_of_view.float().cpu().numpy()

    def _answers(self, frames: np.ndarray, frame_indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What the network tells of the frames, batch by batch: see `_read`, but depth is thinned out."""
        done = 0
        for depth, field_of_view in self.batches.each(self._ask, frames, f"reconstruct, backend {self.name}"):
            self._check(~np.isnan(depth).all(axis=(1, 2)), "depth is nothing but NaN", frame_indices[done:])
            done += len(depth)
            yield depth, field_of_view

    # Cameras

    def _calibrate(self, size: tuple[int, int], field_of_view: np.ndarray, frame_indices: np.ndarray) -> np.ndarray:
        width, height = size
        self._check((field_of_view > 0) & (field_of_view < 180), "field of view is not between 0 and 180 degrees", frame_indices)
        focal = 0.5 * width / np.tan(0.5 * np.deg2rad(np.median(field_of_view.astype(np.float64))))
        return np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])

    def _cameras(self, frames: np.ndarray, depth: np.ndarray, frame_indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self._intrinsics is not None
        if self._recording is not None and self._recording.world_from_camera is not None:
            return recorded_poses(self._recording.world_from_camera, frame_indices)
        if self._finds_camera_by == "static":
            return np.tile(np.eye(4), (len(frames), 1, 1)), np.ones(len(frames), np.float32)
        if self._odometry is None:
            self._odometry = Odometry(self._intrinsics, (frames.shape[2], frames.shape[1]), seed=self._seed)
        known = np.where(np.isfinite(depth) & (depth > 0), depth, 0)
        cameras = [self._odometry.track(frame, frame_depth) for frame, frame_depth in zip(frames, known, strict=True)]
        poses = np.stack([camera.world_from_camera for camera in cameras])
        return poses, np.array([camera.confidence for camera in cameras], np.float32)

    def _check(self, good: np.ndarray, what: str, frame_indices: np.ndarray) -> None:
        if not good.all():
            raise BadDataError(
                f"reconstruct, backend {self.name}: at frame {frame_indices[int(np.argmin(good))]} the {what}",
                hint="the weights may be damaged; try --device cpu, or other --weights",
            )
