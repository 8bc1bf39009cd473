"""Hold the adapters of networks that are repositories against real checkouts, with random weights: `python tools/check_adapters.py --repo FOLDER`.

What random weights see means nothing; shapes, that all is finite, and which way poses, pixels and scales go do. No part of the tests: it needs a checkout, and a
Python that has tracekit and what the repository needs (for TAPIP3D also omegaconf and hydra-core).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import check_reconstruction
import check_trackers

from tracekit.errors import TracekitError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repo", type=Path, required=True, help="checkout of a network's repository")
    parser.add_argument("--network", default="", help="one backend, by its name; default: all that the checkout is for")
    chosen = parser.parse_args()
    repo = chosen.repo.resolve()
    try:
        checked = [*check_reconstruction.check(repo, chosen.network), *check_trackers.check(repo, chosen.network)]
    except (ImportError, TracekitError) as error:
        sys.exit(f"{error} (in {sys.executable}: it must have tracekit and what the repository needs)")
    if not checked:
        sys.exit(f"{repo} is no checkout of {chosen.network or 'any network that tracekit has an adapter for'}")


if __name__ == "__main__":
    main()
