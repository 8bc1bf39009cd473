"""Patch features of any plain vision transformer of timm, by its name or from its folder."""

from __future__ import annotations

from typing import ClassVar

from tracekit.backends.features.vit_features import VitFeatures, on_hub
from tracekit.backends.protocols import BackendSetup, Facts


class TimmFeatures(VitFeatures):
    """CLIP, SigLIP, EVA-02, MAE, DeiT, ...: what timm has as VisionTransformer or Eva, with patches of any size.

    Pictures are normalised as the network's configuration says. Learned embeddings of positions are resampled to the grid of patches, which is
    finer than the one they were trained for where that was 224 px.
    """

    name: ClassVar[str] = "timm"
    automatic: ClassVar[bool] = False
    facts: ClassVar[Facts] = Facts(
        about="patch features of any vision transformer of timm (--weights NAME)",
        code="timm",
        code_licence="Apache-2.0",
        weights="timm/NAME",
        weights_licence="each model's own: see its page on the hub",
        commercial="by weights",
    )
    published = on_hub("NAME")

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        if setup.weights is None:
            return "it needs the name of a model: --weights vit_base_patch16_siglip_512.v2_webli, for example, or a folder"
        return super().missing(setup)
