"""The global-local scheme on a backend whose every answer is in another frame and at another scale."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tracekit.backends.protocols import BackendSetup, LocalGeometry
from tracekit.backends.reconstruction.sensor import SensorBackend
from tracekit.backends.worker import WorkerMemoryError
from tracekit.errors import BadDataError, ConfigurationError, StorageError
from tracekit.extract.chunks import chunk_bounds
from tracekit.extract.reconstruct import ReconstructParameters, choose_anchors, clean_depth, reconstruct
from tracekit.geometry import se3
from tracekit.records import CameraSensor, Geometry
from tracekit.report import Report

INTRINSICS = np.array([[50.0, 0.0, 15.5], [0.0, 50.0, 11.5], [0.0, 0.0, 1.0]])


class KnownWorld:
    """Knows the true cameras and depth, and gives them in a frame and at a scale of its own in every call."""

    name = "known"
    metric = False

    def __init__(self, num_frames: int) -> None:
        rng = np.random.default_rng(num_frames)
        turn = Rotation.from_rotvec(np.cumsum(0.02 * rng.standard_normal((num_frames, 3)), axis=0)).as_matrix()
        self.poses = se3.from_rotation_translation(turn, np.cumsum(0.05 * rng.standard_normal((num_frames, 3)), axis=0))
        self.depth = rng.uniform(1, 4, (num_frames, 24, 32)).astype(np.float32)
        self.depth[:, :3] = 0
        self.calls: list[np.ndarray] = []
        self._rng = rng

    def reconstruct(self, frames: np.ndarray, frame_indices: np.ndarray, depth: np.ndarray | None) -> LocalGeometry:
        assert (frames[:, 0, 0, 0] == frame_indices % 256).all(), "these are not the frames that the indices name"
        self.calls.append(frame_indices)
        count = len(frame_indices)
        scale = 2.0 ** self._rng.integers(-2, 3)
        frame = se3.from_rotation_translation(Rotation.random(rng=self._rng).as_matrix(), self._rng.standard_normal(3))
        poses = frame @ self.poses[frame_indices]
        poses[:, :3, 3] *= scale
        jitter = self._rng.standard_normal(count)
        intrinsics = INTRINSICS + np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0]]) * (jitter - jitter.mean())[:, None, None]
        return LocalGeometry(intrinsics, poses, np.full(count, 0.8, np.float32), scale * self.depth[frame_indices])


def numbered_frames(num_frames: int) -> np.ndarray:
    frames = np.zeros((num_frames, 24, 32, 3), np.uint8)
    frames[:] = (np.arange(num_frames) % 256)[:, None, None, None]
    return frames


def run(backend, num_frames, parameters=ReconstructParameters(), *, report=None, depth=None, camera=None) -> tuple[Geometry, np.ndarray]:
    written = np.full((num_frames, 24, 32), np.nan, np.float32)

    def write_depth(start: int, chunk: np.ndarray) -> None:
        assert chunk.dtype == np.float32
        written[start : start + len(chunk)] = chunk

    geometry = reconstruct(
        numbered_frames(num_frames), backend, parameters, report=report or Report(), depth=depth, camera=camera, write_depth=write_depth
    )
    return geometry, written


def assert_same_world(geometry: Geometry, depth: np.ndarray, truth: KnownWorld, tolerance: float = 1e-6) -> None:
    """Equal up to the one similarity that nobody can know: the global frame, and the scale of the global pass."""
    known = truth.depth > 0
    scale = float(np.median(depth[known] / truth.depth[known]))
    np.testing.assert_allclose(depth, scale * truth.depth, rtol=tolerance)
    expected = se3.inverse(truth.poses[0]) @ truth.poses
    expected[:, :3, 3] *= scale
    found = se3.inverse(geometry.world_from_camera[0]) @ geometry.world_from_camera
    np.testing.assert_allclose(found, expected, atol=tolerance * max(1, scale))


def test_metres_whose_scale_varies_are_brought_to_that_of_the_anchors():
    """Lengths count as metres still; a backend whose scale holds is left alone."""
    truth = KnownWorld(90)
    truth.metric = True
    geometry, depth = run(truth, 90, ReconstructParameters(chunk=30, max_anchors=10))
    assert geometry.metric and (geometry.chunk_scale == 1).all()
    with pytest.raises(AssertionError):
        assert_same_world(geometry, depth, truth)
    truth.scale_varies = True
    geometry, depth = run(truth, 90, ReconstructParameters(chunk=30, max_anchors=10))
    assert geometry.metric and len(np.unique(geometry.chunk_scale)) > 1
    assert_same_world(geometry, depth, truth)


@pytest.mark.parametrize(
    ("num_frames", "max_anchors", "chunk"),
    [(1, 150, 60), (2, 150, 60), (61, 150, 60), (200, 150, 60), (200, 10, 25), (500, 4, 20), (900, 12, 10), (7, 4, 1)],
)
def test_one_world_comes_back_from_many(num_frames, max_anchors, chunk):
    truth = KnownWorld(num_frames)
    geometry, depth = run(truth, num_frames, ReconstructParameters(max_anchors, chunk))
    assert_same_world(geometry, depth, truth)
    np.testing.assert_allclose(geometry.intrinsics, INTRINSICS, atol=1e-9)
    assert max(len(call) for call in truth.calls) <= max(max_anchors, chunk), "no call may exceed the bound on memory"
    assert list(zip(geometry.chunk_start, geometry.chunk_stop, strict=True)) == chunk_bounds(num_frames, chunk)
    lengths = geometry.chunk_stop - geometry.chunk_start
    assert (geometry.chunk_num_anchors >= np.minimum(2, lengths)).all()
    assert geometry.chunk_residual.max() < 1e-6
    assert geometry.depth is None and not geometry.metric


def test_alignment_and_scale_are_what_turns_the_chunk_into_the_world():
    truth = KnownWorld(120)
    local: dict[int, LocalGeometry] = {}

    class Recorded(KnownWorld):
        def reconstruct(self, frames, frame_indices, depth):
            answer = super().reconstruct(frames, frame_indices, depth)
            if len(frame_indices) == 60:
                local[int(frame_indices[0])] = answer
            return answer

    geometry, depth = run(Recorded(120), 120, ReconstructParameters(20, 60))
    for index, start in enumerate(geometry.chunk_start):
        poses = local[start].world_from_camera.copy()
        poses[:, :3, 3] *= geometry.chunk_scale[index]
        np.testing.assert_allclose(geometry.world_from_camera[start : start + 60], geometry.chunk_alignment[index] @ poses, atol=1e-12)
        np.testing.assert_allclose(depth[start : start + 60], local[start].depth * geometry.chunk_scale[index], rtol=1e-6)
    assert_same_world(geometry, depth, truth)


def test_noisy_anchors_shift_a_chunk_no_more_than_their_mean():
    """Each global pose is off by sigma per axis; a chunk is aligned to 15 of them or more, so it is off by less than 4 sigma sqrt(3/7)."""
    sigma = 0.02

    class Noisy(KnownWorld):
        def reconstruct(self, frames, frame_indices, depth):
            answer = super().reconstruct(frames, frame_indices, depth)
            if len(self.calls) == 1:
                size = np.median(answer.depth[:, 5:]) / np.median(self.depth[:, 5:])
                answer.world_from_camera[:, :3, 3] += sigma * size * self._rng.standard_normal((len(frame_indices), 3))
                answer.world_from_camera[::9, :3, 3] += 3.0 * size
            return answer

    truth = KnownWorld(300)
    report = Report()
    noisy = Noisy(300)
    geometry, depth = run(noisy, 300, ReconstructParameters(80, 60), report=report)
    scale = np.median(depth[:, 5:] / truth.depth[:, 5:])
    estimated, true = geometry.world_from_camera[:, :3, 3] / scale, truth.poses[:, :3, 3]
    # The similarity that is left is found from all centres; per chunk the mean then shows that chunk's own error.
    rotation, _ = Rotation.align_vectors(estimated - estimated.mean(0), true - true.mean(0))
    error = estimated - estimated.mean(0) - rotation.apply(true - true.mean(0))
    for start, stop in zip(geometry.chunk_start, geometry.chunk_stop, strict=True):
        assert np.linalg.norm(error[start:stop].mean(axis=0)) < 4 * sigma * np.sqrt(3 / 7)
    assert report.counts["anchors left out of the alignment of their chunk"] >= 9


def test_a_sequential_backend_stays_in_its_own_world_exactly():
    truth = KnownWorld(130)
    camera = CameraSensor(INTRINSICS, truth.poses)
    geometry, depth = run(SensorBackend(BackendSetup()), 130, ReconstructParameters(20, 60), depth=truth.depth, camera=camera)
    np.testing.assert_array_equal(geometry.world_from_camera, truth.poses)
    np.testing.assert_array_equal(geometry.chunk_alignment, np.tile(np.eye(4), (3, 1, 1)))
    np.testing.assert_array_equal(geometry.chunk_scale, 1.0)
    np.testing.assert_array_equal(geometry.chunk_residual, 0.0)
    np.testing.assert_array_equal(geometry.intrinsics, INTRINSICS)
    np.testing.assert_array_equal(depth, truth.depth)
    assert geometry.metric and (geometry.chunk_num_anchors >= 2).all()


def test_depth_that_is_no_distance_becomes_unknown_and_is_counted():
    depth = np.array([[[1.0, np.nan, np.inf], [-np.inf, -2.0, 0.0]]])
    report = Report()
    np.testing.assert_array_equal(clean_depth(depth, report), [[[1, 0, 0], [0, 0, 0]]])
    assert report.counts == {"depth pixels that were NaN or infinite (now unknown)": 3, "depth pixels that were negative (now unknown)": 2}


def test_bad_pixels_of_a_backend_are_masked_and_do_not_move_the_scale():
    class Holes(KnownWorld):
        def reconstruct(self, frames, frame_indices, depth):
            answer = super().reconstruct(frames, frame_indices, depth)
            answer.depth[:, 4, :5] = np.nan
            answer.depth[:, 5, :5] = -1
            return answer

    report, truth = Report(), KnownWorld(70)
    geometry, depth = run(Holes(70), 70, report=report)
    truth.depth[:, 4:6, :5] = 0
    assert_same_world(geometry, depth, truth)
    assert report.counts["depth pixels that were NaN or infinite (now unknown)"] == 70 * 5
    assert report.counts["depth pixels that were negative (now unknown)"] == 70 * 5
    assert report.counts["depth pixels without a value"] == 70 * (3 * 32 + 10)


def test_measured_depth_is_counted_once():
    truth = KnownWorld(30)
    measured = truth.depth.copy()
    measured[:, 10, 10] = np.nan
    report = Report()
    run(SensorBackend(BackendSetup()), 30, report=report, depth=measured, camera=CameraSensor(INTRINSICS, truth.poses))
    assert report.counts["depth pixels that were NaN or infinite (now unknown)"] == 30
    assert report.counts["depth pixels without a value"] == 30 * (3 * 32 + 1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda answer: answer.world_from_camera.__setitem__((3, 0, 0), np.nan), "at frame 63 the camera pose is not finite"),
        (lambda answer: answer.world_from_camera.__setitem__((3, 0, 0), 5.0), "at frame 63 the camera pose is no rigid motion"),
        (lambda answer: answer.intrinsics.__setitem__((3, 0, 0), np.inf), "at frame 63 the intrinsics are not finite"),
        (lambda answer: answer.intrinsics.__setitem__((3, 0, 0), -1.0), "at frame 63 the focal length is not positive"),
    ],
)
def test_a_camera_that_is_none_stops_with_stage_and_frame(fault, message):
    class Faulty(KnownWorld):
        def reconstruct(self, frames, frame_indices, depth):
            answer = super().reconstruct(frames, frame_indices, depth)
            if frame_indices[0] == 60 and frame_indices[1] == 61:
                fault(answer)
            return answer

    with pytest.raises(BadDataError, match=message) as caught:
        run(Faulty(120), 120, ReconstructParameters(20, 60))
    assert "reconstruct, backend known, the dense pass over frames 60 to 119" in str(caught.value)


def test_an_answer_for_the_wrong_number_of_frames_is_refused():
    class Short(KnownWorld):
        def reconstruct(self, frames, frame_indices, depth):
            answer = super().reconstruct(frames, frame_indices, depth)
            return dataclasses.replace(answer, world_from_camera=answer.world_from_camera[:-1])

    with pytest.raises(BadDataError, match=r"poses have the shape \(9, 4, 4\), but should have \(10, 4, 4\)"):
        run(Short(30), 30, ReconstructParameters(10, 10))


class OutOfMemoryError(RuntimeError):
    """Known by its name, like torch's."""


