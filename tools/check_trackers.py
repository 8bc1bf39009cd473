"""The adapters of trackers against real checkouts, with random weights; see check_adapters.py.

Small configurations where a class takes one. What random weights find means nothing; shapes, finiteness, which way poses and pixels go, and
that each answer belongs to its query do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tracekit.backends.checkouts import missing_checkout
from tracekit.backends.foreign import wire
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.tracking import tapip3d
from tracekit.backends.tracking.cotracker3 import CoTracker3
from tracekit.backends.tracking.foreign_tracker import ForeignTracker
from tracekit.backends.tracking.network_tracks import Clip
from tracekit.backends.tracking.resampling import corner_aligned_scale
from tracekit.backends.tracking.spatracker2 import SpatialTracker2, own_size
from tracekit.geometry import cameras
from tracekit.geometry.depth_lookup import surface_depth

BEGIN = """
import importlib, json, sys
sys.path[:0] = [{foreign!r}, {repo!r}]
for name in ("safe_weights", "stand_ins", "devices"):
    sys.modules["tracekit_foreign_" + name] = importlib.import_module(name)
ours = importlib.import_module({network!r})
sys.path.remove({foreign!r})
import numpy as np
import torch
torch.manual_seed(0)
"""
"""How every script below begins: with our half of a worker at hand, in a process of its own."""

TAPIP3D_STATE = """
from omegaconf import OmegaConf
ours.replace_extension(torch.device("cpu"))
from models.point_tracker_3d import PointTracker3D
levels, width = 2, 32
model = {{
    "name": "point_tracker_3d", "seq_len": 8, "corr_levels": levels, "norm_mode": "isotropic", "eval_mode": "local", "center_rgb": False,
    "encoder": {{"name": "cotracker_cnn", "output_dim": 32, "stride": 4, "pretrained": True, "freeze_mode": "none"}},
    "corr_feature": {{
        "name": "knn_corr_4d", "k_neighbors": 8, "posenc_mlp_dim": 32, "posenc_mlp_layers": 2, "transformer_dim": width,
        "transformer_num_heads": 2, "transformer_head_dim": 16, "transformer_mlp_ratio": 2.0, "better_depth_downsample": True,
    }},
    "point_updater": {{
        "name": "efficient_updateformer", "space_depth": 2, "time_depth": 2, "input_dim": 1 + levels * width + 198, "hidden_size": 64,
        "num_heads": 2, "output_dim": 4, "num_virtual_tracks": 8, "linear_layer_for_vis_conf": False,
    }},
}}
cfg = OmegaConf.create({{"model": model, "train_dataset": {{"resolution": [96, 128]}}}})
arguments = OmegaConf.to_container(cfg.model)
arguments.pop("name")
arguments["encoder"]["pretrained"] = False
for key in ("encoder", "corr_feature", "point_updater"):
    arguments[key] = OmegaConf.create(arguments[key])
torch.save({{"cfg": cfg, "weight": PointTracker3D(image_size=(96, 128), **arguments).state_dict()}}, {path!r})
"""

TAPIP3D_OWN = """
answer = ours.load({{"weights": {path!r}, "device": "cpu"}})
tracker = answer.__self__
data = dict(np.load({data!r}))
queries = data.pop("queries")
answer({{"ask": "clip"}}, data)
_, found = answer({{"ask": "track", "num_iters": 3, "support_grid": 8}}, {{"queries": queries}})
from utils.inference_utils import inference
clip = tracker.clip
with torch.no_grad():
    coords, visible = inference(
        model=tracker.model, video=clip["rgb"].permute(0, 3, 1, 2).float() / 255, depths=clip["depth"],
        intrinsics=clip["intrinsics"].expand(len(clip["depth"]), 3, 3), extrinsics=clip["camera_from_world"],
        query_point=torch.from_numpy(queries), num_iters=3, grid_size=8, vis_threshold=0.5,
    )
print(json.dumps({{
    "coords": float(np.abs(found["coords"] - coords.numpy()).max()), "visible": float(((found["logits"] >= 0) == visible.numpy()).mean()),
    "moved": float(np.abs(found["coords"] - queries[None, :, 1:]).max()),
}}))
"""
"""What its own inference() makes of the same arrays. It squeezes one point away, and needs a whole window of frames."""

COTRACKER3_STATE = """
from cotracker.predictor import CoTrackerPredictor
torch.save(CoTrackerPredictor(checkpoint=None, offline=True, window_len=60).model.state_dict(), {path!r})
"""

COTRACKER3_OWN = """
answer = ours.load({{"weights": {path!r}, "device": "cpu"}})
data = np.load({data!r})
with torch.no_grad():
    video = torch.from_numpy(data["frames"]).permute(0, 3, 1, 2)[None].float()
    tracks, visible = answer.__self__.predictor(video, queries=torch.from_numpy(data["queries"])[None], backward_tracking=True)
