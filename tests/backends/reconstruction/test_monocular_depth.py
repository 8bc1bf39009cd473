"""Metric depth from single frames: Depth Anything and Depth Pro, the real classes of transformers with small random networks.

Where a scene is known, the answers of the networks are faked in their own terms and grids: metres on a grid of whole patches, and inverse depth
for a focal length of one width on a square grid. What comes out must be the scene.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from backends.reconstruction.depth_networks import depth_anything, depth_pro, reconfigure

from tracekit.backends.batches import Batches
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.reconstruction import monocular_depth
from tracekit.backends.reconstruction.depth_anything import DepthAnything
from tracekit.backends.reconstruction.depth_grid import thin_out
from tracekit.backends.reconstruction.depth_pro import DepthPro
from tracekit.backends.reconstruction.planar import guess_intrinsics
from tracekit.backends.registry import load
from tracekit.errors import BadDataError, UnavailableError
from tracekit.extract.reconstruct import ReconstructParameters, SequentialBackend, reconstruct
from tracekit.geometry import cameras, se3
from tracekit.geometry.depth_lookup import lookup_depth
from tracekit.geometry.odometry import Odometry
from tracekit.records import CameraSensor
from tracekit.report import Report

STATIC = ReconstructParameters(camera="static")
BACKENDS = {"depth-anything": DepthAnything, "depth-pro": DepthPro}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    where = tmp_path_factory.mktemp("depth")
    return {"depth-anything": depth_anything(where / "anything"), "depth-pro": depth_pro(where / "pro")}


def open_backend(folders, name, parameters=None, **setup):
    return BACKENDS[name](BackendSetup(weights=str(folders[name]), parameters=parameters, **setup))


def run(backend, frames, *, camera=None, chunk=60):
    """Cameras and depth of a clip, through the stage."""
    report, written = Report(), []
    geometry = reconstruct(
        frames,
        backend,
        ReconstructParameters(chunk=chunk),
        report=report,
        depth=None,
        camera=camera,
        write_depth=lambda start, depth: written.append(depth),
    )
    return geometry, np.concatenate(written), report


# A scene that is known


class Wall:
    """A slanted, textured wall, seen by a camera that moves and turns: everything in closed form, on any grid."""

    normal, distance = np.array([0.25, -0.15, 1.0]), 1.6

    def __init__(self, width: int, height: int, num_frames: int) -> None:
        focal = 0.9 * max(width, height)
        self.size = (width, height)
        self.intrinsics = np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])
        self.poses = np.stack(
            [
                se3.from_rotation_translation(
                    cv2.Rodrigues(0.01 * t * np.array([0.5, 1.0, 0.3]))[0], 0.012 * t * np.array([1.0, 0.4, -0.7])
                )
                for t in range(num_frames)
            ]
        )
        rng = np.random.default_rng(5)
        layers = [cv2.resize(rng.random((n, n, 3), np.float32), (1024, 1024), interpolation=cv2.INTER_CUBIC) for n in (16, 48, 128, 256)]
        self._texture = (255 * np.mean(layers, axis=0)).clip(0, 255).astype(np.float32)

    def depth(self, index: int, columns: int, rows: int) -> np.ndarray:
        """On a grid of its own that covers the frame."""
        return self._rays(index, columns, rows)[1]

    def frames(self) -> np.ndarray:
        return np.stack([self._frame(index) for index in range(len(self.poses))])

    def _frame(self, index: int) -> np.ndarray:
        xyz = self._rays(index, *self.size)[0]
        across, down = (np.mod(300 * xyz[..., axis], 1023).astype(np.float32) for axis in (0, 1))
        return cv2.remap(self._texture, across, down, cv2.INTER_LINEAR).astype(np.uint8)

    def _rays(self, index: int, columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        uv = np.stack(np.meshgrid(np.arange(columns, dtype=float), np.arange(rows, dtype=float)), axis=-1)
        uv = cameras.resize_pixels(uv, (columns, rows), self.size)
        pose = self.poses[index]
        rays = np.concatenate([uv, np.ones_like(uv[..., :1])], axis=-1) @ (pose[:3, :3] @ np.linalg.inv(self.intrinsics)).T
        z = (self.distance - pose[:3, 3] @ self.normal) / (rays @ self.normal)
        return pose[:3, 3] + rays * z[..., None], z


def answer_with(backend, monkeypatch, depth_of, field_of_view=None) -> list[tuple[int, ...]]:
    """Have the network say what is known: `depth_of(index, columns, rows)` in metres, the frames being asked for in order."""
    import torch
    from transformers.modeling_outputs import DepthEstimatorOutput
    from transformers.models.depth_pro.modeling_depth_pro import DepthProDepthEstimatorOutput

    shapes: list[tuple[int, ...]] = []

    def forward(pixel_values):
        assert len(pixel_values) == 1
        rows, columns = pixel_values.shape[2:]
        shapes.append((rows, columns))
        depth = np.asarray(depth_of(len(shapes) - 1, columns, rows), np.float32)[None]
        if backend.name == "depth-anything":
            return DepthEstimatorOutput(predicted_depth=torch.from_numpy(depth))
        angle = np.deg2rad(field_of_view[len(shapes) - 1])
        inverse = 0.5 / np.tan(angle / 2) / np.where(depth == 0, np.nan, depth)  # of a focal length in widths
        return DepthProDepthEstimatorOutput(
            predicted_depth=torch.from_numpy(inverse.astype(np.float32)),
            field_of_view=torch.tensor([np.rad2deg(angle)], dtype=torch.float32),
        )

    monkeypatch.setattr(backend.model, "forward", forward)
    return shapes


def true_field_of_view(wall: Wall) -> list[float]:
    return [float(np.rad2deg(2 * np.arctan(0.5 * wall.size[0] / wall.intrinsics[0, 0])))] * len(wall.poses)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("size", [(640, 480), (360, 640), (64, 48), (3840, 2160)])
def test_the_scene_comes_back_from_the_networks_terms_and_grid(folders, name, size, monkeypatch):
    wall = Wall(*size, num_frames=2)
    backend = open_backend(folders, name, STATIC)
    shapes = answer_with(backend, monkeypatch, wall.depth, true_field_of_view(wall))
    backend.use_recording(CameraSensor(wall.intrinsics, wall.poses))
    found = backend.reconstruct(wall.frames(), np.arange(2), None)
    rows, columns = found.depth.shape[1:]
    assert rows == min(shapes[0][0], size[1]) and columns == min(shapes[0][1], size[0])
    for index in range(2):
        np.testing.assert_allclose(found.depth[index], wall.depth(index, columns, rows), rtol=1e-5)
        # What later stages make of it: points of the wall, by the frame's own pixels and the pose.
        uv = np.array([[0.0, 0.0], [size[0] - 1.0, size[1] - 1.0], [0.3 * size[0], 0.7 * size[1]]])
        z = lookup_depth(found.depth[index], uv, size, wall_depth_at(wall, index, uv)).z
        xyz = cameras.unproject(uv, z, found.intrinsics[index], found.world_from_camera[index])
        # On the outermost half pixel of a coarser grid there is nothing to interpolate with.
        np.testing.assert_allclose(xyz @ wall.normal, wall.distance, atol=1e-4 if columns == size[0] else 2e-3)
        np.testing.assert_allclose(xyz[2] @ wall.normal, wall.distance, atol=1e-4)


def wall_depth_at(wall, index, uv):
    rays = np.concatenate([uv, np.ones((len(uv), 1))], axis=1) @ (wall.poses[index][:3, :3] @ np.linalg.inv(wall.intrinsics)).T
    return (wall.distance - wall.poses[index][:3, 3] @ wall.normal) / (rays @ wall.normal)


@pytest.mark.parametrize("size", [(640, 480), (360, 640), (64, 48), (3840, 2160)])
def test_depth_pro_finds_the_calibration_that_the_recording_does_not_have(folders, size, monkeypatch):
    """The angle is horizontal, whatever the shape of the frame; pixels are square."""
    wall = Wall(*size, num_frames=1)
    backend = open_backend(folders, "depth-pro", STATIC)
    answer_with(backend, monkeypatch, wall.depth, true_field_of_view(wall))
    found = backend.reconstruct(wall.frames(), np.arange(1), None)
    np.testing.assert_allclose(found.intrinsics[0], wall.intrinsics, rtol=1e-5)
    np.testing.assert_allclose(found.depth[0], wall.depth(0, *found.depth.shape[:0:-1]), rtol=1e-5)
    np.testing.assert_array_equal(found.world_from_camera[0], np.eye(4))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_moving_camera_is_followed_by_odometry_on_the_networks_depth(folders, name, monkeypatch):
    wall = Wall(320, 240, num_frames=13)
    frames = wall.frames()
    backend = open_backend(folders, name)
    answer_with(backend, monkeypatch, wall.depth, true_field_of_view(wall))
    geometry, depth, _ = run(backend, frames, camera=CameraSensor(wall.intrinsics), chunk=5)
    odometry, grid = Odometry(wall.intrinsics, wall.size), depth.shape[:0:-1]
    peer = np.stack([odometry.track(frame, wall.depth(t, *grid).astype(np.float32)).world_from_camera for t, frame in enumerate(frames)])
    np.testing.assert_allclose(geometry.world_from_camera, peer, atol=1e-4)
    assert np.linalg.norm(geometry.world_from_camera[:, :3, 3] - wall.poses[:, :3, 3], axis=1).max() < 0.002
    assert np.linalg.norm(wall.poses[-1, :3, 3]) > 0.15, "the camera does move"
    assert geometry.metric and geometry.frame_confidence.min() > 0.5


def test_weights_that_tell_one_depth_everywhere_go_all_the_way(tmp_path):
    """No fake at all: the real networks, whose last layer says 1.5 m; a camera slides along a wall by 2 x 1 pixels a frame."""
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.random((n, n, 3), np.float32), (500, 500), interpolation=cv2.INTER_CUBIC) for n in (16, 40, 100, 200)]
    picture = (255 * np.mean(layers, axis=0)).clip(0, 255).astype(np.uint8)
    frames = np.stack([picture[100 + k : 268 + k, 100 + 2 * k : 324 + 2 * k] for k in range(6)])
    focal = 0.5 * 224 / np.tan(np.deg2rad(30))
    networks = {
        "depth-anything": (depth_anything(tmp_path / "anything", size=112, constant=1.5), 1.1 * 224),
        "depth-pro": (depth_pro(tmp_path / "pro", constant=focal / 224 / 1.5, field_of_view=60.0), focal),
    }
    for name, (folder, expected_focal) in networks.items():
        geometry, depth, _ = run(open_backend({name: folder}, name), frames, chunk=4)
        np.testing.assert_allclose(depth, 1.5, rtol=1e-5)
        np.testing.assert_allclose(geometry.intrinsics, [[expected_focal, 0, 111.5], [0, expected_focal, 83.5], [0, 0, 1]], rtol=1e-5)
        centres = np.arange(6)[:, None] * np.array([2.0, 1.0, 0.0]) * 1.5 / expected_focal
        np.testing.assert_allclose(geometry.world_from_camera[:, :3, 3], centres, atol=0.003)
        still, _, _ = run(open_backend({name: folder}, name, STATIC), frames, chunk=4)
        np.testing.assert_array_equal(still.world_from_camera, np.tile(np.eye(4), (6, 1, 1)))


# The networks themselves


def test_depth_anything_equals_the_pipeline_of_transformers(tmp_path):
    """At a size where nothing is resized."""
    import torch
    from PIL import Image
    from transformers import pipeline

    folder = depth_anything(tmp_path / "net", size=112)
    frame = np.random.default_rng(0).integers(0, 256, (112, 154, 3)).astype(np.uint8)
    with torch.inference_mode():
        expected = pipeline("depth-estimation", model=str(folder))(Image.fromarray(frame))["predicted_depth"].numpy()
    assert expected.shape == (112, 154) and np.ptp(expected) > 0.01
    found = open_backend({"depth-anything": folder}, "depth-anything", STATIC).reconstruct(frame[None], np.arange(1), None)
    np.testing.assert_allclose(found.depth[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(found.intrinsics[0], guess_intrinsics((154, 112)))


@pytest.mark.parametrize("size", [(256, 256), (300, 170), (120, 200)])
def test_depth_pro_equals_transformers_called_by_hand(folders, size):
    """Depth at the size where it is not resized, and the focal length at any."""
    import torch
    from transformers import DepthProForDepthEstimation, DepthProImageProcessor

    frame = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    model = DepthProForDepthEstimation.from_pretrained(folders["depth-pro"]).eval()
    processor = DepthProImageProcessor.from_pretrained(folders["depth-pro"])
    with torch.inference_mode():
        outputs = model(**processor(images=[torch.from_numpy(frame).permute(2, 0, 1)], return_tensors="pt"))
    expected = processor.post_process_depth_estimation(outputs, target_sizes=[size])[0]
    assert 30 < float(expected["field_of_view"]) < 70 and np.ptp(expected["predicted_depth"].numpy()) > 0.1
    found = open_backend(folders, "depth-pro", STATIC).reconstruct(frame[None], np.arange(1), None)
    np.testing.assert_allclose(found.intrinsics[0, [0, 1], [0, 1]], float(expected["focal_length"]), rtol=1e-5)
    if size == (256, 256):
        np.testing.assert_allclose(found.depth[0], expected["predicted_depth"].numpy(), rtol=1e-5)


def test_depth_pro_without_its_angle_takes_the_calibration_or_a_guess(tmp_path):
    folder = depth_pro(tmp_path / "net", with_fov=False)
    frames = np.random.default_rng(1).integers(0, 256, (2, 48, 64, 3)).astype(np.uint8)
    backend = open_backend({"depth-pro": folder}, "depth-pro", STATIC)
    guessed = backend.reconstruct(frames, np.arange(2), None)
    np.testing.assert_array_equal(guessed.intrinsics[0], guess_intrinsics((64, 48)))
    known = guess_intrinsics((64, 48)) * np.array([[2.0, 1, 1], [1, 2.0, 1], [1, 1, 1]])
    backend.use_recording(CameraSensor(known))
    calibrated = backend.reconstruct(frames, np.arange(2), None)
    np.testing.assert_array_equal(calibrated.intrinsics[1], known)
    np.testing.assert_allclose(calibrated.depth, 2 * guessed.depth, rtol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_weights_of_half_precision_are_computed_with_in_full(folders, name, tmp_path):
    """Depth Pro is published in float16."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    model = AutoModelForDepthEstimation.from_pretrained(folders[name]).half()
    model.save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(folders[name]).save_pretrained(tmp_path)
    frames = np.random.default_rng(5).integers(0, 256, (1, 48, 64, 3)).astype(np.uint8)
    found = open_backend({name: tmp_path}, name, STATIC)
    assert {value.dtype for value in found.model.parameters()} == {torch.float32}
    expected = open_backend(folders, name, STATIC).reconstruct(frames, np.arange(1), None)
    np.testing.assert_allclose(found.reconstruct(frames, np.arange(1), None).depth, expected.depth, rtol=0.05)


