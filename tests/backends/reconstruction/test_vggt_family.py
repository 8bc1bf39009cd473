"""vggt, vggt-omega and vggt4track on a scene whose cameras and depth are known, by way of doubles that run in the real worker."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation

from tracekit import cli
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.reconstruction.pose_encoding import cameras_of
from tracekit.backends.reconstruction.vggt import Vggt
from tracekit.backends.reconstruction.vggt4track import Vggt4Track
from tracekit.backends.reconstruction.vggt_omega import VggtOmega
from tracekit.errors import BadDataError, UnavailableError
from tracekit.extract.reconstruct import ReconstructParameters, reconstruct
from tracekit.format.provenance import read
from tracekit.geometry import se3
from tracekit.geometry.cameras import scale_intrinsics, unproject
from tracekit.report import Report

DOUBLES = Path(__file__).parents[1] / "doubles"
CHECKOUTS = {Vggt: "vggt", VggtOmega: "vggt-omega", Vggt4Track: "SpaTrackerV2"}
ALL = pytest.mark.parametrize("kind", list(CHECKOUTS), ids=lambda kind: kind.name)
LANDSCAPE, PORTRAIT, TINY, LARGE = (640, 480), (360, 640), (64, 48), (3840, 2160)
TILT = np.array([0.1, -0.2, 1.0])


@dataclasses.dataclass
class Scene:
    """A tilted plane TILT . X = 6, a camera that moves and turns. Written from the definitions, in pixels whose centres are at whole numbers."""

    size: tuple[int, int]
    grid: tuple[int, int]
    num_frames: int = 3

    def __post_init__(self) -> None:
        steps = np.arange(self.num_frames)[:, None]
        turn = Rotation.from_rotvec(steps * [0.02, -0.03, 0.05] + [0.3, 0.1, -0.2]).as_matrix()
        self.world_from_camera = se3.from_rotation_translation(turn, steps * [0.11, -0.05, 0.08] + [1.0, 2.0, -3.0])
        self.angles = np.tile([0.7, 1.0], (self.num_frames, 1))  # vertical, horizontal
        self.intrinsics, on_grid = self.calibration(self.size), self.calibration(self.grid)
        columns, rows = np.meshgrid(np.arange(self.grid[0]), np.arange(self.grid[1]))
        rays = np.stack(
            [(columns - on_grid[0, 2]) / on_grid[0, 0], (rows - on_grid[1, 2]) / on_grid[1, 1], np.ones(columns.shape)], axis=-1
        )
        self.depth = np.stack([(6 - TILT @ pose[:3, 3]) / (rays @ (pose[:3, :3].T @ TILT)) for pose in self.world_from_camera])
        self.confidence = np.broadcast_to(1.0 + steps[:, None], self.depth.shape)  # as VGGT says it: 1 is the least

    def calibration(self, size: tuple[int, int]) -> np.ndarray:
        """Of a picture that the angles of view span from edge to edge."""
        (width, height), (vertical, horizontal) = size, self.angles[0]
        focal = width / 2 / np.tan(horizontal / 2), height / 2 / np.tan(vertical / 2)
        return np.array([[focal[0], 0, (width - 1) / 2], [0, focal[1], (height - 1) / 2], [0, 0, 1]])

    def frames(self, indices) -> np.ndarray:
        """See doubles/known_views.py."""
        width, height = self.size
        frames = np.empty((len(indices), height, width, 3), np.uint8)
        frames[..., 0] = 10 * np.asarray(indices)[:, None, None]
        frames[..., 1] = np.rint(np.linspace(0, 255, width))
        frames[..., 2] = np.rint(np.linspace(0, 255, height))[:, None]
        return frames

    def state(self, kind) -> dict[str, torch.Tensor]:
        depth_head = "dense_head" if kind is VggtOmega else "depth_head"
        state = {
            "camera_head.world_from_camera": self.world_from_camera,
            "camera_head.angles": self.angles,
            f"{depth_head}.depth": self.depth,
            f"{depth_head}.confidence": self.confidence,
        }
        if kind is Vggt:  # heads that its checkpoints have, too
            state |= {f"{head}.{name}": np.zeros(3) for head in ("point_head", "track_head") for name in ("weight", "bias")}
        return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


@pytest.fixture
def make(tmp_path):
    """A backend whose network knows a scene."""
    made = []

    def backend(kind, scene: Scene, state=None):
        path = tmp_path / f"{len(made)}.safetensors"
        save_file(scene.state(kind) if state is None else state, path)
        made.append(kind(BackendSetup(weights=str(path), repo=str(DOUBLES / CHECKOUTS[kind]), patience=60)))
        return made[-1]

    yield backend
    for each in made:
        each.close()


def scene_of(kind, size, num_frames=3) -> Scene:
    scene = Scene(size, kind.grid_size(size), num_frames)
    if kind is Vggt4Track:
        scene.confidence = np.full(scene.depth.shape, 0.9)
        scene.confidence[:, :, : scene.grid[0] // 3] = 0.5
    return scene


@ALL
@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, TINY, LARGE], ids=str)
def test_cameras_and_depth_come_out_in_our_convention(kind, size, make):
    scene = scene_of(kind, size)
    backend = make(kind, scene)
    for indices in ([0, 1, 2], [2, 1], [1]):  # one frame alone, too
        found = backend.reconstruct(scene.frames(indices), np.array(indices), None)
        np.testing.assert_allclose(found.intrinsics, np.tile(scene.intrinsics, (len(indices), 1, 1)), rtol=1e-5)
        assert found.depth.shape == (len(indices), scene.grid[1], scene.grid[0]) and found.depth.dtype == np.float32
        known = found.depth > 0
        scale = float(np.median(found.depth[known] / scene.depth[indices][known]))
        np.testing.assert_allclose(found.depth[known], scale * scene.depth[indices][known], rtol=1e-4)
        expected = se3.inverse(scene.world_from_camera[indices[0]]) @ scene.world_from_camera[indices]
        expected[:, :3, 3] *= scale
        np.testing.assert_allclose(se3.inverse(found.world_from_camera[0]) @ found.world_from_camera, expected, atol=1e-4 * max(1, scale))
        assert known.mean() == pytest.approx(2 / 3 if kind is Vggt4Track else 1, abs=0.02)
        assert_on_the_plane(found, scene, indices, scale)
        # Between 0 and 1, and growing with the network's own, which for two of them begins at 1.
        expected = scene.confidence.mean(axis=(1, 2))[indices] if kind is Vggt4Track else np.array([0, 1 / 2, 2 / 3])[indices]
        np.testing.assert_allclose(found.confidence, expected, atol=1e-5)


def assert_on_the_plane(found, scene: Scene, indices, scale: float) -> None:
    """Depth, K and poses agree with each other: every pixel of the network's grid is where the plane is."""
    world = scene.world_from_camera[indices[0]] @ se3.inverse(found.world_from_camera[0])
    columns, rows = np.meshgrid(np.arange(scene.grid[0]), np.arange(scene.grid[1]))
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    for frame in range(len(indices)):
        intrinsics = scale_intrinsics(found.intrinsics[frame], scene.size, scene.grid)
        points = unproject(pixels, found.depth[frame].ravel() / scale, intrinsics, np.eye(4))
        pose = found.world_from_camera[frame].copy()
        pose[:3, 3] /= scale
        start = world.copy()
        start[:3, 3] = scene.world_from_camera[indices[0]][:3, 3] - start[:3, :3] @ found.world_from_camera[0][:3, 3] / scale
        points = se3.transform_points(start @ pose, points)[found.depth[frame].ravel() > 0]
        np.testing.assert_allclose(points @ TILT, 6, atol=2e-3)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (
            Vggt,
            {
                LANDSCAPE: (518, 392),
                PORTRAIT: (294, 518),
                TINY: (518, 392),
                LARGE: (518, 294),
                (500, 500): (518, 518),
                (2000, 10): (518, 14),
            },
        ),
        (Vggt4Track, {LANDSCAPE: (518, 392), PORTRAIT: (294, 518), LARGE: (518, 294)}),
        (VggtOmega, {(624, 416): (624, 416), LANDSCAPE: (592, 448), PORTRAIT: (384, 688), (500, 500): (512, 512), (2000, 1): (22896, 16)}),
    ],
    ids=["vggt", "vggt4track", "vggt-omega"],
)
def test_sizes_that_networks_work_on(kind, sizes):
    assert {size: kind.grid_size(size) for size in sizes} == sizes


