"""Where other people's repositories are on this machine, and which Python runs them."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tracekit.backends.protocols import BackendSetup

FOLDER_OF_CHECKOUTS = "TRACEKIT_CHECKOUTS"
"""Environment variable: a folder that holds checkouts under the names of their repositories."""


@dataclass(frozen=True)
class Repository:
    """A repository that a backend runs."""

    name: str
    """As its checkout is called: the last part of its address."""
    url: str
    proof: str
    """A file that every checkout has."""
    package: str | None = None
    """What it is imported as where it can be installed by pip."""


@dataclass(frozen=True)
class Checkout:
    """What runs a network: a Python, and the folder with the code (None where that Python has it installed)."""

    python: str
    folder: Path | None


def find_checkout(repository: Repository, setup: BackendSetup) -> Checkout | None:
    """The checkout of --repo, or the one among TRACEKIT_CHECKOUTS, or the installed package; None where there is none of them.

    A checkout with a virtual environment in `.venv` is run by that one: repositories pin versions that others cannot live with.
    """
    if setup.repo:
        folder = Path(setup.repo).expanduser().resolve()
        return _checkout(folder) if (folder / repository.proof).is_file() else None
    if among := os.environ.get(FOLDER_OF_CHECKOUTS):
        folder = Path(among).expanduser().resolve() / repository.name
        if (folder / repository.proof).is_file():
            return _checkout(folder)
    if repository.package and importlib.util.find_spec(repository.package) is not None:
        return Checkout(sys.executable, None)
    return None


def missing_checkout(repository: Repository, setup: BackendSetup) -> str | None:
    """None where the repository is here; else how to get it, in one sentence."""
    if find_checkout(repository, setup) is not None:
        return None
    if setup.repo:
        return f"{setup.repo} is no checkout of {repository.url} (it has no {repository.proof})"
    get = f"git clone {repository.url}, install the packages that it needs (docs/backends says which)"
    if among := os.environ.get(FOLDER_OF_CHECKOUTS):
        return (
            f"its code is not on this machine: {FOLDER_OF_CHECKOUTS} is {among}, {_lack(among, repository)}: {get}, or give --repo FOLDER"
        )
    return f"its code is not on this machine: {get}, then --repo FOLDER, or set {FOLDER_OF_CHECKOUTS} to the folder above"


def _lack(among: str, repository: Repository) -> str:
    """Why the repository was not found in the folder of checkouts."""
    folder = Path(among).expanduser()
    if not folder.is_dir():
        return "which is no folder"
    if not (folder / repository.name).is_dir():
        return f"in which there is no folder {repository.name}"
    return f"whose folder {repository.name} has no {repository.proof}"


def code_files(repository: Repository, checkout: Checkout) -> list[Path]:
    """The code and the configuration of a checkout, or of the installed package, in a fixed order; not what its own environment holds."""
    if checkout.folder is not None:
        folder = checkout.folder
    else:
        spec = importlib.util.find_spec(repository.package or "")
        assert spec is not None and spec.submodule_search_locations
        folder = Path(next(iter(spec.submodule_search_locations)))
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, name) for name in files if name.endswith((".py", ".yaml", ".yml", ".json"))]
    return sorted(found)


def _checkout(folder: Path) -> Checkout:
    own = folder / ".venv" / "bin" / "python"
    return Checkout(str(own) if own.is_file() else sys.executable, folder)
