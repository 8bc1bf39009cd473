"""TAPIP3D (Zhang et al. 2025) in a worker: github.com/zbw001/TAPIP3D.

Facts from its inference.py, utils/inference_utils.py and models/point_tracker_3d.py:

- It takes rgb (1, T, 3, H, W) in [0, 1], depth (1, T, H, W), intrinsics (1, T, 3, 3), extrinsics camera_from_world (1, T, 4, 4), queries
  (1, N, 4) as (t, x, y, z) in the world, and gives coords (1, T, N, 3) in the world and visibility logits (1, T, N).
- `bidirectional` is False: what lies before a query is not tracked, so the reversed clip is run for it.
- It works in windows of `seq_len` frames, each half a window on. A clip shorter than one window runs through none, and comes back
  untouched: it is lengthened with its last frame here.
- Its neighbours come from pointops2, a CUDA extension that has to be compiled. `nearest` gives the same neighbours.
- Its checkpoint is {"cfg", "weight"}, with an OmegaConf DictConfig pickled inside.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

MARGIN = 1 / 64
"""Of the image's width that the support grid keeps from its border."""

POINTS_IN_REACH = 1.5
"""Interquartile ranges above the upper quartile of depth beyond which its normalisation takes no notice of points."""

MOST_DISTANCES = 1 << 25
"""Distances held at a time while neighbours are looked for: 128 MiB."""

CLASSES_OF_CONFIGURATION = (
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata")),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean", "Path", "Bytes", "Enum", "Union")),
    *("builtins.dict", "builtins.list", "builtins.tuple", "builtins.int", "builtins.float", "builtins.str", "builtins.bool"),
    *("collections.defaultdict", "typing.Any"),
)
"""What an OmegaConf configuration is pickled as."""

INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")