def test_the_same_clip_again_has_the_same_cameras(tmp_path):
    """The next clip begins anew: what was remembered of the last one is gone."""
    folder = depth_anything(tmp_path / "net", size=112, constant=1.6)
    backend, frames = open_backend({"depth-anything": folder}, "depth-anything"), Wall(160, 120, num_frames=5).frames()
    first, _, _ = run(backend, frames, chunk=3)
    assert not np.array_equal(first.world_from_camera[-1], np.eye(4))
    np.testing.assert_array_equal(run(backend, frames, chunk=2)[0].world_from_camera, first.world_from_camera)


def test_one_calibration_holds_for_a_clip_and_the_next_has_its_own(folders, monkeypatch):
    wall = Wall(64, 48, num_frames=7)
    backend = open_backend(folders, "depth-pro", STATIC)
    angles = [50.0, 60.0, 90.0, 20.0, 20.0, 20.0, 20.0]
    answer_with(backend, monkeypatch, wall.depth, angles)
    frames = wall.frames()
    focal = [backend.reconstruct(frames[part], np.arange(7)[part], None).intrinsics[:, 0, 0] for part in (slice(0, 3), slice(3, 5))]
    np.testing.assert_allclose(np.concatenate(focal), 32 / np.tan(np.deg2rad(30)), rtol=1e-5, err_msg="the median of the first call")
    backend.use_recording(None)
    other = backend.reconstruct(frames[5:], np.arange(2), None)
    np.testing.assert_allclose(other.intrinsics[:, 0, 0], 32 / np.tan(np.deg2rad(10)), rtol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_frames_depth_is_the_same_alone_and_among_others(folders, name):
    frames = np.random.default_rng(2).integers(0, 256, (3, 48, 64, 3)).astype(np.uint8)
    backend = open_backend(folders, name, STATIC)
    backend.use_recording(CameraSensor(guess_intrinsics((64, 48))))
    together = backend.reconstruct(frames, np.arange(3), None).depth
    np.testing.assert_array_equal(together[1:2], backend.reconstruct(frames[1:2], np.arange(1), None).depth)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_batch_is_halved_until_it_fits_and_the_result_is_the_same(folders, name, monkeypatch):
    """The network runs out of memory above two frames, as a small GPU would."""
    import torch

    frames = np.random.default_rng(3).integers(0, 256, (5, 48, 64, 3)).astype(np.uint8)
    backend = open_backend(folders, name, STATIC)
    expected = backend.reconstruct(frames, np.arange(5), None)
    whole, seen = backend.model.forward, []

    def small_device(pixel_values):
        seen.append(len(pixel_values))
        if len(pixel_values) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(pixel_values=pixel_values)

    monkeypatch.setattr(backend.model, "forward", small_device)
    backend.batches = Batches(backend.device, 8)
    backend.batches.size = 8  # as on a GPU
    backend.use_recording(None)
    found = backend.reconstruct(frames, np.arange(5), None)
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-4)
    np.testing.assert_allclose(found.intrinsics, expected.intrinsics, rtol=1e-5)
    assert seen == [5, 2, 2, 1]


