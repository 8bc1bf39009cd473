"""Backends by name: ours, and those that other packages add by the entry-point group `tracekit.backends`.

An entry point is named KIND.NAME, for example `tracking.mytracker = "mypackage.tracekit:MyTracker"`.
"""

from __future__ import annotations

import importlib
from typing import Any

from tracekit import plugins
from tracekit.backends.protocols import BackendSetup, Facts
from tracekit.errors import UnavailableError, UsageError
from tracekit.report import Report

# By kind, best first: `auto` takes the first that can run here.
BUILT_IN: dict[str, dict[str, str]] = {
    "features": {
        "dinov2": "tracekit.backends.features.dinov2:DinoV2",
        "dinov3": "tracekit.backends.features.dinov3:DinoV3",
        "timm": "tracekit.backends.features.timm_features:TimmFeatures",
        "lowlevel": "tracekit.backends.features.lowlevel:Lowlevel",
    },
    "reconstruction": {
        "sensor": "tracekit.backends.reconstruction.sensor:SensorBackend",
        "vggt": "tracekit.backends.reconstruction.vggt:Vggt",
        "vggt-omega": "tracekit.backends.reconstruction.vggt_omega:VggtOmega",
        "vggt4track": "tracekit.backends.reconstruction.vggt4track:Vggt4Track",
        "depth-pro": "tracekit.backends.reconstruction.depth_pro:DepthPro",
        "depth-anything": "tracekit.backends.reconstruction.depth_anything:DepthAnything",
        "planar": "tracekit.backends.reconstruction.planar:PlanarBackend",
    },
    "tracking": {
        "tapip3d": "tracekit.backends.tracking.tapip3d:Tapip3d",
        "spatracker2": "tracekit.backends.tracking.spatracker2:SpatialTracker2",
        "cotracker3": "tracekit.backends.tracking.cotracker3:CoTracker3",
        "klt": "tracekit.backends.tracking.klt:KLT",
    },
    "captioning": {
        "smolvlm": "tracekit.backends.captioning.smolvlm:SmolVLM",
        "api": "tracekit.backends.captioning.api_captions:ApiCaptions",
        "template": "tracekit.backends.captioning.template:Template",
    },
}
# What `--preset paper` takes: what the paper runs (2.1, A.3, A.4). It names no captioner (A.5): SmolVLM2 is the network that sees for μ0 (3.1).
PAPERS_CHOICE = {"features": "dinov2", "reconstruction": "vggt", "tracking": "tapip3d", "captioning": "smolvlm"}
# What `--preset release` takes: what the authors' code runs.
RELEASES_CHOICE = {"features": "dinov2", "reconstruction": "vggt4track", "tracking": "tapip3d", "captioning": "api"}
_ENTRY_POINTS = "tracekit.backends"
_MAY_BE_USED = {
    "no": "is not for commercial use",
    "by weights": "may be used commercially with some weights, with others not",
    "by server": "may be used commercially where the server's terms allow it",
}


def names(kind: str) -> list[str]:
    """Names of all backends of a kind, best first, those of other packages last."""
    return list(dict.fromkeys([*BUILT_IN[kind], *_added(kind)]))


def load(kind: str, name: str) -> Any:
    """The class of a backend. Raises UsageError for an unknown name, listing the known ones; UnavailableError for one of another package
    that cannot be imported."""
    added = _added(kind)
    if name in added:
        try:
            return added[name].load()
        except Exception as error:  # somebody else's code
            reason = f"{type(error).__name__}: {error}"
            raise UnavailableError(f"{kind} backend {name}, which {package_of(kind, name)} adds, cannot be loaded: {reason}") from error
    if name not in BUILT_IN[kind]:
        raise UsageError(f"there is no {kind} backend {name!r}", hint=f"choose one of: auto, {', '.join(names(kind))}")
    module, _, attribute = BUILT_IN[kind][name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def create(kind: str, name: str, setup: BackendSetup, report: Report, *, candidates: list[str] | None = None) -> Any:
    """A backend that is ready to run.

    `auto` takes the best one that can run on this machine (of `candidates`, when given) and says which, and what
    `--preset paper` would take. One asked for by name is used, or UnavailableError says how to get it.
    """
    if setup.weights is not None and not setup.weights.strip():
        raise UsageError("--weights is empty", hint="give a file, a folder or the id of a hub repository, or leave it out")
    if name != "auto":
        backend = check(kind, name, setup)
        _say_licence(kind, backend, report)
        return backend(setup)
    reasons = []
    for candidate in candidates or names(kind):
        try:
            backend = load(kind, candidate)
        except UnavailableError as error:
            reasons.append(error.message)
            continue
        if not getattr(backend, "automatic", True):
            reasons.append(f"{candidate}: it is taken only when asked for")
            continue
        if reason := _not_taken(backend, setup) or backend.missing(setup):
            reasons.append(f"{candidate}: {reason}")
            continue
        ready = backend(setup)
        # One of another package may not say that it takes none; ours do, and gigabytes need not be read for it.
        if setup.weights and not hasattr(backend, "published") and not ready.weights_sha256():  # it would pass over the weights in silence
            reasons.append(f"{candidate}: it has no weights")
            continue
        _say_licence(kind, backend, report)
        papers = PAPERS_CHOICE[kind]
        report.note(f"{kind}: took {candidate}" + ("" if candidate == papers else f" (--preset paper takes {papers})"))
        return ready
    wanted = f" with the weights {setup.weights}" if setup.weights else ""
    raise UnavailableError(f"no {kind} backend can run here{wanted}", hint="; ".join(reasons))


def check(kind: str, name: str, setup: BackendSetup) -> Any:
    """The class of a backend that is asked for by name and can run here: nothing is loaded. Raises UnavailableError that says what is
    missing and how to get it, UsageError for options that it does not take."""
    backend = load(kind, name)
    if reason := _not_taken(backend, setup):
        raise UsageError(f"{kind} backend {name} {reason}", hint="leave it out, or name another backend")
    if reason := backend.missing(setup):
        raise UnavailableError(f"{kind} backend {name} cannot run here: {reason}")
    return backend


def _not_taken(backend: Any, setup: BackendSetup) -> str | None:
    """What was given that one of our backends would pass over in silence. Those of other packages need not say what they take."""
    if not backend.__module__.startswith("tracekit.backends."):
        return None
    if setup.weights is not None and not hasattr(backend, "published"):
        return "has no weights: it takes no --weights"
    if setup.repo is not None and not hasattr(backend, "repository"):
        return "runs no repository: it takes no --repo"
    return None


def _say_licence(kind: str, backend: Any, report: Report) -> None:
    """Say before anything is computed what must not be sold."""
    facts: Facts | None = getattr(backend, "facts", None)
    if facts is None or facts.commercial == "yes":
        return
    allowed = _MAY_BE_USED.get(
        facts.commercial, f"says of its commercial use {facts.commercial!r}"
    )  # that of another package says what it likes
    report.note(f"{kind}: {backend.name} {allowed} (code: {facts.code_licence}; weights: {facts.weights_licence or 'none'})")


def package_of(kind: str, name: str) -> str:
    """Name of the package that adds a backend; "" for one of ours."""
    point = _added(kind).get(name)
    if point is None:
        return ""
    return point.dist.name if point.dist is not None else point.value


def _added(kind: str) -> dict[str, Any]:
    return {name.partition(".")[2]: point for name, point in plugins.added(_ENTRY_POINTS).items() if name.partition(".")[0] == kind}
