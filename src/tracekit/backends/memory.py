"""Running out of memory, on whichever device."""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller request may succeed. torch's own error is known by its name, because torch need not be imported for it."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
