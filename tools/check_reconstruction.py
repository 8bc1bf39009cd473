"""The reconstruction adapters against real checkouts, with tiny networks of random weights; see check_adapters.py.

What random weights see means nothing. What is checked: shapes, that all is finite, sizes and pictures as the repository's own loader makes them, and
that what we make of a pose encoding is what its own functions make of it.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracekit.backends.checkouts import find_checkout, missing_checkout
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.reconstruction.foreign_reconstruction import ForeignReconstruction
from tracekit.backends.reconstruction.pose_encoding import cameras_of
from tracekit.backends.reconstruction.vggt import Vggt
from tracekit.backends.reconstruction.vggt4track import Vggt4Track
from tracekit.backends.reconstruction.vggt_omega import VggtOmega
from tracekit.backends.worker import Worker
from tracekit.geometry import se3

NETWORKS: dict[str, type[ForeignReconstruction]] = {kind.name: kind for kind in (Vggt, VggtOmega, Vggt4Track)}
FOREIGN = "tracekit.backends.foreign"
SIZES = ((3, (640, 480)), (2, (360, 640)), (1, (64, 48)))
"""Frames, and their (width, height)."""
AS_PILLOW = 2.5 / 255
"""Pillow rounds to whole numbers after each direction; else its cubic is ours."""


def check(repo: Path, network: str = "") -> list[str]:
    """Run the adapters that this checkout is for, or one of them, and print what was found; the names of those that ran.

    Raises SystemExit when something is not as it should be.
    """
    setup = BackendSetup(repo=str(repo), device="cpu")
    kinds = [kind for kind in NETWORKS.values() if network in ("", kind.name) and missing_checkout(kind.repository, setup) is None]
    for kind in kinds:
        checks = [*run_in_worker(kind, setup), *conventions(kind, str(repo))]
        for what, good in checks:
            print(f"{kind.name}: {what}: {'yes' if good else 'NO'}", flush=True)
        if not all(good for _, good in checks):
            sys.exit(1)
    return [kind.name for kind in kinds]


def run_in_worker(kind: type[ForeignReconstruction], setup: BackendSetup) -> Iterator[tuple[str, bool]]:
    """The whole adapter, its network in a worker, with random weights."""
    checkout = find_checkout(kind.repository, setup)
    assert checkout is not None
    backend = kind.__new__(kind)  # not by its constructor, which wants weights
    backend.worker = Worker(kind.name, kind.network, checkout, {"weights": None, "device": setup.device}, patience=600)
    try:
        for count, size in SIZES:
            found = backend.reconstruct(picture(count, size), np.arange(count), None)
            width, height = kind.grid_size(size)
            assert found.depth is not None
            yield f"{count} frames of {size[0]} x {size[1]}: shapes", found.depth.shape == (count, height, width)
            finite = all(np.isfinite(array).all() for array in (found.depth, found.intrinsics, found.world_from_camera, found.confidence))
            yield (
                f"{count} frames of {size[0]} x {size[1]}: all finite, poses rigid",
                finite and bool(se3.is_pose(found.world_from_camera).all()),
            )
            within = (found.confidence >= 0).all() and (found.confidence <= 1).all() and (found.depth >= 0).all()
            yield f"{count} frames of {size[0]} x {size[1]}: confidence in 0..1, depth not negative", bool(within)
    finally:
        backend.close()


def conventions(kind: type[ForeignReconstruction], repo: str) -> Iterator[tuple[str, bool]]:
    """Ours against the repository's own functions, in this process."""
    import torch

    sys.dont_write_bytecode = True  # a checkout is an input
    sys.path.insert(0, repo)
    for name in ("safe_weights", "stand_ins", "devices", "views"):
        sys.modules[f"tracekit_foreign_{name}"] = importlib.import_module(f"{FOREIGN}.{name}")
    ours: Any = importlib.import_module(f"{FOREIGN}.{kind.network}")
    views: Any = sys.modules["tracekit_foreign_views"]
    try:
        if kind is Vggt4Track:
            sys.modules["tracekit_foreign_stand_ins"].stand_in_for(ours.NEVER_NEEDED)
        theirs = _their_functions(kind)

        rng = np.random.default_rng(0)
        encoding = np.concatenate([rng.standard_normal((50, 7)), rng.uniform(0.3, 2.0, (50, 2))], axis=1).astype(np.float32)
        camera_from_world, intrinsics = theirs["decode"](torch.from_numpy(encoding)[None], (392, 518))
        poses, ours_intrinsics = cameras_of(encoding, (518, 392))
        decoded = np.tile(np.eye(4), (50, 1, 1))
        decoded[:, :3] = camera_from_world[0].numpy()
        yield "poses decoded as by its own function", np.allclose(se3.inverse(poses), decoded, atol=1e-5)
        shift = np.zeros((3, 3))
        shift[:2, 2] = 0.5  # its pixels are counted from the edge, ours from the first centre
        yield (
            "K decoded as by its own function, from edge to centre",
            np.allclose(ours_intrinsics + shift, intrinsics[0].numpy(), rtol=1e-5),
        )

        size = (640, 480)
        frames = picture(1, size)
        seen = views.seen(frames, kind.grid_size(size), torch.device("cpu"))[0]
        loaded = theirs["load"](frames[0])
        yield "frames as large as its own loader makes them", seen.shape == loaded.shape
        # Antialiasing changes little here, but it does, where the repository has none.
        tolerance = AS_PILLOW if kind is not Vggt4Track else 0.1
        yield "frames as its own loader makes them", bool((seen - loaded).abs().max() < tolerance)

        model = ours.small().eval()
        yield from parts(kind, ours, model, views.seen(picture(2, size), kind.grid_size(size), torch.device("cpu")))
    finally:
        sys.path.remove(repo)


