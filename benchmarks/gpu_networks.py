"""The networks at their true sizes on a GPU, with random weights: seconds in the network, seconds outside it, and memory of the device.

    TRACEKIT_CHECKOUTS=~/checkouts python benchmarks/gpu_networks.py

What random weights see means nothing, but it takes as long. Not part of run_all.py: it needs a GPU, and checkouts for the networks that are
repositories (those that are not there are left out).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from table import print_table

from tracekit.backends.features.dinov2 import DinoV2
from tracekit.backends.foreign import wire
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.reconstruction.depth_anything import DepthAnything
from tracekit.backends.reconstruction.depth_pro import DepthPro
from tracekit.backends.reconstruction.vggt import Vggt
from tracekit.backends.reconstruction.vggt4track import Vggt4Track
from tracekit.backends.reconstruction.vggt_omega import VggtOmega
from tracekit.backends.tracking.cotracker3 import CoTracker3
from tracekit.backends.tracking.spatracker2 import SpatialTracker2
from tracekit.backends.tracking.tapip3d import Tapip3d
from tracekit.extract.reconstruct import ReconstructParameters

ROUNDS = 3
GOAL = "<= 0.10"
CHUNK, ANCHORS, POINTS = 60, 150, 256
CHECKOUTS = Path(os.environ.get("TRACEKIT_CHECKOUTS", "."))

VGGT = "from vggt.models.vggt import VGGT\nwith torch.device('cuda'):\n    model = VGGT()"
OMEGA = """
from vggt_omega.models.vggt_omega import VGGTOmega
with torch.device('cuda'):
    model = VGGTOmega()
for name, value in model.state_dict().items():  # left uninitialised, for weights to fill
    if name.endswith((".bias_mask", ".gamma")):
        value.fill_(0.0 if name.endswith("mask") else 0.01)
"""
FRONT = """
ours = half('vggt4track_network')
sys.modules['tracekit_foreign_stand_ins'].stand_in_for(ours.NEVER_NEEDED)
model = ours.whole(torch.device('cuda'))
"""
COTRACKER = """
from cotracker.predictor import CoTrackerPredictor
model = CoTrackerPredictor(checkpoint=None, offline=True, window_len=60).model
"""
SPATRACKER = """
import json, yaml
ours = half('spatracker2_network')
ours.prepare_imports(torch.device('cuda'))
from models.SpaTrackV2.models.predictor import Predictor
with open(sys.path[0] + '/config/magic_infer_offline.yaml') as file:
    arguments = yaml.safe_load(file)['model']
with open(folder + '/config.json', 'w') as file:
    json.dump({'args': arguments}, file)
model = Predictor(args=ours.harmless(arguments))
"""
TAPIP3D = """
ours = half('tapip3d_network')
from omegaconf import OmegaConf
ours.replace_extension(torch.device('cuda'))
from models.point_tracker_3d import PointTracker3D
parts = {
    'encoder': {'name': 'cotracker_cnn', 'output_dim': 128, 'stride': 4, 'pretrained': True, 'freeze_mode': 'none'},
    'corr_feature': {
        'name': 'knn_corr_4d', 'k_neighbors': 32, 'posenc_mlp_dim': 128, 'posenc_mlp_layers': 2, 'transformer_dim': 128,
        'transformer_num_heads': 4, 'transformer_head_dim': 32, 'transformer_mlp_ratio': 4.0, 'better_depth_downsample': True,
    },
    'point_updater': {
        'name': 'efficient_updateformer', 'space_depth': 3, 'time_depth': 3, 'input_dim': 1 + 4 * 128 + 198, 'hidden_size': 384,
        'num_heads': 8, 'output_dim': 4, 'num_virtual_tracks': 64, 'linear_layer_for_vis_conf': False,
    },
}
whole = {'name': 'point_tracker_3d', 'seq_len': 16, 'corr_levels': 4, 'norm_mode': 'isotropic', 'eval_mode': 'local', 'center_rgb': False}
cfg = OmegaConf.create({'model': {**whole, **parts}, 'train_dataset': {'resolution': [384, 512]}})
parts['encoder']['pretrained'] = False
del whole['name']
state = PointTracker3D(image_size=(384, 512), **whole, **{name: OmegaConf.create(part) for name, part in parts.items()}).state_dict()
torch.save({'cfg': cfg, 'weight': {name: value.cpu() for name, value in state.items()}}, folder + '/tapip3d.pth')
model = torch.nn.Linear(1, 1)  # saved for nothing
"""
"""Its own configuration is in its checkpoint alone: this one is of the sizes of CoTracker3, on which it is built."""
SAVE = """
from safetensors.torch import save_file
save_file({{name: value.contiguous().clone().cpu() for name, value in model.state_dict().items()}}, {path!r})
"""


BEGIN = """
import importlib, sys, torch
torch.manual_seed(0)
folder = {folder!r}
def half(name):
    # our half of a worker
    sys.path.insert(0, {foreign!r})
    for other in ("safe_weights", "stand_ins", "devices"):
        sys.modules["tracekit_foreign_" + other] = importlib.import_module(other)
    found = importlib.import_module(name)
    sys.path.remove({foreign!r})
    return found
