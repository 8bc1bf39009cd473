"""Seconds that the stages' networks cost besides their own forward pass, at the sizes of real input: resizing, batches, depth on the frame's
grid, the camera. The networks are of their real sizes with random weights, on this CPU; or they sleep for as long as a GPU takes. Then
nearly all that is left outside is resizing (to 1536 x 1536 and back), which the GPU would do, too."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracekit.backends.features.dinov2 import DinoV2
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.reconstruction.depth_anything import DepthAnything
from tracekit.backends.reconstruction.depth_pro import DepthPro
from tracekit.extract.reconstruct import ReconstructParameters

ROUNDS = 5
GOAL = "<= 0.10"
DEPTH_PRO_SECONDS = 0.3
"""One frame on a V100, by its authors (abstract of the paper)."""


def main() -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        return [features(Path(folder) / "vit"), depth(Path(folder) / "anything"), *asleep(Path(folder) / "pro")]


def features(folder: Path) -> dict:
    import timm
    from safetensors.torch import save_file

    folder.mkdir()
    architecture = "vit_base_patch14_dinov2"
    save_file(timm.create_model(architecture, pretrained=False, num_classes=0).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": architecture}))
    backend = DinoV2(BackendSetup(weights=str(folder)))
    frames = clip(2)
    inside, outside = measure(backend.model, "forward_intermediates", lambda: backend.describe(frames), rounds=ROUNDS)
    return row("dinov2, ViT-B at 518 x 392, a frame of 640 x 480", inside, outside, len(frames))


def depth(folder: Path) -> dict:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, DPTImageProcessor

    DepthAnythingForDepthEstimation(DepthAnythingConfig(depth_estimation_type="metric", max_depth=20)).save_pretrained(folder)
    DPTImageProcessor(size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14).save_pretrained(folder)
    backend = DepthAnything(BackendSetup(weights=str(folder)))
    frames = clip(2)

    def once() -> None:
        backend.use_recording(None)
        backend.reconstruct(frames, np.arange(len(frames)), None)

    inside, outside = measure(backend.model, "forward", once, rounds=ROUNDS)
    return row("depth-anything, Small at 686 x 518, with odometry, a frame of 640 x 480", inside, outside, len(frames))


def asleep(folder: Path) -> list[dict]:
    """Depth Pro's sizes on the outside, 1536 x 1536 in and out, around a network that only sleeps."""
    import torch
    from transformers import DepthProConfig, DepthProForDepthEstimation, DepthProImageProcessor
    from transformers.models.depth_pro.modeling_depth_pro import DepthProDepthEstimatorOutput

    part: dict[str, Any] = {"model_type": "dinov2", "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_attention_heads": 2}
    config = DepthProConfig(
        patch_size=32,
        fusion_hidden_size=8,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_feature_dims=[8, 8, 8],
        use_fov_model=True,
        **{f"{name}_model_config": {**part, "num_hidden_layers": 2} for name in ("image", "patch", "fov")},
    )
    DepthProForDepthEstimation(config).save_pretrained(folder)
    DepthProImageProcessor().save_pretrained(folder)
    answer = DepthProDepthEstimatorOutput(predicted_depth=torch.full((1, 1536, 1536), 0.6), field_of_view=torch.tensor([60.0]))

    def sleep(pixel_values: Any) -> DepthProDepthEstimatorOutput:
        time.sleep(DEPTH_PRO_SECONDS)
        return answer

    rows = []
    for camera in ("static", "odometry"):
        backend = DepthPro(BackendSetup(weights=str(folder), parameters=ReconstructParameters(camera=camera)))
        backend.model.forward = sleep
        frames, indices = clip(72), np.arange(72)
        backend.reconstruct(frames[:12], indices[:12], None)  # the first call of a clip waits for its calibration
        inside, outside = measure(backend.model, "forward", lambda: backend.reconstruct(frames[12:], indices[12:], None), rounds=1)  # noqa: B023
        rows.append(row(f"depth-pro, {DEPTH_PRO_SECONDS} s asleep a frame, camera {camera}, a frame of 640 x 480", inside, outside, 60))
    return rows


def clip(num_frames: int) -> np.ndarray:
    """A camera slides along a wall."""
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.random((n, n, 3), np.float32), (800, 600), interpolation=cv2.INTER_CUBIC) for n in (20, 60, 150)]
    picture = (255 * np.mean(layers, axis=0)).clip(0, 255).astype(np.uint8)
    return np.stack([picture[k : 480 + k, 2 * k : 640 + 2 * k] for k in range(num_frames)])


def measure(model: Any, method: str, work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds inside and outside of the network's forward, after a round that warms up."""
    forward, spent = getattr(model, method), [0.0]

    def timed(*inputs: Any, **options: Any) -> Any:
        start = time.perf_counter()
        answer = forward(*inputs, **options)
        spent[0] += time.perf_counter() - start
        return answer

    setattr(model, method, timed)
    measured = []
    for _ in range(rounds + (rounds > 1)):
        spent[0], start = 0.0, time.perf_counter()
        work()
        measured.append((spent[0], time.perf_counter() - start - spent[0]))
    inside, outside = np.median(np.array(measured[(rounds > 1) :]), axis=0)
    return float(inside), float(outside)


def row(work: str, inside: float, outside: float, num_frames: int) -> dict:
    return {
        "work": work,
        "ours": f"{1e3 * outside / num_frames:.1f} ms outside",
        "peer": f"{1e3 * inside / num_frames:.0f} ms in the network",
        "ratio": round(outside / inside, 3),
        "goal": GOAL,
    }


if __name__ == "__main__":
    from table import print_table

    print_table(main())
