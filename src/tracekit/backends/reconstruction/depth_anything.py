"""Depth Anything V2, metric, through transformers (Yang et al., "Depth Anything V2", 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tracekit.backends.protocols import Facts
from tracekit.backends.reconstruction.depth_network import CONFIG, PREPROCESSOR, WEIGHTS
from tracekit.backends.reconstruction.monocular_depth import MonocularDepth
from tracekit.backends.weights import Published
from tracekit.errors import BadDataError

METRIC = "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"


class DepthAnything(MonocularDepth):
    """Metric depth up to the checkpoint's greatest (20 m indoors, 80 m outdoors). It tells nothing of the camera.

    Only metric checkpoints are taken: a relative one gives disparity up to an unknown scale and shift, different in every frame.
    """

    name: ClassVar[str] = "depth-anything"
    facts: ClassVar[Facts] = Facts(
        about="metric depth from single frames, Depth Anything V2",
        code="transformers",
        code_licence="Apache-2.0",
        weights=f"{METRIC}; -Base-, -Large- and -Outdoor- likewise",
        weights_licence="Apache-2.0 (Small); CC-BY-NC-4.0 (Base, Large)",
        commercial="by weights",
    )
    published = Published(METRIC, files=(WEIGHTS,), beside=(CONFIG, PREPROCESSOR))
    model_type = "depth_anything"
    frames_at_once = 8

    @classmethod
    def _not_metric(cls, config: dict[str, Any], folder: Path) -> str | None:
        if config.get("depth_estimation_type") == "metric":
            return None
        return f"{folder} tells relative depth, whose scale is unknown in every frame: take a metric checkpoint, for example --weights {METRIC}"

    def _read(self, outputs: Any, pixels: Any) -> tuple[Any, Any]:
        depth = outputs.predicted_depth
        if depth.shape[1:] != pixels.shape[2:]:
            # The last rows or columns would be left out, and the rest be taken for the whole frame.
            raise BadDataError(
                f"{self.weights.parent / PREPROCESSOR}: it makes pictures of {pixels.shape[3]} x {pixels.shape[2]} pixels, which are no whole patches",
                hint="set ensure_multiple_of to the side of a patch",
            )
        return depth, depth.new_full((len(depth),), float("nan"))