@pytest.mark.parametrize("name", BACKENDS)
def test_in_bfloat16_depth_does_not_become_steps(folders, name, monkeypatch):
    """What a GPU multiplies in bfloat16, done on the CPU: the depth itself is still told in float32."""
    import torch

    @contextlib.contextmanager
    def as_on_a_gpu(device):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            yield

    frames = np.random.default_rng(4).integers(0, 256, (1, 240, 320, 3)).astype(np.uint8)
    backend = open_backend(folders, name, STATIC)
    exact = backend.reconstruct(frames, np.arange(1), None)
    monkeypatch.setattr(monocular_depth, "inference", as_on_a_gpu)
    backend.use_recording(None)
    rough = backend.reconstruct(frames, np.arange(1), None)
    assert not np.array_equal(exact.depth, rough.depth)
    np.testing.assert_allclose(rough.depth, exact.depth, rtol=0.05)
    np.testing.assert_allclose(rough.intrinsics, exact.intrinsics, rtol=0.01)
    steps = len(np.unique(rough.depth))
    assert steps > 0.5 * len(np.unique(exact.depth)), f"{steps} different depths"


# Depth on the frame's grid


def test_edges_get_no_depth_in_between_and_gaps_stay_gaps():
    import torch

    depth = np.full((1, 50, 70), 2.0, np.float32)
    depth[:, :, 33:] = 4.0
    depth[:, 20:30, 10:20] = 0.0
    depth[:, 5, 5] = np.nan
    depth[:, 40:, 60:] = np.inf
    thin = thin_out(torch.from_numpy(depth), 31, 43).numpy()[0]
    known = thin[np.isfinite(thin)]
    assert thin.shape == (31, 43) and set(np.unique(known)) == {0.0, 2.0, 4.0}
    rows, columns = (np.floor((np.arange(n) + 0.5) * of / n).astype(int) for n, of in ((31, 50), (43, 70)))
    np.testing.assert_array_equal(thin, depth[0][rows[:, None], columns])


