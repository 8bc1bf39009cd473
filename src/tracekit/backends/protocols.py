"""The four kinds of backend. A backend is one small class; the algorithms around it live in `tracekit.extract`.

All cameras use OpenCV axes (x right, y down, z forward) and are given as `world_from_camera`. Pixels are those of the
frames that are passed in, with the centre of the top-left pixel at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from tracekit.records import Episode, Frames

SOONER = 0.9
"""Part of its patience after which a backend gives up, so that a batch with the same patience hears why before it does."""


@dataclass(frozen=True)
class BackendSetup:
    """What every backend is constructed with: `Backend(setup)`."""

    device: str = "cpu"
    seed: int = 0
    weights: str | None = None
    """A local path, or the id of a hub repository; None takes the backend's own default."""
    download: bool = False
    """Whether weights may be fetched from a hub."""
    repo: str | None = None
    """Checkout of the repository that a backend runs; None looks among `TRACEKIT_CHECKOUTS` and the installed packages."""
    patience: float = 600.0
    """Seconds after which a network that runs in a process of its own, or a server, counts as hanging: nearly, see SOONER."""
    parameters: Any = None
    """The parameters of the stage, for what only some backends need to know; None takes their defaults."""


Commercial = Literal["yes", "no", "by weights", "by server"]


@dataclass(frozen=True)
class Facts:
    """What a user should know of a backend before running it: `tracekit info --backends` shows it."""

    about: str
    """What it is, in a few words."""
    code: str
    """Where its code comes from: a package, or the address of a repository."""
    code_licence: str
    weights: str = "none"
    """Where its weights are published."""
    weights_licence: str = ""
    commercial: Commercial = "yes"
    """Whether code and weights may both be used commercially; "by weights": some of those that it takes, and others not;
    "by server": the terms of the server that it asks decide."""


class Backend(Protocol):
    """What the registry needs of a backend of any kind. Arrays that a backend has returned are no longer its own: they are written to files
    while it is at work on the next.

    Optional, with what holds where a class does not say:

    - `facts: ClassVar[Facts]`; with `repository: ClassVar[checkouts.Repository]` and `published: ClassVar[weights.Published]`,
      `tracekit info --backends` says where its code and weights are on this machine;
    - `automatic: ClassVar[bool] = True`, whether `auto` may take it;
    - `needs_measured_depth: ClassVar[bool] = False`, whether it is of use only where a recording brings depth;
    - `stateless: ClassVar[bool] = False`, whether every call answers for itself, so that a run that was killed can go on in the middle;
    - `close(self)`, which frees the memory of its device.
    """

    name: ClassVar[str]

    def __init__(self, setup: BackendSetup) -> None: ...

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        """None when the backend can run here; otherwise what is missing and how to get it, in one sentence. Cheap: no weights are loaded."""
        ...

    def weights_sha256(self) -> str:
        """Digest of the weights in use, for provenance; "" when there are none."""
        ...


@dataclass(frozen=True)
class PatchFeatures:
    """Descriptors on a regular grid that covers the frame: cell (i, j) of gh x gw is centred at ((j + 0.5) W/gw - 0.5, (i + 0.5) H/gh - 0.5)."""

    features: np.ndarray
    """(n, gh, gw, F) float32; not normalised."""


class FeaturesBackend(Backend, Protocol):
    """Describes patches of frames."""

    def describe(self, frames: np.ndarray) -> PatchFeatures:
        """`frames` (n, H, W, 3) uint8 RGB."""
        ...


@dataclass(frozen=True)
class LocalGeometry:
    """Cameras and depth of n frames, in a frame of reference and at a scale that hold for this call only."""

    intrinsics: np.ndarray
    """(n, 3, 3) float64, pixels of the frames passed in."""
    world_from_camera: np.ndarray
    """(n, 4, 4) float64."""
    confidence: np.ndarray
    """(n,) float32 in [0, 1]."""
    depth: np.ndarray | None
    """(n, h, w) float32, 0 where unknown; None when the backend claims no depth."""


class ReconstructionBackend(Backend, Protocol):
    """Recovers cameras and depth from frames. Called once for the anchors and once per chunk."""

    metric: bool
    """Lengths are metres. Where a network's own scale still varies from call to call, `scale_varies: bool = True` beside it has chunks
    brought to the anchors' scale, as it always happens where lengths are not metres."""

    def reconstruct(self, frames: np.ndarray, frame_indices: np.ndarray, depth: np.ndarray | None) -> LocalGeometry:
        """`frames` (n, H, W, 3) uint8 RGB in order of time, `frame_indices` (n,) their place in the clip, `depth` (n, h, w) measured depth or None."""
        ...


class TrackingBackend(Backend, Protocol):
    """Follows points through one run of frames. `identities` never change, so a tracker may remember a point's looks between calls."""

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
        """Track forwards and backwards from each query.

        frames (n, H, W, 3) uint8; depth (n, h, w) float32 with 0 = unknown, or None when all points lie on z = 1 of their camera;
        intrinsics (3, 3); world_from_camera (n, 4, 4); queries_world (Q, 3); query_frames (Q,) into the n frames; identities (Q,).
        Returns xyz_world (n, Q, 3) float32, NaN where not known, and visible (n, Q) bool.

        Called in order of time, for each chunk at most twice: for the points that are tracked already, then for new ones.
        Chunks overlap by one frame, in which points that are alive are queried.
        """
        ...


@dataclass(frozen=True)
class EventRequest:
    """What a captioner may look at: one event of an episode."""

    episode: Episode
    frames: Frames | None
    start: int
    stop: int
    task: str
    """Description of the whole episode, "" when there is none. It is data: never an instruction to a model."""


@dataclass(frozen=True)
class EventCaption:
    """A structured caption (paper A.5)."""

    before: str
    interaction: str
    after: str
    text: str
    paraphrases: Sequence[str] = ()


class CaptioningBackend(Backend, Protocol):
    """Says what happens. Raises ValueError when the model's answer is unusable: it is recorded as failed, never invented.

    Optional, for one that need not be asked one question after the other:

    - `at_once: int = 1`, how many questions it may be asked at the same time, each in a thread of its own; or
    - `describe_each(self, requests: Sequence[EventRequest]) -> Iterator[EventCaption | ValueError]`, which is asked instead of `describe` and
      looks at as many neighbours together as it likes: the answers in order as they come, in place of each unusable one the ValueError
      that `describe` would raise. Those are asked for again together; and
    - `merge_each(self, runs: Sequence[Sequence[str]]) -> Iterator[str | ValueError]`, the same of `merge`.
    """

    looks_at_frames: ClassVar[bool]
    """Whether the video must be there."""

    def describe(self, request: EventRequest) -> EventCaption: ...

    def merge(self, texts: Sequence[str]) -> str:
        """One sentence for a run of adjacent events."""
        ...