def parts(kind: type[ForeignReconstruction], ours: Any, model: Any, images: Any) -> Iterator[tuple[str, bool]]:
    """What is particular to a network."""
    import torch

    network = ours.Network(model, torch.device("cpu"))
    if kind is Vggt:
        whole = importlib.import_module("vggt.models.vggt").VGGT(embed_dim=64).state_dict()
        kept = {name for name in whole if not name.startswith((*ours.NOT_BUILT, "aggregator."))}
        yield (
            "of its weights, the heads that are not built are dropped and nothing else",
            kept == {name for name in model.state_dict() if not name.startswith("aggregator.")},
        )
    if kind is Vggt4Track:
        with torch.inference_mode():
            encoding, depth, confidence = network.forward(images)
            found = model(images)
        poses, _ = cameras_of(encoding.numpy(), (images.shape[-1], images.shape[-2]))
        yield "poses are those of its forward, world from camera", np.allclose(poses, found["poses_pred"][0].numpy(), atol=1e-4)
        yield "depth is that of its forward", torch.allclose(depth, found["points_map"][..., 2], rtol=1e-4)
        yield "confidence is that of its forward", torch.allclose(confidence, found["unc_metric"], atol=1e-5)


def _their_functions(kind: type[ForeignReconstruction]) -> dict[str, Any]:
    """ "decode": encoding (1, n, 9), (height, width) -> camera_from_world, K; "load": frame (H, W, 3) -> (1, 3, h, w)."""
    import torch

    if kind is Vggt4Track:
        package = "models.SpaTrackV2.models.vggt4track.utils"
        decode = importlib.import_module(f"{package}.pose_enc").pose_encoding_to_extri_intri
        preprocess = importlib.import_module(f"{package}.load_fn").preprocess_image
        return {"decode": decode, "load": lambda frame: preprocess(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255)}
    package = "vggt.utils" if kind is Vggt else "vggt_omega.utils"
    pose_enc = importlib.import_module(f"{package}.pose_enc")
    load_files = importlib.import_module(f"{package}.load_fn").load_and_preprocess_images

    def load(frame: np.ndarray) -> Any:
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            file.write(cv2.imencode(".png", frame[..., ::-1])[1].tobytes())
            file.flush()
            return load_files([file.name])

    return {"decode": pose_enc.pose_encoding_to_extri_intri if kind is Vggt else pose_enc.encoding_to_camera, "load": load}


def picture(count: int, size: tuple[int, int]) -> np.ndarray:
    """Frames (n, H, W, 3) with something to see, coarse and fine, and nowhere so bright or dark that resizing must cut it off."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(50, 206, (count, 9, 12, 3), dtype=np.uint8)
    frames = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in coarse]).astype(int)
    return (frames + rng.integers(-20, 21, frames.shape)).astype(np.uint8)
