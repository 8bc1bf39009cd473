"""Reconstruction `vggt`: VGGT (Wang et al. 2025), the paper's choice for cameras and depth (A.3)."""

from __future__ import annotations

from typing import ClassVar

from tracekit.backends.checkouts import Repository
from tracekit.backends.protocols import Facts
from tracekit.backends.reconstruction.foreign_reconstruction import ForeignReconstruction, whole_patches
from tracekit.backends.weights import Published

LONGEST_SIDE = 518
PATCH = 14


class Vggt(ForeignReconstruction):
    """Cameras and depth at a scale that differs from call to call. Depth is kept for all pixels: what its confidence is worth differs from
    scene to scene (its own viewers drop a share of the least certain pixels, however certain those are)."""

    name: ClassVar[str] = "vggt"
    facts: ClassVar[Facts] = Facts(
        about="cameras and depth of all frames in one pass, at a scale of its own (the paper's)",
        code="https://github.com/facebookresearch/vggt",
        code_licence="VGGT License v1 (commercial use allowed, military use not)",
        weights="facebook/VGGT-1B",
        weights_licence="VGGT-1B non-commercial; --weights facebook/VGGT-1B-Commercial (on application) VGGT License",
        commercial="by weights",
    )
    repository: ClassVar[Repository] = Repository(
        "vggt", "https://github.com/facebookresearch/vggt", "vggt/models/vggt.py", "vggt", ("torch", "numpy", "einops", "huggingface_hub")
    )
    published: ClassVar[Published] = Published("facebook/VGGT-1B", ("model.safetensors", "model.pt", "vggt_1B_commercial.pt"))
    network: ClassVar[str] = "vggt_network"

    @staticmethod
    def grid_size(size: tuple[int, int]) -> tuple[int, int]:
        """The longer side is 518, as in its training, and both sides are whole patches of 14."""
        return whole_patches(size, LONGEST_SIDE, PATCH)