@pytest.mark.parametrize("grid", [(31, 43), (31, 200), (200, 43), (50, 70), (500, 700)])
def test_a_slanted_plane_stays_exact_and_no_pixel_is_added(grid):
    import torch

    def plane(rows, columns):
        v, u = np.mgrid[:rows, :columns]
        return 1 / (0.5 + 0.2 * (u + 0.5) / columns - 0.1 * (v + 0.5) / rows)

    thin = thin_out(torch.from_numpy(plane(50, 70).astype(np.float32))[None], *grid).numpy()[0]
    assert thin.shape == (min(grid[0], 50), min(grid[1], 70))
    np.testing.assert_allclose(thin, plane(*thin.shape), rtol=1e-6)


# What networks and recordings may lack


@pytest.mark.parametrize("name", BACKENDS)
def test_a_network_that_returns_nan_ends_in_an_error_that_names_stage_and_frame(folders, name, monkeypatch):
    wall = Wall(64, 48, num_frames=5)
    backend = open_backend(folders, name)
    answer_with(
        backend, monkeypatch, lambda index, *grid: wall.depth(index, *grid) * (np.nan if index == 3 else 1), true_field_of_view(wall)
    )
    with pytest.raises(BadDataError, match=rf"reconstruct, backend {name}: at frame 3 the depth is nothing but NaN"):
        run(backend, wall.frames(), chunk=2)


