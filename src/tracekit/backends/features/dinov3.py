"""DINOv3 patch features through timm (Siméoni et al., "DINOv3", 2025)."""

from __future__ import annotations

from typing import ClassVar

from tracekit.backends.features.vit_features import VitFeatures, on_hub
from tracekit.backends.protocols import Facts


class DinoV3(VitFeatures):
    """DINOv3 of any size; 32 patches along the longer side of a frame.

    timm has its vision transformers in its class Eva: positions are rotary, in coordinates from -1 to 1 across the picture whatever its size;
    a class token and four registers come before the patches and are left out.
    """

    name: ClassVar[str] = "dinov3"
    facts: ClassVar[Facts] = Facts(
        about="DINOv3 patch features",
        code="timm",
        code_licence="Apache-2.0",
        weights="timm/vit_base_patch16_dinov3.lvd1689m; small, large, huge_plus and 7b likewise",
        weights_licence="DINOv3 License, with conditions of its own",
        commercial="by weights",
    )
    published = on_hub("vit_base_patch16_dinov3.lvd1689m")
    family = "dinov3"
