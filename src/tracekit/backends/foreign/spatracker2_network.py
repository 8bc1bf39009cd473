"""SpatialTrackerV2 offline (Xiao et al. 2025) in a worker: github.com/henry123-boy/SpaTrackerV2.

Facts from inference.py, models/SpaTrackV2/models/{predictor,SpaTrack}.py and tracker3D/TrackRefiner.py:

- `Predictor` takes video (T, 3, H, W) in 0..255, depth (T, H, W), intrs (T, 3, 3) in pixels of the video, extrs (T, 4, 4) as
  world_from_camera (its saved files have camera_from_world), and queries (N, 3) as (t, x, y). It answers with nine things: c2w_traj
  (T, 4, 4) relative to the first camera, intrs, point_map, conf_depth, track3d (T, N, 6: x, y, z in the frame of each frame's camera,
  then colour), track2d (T, N, 3), vis (T, N, 1), conf, and the video.
- Unless `fixed_cam` is given it moves cameras and intrinsics by bundle adjustment (pycolmap, pyceres). Depth is taken as it is at stage 1.
- Unless `full_point` is given it drops queries on doubtful depth and puts copies of others in their places: what comes back then belongs to
  other points.
- It calls .cuda() on what it makes, wherever its weights are. Parts of it differentiate twice in time: a clip has three frames at least.
- Under bfloat16, as its inference.py runs it, pixels are multiplied by K^-1 with eight bits: half a pixel and more is lost. It runs in
  float32 here.
- Its attention allows PyTorch the flash kernel alone, and where there is none (float32, GPUs before Ampere) prints the error and goes on
  without attention. Any kernel may be used here.
- Where numbers look odd to it, it opens a debugger, which would read from the pipe that requests come by. It goes on here.
- Its configuration names files that it would unpickle and a depth network that it would fetch, if told to.
"""

from __future__ import annotations

import contextlib
import json
import pdb
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SUPPORT_POINTS = 756
"""Points that are tracked besides, for context: `vo_points` of its inference.py."""

LEAST_FRAMES = 4
NEVER_NEEDED = (
    *(
        "pycolmap",
        "pyceres",
        "moviepy",
        "moviepy.editor",
        "flow_vis",
        "decord",
        "mediapy",
        "matplotlib",
        "sklearn",
        "kornia",
        "easydict",
        "cv2",
        "utils3d",
    ),
    *("xformers", "jaxtyping", "skimage", "albumentations", "einx", "prettytable", "plotly", "gdown", "ray"),
)
"""Packages for adjusting cameras, drawing and training."""

ARGUMENTS = ("backbone_cfg", "Track_cfg", "chunk_size", "ckpt_fwd", "ft_cfg", "resolution", "max_len", "track_num")
"""What its configuration may say."""


