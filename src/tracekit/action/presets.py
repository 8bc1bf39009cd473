"""The action experts that have names (paper B.4, E.2; docs/action.md has their cards)."""

from __future__ import annotations

from typing import Any

_GEMMA: dict[str, Any] = {"width": 1024, "heads": 8, "key_value_heads": 1, "head_width": 256, "inner": 4096, "fusion_heads": 16}
_SMALL: dict[str, Any] = {"key_value_heads": 1, "head_width": 32, "grid": 10, "grid_pool": 1, "gripper_features": "stem", "gripper_pool": 4}

# Sizes are counted as π0.5's are: layers without what the flow time adds to them. "300m" is π0.5's own action expert.
HEADS: dict[str, dict[str, Any]] = {
    "200m": {**_GEMMA, "layers": 12},
    "300m": {**_GEMMA, "layers": 18},
    "400m": {**_GEMMA, "layers": 23},
    # For a CPU, on μ0's preset of that name: its gripper camera has a stem of its own.
    "nano": {**_SMALL, "width": 192, "layers": 4, "heads": 6, "inner": 512, "stem_width": 128},
    "pico": {**_SMALL, "width": 128, "layers": 2, "heads": 4, "inner": 256, "stem_width": 64},
    # The baseline without a world model, about as large as nano.
    "diffusion-nano": {
        **_SMALL,
        "width": 192,
        "layers": 4,
        "heads": 6,
        "inner": 512,
        "stem_width": 128,
        "method": "diffusion",
        "use_trace": False,
    },
}