print(json.dumps({{"tracks": tracks[0].tolist(), "visible": visible[0].tolist()}}))
"""
"""What its own predictor makes of the frames as they are, with its own resizing."""

SPATRACKER2_STATE = """
import yaml
ours.prepare_imports(torch.device("cpu"))
from models.SpaTrackV2.models.predictor import Predictor
with open({repo!r} + "/config/magic_infer_offline.yaml") as file:
    arguments = yaml.safe_load(file)["model"]
with open({folder!r} + "/config.json", "w") as file:
    json.dump({{"args": arguments}}, file)
from safetensors.torch import save_file
state = Predictor(args=ours.harmless(arguments)).state_dict()
save_file({{name: value.contiguous().clone() for name, value in state.items()}}, {path!r})
"""
SPATRACKER2_OWN = """
ours.prepare_imports(torch.device("cpu"))
from models.SpaTrackV2.models.utils import normalize_rgb
sizes = [tuple(normalize_rgb(torch.zeros(1, 1, 3, height, width), input_size=336).shape[:2:-1]) for width, height in {sizes}]
print(json.dumps(sizes))
"""
"""Width and height that it resizes images to."""


def scene(num_frames: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A camera that moves and turns before a slanted, textured wall: frames, depth, K, poses."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    intrinsics = np.array([[0.9 * width, 0, width / 2 - 0.5], [0, 0.9 * width, height / 2 - 0.5], [0, 0, 1]])
    angle = np.linspace(0, 0.1, num_frames)
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    poses[:, 0, 0], poses[:, 0, 2], poses[:, 2, 0], poses[:, 2, 2] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    poses[:, 0, 3] = np.linspace(0, 0.2, num_frames)
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(intrinsics).T
    normal, distance = np.array([0.2, -0.1, 1.0]), 2.0
    towards = np.einsum("hwc,tkc->thwk", rays, poses[:, :3, :3]) @ normal
    depth = ((distance - poses[:, :3, 3] @ normal)[:, None, None] / towards).astype(np.float32)
    return frames, depth, intrinsics, poses


def world_of(uv: np.ndarray, frame: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """World points (P, 3) at pixels (P, 2) of frames (P,)."""
    size = (depth.shape[2], depth.shape[1])
    z = [surface_depth(depth[t], uv[i : i + 1], size) for i, t in enumerate(frame)]
    return np.concatenate([cameras.unproject(uv[i : i + 1], z[i], intrinsics, poses[t]) for i, t in enumerate(frame)])


def try_tracker(tracker: ForeignTracker, sizes: list[tuple[int, int]], lengths: list[int], counts: list[int]) -> None:
    """Print what comes out for clips of all these sizes, lengths and numbers of points; raise AssertionError for what must not be."""
    for (width, height), num_frames, count in [(sizes[0], n, counts[-1]) for n in lengths] + [
        (s, lengths[-1], c) for s in sizes for c in counts
    ]:
        frames, depth, intrinsics, poses = scene(num_frames, width, height)
        rng = np.random.default_rng(1)
        uv = rng.uniform(0.15, 0.85, (count, 2)) * [width, height]
        query_frames = rng.integers(0, num_frames, count)
        z = np.array([depth[frame, round(v), round(u)] for frame, (u, v) in zip(query_frames, uv, strict=True)], dtype=np.float64)
        queries = np.concatenate([cameras.unproject(uv[i : i + 1], z[i : i + 1], intrinsics, poses[query_frames[i]]) for i in range(count)])
        started = time.perf_counter()
        xyz, visible = tracker.track(frames, depth, intrinsics, poses, queries, query_frames, np.arange(count))
        assert xyz.shape == (num_frames, count, 3) and visible.shape == (num_frames, count)
        assert np.isfinite(xyz[visible]).all()
        at_query = xyz[query_frames, np.arange(count)]
        assert np.isfinite(at_query).all() and np.abs(at_query - queries).max() < 0.05, "an answer is not at its query"
        away = np.nanmax(np.linalg.norm(xyz - queries, axis=2))
        print(
            f"  {width:4d} x {height:<4d} T {num_frames:3d}  N {count:3d}: {time.perf_counter() - started:5.1f} s "
            f"({visible.mean():4.0%} seen, at most {away:.2f} m from their queries)"
        )


def check_tapip3d(repo: Path, folder: Path) -> None:
    """Its neighbours, its configuration out of a checkpoint that pickles it, its tracks, and those of its own inference()."""
    path = folder / "tapip3d_final.pth"
    run(TAPIP3D_STATE, repo, path, "tapip3d_network")
    tapip3d.SEEN = 0.01  # random weights are sure of nothing: whatever they say counts
    tracker = tapip3d.Tapip3d(BackendSetup(device="cpu", weights=str(path), repo=str(repo)))
    try_tracker(tracker, [(64, 48), (48, 64), (160, 120)], [1, 2, 8, 13], [1, 5])
    tracker.close()

    frames, depth, intrinsics, poses = scene(13, 128, 96)
    rng = np.random.default_rng(1)
    uv, query_frames = rng.uniform(0.2, 0.8, (6, 2)) * [128, 96], rng.integers(0, 13, 6)
    queries = world_of(uv, query_frames, depth, intrinsics, poses)
    data = folder / "clip.npz"
    np.savez(
        data,
        rgb=frames,
        depth=depth,
        intrinsics=intrinsics.astype(np.float32),
        camera_from_world=np.linalg.inv(poses).astype(np.float32),
        queries=np.concatenate([query_frames[:, None], queries], axis=1).astype(np.float32),
    )
    off = json.loads(run(TAPIP3D_OWN, repo, path, "tapip3d_network", data=str(data)))
    print(
        f"  its own inference(): positions within {off['coords']:.1e} m (points move up to {off['moved']:.2f} m), {off['visible']:.0%} as visible"
    )
    assert off["coords"] < 1e-4 and off["visible"] > 0.99 and off["moved"] > 1e-3


def check_cotracker3(repo: Path, folder: Path) -> None:
    """The published architecture: it takes no smaller one. Then the same points by its own predictor, on frames as they are."""
    path = folder / "scaled_offline.pth"
    run(COTRACKER3_STATE, repo, path, "cotracker3_network")
    tracker = CoTracker3(BackendSetup(device="cpu", weights=str(path), repo=str(repo)))
    try_tracker(tracker, [(64, 48), (120, 160)], [1, 2, 6], [1, 4])

    frames, depth, intrinsics, poses = scene(4, 150, 200)
    rng = np.random.default_rng(1)
    uv, query_frames = rng.uniform(0.2, 0.8, (5, 2)) * [150, 200], rng.integers(0, 4, 5)
    clip = Clip((150, 200), depth, intrinsics, poses)
    tracker.show(frames, clip)
    scale = corner_aligned_scale((150, 200), (512, 384))
    ours = tracker.worker.call({"queries": np.concatenate([query_frames[:, None], uv * scale], axis=1).astype(np.float32)}, ask="track")[1]
    tracker.close()
    data = folder / "clip.npz"
    np.savez(data, frames=frames, queries=np.concatenate([query_frames[:, None], uv], axis=1).astype(np.float32))
    theirs = json.loads(run(COTRACKER3_OWN, repo, path, "cotracker3_network", data=str(data)))
    off = np.abs(ours["tracks"] / scale - theirs["tracks"]).max()
    moved = np.abs(np.array(theirs["tracks"]) - uv).max()
    same = (ours["visible"] == theirs["visible"]).mean()
    print(f"  its own predictor on full frames: within {off:.1e} px (points move up to {moved:.1e} px), {same:.0%} as visible")
    assert off < 0.05 and same == 1


def check_spatracker2(repo: Path, folder: Path) -> None:
    """The published architecture: it takes no smaller one. And the size that it resizes images to."""
    path = folder / "model.safetensors"
    sizes = [(640, 480), (480, 640), (64, 48), (3840, 2160), (1000, 333), (337, 339)]
    theirs = json.loads(run(SPATRACKER2_OWN, repo, path, "spatracker2_network", sizes=sizes))
    assert [list(own_size(size, 336)) for size in sizes] == theirs, theirs
    print(f"  sizes as its own: {', '.join(f'{w} x {h}' for w, h in theirs)}")
    run(SPATRACKER2_STATE, repo, path, "spatracker2_network")
    tracker = SpatialTracker2(BackendSetup(device="cpu", weights=str(path), repo=str(repo)))
    try_tracker(tracker, [(64, 48), (48, 64)], [1, 2], [1, 3])
    tracker.close()


CHECKS: dict[type[ForeignTracker], Callable[[Path, Path], None]] = {
    tapip3d.Tapip3d: check_tapip3d,
    CoTracker3: check_cotracker3,
    SpatialTracker2: check_spatracker2,
}
"""Each is given the checkout and a folder for the weights that it makes."""


def run(script: str, repo: Path, path: Path, network: str, **values: object) -> str:
    """What a script prints last. It runs in a process of its own: the modules of repositories have the same names."""
    filled = (BEGIN + script).format(
        repo=str(repo), path=str(path), folder=str(path.parent), foreign=str(Path(wire.__file__).parent), network=network, **values
    )
    nothing_written = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # a checkout is an input
    done = subprocess.run([sys.executable, "-c", filled], capture_output=True, text=True, env=nothing_written)
    if done.returncode:
        sys.exit(f"{network}: {(done.stderr.strip().splitlines() or ['it ended'])[-1]} (in {sys.executable})")
    return (done.stdout.strip().splitlines() or [""])[-1]


def check(repo: Path, network: str = "") -> list[str]:
    """Run the adapters that this checkout is for, or one of them, and print what was found; the names of those that ran."""
    setup = BackendSetup(repo=str(repo), device="cpu")
    kinds = [kind for kind in CHECKS if network in ("", kind.name) and missing_checkout(kind.repository, setup) is None]
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            print(kind.name, flush=True)
            CHECKS[kind](repo, Path(folder))
    return [kind.name for kind in kinds]