def run(backend, scene, chunk=6):
    written = np.zeros((scene.num_frames, scene.grid[1], scene.grid[0]), np.float32)

    def write_depth(start: int, depth: np.ndarray) -> None:
        written[start : start + len(depth)] = depth

    report = Report()
    geometry = reconstruct(
        scene.frames(range(scene.num_frames)),
        backend,
        ReconstructParameters(max_anchors=8, chunk=chunk),
        report=report,
        depth=None,
        camera=None,
        write_depth=write_depth,
    )
    return geometry, written, report


def assert_whole_clip(geometry, depth, scene: Scene) -> None:
    """Equal to the truth after one similarity for the whole clip."""
    known = depth > 0
    scale = float(np.median(depth[known] / scene.depth[known]))
    np.testing.assert_allclose(depth[known], scale * scene.depth[known], rtol=1e-4)
    expected = se3.inverse(scene.world_from_camera[0]) @ scene.world_from_camera
    expected[:, :3, 3] *= scale
    found = se3.inverse(geometry.world_from_camera[0]) @ geometry.world_from_camera
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, scale))
    np.testing.assert_allclose(geometry.intrinsics, scene.intrinsics, rtol=1e-5)


@ALL
def test_a_clip_in_chunks_of_different_scales_is_one_world(kind, make):
    scene = scene_of(kind, TINY, 21)
    geometry, depth, _ = run(make(kind, scene), scene)
    assert len(geometry.chunk_scale) == 4 and len(np.unique(geometry.chunk_scale.round(3))) >= 3
    assert not geometry.metric
    assert_whole_clip(geometry, depth, scene)