class Configuration(dict):
    """A mapping whose entries are attributes too, as TAPIP3D reads its configuration."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def load(options: dict[str, Any]) -> Callable[[dict[str, Any], dict[str, np.ndarray]], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    from tracekit_foreign_devices import device_of  # type: ignore[import-not-found]
    from tracekit_foreign_safe_weights import load_state, read_checkpoint  # type: ignore[import-not-found]
    from tracekit_foreign_stand_ins import stand_in_for  # type: ignore[import-not-found]

    path = options["weights"]
    checkpoint = read_checkpoint(path, inert=CLASSES_OF_CONFIGURATION)
    if "cfg" not in checkpoint or not isinstance(checkpoint.get("weight"), dict):
        raise ValueError(f'{path}: not a checkpoint of TAPIP3D, which holds "cfg" and "weight"')
    arguments, image_size = read_configuration(checkpoint["cfg"], path)
    device = device_of(options)
    stand_in_for(("hydra", "omegaconf", "rich", "tap", "av", "cv2", "torch_scatter"))
    replace_extension(device)
    from models.point_tracker_3d import PointTracker3D  # type: ignore[import-not-found]

    try:
        model = PointTracker3D(image_size=image_size, **arguments)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path}: its configuration is not one of this TAPIP3D: {error}") from error
    load_state(model, checkpoint["weight"], path)
    model.set_eval_mode("raw")
    return Tracker(model.to(device).eval(), device).answer


class Tracker:
    """Remembers the clip between requests: the points of a clip come in several."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self.clip: dict[str, torch.Tensor] = {}

    def answer(self, message: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """ "shape": image_size [height, width] that it was trained for. "clip": rgb (T, H, W, 3) uint8, depth (T, H, W), intrinsics (3, 3),
        camera_from_world (T, 4, 4). "track": queries (N, 4) -> coords (T, N, 3), logits (T, N)."""
        if message["ask"] == "shape":
            return {"image_size": [int(side) for side in self.model.image_size]}, {}
        if message["ask"] == "clip":
            self.clip = {}  # the old one goes first
            self.clip = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
            self.model.set_image_size(tuple(arrays["depth"].shape[1:]))
            return {}, {}
        queries = torch.from_numpy(arrays["queries"]).to(self.device)
        with torch.inference_mode():
            coords, logits = self.both_ways(queries, message["num_iters"], message["support_grid"])
        return {}, {"coords": coords.float().cpu().numpy(), "logits": logits.float().cpu().numpy()}

    def both_ways(self, queries: torch.Tensor, num_iters: int, support_grid: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Forwards from each query, and backwards in the reversed clip."""
        num_frames = len(self.clip["depth"])
        roi = depth_in_reach(self.clip["depth"])
        forwards = torch.arange(num_frames, device=self.device)
        coords, logits = self.one_way(forwards, queries, roi, num_iters, support_grid)
        if not getattr(self.model, "bidirectional", False) and bool((queries[:, 0] > 0).any()):
            reversed_queries = torch.cat([num_frames - 1 - queries[:, :1], queries[:, 1:]], dim=1)
            back, back_logits = self.one_way(forwards.flip(0), reversed_queries, roi, num_iters, support_grid)
            before = forwards[:, None] < queries[None, :, 0]
            coords = torch.where(before[..., None], back.flip(0), coords)
            logits = torch.where(before, back_logits.flip(0), logits)
        return coords, logits

    def one_way(
        self, order: torch.Tensor, queries: torch.Tensor, roi: torch.Tensor, num_iters: int, support_grid: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tracks (T, N, 3) and logits (T, N) through the frames in this order."""
        missing = max(self.model.seq_len - len(order), 0)
        longer = torch.cat([order, order[-1:].expand(missing)])
        clip = {name: part[longer] for name, part in self.clip.items() if name != "intrinsics"}
        intrinsics = self.clip["intrinsics"]
        support = grid_of_points(clip["depth"][0], intrinsics, clip["camera_from_world"][0], support_grid)
        # Half precision is for the network alone: a point's place has more digits.
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            found, _ = self.model(
                rgb_obs=clip["rgb"].permute(0, 3, 1, 2)[None].float() / 255,
                depth_obs=clip["depth"][None],
                num_iters=num_iters,
                query_point=torch.cat([queries, support])[None],
                intrinsics=intrinsics.expand(1, len(longer), 3, 3),
                extrinsics=clip["camera_from_world"][None],
                mode="inference",
                depth_roi=roi,
            )
        # Taken by position, never squeezed: one point or one frame keeps its axis.
        return found.coords[0, : len(order), : len(queries)], found.visibs[0, : len(order), : len(queries)]


def grid_of_points(depth: torch.Tensor, intrinsics: torch.Tensor, camera_from_world: torch.Tensor, side: int) -> torch.Tensor:
    """Queries (n, 4) on a grid over the first frame, where its depth is known: points attend to each other, and these give context."""
    height, width = depth.shape
    margin = width * MARGIN
    x = torch.linspace(margin, width - margin, side, device=depth.device) if side else depth.new_zeros(0)
    y = torch.linspace(margin, height - margin, side, device=depth.device) if side else depth.new_zeros(0)
    uv = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    column, row = uv.round().long().unbind(dim=1)
    z = depth[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    uv, z = uv[z > 0], z[z > 0]
    camera = torch.cat([uv, torch.ones_like(uv[:, :1])], dim=1) @ torch.linalg.inv(intrinsics).T * z[:, None]
    world_from_camera = torch.linalg.inv(camera_from_world)
    world = camera @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
    return torch.cat([torch.zeros_like(z)[:, None], world], dim=1)


def depth_in_reach(depth: torch.Tensor) -> torch.Tensor:
    """(2,) least and greatest depth that the normalisation takes notice of."""
    known = depth[depth > 0]
    if len(known) == 0:
        raise ValueError("the depth of these frames is unknown everywhere")
    low, high = (known.kthvalue(max(1, int(share * len(known)))).values for share in (0.25, 0.75))
    return torch.stack([torch.full_like(high, 1e-7), high + POINTS_IN_REACH * (high - low)])


def read_configuration(found: Any, path: str) -> tuple[Configuration, tuple[int, int]]:
    """The arguments of the network and the size (height, width) of its images. Raises ValueError for a configuration of something else."""
    whole = plain(found)
    try:
        whole = resolved(whole, whole)
        arguments = Configuration(whole["model"])
        height, width = (int(side) for side in whole["train_dataset"]["resolution"])
        name = arguments.pop("name")
        arguments["encoder"] = Configuration(arguments["encoder"], pretrained=False)  # its weights are in the file: nothing is fetched
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its configuration is not one of TAPIP3D: {error!r}") from error
    if name not in ("point_tracker_3d", "point_tracker_3d_local"):
        raise ValueError(f"{path}: it holds the network {name!r}, not TAPIP3D's")
    arguments.pop("image_size", None)
    return arguments, (height, width)


def plain(found: Any) -> Any:
    """Mappings, lists and values of what an OmegaConf configuration was pickled as."""
    content = getattr(found, "__dict__", {})
    if "_content" in content:
        return plain(content["_content"])
    if "_val" in content:
        return content["_val"]
    if isinstance(found, Mapping):
        return Configuration({str(plain(key)): plain(value) for key, value in found.items()})
    return [plain(value) for value in found] if isinstance(found, (list, tuple)) else found


def resolved(value: Any, whole: Any, depth: int = 8) -> Any:
    """With every "${a.b}" replaced by what it points to."""
    if isinstance(value, Mapping):
        return Configuration({key: resolved(item, whole, depth) for key, item in value.items()})
    if isinstance(value, list):
        return [resolved(item, whole, depth) for item in value]
    if isinstance(value, str) and (place := INTERPOLATION.fullmatch(value)):
        if depth == 0:
            raise ValueError(f"{value} leads to itself")
        target = whole
        for key in place.group(1).split("."):
            target = target[key]
        return resolved(target, whole, depth - 1)
    return value


def replace_extension(device: torch.device) -> None:
    """Put `nearest` in the place of the compiled neighbour search, unless that is here and runs on this device."""
    if device.type == "cuda" and importlib.util.find_spec("pointops2_cuda") is not None:
        return
    import third_party  # type: ignore[import-not-found]

    for name in ("pointops2", "pointops2.functions", "pointops2.functions.pointops"):
        module = types.ModuleType(f"third_party.{name}")
        module.__path__ = []  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
    module.knnquery = nearest  # type: ignore[attr-defined]
    third_party.pointops2 = sys.modules["third_party.pointops2"]
    sys.modules["third_party.pointops2"].functions = sys.modules["third_party.pointops2.functions"]  # type: ignore[attr-defined]
    sys.modules["third_party.pointops2.functions"].pointops = module  # type: ignore[attr-defined]


def nearest(
    count: int, points: torch.Tensor, queries: torch.Tensor, point_ends: torch.Tensor, query_ends: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each query the `count` nearest points of its own group, nearest first: indices (m, count) int32 and distances (m, count).

    `points` (n, 3) and `queries` (m, 3) lie group by group; `point_ends` and `query_ends` (b,) say where each group ends. A group with
    fewer points repeats its first. Exact: distances are differences of coordinates, not of products; ties go to either. Memory is bounded by
    MOST_DISTANCES.
    """
    index = torch.empty((len(queries), count), dtype=torch.int32, device=queries.device)
    distance = torch.empty((len(queries), count), dtype=torch.float32, device=queries.device)
    first_point = first_query = 0
    for last_point, last_query in zip(point_ends.tolist(), query_ends.tolist(), strict=True):
        group = points[first_point:last_point]
        at_once = max(1, MOST_DISTANCES // max(1, len(group)))
        have = min(count, len(group))
        for start in range(first_query, last_query, at_once):
            rows = slice(start, min(start + at_once, last_query))
            between = torch.cdist(queries[rows].float(), group.float(), compute_mode="donot_use_mm_for_euclid_dist")
            found = between.topk(have, dim=1, largest=False, sorted=True)
            index[rows, :have] = (found.indices + first_point).to(torch.int32)
            distance[rows, :have] = found.values
            index[rows, have:], distance[rows, have:] = first_point, float("inf")
        first_point, first_query = last_point, last_query
    return index, distance
