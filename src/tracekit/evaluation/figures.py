"""How a figure of an evaluation is declared: once, with its label and unit, as a field that is None where it cannot be told."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


def figure(label: str, unit: str = "") -> Any:
    """Declare one figure of a record of figures. Its default is None: not known."""
    return dataclasses.field(default=None, metadata={"label": label, "unit": unit})


def labelled(record: Any) -> list[tuple[str, Any, str]]:
    """(label, value, unit) of every figure of a record, in order."""
    return [
        (field.metadata["label"], getattr(record, field.name), field.metadata["unit"])
        for field in dataclasses.fields(record)
        if "label" in field.metadata
    ]


def ratio(part: float, whole: float) -> float | None:
    """part / whole; None of nothing."""
    return float(part) / float(whole) if whole else None


def quantile(values: np.ndarray, share: float) -> float | None:
    """Quantile of finite `values`, interpolated linearly; None of none."""
    return float(np.quantile(values, share)) if values.size else None


def root_mean_square(values: np.ndarray) -> float | None:
    """None of none."""
    return math.sqrt(float(np.mean(np.square(values)))) if values.size else None
