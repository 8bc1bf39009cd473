"""Backends whose answers are kept in a journal, so that a run that was killed goes on in the middle of a clip.

Only for backends that are `stateless`: an answer then follows from what was asked, and a run that takes some of its answers from the
journal ends as the undisturbed one does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tracekit.backends.memory import is_out_of_memory
from tracekit.backends.protocols import LocalGeometry
from tracekit.format.journal import Journal


class _Journalled:
    """Everything but its answers is the backend's own."""

    def __init__(self, backend: Any, journal: Journal) -> None:
        self._backend, self._journal = backend, journal
        self._num_calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def _answer(self, names: set[str], asked: list[np.ndarray], ask: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What is in the journal under at least these names, or else what `ask` says.

        `asked` tells one call from another. Pictures need not be in it: the journal's key says which they are.
        """
        number, digest = self._num_calls, _digest(asked)
        self._num_calls += 1
        answer = self._journal.read(number, digest)
        if answer is None or not names <= set(answer):
            try:
                answer = ask()
            except (MemoryError, RuntimeError) as error:
                if is_out_of_memory(error):
                    self._journal.refuse(number, digest)
                raise
            self._journal.keep(number, digest, answer)
        return answer


class JournalledReconstruction(_Journalled):
    """A `ReconstructionBackend`."""

    def reconstruct(self, frames: np.ndarray, frame_indices: np.ndarray, depth: np.ndarray | None) -> LocalGeometry:
        """See the protocol."""

        def ask() -> dict[str, np.ndarray]:
            local = self._backend.reconstruct(frames, frame_indices, depth)
            return {name: np.asarray(value) for name, value in vars(local).items() if value is not None}

        names = {"intrinsics", "world_from_camera", "confidence"}
        answer = self._answer(names, [frame_indices, _shape(frames), _shape(depth)], ask)
        return LocalGeometry(answer["intrinsics"], answer["world_from_camera"], answer["confidence"], answer.get("depth"))


class JournalledTracking(_Journalled):
    """A `TrackingBackend`."""

    def track(
        self,
        frames: np.ndarray,
        depth: np.ndarray | None,
        intrinsics: np.ndarray,
        world_from_camera: np.ndarray,
        queries_world: np.ndarray,
        query_frames: np.ndarray,
        identities: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See the protocol."""

        def ask() -> dict[str, np.ndarray]:
            xyz_world, visible = self._backend.track(frames, depth, intrinsics, world_from_camera, queries_world, query_frames, identities)
            return {"xyz_world": np.asarray(xyz_world), "visible": np.asarray(visible)}

        asked = [_shape(frames), _shape(depth), intrinsics, world_from_camera, queries_world, query_frames, identities]
        answer = self._answer({"xyz_world", "visible"}, asked, ask)
        return answer["xyz_world"], answer["visible"]


JOURNALLED = {"reconstruction": JournalledReconstruction, "tracking": JournalledTracking}
"""By kind of backend."""


def _shape(array: np.ndarray | None) -> np.ndarray:
    return np.array(() if array is None else array.shape)


def _digest(arrays: list[np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