def test_depth_that_is_unknown_for_nine_pixels_of_ten_is_enough_to_align(make):
    scene = scene_of(Vggt4Track, TINY, 21)
    scene.confidence = np.where(np.random.default_rng(0).random(scene.depth.shape) < 0.9, 0.3, 0.8)
    geometry, depth, report = run(make(Vggt4Track, scene), scene)
    assert np.mean(depth == 0) == pytest.approx(0.9, abs=0.01)
    assert_whole_clip(geometry, depth, scene)
    assert not report.notes
    assert report.counts["depth pixels without a value"] == int((depth == 0).sum())


def test_passes_that_do_not_fit_in_the_memory_of_the_device_are_halved(make, monkeypatch):
    monkeypatch.setenv("MOST_FRAMES", "10")
    scene = scene_of(Vggt, TINY, 21)
    backend = make(Vggt, scene)
    geometry, depth, _ = run(backend, scene, chunk=20)
    assert (geometry.chunk_stop - geometry.chunk_start).max() <= 10
    assert_whole_clip(geometry, depth, scene)


@ALL
def test_depth_that_is_no_number_is_an_error_that_names_the_frame(kind, make):
    scene = scene_of(kind, TINY, 12)
    scene.depth[7] = np.nan
    with pytest.raises(BadDataError, match=rf"reconstruct, backend {kind.name}: at frame 7 no depth is finite \(1 frames"):
        run(make(kind, scene), scene)


@pytest.mark.parametrize("what", ["world_from_camera", "angles"])
def test_a_camera_that_is_no_number_is_an_error_that_names_the_frame(what, make):
    scene = scene_of(Vggt, TINY, 12)
    getattr(scene, what)[7] = np.nan
    with pytest.raises(BadDataError, match=r"reconstruct, backend vggt, .*: at frame 7 the "):
        run(make(Vggt, scene), scene)


