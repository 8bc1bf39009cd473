"""What makes one μ0 differ from another: sizes, inputs and the design choices of Table 6 (paper 3, B.1, B.2).

A configuration is plain data: it goes into a checkpoint's config.json as it is, and a network follows from it without a hub.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from tracekit.errors import BadDataError, ConfigurationError
from tracekit.geometry import bspline

LOCAL_FEATURES = ("dinov2", "stem", "none")
TOKENIZERS = ("hub", "words")

# Far beyond any network that is trained, and small enough that to look at such a network costs nothing.
_LARGEST_SIZE = 1_000_000
_MOST_STEPS = 10_000
_MOST_LAYERS = 1_000
_SIZES = ("image_size", "fourier_bands", "time_features", "dino_size", "stem_width", "max_text_tokens")
_STEPS = ("history", "horizon", "control_points", "history_group", "control_group")
_POSITIVE = ("depth_lora_alpha", "expert_width", "rope_base", "shortest_period", "longest_period")


@dataclass(frozen=True)
class Mu0Config:
    """One network. Letters as in the paper: h history, H horizon, D control points."""

    name: str
    vlm: dict[str, Any]
    """The configuration of transformers' SmolVLM, as `SmolVLMConfig.to_dict` gives it, with the layers that are kept."""
    image_size: int
    """Side of the square to which a frame is resized, in pixels."""

    history: int = 8
    horizon: int = 32
    control_points: int = 10
    basis: str = "bezier"
    use_bspline: bool = True
    """False: the H future steps themselves are denoised (w/o B-spline, Table 6)."""
    history_group: int = 8
    """g_time: history steps in a token."""
    control_group: int = 10
    """g_cp: control points in a token. Without splines all steps share one token."""

    use_history: bool = True
    use_depth: bool = True
    depth_lora_rank: int = 8
    depth_lora_alpha: float = 16.0

    expert_width: float = 0.5
    """Width of the trace expert over that of the VLM."""
    rope_base: float = 10_000.0
    fourier_bands: int = 8
    time_features: int = 256
    shortest_period: float = 4e-3
    longest_period: float = 4.0
    validity_bias: float = 3.0

    local_features: str = "dinov2"
    """What is sampled at each keypoint (Eq. 5): a frozen DINOv2, a small convolutional stem that is trained, or none."""
    dino: dict[str, Any] = field(default_factory=dict)
    """The configuration of transformers' Dinov2Model."""
    dino_size: int = 518
    stem_width: int = 64

    tokenizer: str = "hub"
    max_text_tokens: int = 48
    freeze_vlm: bool = True

    vlm_source: str = ""
    """Hub id or folder of the pretrained VLM (and its tokenizer); "": random weights."""
    dino_source: str = ""
    """Hub id or folder of the pretrained DINOv2; "": random weights."""

    @property
    def target_points(self) -> int:
        """Points per keypoint that are denoised: D, or H without splines."""
        return self.control_points if self.use_bspline else self.horizon

    @property
    def points_per_token(self) -> int:
        return self.control_group if self.use_bspline else self.horizon

    @property
    def history_tokens(self) -> int:
        """G_hist: 0 when history is not used."""
        return self.history // self.history_group if self.use_history else 0

    @property
    def target_tokens(self) -> int:
        """G_cp."""
        return self.target_points // self.points_per_token

    def check(self) -> None:
        """Raise ConfigurationError for a network that cannot be built."""
        for names, least, most in ((_SIZES, 1, _LARGEST_SIZE), (_STEPS, 1, _MOST_STEPS), (("depth_lora_rank",), 0, _LARGEST_SIZE)):
            for name in names:
                if not least <= getattr(self, name) <= most:
                    raise ConfigurationError(f"{name} is {getattr(self, name)}", hint=f"it must be from {least} to {most}")
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} is {getattr(self, name)}", hint="it must be a number greater than 0")
        if not math.isfinite(self.validity_bias):
            raise ConfigurationError(f"validity_bias is {self.validity_bias}", hint="it must be a number")
        if self.history % self.history_group:
            raise ConfigurationError(f"history is {self.history} steps, which tokens of {self.history_group} do not divide")
        if self.use_bspline:
            bspline.basis(self.control_points, self.horizon, self.basis)
            if self.control_points % self.control_group:
                raise ConfigurationError(f"{self.control_points} control points cannot be put into tokens of {self.control_group}")
        for what, value, choices in (
            ("local_features", self.local_features, LOCAL_FEATURES),
            ("tokenizer", self.tokenizer, TOKENIZERS),
        ):
            if value not in choices:
                raise ConfigurationError(f"{what} is {value!r}", hint=f"choose one of: {', '.join(choices)}")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def config_from_json(content: Any, where: str) -> Mu0Config:
    """The configuration in a checkpoint. Raises BadDataError naming unknown, missing or mistyped fields, and values that make no network."""
    if not isinstance(content, dict):
        raise BadDataError(f"{where} holds no configuration of a model")
    fields = {entry.name: entry for entry in dataclasses.fields(Mu0Config)}
    unknown = sorted(set(content) - set(fields))
    missing = [
        name
        for name, entry in fields.items()
        if name not in content and entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    ]
    if unknown or missing:
        raise BadDataError(
            f"{where}: " + "; ".join([*(f"unknown field {name}" for name in unknown), *(f"no field {name}" for name in missing)])
        )
    kinds: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "dict[str, Any]": dict}
    for name, value in content.items():
        kind = kinds[str(fields[name].type)]
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise BadDataError(f"{where}: {name} is {value!r}, but {fields[name].type} is expected")
    config = Mu0Config(**content)
    try:
        config.check()
    except ConfigurationError as error:  # not the user's: the file came like that
        raise BadDataError(f"{where}: {error.message}", hint=error.hint) from None
    _check_parts(config, where)
    return config


def _check_parts(config: Mu0Config, where: str) -> None:
    """What transformers does not look at before it builds a network: number of layers, programs to be fetched, the words' vocabulary."""
    parts = {"vlm": config.vlm, "dino": config.dino}
    for name in ("text_config", "vision_config"):
        parts[f"vlm.{name}"] = config.vlm.get(name, {})
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise BadDataError(f"{where}: {name} is {part!r}, but a dict is expected")
        if not _is_count(part.get("num_hidden_layers", 1), _MOST_LAYERS):
            raise BadDataError(f"{where}: {name} has {part['num_hidden_layers']!r} layers, but 1 to {_MOST_LAYERS} are expected")
        # Such a name may be a hub id, of which transformers runs the program.
        named = [key for key, value in part.items() if key.endswith("_implementation") and value is not None]
        if named:
            raise BadDataError(f"{where}: {name} chooses {named[0]}, which is for who uses the network to choose")
    vocabulary = parts["vlm.text_config"].get("vocab_size")
    if config.tokenizer == "words" and not _is_count(vocabulary, 1 << 31, least=3):
        raise BadDataError(f"{where}: vocab_size of vlm.text_config is {vocabulary!r}, but a number from 3 on is expected")


def _is_count(value: Any, most: int, *, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
