"""Which network is trained: a preset, what Table 6 leaves out of it, and where pretrained weights are."""

from __future__ import annotations

from dataclasses import dataclass

from tracekit.parameters import parameter


@dataclass(frozen=True)
class NetworkOptions:
    """Changes to the network of a preset. How many steps and control points there are, the corpus decides."""

    bspline: bool = parameter(True, "Denoise control points; without, the future steps themselves (Table 6).")
    dino: bool = parameter(True, "Show each keypoint the picture's features at its place (Table 6).")
    depth: bool = parameter(True, "Show depth (Table 6).")
    history: bool = parameter(True, "Show where keypoints were before (Table 6).")
    train_vlm: bool = parameter(False, "Train the VLM, too; --vlm-rate says how fast.")
    vlm_weights: str = parameter("", "The pretrained VLM: a folder or a hub id; the preset's otherwise.")
    dino_weights: str = parameter("", "The pretrained DINOv2: a folder or a hub id; the preset's otherwise.")
    random_weights: bool = parameter(False, "Start the VLM and DINOv2 from random weights, and hash words: no hub is needed.")