def test_single_pixels_that_are_no_number_are_unknown_and_counted(make):
    scene = scene_of(Vggt, TINY, 12)
    scene.depth[7, 3, 4:9] = np.nan
    _, depth, report = run(make(Vggt, scene), scene)
    assert (depth[7, 3, 4:9] == 0).all() and (depth == 0).sum() == 5
    assert report.counts["depth pixels that were NaN or infinite (now unknown)"] == 5


@ALL
def test_weights_of_another_network_are_refused_by_their_name(kind, make):
    scene = scene_of(kind, TINY)
    whole = scene.state(kind)
    for state in (
        {name: value for name, value in whole.items() if name != "camera_head.angles"},
        {**whole, "text_alignment_head.weight": torch.zeros(1)},
    ):
        backend = make(kind, scene, state)
        with pytest.raises(BadDataError, match=rf"{backend.weights.name}: these are not the weights of V"):
            backend.reconstruct(scene.frames([0]), np.arange(1), None)


@pytest.mark.parametrize(
    ("real", "other", "said"),
    [
        (
            "self.camera_head.encoding(seen)",
            "self.camera_head.encoding(seen)[..., :8]",
            r"pose_encoding of the shape \(3, 8\), should be \(3, 9\)",
        ),
        ('"depth": depth,', '"depth": depth[:, :, 1:],', r"depth of the shape \(3, \d+, 518\), should be \(3, 392, 518\)"),
        ('"depth_conf": confidence,', '"depth_conf": confidence[:, 1:],', r"confidence of the shape \(2,\), should be \(3,\)"),
    ],
    ids=["cameras", "depth", "confidence"],
)
def test_answers_of_another_shape_are_those_of_another_version(tmp_path, real, other, said):
    scene = scene_of(Vggt, LANDSCAPE)
    shutil.copytree(DOUBLES, tmp_path / "doubles")
    code = tmp_path / "doubles" / "vggt" / "vggt" / "models" / "vggt.py"
    assert real in code.read_text()
    code.write_text(code.read_text().replace(real, other))
    save_file(scene.state(Vggt), tmp_path / "known.safetensors")
    backend = Vggt(BackendSetup(weights=str(tmp_path / "known.safetensors"), repo=str(tmp_path / "doubles" / "vggt"), patience=60))
    with pytest.raises(BadDataError, match=f"vggt answered {said}") as caught:
        backend.reconstruct(scene.frames(range(3)), np.arange(3), None)
    assert "another version of its repository" in caught.value.hint
    backend.close()


@ALL
def test_a_clip_in_which_no_depth_is_known_at_all_is_an_error(kind, make):
    scene = scene_of(kind, TINY, 12)
    scene.depth[:] = 0
    with pytest.raises(BadDataError, match=rf"reconstruct, backend {kind.name}: no depth is known anywhere in the clip \(12 frames\)"):
        run(make(kind, scene), scene)
    scene.depth[-1, 0, 0] = 1.0
    scene.confidence = np.ones(scene.depth.shape) if kind is Vggt4Track else scene.confidence
    run(make(kind, scene), scene)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@ALL
def test_weights_that_are_cut_short_or_hold_code_are_refused_by_their_name(kind, tmp_path):
    scene = scene_of(kind, TINY)
    path, mark = tmp_path / "weights.pt", tmp_path / "mark"
    torch.save(scene.state(kind), path)
    whole = path.read_bytes()
    torch.save({**scene.state(kind), "extra": Touch(mark)}, path)
    for content in (path.read_bytes(), whole[:-1000]):
        path.write_bytes(content)
        backend = kind(BackendSetup(weights=str(path), repo=str(DOUBLES / CHECKOUTS[kind])))
        with pytest.raises(BadDataError, match=r"weights.pt: not a file of weights"):
            backend.reconstruct(scene.frames([0]), np.arange(1), None)
    assert not mark.exists()