@pytest.mark.parametrize("name", BACKENDS)
def test_single_pixels_of_nan_are_unknown_and_counted(folders, name, monkeypatch):
    wall = Wall(320, 240, num_frames=2)

    def spoilt(index, columns, rows):
        depth = wall.depth(index, columns, rows)
        depth[: rows // 4] = np.nan
        return depth

    backend = open_backend(folders, name)
    answer_with(backend, monkeypatch, spoilt, true_field_of_view(wall))
    geometry, depth, report = run(backend, wall.frames(), camera=CameraSensor(wall.intrinsics))
    quarter = depth.shape[1] // 4
    assert not depth[:, : quarter - 1].any() and depth[:, quarter + 1 :].all()
    assert report.counts["depth pixels that were NaN or infinite (now unknown)"] == (depth == 0).sum() > 0
    assert geometry.frame_confidence.min() > 0.5


@pytest.mark.parametrize("angle", [np.nan, 0.0, 180.0, -20.0])
def test_an_impossible_angle_is_an_error_unless_the_calibration_is_known(folders, angle, monkeypatch):
    import torch
    from transformers.models.depth_pro.modeling_depth_pro import DepthProDepthEstimatorOutput

    backend = open_backend(folders, "depth-pro", STATIC)
    angles = iter([60.0, angle, 60.0] * 2)
    monkeypatch.setattr(
        backend.model,
        "forward",
        lambda pixel_values: DepthProDepthEstimatorOutput(
            predicted_depth=torch.ones(1, 128, 128), field_of_view=torch.tensor([next(angles)], dtype=torch.float32)
        ),
    )
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    with pytest.raises(BadDataError, match="reconstruct, backend depth-pro: at frame 1 the field of view is not between 0 and 180 degrees"):
        run(backend, frames)
    assert run(backend, frames, camera=CameraSensor(guess_intrinsics((64, 48))))[1].shape == (3, 48, 64)


@pytest.mark.parametrize("name", BACKENDS)
def test_depth_that_is_nine_tenths_unknown_still_serves(folders, name, monkeypatch):
    wall = Wall(640, 480, num_frames=4)

    def mostly_unknown(index, columns, rows):
        depth = wall.depth(index, columns, rows)
        depth[: round(0.9 * rows)] = 0
        return depth

    backend = open_backend(folders, name)
    answer_with(backend, monkeypatch, mostly_unknown, true_field_of_view(wall))
    geometry, depth, report = run(backend, wall.frames(), camera=CameraSensor(wall.intrinsics), chunk=2)
    assert abs((depth == 0).mean() - 0.9) < 0.01
    assert report.counts["depth pixels without a value"] == (depth == 0).sum()
    assert geometry.frame_confidence.min() > 0.5
    assert np.linalg.norm(geometry.world_from_camera[:, :3, 3] - wall.poses[:, :3, 3], axis=1).max() < 0.01


def test_what_is_infinitely_far_is_somewhere(folders, monkeypatch):
    """Depth Pro tells inverse depth, and 0 of the sky."""
    import torch
    from transformers.models.depth_pro.modeling_depth_pro import DepthProDepthEstimatorOutput

    inverse = torch.ones(1, 128, 128)
    inverse[:, :64] = 0
    backend = open_backend(folders, "depth-pro", STATIC)
    answer = DepthProDepthEstimatorOutput(predicted_depth=inverse, field_of_view=torch.tensor([60.0]))
    monkeypatch.setattr(backend.model, "forward", lambda pixel_values: answer)
    _, depth, report = run(backend, np.zeros((1, 48, 64, 3), np.uint8))
    assert (depth[0, :24] == 1e4).all() and (depth[0, 24:] < 2).all()
    assert "depth pixels that were NaN or infinite (now unknown)" not in report.counts or not any(report.counts.values())


@pytest.mark.parametrize("name", BACKENDS)
def test_poses_of_the_recording_are_taken_and_too_few_are_named(folders, name):
    backend = open_backend(folders, name)
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = [0.0, 1.0, 2.0]
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    geometry, _, _ = run(backend, frames, camera=CameraSensor(guess_intrinsics((64, 48)), poses))
    np.testing.assert_array_equal(geometry.world_from_camera, poses)
    with pytest.raises(BadDataError, match="2 camera poses"):
        run(backend, frames, camera=CameraSensor(guess_intrinsics((64, 48)), poses[:2]))


# Weights that are not what they should be


def test_a_relative_checkpoint_is_refused_with_a_hint(tmp_path):
    folder = depth_anything(tmp_path / "net", depth_type="relative")
    for told in ("relative", None):
        reconfigure(folder, depth_estimation_type=told)
        reason = DepthAnything.missing(BackendSetup(weights=str(folder)))
        assert str(folder) in reason and "relative depth" in reason and "Metric-Indoor-Small" in reason
        with pytest.raises(UnavailableError, match="relative depth"):
            DepthAnything(BackendSetup(weights=str(folder)))


def test_each_takes_its_own_network_only(folders):
    assert "is a 'depth_pro' of transformers, not a 'depth_anything'" in DepthAnything.missing(
        BackendSetup(weights=str(folders["depth-pro"]))
    )
    assert "not a 'depth_pro'" in DepthPro.missing(BackendSetup(weights=str(folders["depth-anything"])))
    assert DepthPro.missing(BackendSetup(weights=str(folders["depth-pro"] / "model.safetensors"))) is None


class Payload:
    def __reduce__(self):
        return print, ("code in a pickle ran",)


@pytest.mark.parametrize(
    "kind", ["truncated", "pickle", "more layers", "fewer layers", "wider", "configuration", "foreign code", "cropping"]
)
def test_damaged_or_foreign_weights_are_refused(tmp_path, kind, capsys):
    import torch

    folder = depth_anything(tmp_path / "net", layers=5 if kind == "more layers" else 4)
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-5000])
    elif kind == "pickle":
        torch.save({"head.conv3.bias": Payload()}, weights)
    elif kind in ("more layers", "fewer layers"):
        reconfigure(folder, backbone_config=config["backbone_config"] | {"num_hidden_layers": 4 if kind == "more layers" else 5})
    elif kind == "wider":
        reconfigure(folder, head_hidden_size=8)
    elif kind == "configuration":
        reconfigure(folder, depth_estimation_type="metric", neck_hidden_sizes="many")
    elif kind == "foreign code":
        (folder / "theirs.py").write_text("print('code in a pickle ran')\nclass Processor: pass\n")
        preprocessor = {"image_processor_type": "Processor", "auto_map": {"AutoImageProcessor": "theirs.Processor"}}
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    elif kind == "cropping":
        said = json.loads((folder / "preprocessor_config.json").read_text())
        (folder / "preprocessor_config.json").write_text(
            json.dumps(said | {"do_center_crop": True, "crop_size": {"height": 56, "width": 56}})
        )
    with pytest.raises(BadDataError, match=str(folder)):
        DepthAnything(BackendSetup(weights=str(folder)))
    out = capsys.readouterr()
    assert "code in a pickle ran" not in out.out and out.out == ""


