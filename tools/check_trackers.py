"""Run the adapters of trackers against real checkouts with random weights: `python tools/check_trackers.py --repo FOLDER`.

Small configurations where a class takes one. What random weights find means nothing; shapes, finiteness, which way poses and pixels go, and
that each answer belongs to its query do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tracekit.backends.cotracker3 import CoTracker3
from tracekit.backends.foreign_tracker import ForeignTracker
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.spatracker2 import SpatialTracker2
from tracekit.backends.tapip3d import Tapip3d
from tracekit.geometry import cameras

TAPIP3D_STATE = """
import sys, types
import torch
sys.path.insert(0, {repo!r})
pointops = types.ModuleType("third_party.pointops2.functions.pointops")
for name in ("third_party", "third_party.pointops2", "third_party.pointops2.functions"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [{repo!r} + "/" + name.replace(".", "/")]
sys.modules[pointops.__name__] = pointops
from models.point_tracker_3d import PointTracker3D
from omegaconf import OmegaConf
torch.manual_seed(0)
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

COTRACKER3_STATE = """
import sys
import torch
sys.path.insert(0, {repo!r})
from cotracker.predictor import CoTrackerPredictor
torch.manual_seed(0)
torch.save(CoTrackerPredictor(checkpoint=None, offline=True, window_len=60).model.state_dict(), {path!r})
"""

SPATRACKER2_STATE = """
import sys
sys.path.insert(0, {foreign!r})
sys.path.insert(0, {repo!r})
import json
import torch
import yaml
import stand_ins
sys.modules["tracekit_foreign_stand_ins"] = stand_ins
import spatracker2_network as ours
ours.prepare_imports(torch.device("cpu"))
from models.SpaTrackV2.models.predictor import Predictor
torch.manual_seed(0)
with open({repo!r} + "/config/magic_infer_offline.yaml") as file:
    arguments = yaml.safe_load(file)["model"]
with open({folder!r} + "/config.json", "w") as file:
    json.dump({{"args": arguments}}, file)
from safetensors.torch import save_file
state = Predictor(args=ours.harmless(arguments)).state_dict()
save_file({{name: value.contiguous().clone() for name, value in state.items()}}, {path!r})
"""


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
        assert np.isfinite(at_query).all() and np.abs(at_query - queries).max() < 0.05 * z.max(), "an answer is not at its query"
        away = np.nanmax(np.linalg.norm(xyz - queries, axis=2))
        print(
            f"  {width:4d} x {height:<4d} T {num_frames:3d}  N {count:3d}: {time.perf_counter() - started:5.1f} s "
            f"({visible.mean():4.0%} seen, at most {away:.2f} m from their queries)"
        )


def check_tapip3d(repo: Path, folder: Path) -> None:
    """Its neighbours, its configuration out of a checkpoint that pickles it, and its tracks."""
    path = folder / "tapip3d_final.pth"
    build(TAPIP3D_STATE, repo, path)
    tracker = Tapip3d(BackendSetup(device="cpu", weights=str(path), repo=str(repo)))
    try_tracker(tracker, [(64, 48), (48, 64), (160, 120)], [1, 2, 8, 13], [1, 5])
    tracker.close()


def check_cotracker3(repo: Path, folder: Path) -> None:
    """The published architecture: it takes no smaller one."""
    path = folder / "scaled_offline.pth"
    build(COTRACKER3_STATE, repo, path)
    tracker = CoTracker3(BackendSetup(device="cpu", weights=str(path), repo=str(repo)))
    try_tracker(tracker, [(64, 48), (120, 160)], [1, 2, 6], [1, 4])
    tracker.close()


def check_spatracker2(repo: Path, folder: Path) -> None:
    """The published architecture: it takes no smaller one."""
    path = folder / "model.safetensors"
    build(SPATRACKER2_STATE, repo, path)
    tracker = SpatialTracker2(BackendSetup(device="cpu", weights=str(path), repo=str(repo)))
    try_tracker(tracker, [(64, 48), (48, 64)], [1, 2, 4], [1, 3])
    tracker.close()


CHECKS: dict[str, Callable[[Path, Path], None]] = {
    "TAPIP3D": check_tapip3d,
    "co-tracker": check_cotracker3,
    "SpaTrackerV2": check_spatracker2,
}
"""By the name of the repository. Each is given the checkout and a folder for the weights that it makes."""


def build(script: str, repo: Path, path: Path) -> None:
    """Write random weights of a repository's own class, in a process of its own: their modules have the same names."""
    from tracekit.backends.foreign import wire

    filled = script.format(repo=str(repo), path=str(path), folder=str(path.parent), foreign=str(Path(wire.__file__).parent))
    subprocess.run([sys.executable, "-c", filled], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repo", type=Path, required=True, help="checkout of TAPIP3D, co-tracker or SpaTrackerV2, under that name")
    repo = parser.parse_args().repo.resolve()
    if repo.name not in CHECKS:
        sys.exit(f"{repo} is none of {json.dumps(sorted(CHECKS))}")
    with tempfile.TemporaryDirectory() as folder:
        print(repo.name)
        CHECKS[repo.name](repo, Path(folder))


if __name__ == "__main__":
    main()
