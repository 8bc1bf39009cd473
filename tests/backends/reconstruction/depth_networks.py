"""Small depth networks of transformers: the real classes with random weights, in folders as on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def backbone(**changes) -> dict:
    return {"model_type": "dinov2", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2} | changes


def depth_anything(folder: Path, *, size: int = 518, constant: float | None = None, depth_type: str = "metric", layers: int = 4) -> Path:
    """Up to 20 m. `constant`: weights that tell this depth everywhere."""
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DepthAnythingConfig(
        backbone_config=backbone(
            image_size=28, patch_size=14, num_hidden_layers=layers, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
        ),
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type=depth_type,
        max_depth=20,
    )
    model = DepthAnythingForDepthEstimation(config)
    livelier(model)
    if constant is not None:
        last = model.head.conv3
        with torch.no_grad():
            last.weight.zero_()
            last.bias.fill_(float(np.log(constant / (20 - constant))))
    model.save_pretrained(folder)
    # As published: 518 pixels on the side that needs the smaller change, whole patches, the shape kept to about one of them.
    DPTImageProcessor(
        size={"height": size, "width": size},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder


def depth_pro(folder: Path, *, constant: float | None = None, field_of_view: float | None = None, with_fov: bool = True) -> Path:
    """128 x 128 pixels. `constant`: weights that tell this inverse depth, of a focal length of one width, everywhere; `field_of_view`: this angle."""
    import torch
    from transformers import DepthProConfig, DepthProForDepthEstimation, DepthProImageProcessor

    torch.manual_seed(0)
    part = backbone(image_size=32, patch_size=8)
    config = DepthProConfig(
        patch_size=32,
        fusion_hidden_size=8,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_feature_dims=[8, 8, 8],
        image_model_config=dict(part),
        patch_model_config=dict(part),
        fov_model_config=dict(part),
        use_fov_model=with_fov,
    )
    model = DepthProForDepthEstimation(config)
    livelier(model)
    with torch.no_grad():
        told = model.head.layers[4]
        told.bias.fill_(1e3)  # below 0 the last ReLU would hide it
        spread, middle = torch.std_mean(model.eval()(torch.randn(1, 3, 128, 128)).predicted_depth)
        told.weight.mul_(0.0 if constant is not None else 0.05 / spread)
        told.bias.fill_(constant if constant is not None else 0.5 - 0.05 * float((middle - 1e3) / spread))
        if with_fov:
            last = model.fov_model.head.layers[-1]
            last.weight.zero_() if field_of_view is not None else None
            last.bias.fill_(50.0 if field_of_view is None else field_of_view)
    model.save_pretrained(folder)
    DepthProImageProcessor(size={"height": 128, "width": 128}).save_pretrained(folder)
    return folder


def livelier(model) -> None:
    """Random networks are nearly flat: larger weights make every part of them show."""
    import torch

    with torch.no_grad():
        for value in model.parameters():
            value += 0.08 * torch.randn_like(value)


def reconfigure(folder: Path, **changes) -> None:
    """Change entries of the configuration beside the weights."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
