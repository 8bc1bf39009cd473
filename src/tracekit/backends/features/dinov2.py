"""DINOv2 patch features through timm: what the paper clusters into entities (paper 2.1, A.1)."""

from __future__ import annotations

from typing import ClassVar

from tracekit.backends.features.vit_features import VitFeatures, on_hub
from tracekit.backends.protocols import Facts


class DinoV2(VitFeatures):
    """DINOv2 of any size, with or without registers; 37 patches along the longer side of a frame."""

    name: ClassVar[str] = "dinov2"
    facts: ClassVar[Facts] = Facts(
        about="DINOv2 patch features (the paper's)",
        code="timm",
        code_licence="Apache-2.0",
        weights="timm/vit_base_patch14_dinov2.lvd142m; small, large, giant and _reg4 likewise",
        weights_licence="Apache-2.0",
    )
    published = on_hub("vit_base_patch14_dinov2.lvd142m")
    family = "dinov2"