def load(options: dict[str, Any]) -> Callable[[dict[str, Any], dict[str, np.ndarray]], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    from tracekit_foreign_devices import device_of  # type: ignore[import-not-found]
    from tracekit_foreign_safe_weights import load_state, read_state  # type: ignore[import-not-found]

    path = Path(options["weights"])
    state = read_state(path)
    arguments = harmless(read_configuration(path, Path(options["repo"])))
    device = device_of(options)
    prepare_imports(device)
    from models.SpaTrackV2.models.predictor import Predictor  # type: ignore[import-not-found]

    try:
        predictor = Predictor(args=arguments)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: its configuration is not one of this SpatialTrackerV2: {error!r}") from error
    load_state(predictor, state, path)
    predictor.spatrack.track_num = SUPPORT_POINTS
    predictor.eval()
    predictor.to(device)
    return Tracker(predictor, device, options.get("seed", 0)).answer


class Tracker:
    """Remembers the clip between requests: the points of a clip come in several."""

    def __init__(self, predictor: Any, device: torch.device, seed: int) -> None:
        self.predictor, self.device, self.seed = predictor, device, seed
        self.clip: dict[str, torch.Tensor] = {}

    def answer(self, message: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """ "shape": resolution, which its shorter side has at least, and most_frames. "clip": rgb (T, H, W, 3) uint8, depth (T, H, W),
        intrinsics (T, 3, 3), world_from_camera (T, 4, 4). "track": queries (N, 3) -> xyz_camera (T, N, 3), visibility (T, N), and the
        cameras that it used: intrinsics (T, 3, 3), first_from_camera (T, 4, 4)."""
        if message["ask"] == "shape":
            return {"resolution": int(self.predictor.spatrack.resolution), "most_frames": int(self.predictor.S_wind)}, {}
        if message["ask"] == "clip":
            self.clip = {}  # the old one goes first
            num_frames = len(arrays["rgb"])
            order = torch.arange(max(num_frames, LEAST_FRAMES)).clamp(max=num_frames - 1)
            self.clip = {name: torch.from_numpy(array)[order] for name, array in arrays.items()}
            self.num_frames = num_frames
            return {}, {}
        torch.manual_seed(self.seed)  # its support points are drawn at random
        with torch.inference_mode():
            cameras, intrinsics, _, _, track3d, _, visibility, *_ = self.predictor(
                self.clip["rgb"].permute(0, 3, 1, 2).float(),
                depth=self.clip["depth"].to(self.device),
                intrs=self.clip["intrinsics"].to(self.device),
                extrs=self.clip["world_from_camera"].to(self.device),
                queries=arrays["queries"],
                fps=1,
                full_point=True,
                iters_track=message["num_iters"],
                query_no_BA=True,
                fixed_cam=True,
                stage=1,
                support_frame=len(self.clip["rgb"]) - 1,
                replace_ratio=message["replace_ratio"],
            )
        kept = slice(0, self.num_frames)
        results = {
            "xyz_camera": track3d[kept, :, :3],
            "visibility": visibility[kept, :, 0],
            "intrinsics": intrinsics[kept],
            "first_from_camera": cameras[kept],
        }
        return {}, {name: value.float().cpu().numpy() for name, value in results.items()}


def read_configuration(weights: Path, repo: Path) -> dict[str, Any]:
    """The arguments of the network: from config.json beside the weights, else from the repository."""
    beside, own = weights.with_name("config.json"), repo / "config" / "magic_infer_offline.yaml"
    try:
        if beside.is_file():
            path = beside
            found = json.loads(beside.read_text())["args"]
        else:
            import yaml

            path = own
            found = yaml.safe_load(own.read_text())["model"]
        if not isinstance(found, dict):
            raise TypeError("it is no mapping")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a configuration of SpatialTrackerV2: {error!r}") from error


def harmless(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments without anything that would be opened, unpickled or fetched. Raises ValueError for those of something else."""
    kept = {key: arguments[key] for key in ARGUMENTS if key in arguments}
    if not isinstance(kept.get("Track_cfg"), dict):
        raise ValueError("its configuration has no Track_cfg: not one of SpatialTrackerV2")
    nothing: dict[str, Any] = {"base_ckpt": ""}
    return {**kept, "Track_cfg": {**kept["Track_cfg"], **nothing}, "backbone_cfg": {"ckpt_dir": ""}, "moge_as_base": False}


def prepare_imports(device: torch.device) -> None:
    """Let its modules be imported without what they need for training and viewing, and run on any device; see the module."""
    import torchvision.io
    from tracekit_foreign_stand_ins import absent, stand_in_for  # type: ignore[import-not-found]

    stand_in_for(NEVER_NEEDED)
    if not hasattr(torchvision.io, "write_video"):  # gone from newer ones
        torchvision.io.write_video = absent("torchvision.io.write_video")
    import utils3d  # type: ignore[import-not-found]

    if not hasattr(getattr(utils3d, "torch", None), "depth_edge"):
        utils3d.torch = types.SimpleNamespace(depth_edge=depth_edge)
    torch.backends.cuda.sdp_kernel = lambda *arguments, **named: contextlib.nullcontext()  # type: ignore[assignment]
    pdb.set_trace = lambda *arguments, **named: None
    if device.type != "cuda":
        torch.Tensor.cuda = lambda self, *arguments, **named: self.to(device)  # type: ignore[method-assign, assignment]


def depth_edge(depth: torch.Tensor, rtol: float, mask: torch.Tensor) -> torch.Tensor:
    """(..., h, w) bool: depth varies by more than the fraction `rtol` among a pixel and its eight neighbours, as far as `mask` has them."""
    flat, flat_mask = depth.reshape(-1, 1, *depth.shape[-2:]), mask.reshape(-1, 1, *depth.shape[-2:])
    lowest = float("-inf")
    highest = torch.nn.functional.max_pool2d(flat.masked_fill(~flat_mask, lowest), 3, stride=1, padding=1)
    least = -torch.nn.functional.max_pool2d((-flat).masked_fill(~flat_mask, lowest), 3, stride=1, padding=1)
    return ((highest - least) / flat > rtol).reshape(depth.shape)
