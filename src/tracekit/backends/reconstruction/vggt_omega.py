"""Reconstruction `vggt-omega`: VGGT-Ω (Wang et al. 2026), the successor of VGGT."""

from __future__ import annotations

import math
from typing import ClassVar

from tracekit.backends.checkouts import Repository
from tracekit.backends.protocols import Facts
from tracekit.backends.reconstruction.foreign_reconstruction import ForeignReconstruction
from tracekit.backends.weights import Published

PATCH = 16
PATCHES = (512 // PATCH) ** 2
"""Patches of one frame: as many as a square of 512 px has, which its weights were trained for."""


class VggtOmega(ForeignReconstruction):
    """Cameras and depth at a scale that differs from call to call. Depth is kept for all pixels, as by `vggt`."""

    name: ClassVar[str] = "vggt-omega"
    facts: ClassVar[Facts] = Facts(
        about="cameras and depth of all frames in one pass, at a scale of its own; less memory than vggt",
        code="https://github.com/facebookresearch/vggt-omega",
        code_licence="FAIR Noncommercial Research License v1",
        weights="facebook/VGGT-Omega",
        weights_licence="FAIR Noncommercial Research License v1; access on request",
        commercial="no",
    )
    repository: ClassVar[Repository] = Repository(
        "vggt-omega", "https://github.com/facebookresearch/vggt-omega", "vggt_omega/models/vggt_omega.py", "vggt_omega", ("torch", "numpy")
    )
    published: ClassVar[Published] = Published("facebook/VGGT-Omega", ("vggt_omega_1b_512.pt",))
    network: ClassVar[str] = "vggt_omega_network"

    @staticmethod
    def grid_size(size: tuple[int, int]) -> tuple[int, int]:
        """Its "balanced" rule: about 1024 patches in the shape of the frame (load_fn.py). Frames longer than 2:1, which it would crop, are not."""
        width, height = size
        across = math.sqrt(PATCHES * width / height)
        return max(1, round(across)) * PATCH, max(1, round(PATCHES / across)) * PATCH