def limited(num_frames: int, most: int, error: Exception) -> KnownWorld:
    """A backend that can take `most` frames at a time."""

    class Limited(KnownWorld):
        num_refused = 0

        def reconstruct(self, frames, frame_indices, depth):
            if len(frame_indices) > most:
                self.num_refused += 1
                raise error
            return super().reconstruct(frames, frame_indices, depth)

    return Limited(num_frames)


REFUSALS = "passes that ran out of memory (made again with fewer frames)"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        WorkerMemoryError("known: CUDA out of memory"),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    ("num_frames", "max_anchors", "chunk", "most"),
    # Dense passes too long; global passes too long; both; far too long; many more chunks than anchors, so that nearly all are new.
    [(200, 20, 60, 40), (200, 60, 20, 40), (200, 150, 60, 40), (300, 150, 60, 9), (1000, 10, 200, 30), (9, 8, 9, 8)],
)
def test_passes_that_do_not_fit_in_memory_are_made_smaller(num_frames, max_anchors, chunk, most, error):
    truth, report = limited(num_frames, most, error), Report()
    geometry, depth = run(truth, num_frames, ReconstructParameters(max_anchors, chunk), report=report)
    assert_same_world(geometry, depth, truth)
    assert report.counts[REFUSALS] == truth.num_refused > 0
    assert max(len(call) for call in truth.calls) <= most
    # The chunks in the file are the passes that were made: no gap, no overlap, each aligned.
    np.testing.assert_array_equal(geometry.chunk_start[1:], geometry.chunk_stop[:-1])
    assert geometry.chunk_start[0] == 0 and geometry.chunk_stop[-1] == num_frames
    lengths = geometry.chunk_stop - geometry.chunk_start
    assert lengths.max() <= most and (geometry.chunk_num_anchors >= np.minimum(2, lengths)).all()
    assert geometry.chunk_residual.max() < 1e-6
    assert (np.diff(geometry.anchor_frame) > 0).all()
    for start, stop in zip(geometry.chunk_start, geometry.chunk_stop, strict=True):
        assert ((geometry.anchor_frame >= start) & (geometry.anchor_frame < stop)).sum() >= min(2, stop - start)