sys.path.insert(0, {repo!r})
"""


def make_weights(script: str, repository: str, path: Path) -> None:
    """Run a script that leaves a `model`, in a process of its own, and save what it has."""
    begin = BEGIN.format(folder=str(path.parent), foreign=str(Path(wire.__file__).parent), repo=str(CHECKOUTS / repository))
    nothing_written = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", begin + script + SAVE.format(path=str(path))], check=True, env=nothing_written)


def frames_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 480, 640, 3), dtype=np.uint8)


def in_worker(backend: Any, work: Callable[[], object]) -> tuple[float, float]:
    """Median seconds inside and outside of the network that runs in a worker."""
    measured = []
    for _ in range(ROUNDS + 1):
        before, start = backend.worker.network_seconds, time.perf_counter()
        work()
        inside = backend.worker.network_seconds - before
        measured.append((inside, time.perf_counter() - start - inside))
    inside, outside = np.median(np.array(measured[1:]), axis=0)
    return float(inside), float(outside)


def in_process(model: Any, method: str, work: Callable[[], object]) -> tuple[float, float]:
    """The same for one that runs here; the device is waited for around each call."""
    import torch

    forward, spent = getattr(model, method), [0.0]

    def timed(*inputs: Any, **options: Any) -> Any:
        torch.cuda.synchronize()
        start = time.perf_counter()
        answer = forward(*inputs, **options)
        torch.cuda.synchronize()
        spent[0] += time.perf_counter() - start
        return answer

    setattr(model, method, timed)
    measured = []
    for _ in range(ROUNDS + 1):
        spent[0], start = 0.0, time.perf_counter()
        work()
        measured.append((spent[0], time.perf_counter() - start - spent[0]))
    inside, outside = np.median(np.array(measured[1:]), axis=0)
    return float(inside), float(outside)


def used_gigabytes() -> float:
    import torch

    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


def row(work: str, seconds: tuple[float, float], gigabytes: float) -> dict:
    inside, outside = seconds
    return {
        "work": f"{work}; {gigabytes:.1f} GB of the device",
        "ours": f"{1e3 * outside:.0f} ms outside",
        "peer": f"{1e3 * inside:.0f} ms in the network",
        "ratio": round(outside / inside, 3),
        "goal": GOAL,
    }


def dinov2(folder: Path) -> Iterator[dict]:
    import timm
    from safetensors.torch import save_file

    architecture = "vit_base_patch14_dinov2"
    save_file(timm.create_model(architecture, pretrained=False, num_classes=0).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": architecture}))
    before = used_gigabytes()
    backend = DinoV2(BackendSetup(device="cuda", weights=str(folder)))
    frames = frames_of(CHUNK)
    seconds = in_process(backend.model, "forward_intermediates", lambda: backend.describe(frames))
    yield row(f"dinov2, ViT-B, {CHUNK} frames of 640 x 480", seconds, used_gigabytes() - before)
    backend.close()


def depth(folder: Path) -> Iterator[dict]:
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        DepthProConfig,
        DepthProForDepthEstimation,
        DepthProImageProcessor,
        DPTImageProcessor,
    )

    small, pro = folder / "small", folder / "pro"
    DepthAnythingForDepthEstimation(DepthAnythingConfig(depth_estimation_type="metric", max_depth=20)).save_pretrained(small)
    DPTImageProcessor(size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14).save_pretrained(small)
    network = DepthProForDepthEstimation(DepthProConfig(use_fov_model=True))
    head = network.fov_model.head.layers[-1]
    head.weight.data.zero_()
    head.bias.data.fill_(60.0)  # degrees: what is random may be no angle of view
    network.save_pretrained(pro)
    DepthProImageProcessor().save_pretrained(pro)
    for kind, weights, count in ((DepthAnything, small, CHUNK), (DepthPro, pro, 20)):
        for camera in ("static", "odometry"):
            before = used_gigabytes()
            backend = kind(BackendSetup(device="cuda", weights=str(weights), parameters=ReconstructParameters(camera=camera)))
            frames = frames_of(count)

            def work(backend: Any = backend, frames: np.ndarray = frames) -> None:
                backend.use_recording(None)
                backend.reconstruct(frames, np.arange(len(frames)), None)

            seconds = in_process(backend.model, "forward", work)
            yield row(f"{kind.name}, --camera {camera}, {count} frames of 640 x 480", seconds, used_gigabytes() - before)
            backend.close()


def reconstruction(kind: type, script: str, folder: Path) -> Iterator[dict]:
    path = folder / "model.safetensors"
    make_weights(script, kind.repository.name, path)
    before = used_gigabytes()
    for count in (CHUNK, ANCHORS):
        backend = kind(BackendSetup(device="cuda", weights=str(path)))
        frames = frames_of(count)
        start = time.perf_counter()
        backend.reconstruct(frames[:1], np.arange(1), None)
        loading = time.perf_counter() - start
        seconds = in_worker(backend, lambda backend=backend, frames=frames: backend.reconstruct(frames, np.arange(len(frames)), None))
        yield row(f"{kind.name}, {count} frames of 640 x 480 ({loading:.0f} s to begin)", seconds, used_gigabytes() - before)
        backend.close()


def vggt(folder: Path) -> Iterator[dict]:
    yield from reconstruction(Vggt, VGGT, folder)


def vggt_omega(folder: Path) -> Iterator[dict]:
    yield from reconstruction(VggtOmega, OMEGA, folder)


def tracking(kind: type, path: Path) -> Iterator[dict]:
    before = used_gigabytes()
    backend = kind(BackendSetup(device="cuda", weights=str(path)))
    rng = np.random.default_rng(1)
    depth = np.full((CHUNK, 480, 640), 2.0, np.float32) + rng.uniform(-0.01, 0.01, (CHUNK, 480, 640)).astype(np.float32)
    intrinsics = np.array([[600.0, 0, 319.5], [0, 600, 239.5], [0, 0, 1]])
    queries = np.concatenate([rng.uniform(-0.8, 0.8, (POINTS, 2)), np.full((POINTS, 1), 2.0)], axis=1)

    def work() -> None:
        frames = frames_of(CHUNK)  # a new array: a new clip
        backend.track(frames, depth, intrinsics, np.tile(np.eye(4), (CHUNK, 1, 1)), queries, np.zeros(POINTS, int), np.arange(POINTS))

    seconds = in_worker(backend, work)
    yield row(f"{kind.name}, {POINTS} points through {CHUNK} frames of 640 x 480", seconds, used_gigabytes() - before)
    backend.close()


def cotracker3(folder: Path) -> Iterator[dict]:
    make_weights(COTRACKER, "co-tracker", folder / "model.safetensors")
    yield from tracking(CoTracker3, folder / "model.safetensors")


def vggt4track(folder: Path) -> Iterator[dict]:
    yield from reconstruction(Vggt4Track, FRONT, folder)


def spatracker2(folder: Path) -> Iterator[dict]:
    make_weights(SPATRACKER, "SpaTrackerV2", folder / "model.safetensors")
    yield from tracking(SpatialTracker2, folder)


def tapip3d(folder: Path) -> Iterator[dict]:
    make_weights(TAPIP3D, "TAPIP3D", folder / "model.safetensors")
    yield from tracking(Tapip3d, folder / "tapip3d.pth")


PARTS: tuple[Callable[[Path], Iterator[dict]], ...] = (dinov2, depth, vggt, vggt_omega, vggt4track, tapip3d, spatracker2, cotracker3)


def main() -> list[dict]:
    import torch

    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    wanted = sys.argv[1:]
    rows = []
    for part in PARTS:
        if wanted and part.__name__ not in wanted:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                for found in part(Path(folder)):
                    rows.append(found)
                    print(json.dumps(found), flush=True)
            except Exception:  # one network less; the others are measured all the same
                traceback.print_exc()
    return rows


if __name__ == "__main__":
    print_table(main())
