"""What each backend is, whether it can run on this machine, and what it would run: nothing is computed and no weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracekit.backends import registry
from tracekit.backends.checkouts import Checkout, find_checkout
from tracekit.backends.protocols import BackendSetup, Facts
from tracekit.backends.weights import find_weights
from tracekit.errors import UnavailableError


@dataclass(frozen=True)
class Entry:
    """One backend on this machine."""

    kind: str
    name: str
    missing: str | None
    """Why it cannot run here and what to do about it; None where it can."""
    package: str = ""
    """The package that adds it; "" for one of ours."""
    facts: Facts | None = None
    """None where it does not say."""
    automatic: bool = True
    """Whether `auto` may take it."""
    needs_measured_depth: bool = False
    """Whether it is of use only where a recording brings depth."""
    checkout: Checkout | None = None
    """What would run a repository; None where it needs none, or it is not here."""
    weights: Path | None = None
    """The file of weights that is here."""

    @property
    def num_bytes_of_weights(self) -> int | None:
        """Size of the file of weights, None where there is none here."""
        return self.weights.stat().st_size if self.weights is not None else None


def take_inventory(setup: BackendSetup) -> dict[str, list[Entry]]:
    """All backends by kind, best first, those of other packages last. One that is broken is listed with what is wrong."""
    return {kind: [_entry(kind, name, setup) for name in registry.names(kind)] for kind in registry.BUILT_IN}


def choice_of_auto(entries: Sequence[Entry]) -> list[str]:
    """What `auto` would take of one kind: the first is taken where it applies, so that one which needs measured depth is followed by another."""
    choice = []
    for entry in entries:
        if entry.missing is None and entry.automatic:
            choice.append(entry.name)
            if not entry.needs_measured_depth:
                break
    return choice


def _entry(kind: str, name: str, setup: BackendSetup) -> Entry:
    package = registry.package_of(kind, name)
    try:
        backend = registry.load(kind, name)
    except UnavailableError as error:
        return Entry(kind, name, error.message, package, automatic=False)
    repository, published = getattr(backend, "repository", None), getattr(backend, "published", None)
    try:
        missing = backend.missing(setup)
    except Exception as error:
        if not package:  # a bug of ours must be seen
            raise
        missing = f"it cannot say whether it can run here: {type(error).__name__}: {error}"
    return Entry(
        kind,
        name,
        missing,
        package,
        facts=getattr(backend, "facts", None),
        automatic=getattr(backend, "automatic", True),
        needs_measured_depth=getattr(backend, "needs_measured_depth", False),
        checkout=find_checkout(repository, setup) if repository is not None else None,
        weights=find_weights(setup, published) if published is not None else None,
    )