def test_memory_that_runs_short_in_the_middle_halves_the_chunks_from_there_on():
    class Shrinking(KnownWorld):
        def reconstruct(self, frames, frame_indices, depth):
            if frame_indices[-1] >= 120 and len(frame_indices) > 30 and np.ptp(frame_indices) < 60:
                raise MemoryError
            return super().reconstruct(frames, frame_indices, depth)

    truth, report = Shrinking(240), Report()
    geometry, depth = run(truth, 240, ReconstructParameters(8, 60), report=report)
    assert_same_world(geometry, depth, truth)
    np.testing.assert_array_equal(geometry.chunk_start, [0, 60, 120, 150, 180, 210])
    assert report.notes == ["the chunk was halved to 30 frames from frame 120 on: out of memory"]
    # Chunks are seen once, whatever was tried: nothing is counted twice.
    assert report.counts["depth pixels without a value"] == 240 * 3 * 32


def test_further_anchors_that_do_not_fit_either_come_in_smaller_passes():
    """The dense pass of 64 frames is refused; the 28 further anchors would come in passes of 32, and only 16 frames fit."""

    class Small(KnownWorld):
        def reconstruct(self, frames, frame_indices, depth):
            if len(frame_indices) > (16 if len(self.calls) else 40):
                raise MemoryError
            return super().reconstruct(frames, frame_indices, depth)

    truth = Small(400)
    geometry, depth = run(truth, 400, ReconstructParameters(12, 64))
    assert_same_world(geometry, depth, truth)
    assert (geometry.chunk_stop - geometry.chunk_start).max() == 16


