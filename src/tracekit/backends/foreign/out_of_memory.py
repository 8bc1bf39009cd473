"""Running out of memory, on whichever device. Needs nothing: both sides of a worker ask."""

from __future__ import annotations

# What torch says where it has no error class of its own: on the CPU, on Apple's GPUs, and from CUDA itself and its libraries.
_SAID = ("out of memory", "allocate memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller request may succeed. torch's own error is known by its name, because torch need not be imported for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)