@ALL
def test_what_is_missing_is_said_without_importing_torch(kind, tmp_path, monkeypatch):
    program = f"""
import sys
from {kind.__module__} import {kind.__name__} as kind
from tracekit.backends.protocols import BackendSetup
for setup in (BackendSetup(), BackendSetup(repo={str(DOUBLES / CHECKOUTS[kind])!r}), BackendSetup(repo="/nowhere")):
    print(kind.missing(setup))
print("torch" in sys.modules or "h5py" in sys.modules)
"""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("TRACEKIT_CHECKOUTS", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    lines = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert f"git clone {kind.repository.url}" in lines[0]
    assert kind.published.repository in lines[1] and "--download" in lines[1]
    assert lines[2].startswith("there is no folder /nowhere: --repo takes a checkout of")
    assert lines[3] == "False"
    with pytest.raises(UnavailableError, match="cannot run here"):
        kind(BackendSetup())


def test_an_encoding_of_nothing_is_no_camera():
    encoding = np.array([[0, 0, 0, 0, 0, 0, 0, 1, 1], [1, 2, 3, 0, 0, 0, 2, 0.5, 1.0]], np.float32)
    poses, intrinsics = cameras_of(encoding, (10, 20))
    assert np.isnan(poses[0, :3, :3]).all()
    np.testing.assert_allclose(poses[1], [[1, 0, 0, -1], [0, 1, 0, -2], [0, 0, 1, -3], [0, 0, 0, 1]])
    np.testing.assert_allclose(intrinsics[1], [[5 / np.tan(0.5), 0, 4.5], [0, 10 / np.tan(0.25), 9.5], [0, 0, 1]])


def test_the_digest_of_the_code_follows_the_checkout_and_what_lies_beside_the_weights(tmp_path):
    """A run that goes on from an earlier one must not mix answers of two versions of a network."""
    checkout = tmp_path / "vggt"
    shutil.copytree(DOUBLES / "vggt", checkout)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    setup = BackendSetup(weights=str(tmp_path / "model.safetensors"), repo=str(checkout))
    before = Vggt(setup).code_sha256()
    assert Vggt(setup).code_sha256() == before
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "installed.py").write_text("")  # not the checkout's own
    assert Vggt(setup).code_sha256() == before
    (checkout / "dangling.json").symlink_to("/nowhere/at/all.json")
    assert Vggt(setup).code_sha256() == before
    (checkout / "vggt" / "another.py").write_text("")
    one_more = Vggt(setup).code_sha256()
    assert one_more != before
    (checkout / "vggt" / "another.py").rename(checkout / "another.py")
    assert Vggt(setup).code_sha256() not in (before, one_more), "where a file lies decides, too"
    (checkout / "unreadable.json").symlink_to("/proc/self/mem")
    with pytest.raises(UnavailableError, match=r"vggt: .*unreadable.json cannot be read"):
        Vggt(setup).code_sha256()


def test_a_file_says_which_code_and_which_weights_it_came_from(tmp_path):
    scene = scene_of(Vggt, LANDSCAPE)
    pictures = tmp_path / "clip"
    pictures.mkdir()
    for number, frame in enumerate(scene.frames(range(3))):
        assert cv2.imwrite(str(pictures / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    weights, checkout, selected, output = tmp_path / "a.safetensors", DOUBLES / "vggt", tmp_path / "selected.h5", tmp_path / "out.h5"
    save_file(scene.state(Vggt), weights)
    assert cli.run(["keypoints", str(pictures), "--features", "lowlevel", "-o", str(selected)]) == 0
    arguments = ["--backend", "vggt", "--repo", str(checkout), "--weights", str(weights), "-o", str(output)]
    assert cli.run(["reconstruct", str(selected), *arguments]) == 0
    with h5py.File(output) as file:
        _, step = read(file)
    backend = Vggt(BackendSetup(weights=str(weights), repo=str(checkout)))
    assert step.code_sha256 == backend.code_sha256() and step.weights_sha256 == backend.weights_sha256()
    with h5py.File(output, "r+") as file:
        del file["provenance/0001"].attrs["code_sha256"]  # as older files are
        assert read(file)[1:] == [dataclasses.replace(step, code_sha256="")]