def test_where_not_even_few_frames_fit_it_says_what_to_set():
    for most in (5, 7):
        with pytest.raises(StorageError, match="out of memory in the global pass over the anchor frames: 8 frames at once") as caught:
            run(limited(100, most, MemoryError()), 100, ReconstructParameters(50, 20))
        assert "--max-size" in caught.value.hint
    with pytest.raises(StorageError, match="out of memory in the dense pass over frames 0 to 7: 8 frames at once"):
        run(limited(100, 7, MemoryError()), 100, ReconstructParameters(4, 8))
    with pytest.raises(StorageError, match="out of memory in the global pass over further anchor frames: 8 frames at once"):
        run(limited(100, 4, MemoryError()), 100, ReconstructParameters(4, 20))


def test_a_backend_that_remembers_the_clip_is_not_asked_again():
    class Forgetful(SensorBackend):
        def reconstruct(self, frames, frame_indices, depth):
            raise MemoryError

    truth = KnownWorld(30)
    with pytest.raises(StorageError, match="lower --chunk"):
        run(Forgetful(BackendSetup()), 30, ReconstructParameters(4, 20), depth=truth.depth, camera=CameraSensor(INTRINSICS, truth.poses))


def test_other_errors_of_a_backend_are_not_taken_for_want_of_memory():
    with pytest.raises(RuntimeError, match="expected scalar type"):
        run(limited(30, 4, RuntimeError("expected scalar type Half but found Float")), 30)


