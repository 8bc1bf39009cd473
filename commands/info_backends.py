"""tracekit info --backends: what can run on this machine, under which licence, and what `auto` would take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracekit.backends.inventory import Entry

STAGES = {"features": "keypoints", "reconstruction": "reconstruct", "tracking": "track", "captioning": "caption"}
"""The command that runs each kind."""


def show_backends(*, as_json: bool) -> None:
    """Print the inventory: a table for each kind, or JSON."""
    from tracekit.backends.inventory import take_inventory
    from tracekit.backends.protocols import BackendSetup

    inventory = take_inventory(BackendSetup())
    if as_json:
        print(json.dumps({kind: describe_kind(kind, entries) for kind, entries in inventory.items()}, indent=2, ensure_ascii=False))
        return
    for kind, entries in inventory.items():
        _draw(kind, entries)
    print("A page for each, with how to install it: docs/backends")


def describe_kind(kind: str, entries: list[Entry]) -> dict[str, Any]:
    """All backends of one kind as plain data; what is not known is null."""
    from tracekit.backends.inventory import choice_of_auto
    from tracekit.backends.registry import PAPERS_CHOICE, RELEASES_CHOICE

    return {
        "command": STAGES[kind],
        "auto": choice_of_auto(entries),
        "paper": PAPERS_CHOICE[kind],
        "release": RELEASES_CHOICE[kind],
        "backends": [_describe(entry) for entry in entries],
    }


def _describe(entry: Entry) -> dict[str, Any]:
    facts, checkout = entry.facts, entry.checkout
    return {
        "name": entry.name,
        "about": facts.about if facts else None,
        "runs": entry.missing is None,
        "missing": entry.missing,
        "automatic": entry.automatic,
        "needs_measured_depth": entry.needs_measured_depth,
        "package": entry.package or "tracekit",
        "code": facts.code if facts else None,
        "code_licence": facts.code_licence if facts else None,
        "checkout": str(checkout.folder) if checkout and checkout.folder else None,
        "python": checkout.python if checkout else None,
        "weights": facts.weights if facts else None,
        "weights_licence": facts.weights_licence if facts else None,
        "weights_file": str(entry.weights) if entry.weights else None,
        "weights_bytes": entry.num_bytes_of_weights,
        "commercial": facts.commercial if facts else None,
    }


def _draw(kind: str, entries: list[Entry]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kind_facts = describe_kind(kind, entries)
    console = Console(highlight=False, markup=False)
    auto = ", else ".join(
        f"{name} (with measured depth)" if entry.needs_measured_depth else name
        for name in kind_facts["auto"]
        for entry in entries
        if entry.name == name
    )
    presets = f"--preset paper takes {kind_facts['paper']}, --preset release {kind_facts['release']}"
    console.print(Text(f"{kind} (tracekit {kind_facts['command']}): auto takes {auto or 'none'}; {presets}", "bold"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("backend", "runs here", "commercial use", "what"):
        table.add_column(column, overflow="fold", no_wrap=column == "backend")
    for backend in kind_facts["backends"]:
        what = Text(backend["about"] or f"added by {backend['package']}")
        table.add_row(backend["name"], "yes" if backend["runs"] else "no", backend["commercial"] or "unknown", what)
    console.print(table)
    for backend in kind_facts["backends"]:
        for line in _notes(backend):
            console.print(Text(f"  {backend['name']}: {line}"), soft_wrap=True)
    console.print()


def _notes(backend: dict[str, Any]) -> list[str]:
    """What does not fit into a table, each in a line that no terminal cuts: licences, where things are, and what is missing."""
    notes = []
    if backend["code"] not in (None, "tracekit"):
        place = backend["checkout"] or (f"installed in {backend['python']}" if backend["python"] else "")
        run_by = f", run by {backend['python']}" if backend["checkout"] else ""
        notes.append(f"code: {backend['code']}, {backend['code_licence']}" + (f" ({place}{run_by})" if place else ""))
    if backend["weights"] not in (None, "none"):
        here = f" ({backend['weights_file']}, {backend['weights_bytes'] / 1e6:,.0f} MB)" if backend["weights_file"] else ""
        notes.append(f"weights: {backend['weights']}; licence: {backend['weights_licence']}{here}")
    if backend["missing"]:
        notes.append(f"cannot run here: {backend['missing']}")
    elif not backend["automatic"]:
        notes.append("is taken only when asked for by name")
    return notes
