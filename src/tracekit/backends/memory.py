"""Running out of memory, on whichever device."""

from __future__ import annotations

import gc
import sys

from tracekit.backends.foreign.out_of_memory import is_out_of_memory

__all__ = ["free_memory", "is_out_of_memory"]


def free_memory() -> None:
    """Give back what a call that ran out of memory has left behind, so that a smaller one can have it. Call it outside of `except`: the
    error holds on to everything that the call held."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