def test_a_chunk_that_fits_badly_is_reported():
    class Sloppy(KnownWorld):
        def reconstruct(self, frames, frame_indices, depth):
            answer = super().reconstruct(frames, frame_indices, depth)
            sloppiness = 0.2 if len(frame_indices) == 20 and frame_indices[0] == 40 else 1e-3
            answer.world_from_camera[:, :3, 3] += sloppiness * self._rng.standard_normal((len(frame_indices), 3))
            return answer

    report = Report()
    run(Sloppy(100), 100, ReconstructParameters(30, 20), report=report)
    assert [note.split(" fit ")[0] for note in report.notes] == ["frames 40 to 59"]


def test_a_chunk_without_common_depth_keeps_its_scale_and_says_so():
    class Blind(KnownWorld):
        def reconstruct(self, frames, frame_indices, depth):
            answer = super().reconstruct(frames, frame_indices, depth)
            if len(self.calls) == 3:
                answer.depth[:] = 0
            return answer

    report = Report()
    geometry, _ = run(Blind(40), 40, ReconstructParameters(10, 20), report=report)
    assert geometry.chunk_scale[1] == 1.0
    assert any(note.startswith("frames 20 to 39: no depth in common") for note in report.notes)


@pytest.mark.parametrize("camera", [None, CameraSensor(INTRINSICS)])
def test_an_empty_clip_gives_an_empty_geometry(camera):
    geometry, _ = run(KnownWorld(0), 0, camera=camera)
    assert geometry.world_from_camera.shape == (0, 4, 4) and len(geometry.chunk_start) == len(geometry.anchor_frame) == 0
    np.testing.assert_array_equal(geometry.intrinsics, np.eye(3) if camera is None else INTRINSICS)


def test_depth_and_frames_must_be_as_many():
    with pytest.raises(BadDataError, match="5 depth images for 6 frames"):
        run(KnownWorld(6), 6, depth=np.ones((5, 24, 32), np.float32))


def test_parameters_are_checked_first():
    with pytest.raises(ConfigurationError, match="--max-anchors"):
        run(KnownWorld(6), 6, ReconstructParameters(max_anchors=1))


@pytest.mark.parametrize(("num_frames", "chunk", "most"), [(1, 60, 150), (5, 60, 150), (1000, 60, 150), (1000, 60, 20), (2000, 7, 4)])
def test_anchors_are_uniform_and_every_chunk_has_two(num_frames, chunk, most):
    bounds = chunk_bounds(num_frames, chunk)
    anchors = choose_anchors(num_frames, bounds, most)
    assert anchors[0] == 0 and anchors[-1] == num_frames - 1
    assert (np.diff(anchors) > 0).all()
    for start, stop in bounds:
        assert ((anchors >= start) & (anchors < stop)).sum() >= min(2, stop - start)
    if 2 * len(bounds) < most // 2:
        assert len(anchors) == min(most, num_frames)
        assert np.ptp(np.diff(anchors)) <= 1 if num_frames > 1 else True


def test_long_clips_are_read_in_pieces():
    """No slice asks for more than one pass holds, and anchors far apart do not pull in the frames between them."""
    frames = numbered_frames(600)
    asked: list[int] = []

    class Source:
        shape = frames.shape

        def __len__(self) -> int:
            return len(frames)

        def __getitem__(self, index: slice) -> np.ndarray:
            asked.append(index.stop - index.start)
            return frames[index]

    truth = KnownWorld(600)
    reconstruct(
        Source(), truth, ReconstructParameters(12, 50), report=Report(), depth=None, camera=None, write_depth=lambda start, depth: None
    )
    assert max(asked) == 50
    assert sum(asked) < 2 * 600


def test_frames_without_a_camera_are_counted():
    class Lost(KnownWorld):
        def reconstruct(self, frames, frame_indices, depth):
            answer = super().reconstruct(frames, frame_indices, depth)
            answer.confidence[frame_indices == 7] = 0
            return answer

    report = Report()
    geometry, _ = run(Lost(10), 10, report=report)
    assert report.counts["frames whose camera could not be estimated (the last pose was held)"] == 1
    assert geometry.frame_confidence[7] == 0
