"""What Python packages a backend needs, without importing them."""

from __future__ import annotations

import importlib.util


def missing_package(*names: str) -> str | None:
    """None where all are installed; else the first that is not, and how to get it, in one sentence."""
    missing = next((name for name in names if importlib.util.find_spec(name) is None), None)
    return f"the package {missing} is not installed: pip install {missing}" if missing else None