def test_pictures_that_are_no_whole_patches_are_refused(tmp_path):
    folder = depth_anything(tmp_path / "net")
    said = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(said | {"ensure_multiple_of": 1}))
    with pytest.raises(BadDataError, match=r"preprocessor_config\.json: .* no whole patches"):
        DepthAnything(BackendSetup(weights=str(folder))).reconstruct(np.zeros((1, 61, 83, 3), np.uint8), np.arange(1), None)


def test_weights_that_are_no_folder_or_only_a_pickle_are_named(tmp_path, folders):
    import shutil

    import torch

    folder = Path(shutil.copytree(folders["depth-anything"], tmp_path / "net"))
    (folder / "model.safetensors").unlink()
    torch.save({"head.conv3.bias": Payload()}, folder / "pytorch_model.bin")
    for where in (folder, folder / "pytorch_model.bin", tmp_path / "absent"):
        assert str(where) in DepthAnything.missing(BackendSetup(weights=str(where)))


@pytest.mark.parametrize(
    ("name", "hub"), [("depth-anything", "Depth-Anything-V2-Metric-Indoor-Small-hf"), ("depth-pro", "apple/DepthPro-hf")]
)
def test_without_weights_it_says_how_to_get_them(name, hub, tmp_path, monkeypatch):
    for variable in ("HF_HUB_OFFLINE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    sentence = BACKENDS[name].missing(BackendSetup())
    assert hub in sentence and "--download" in sentence
    assert BACKENDS[name].missing(BackendSetup(download=True)) is None


def test_finding_out_what_is_missing_is_cheap(folders):
    code = (
        "import sys\n"
        "from tracekit.backends.protocols import BackendSetup\n"
        "from tracekit.backends.registry import load\n"
        f"for name, folder in { ({name: str(folder) for name, folder in folders.items()})!r}.items():\n"
        "    backend = load('reconstruction', name)\n"
        "    assert backend.missing(BackendSetup(weights='/nowhere/at/all'))\n"
        "    assert backend.missing(BackendSetup(weights=folder)) is None\n"
        "assert not {'torch', 'transformers', 'huggingface_hub', 'safetensors'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", BACKENDS)
def test_it_keeps_the_promises_of_its_kind(folders, name):
    import gc
    import weakref

    backend = open_backend(folders, name)
    assert load("reconstruction", name) is type(backend) and isinstance(backend, SequentialBackend) and backend.metric
    assert len(backend.weights_sha256()) == 64
    network = weakref.ref(backend.model)
    backend.close()
    gc.collect()
    assert network() is None
