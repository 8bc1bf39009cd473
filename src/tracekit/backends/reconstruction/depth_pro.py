"""Depth Pro through transformers (Bochkovskii et al., "Depth Pro: Sharp Monocular Metric Depth in Less Than a Second", 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tracekit.backends.protocols import Facts
from tracekit.backends.reconstruction.depth_network import CONFIG, PREPROCESSOR, WEIGHTS
from tracekit.backends.reconstruction.monocular_depth import MonocularDepth
from tracekit.backends.weights import Published

NEAREST, FARTHEST = 1e-4, 1e4
"""Metres, the bounds that its authors set: what the network holds to be infinitely far must be somewhere."""


class DepthPro(MonocularDepth):
    """Metric depth and the focal length, from a picture of 1536 x 1536 whatever the frame's size and shape.

    The network tells inverse depth for a camera whose focal length is the width of its picture, so that depth is proportional to the focal
    length: one focal length for the clip keeps the scale from changing with every frame's guess of it, and a recording's calibration is used.
    """

    name: ClassVar[str] = "depth-pro"
    facts: ClassVar[Facts] = Facts(
        about="sharp metric depth and focal length from single frames, Depth Pro",
        code="transformers",
        code_licence="Apache-2.0",
        weights="apple/DepthPro-hf",
        weights_licence="apple-amlr (research only)",
        commercial="no",
    )
    published = Published("apple/DepthPro-hf", files=(WEIGHTS,), beside=(CONFIG, PREPROCESSOR))
    model_type = "depth_pro"
    frames_at_once = 2

    @property
    def _tells_field_of_view(self) -> bool:
        return bool(self.model.use_fov_model)

    def _read(self, outputs: Any, pixels: Any) -> tuple[Any, Any]:
        inverse = outputs.predicted_depth.float()
        field_of_view = outputs.field_of_view
        return 1.0 / inverse, inverse.new_full((len(inverse),), float("nan")) if field_of_view is None else field_of_view

    def _in_metres(self, told: np.ndarray, intrinsics: np.ndarray, width: int) -> np.ndarray:
        metres: np.ndarray = np.clip(told * np.float32(intrinsics[0, 0] / width), NEAREST, FARTHEST)
        return metres
