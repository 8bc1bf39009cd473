"""Reconstruction `vggt4track`: the front end of SpatialTrackerV2 (Xiao et al. 2025), what the authors' release runs instead of VGGT."""

from __future__ import annotations

from typing import ClassVar

from tracekit.backends.checkouts import Repository
from tracekit.backends.protocols import Facts
from tracekit.backends.reconstruction.foreign_reconstruction import ForeignReconstruction, whole_patches
from tracekit.backends.weights import Published

LONGEST_SIDE = 518
PATCH = 14


class Vggt4Track(ForeignReconstruction):
    """Cameras and depth; pixels whose confidence is 0.5 or less have no depth, as in its inference.py.

    Not metric, although its code calls its depth so: its loss (vggt4track/utils/loss.py) divides the true depth and cameras of every clip by
    a scale that is fitted to the prediction. The release trusts that scale from chunk to chunk; here chunks are brought to that of the anchors.
    """

    name: ClassVar[str] = "vggt4track"
    facts: ClassVar[Facts] = Facts(
        about="cameras and depth by VGGT trained further on moving scenes, at a scale of its own (the release's)",
        code="https://github.com/henry123-boy/SpaTrackerV2",
        code_licence="CC-BY-NC-4.0",
        weights="Yuxihenry/SpatialTrackerV2_Front",
        weights_licence="CC-BY-NC-4.0 (its repository's)",
        commercial="no",
    )
    repository: ClassVar[Repository] = Repository(
        "SpaTrackerV2",
        "https://github.com/henry123-boy/SpaTrackerV2",
        "models/SpaTrackV2/models/vggt4track/models/vggt_moe.py",
        needs=("torch", "torchvision", "numpy", "scipy", "PIL", "einops", "huggingface_hub"),
    )
    published: ClassVar[Published] = Published("Yuxihenry/SpatialTrackerV2_Front", ("model.safetensors", "pytorch_model.bin"))
    network: ClassVar[str] = "vggt4track_network"

    @staticmethod
    def grid_size(size: tuple[int, int]) -> tuple[int, int]:
        """As its preprocess_image makes of landscape and square frames: 518 wide, in whole patches. Of a portrait frame that would cut off the
        top and the bottom; the longer side is made 518 instead."""
        return whole_patches(size, LONGEST_SIDE, PATCH)
