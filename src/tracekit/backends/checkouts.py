"""Where other people's repositories are on this machine, and which Python runs them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
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
    needs: tuple[str, ...] = ()
    """What our file of `foreign/` imports, and what the repository then does: names of modules, without those that `stand_ins` replaces."""


INSTALLED_AS = {"PIL": "pillow", "box": "python-box"}
"""What pip calls modules that have another name."""
LONGEST_START = 60.0
"""Seconds that a Python may take to say what it has: on a cluster's file system the first start is slow."""


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
        if not Path(setup.repo).expanduser().is_dir():
            return f"there is no folder {setup.repo}: --repo takes a checkout of {repository.url}"
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


def missing_from_python(checkout: Checkout, needs: tuple[str, ...]) -> str | None:
    """None where the Python that runs a checkout has these modules; else which it lacks and how to get them, in one sentence.

    A Python of the checkout's own is asked, which takes some 0.05 s. None of the modules is imported.
    """
    if checkout.python == sys.executable:
        in_folder = [str(checkout.folder)] if checkout.folder else []
        lacking = [
            name
            for name in needs
            if importlib.util.find_spec(name) is None and importlib.machinery.PathFinder.find_spec(name, in_folder) is None
        ]
    else:
        look = "import sys, importlib.util as u; sys.path[0] = sys.argv[1]; print(*(n for n in sys.argv[2:] if u.find_spec(n) is None))"
        command = [checkout.python, "-c", look, str(checkout.folder), *needs]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env=environment_of(checkout.python),
                stdin=subprocess.DEVNULL,
                timeout=LONGEST_START,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"the Python that runs it cannot be started: {error}"
        if done.returncode != 0:
            return f"the Python that runs it, {checkout.python}, does not work: {done.stderr.strip()[-200:]}"
        lacking = [name for name in done.stdout.split() if name in needs]
    if not lacking:
        return None
    packages = [INSTALLED_AS.get(name, name) for name in lacking]
    return f"{checkout.python}, which runs it, lacks {', '.join(packages)}: {checkout.python} -m pip install {' '.join(packages)}"


def environment_of(python: str) -> dict[str, str]:
    """The environment variables that a Python gets which runs a checkout: keys are for us and for the servers that they belong to, and what is on
    our path is not for others."""
    ours_alone = ("PYTHONPATH", "PYTHONHOME") if python != sys.executable else ()
    return {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN")) and name not in ours_alone}


def code_files(repository: Repository, checkout: Checkout) -> dict[str, Path]:
    """The code and the configuration of a checkout, or of the installed package, by their paths in it, in a fixed order; not what environments
    in it hold. Raises OSError for a folder that cannot be read."""
    if checkout.folder is not None:
        folder = checkout.folder
    else:
        spec = importlib.util.find_spec(repository.package or "")
        assert spec is not None and spec.submodule_search_locations
        folder = Path(next(iter(spec.submodule_search_locations)))

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and not (Path(where, name) / "pyvenv.cfg").exists()]
        found += [Path(where, name) for name in files if name.endswith((".py", ".yaml", ".yml", ".json"))]
    return {path.relative_to(folder).as_posix(): path for path in sorted(found) if path.is_file()}  # and no link that leads nowhere


def _checkout(folder: Path) -> Checkout:
    own = folder / ".venv" / "bin" / "python"
    return Checkout(str(own) if own.is_file() else sys.executable, folder)
