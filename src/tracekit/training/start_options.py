"""What every command that trains may be told about how a run is started."""

from __future__ import annotations

from dataclasses import dataclass

from tracekit.parameters import parameter


@dataclass(frozen=True)
class StartOptions:
    """Where values come from, what is allowed, and how much is said."""

    config: str | None = parameter(None, "A TOML file of options.")
    force: bool = parameter(False, "Remove the run that is in the folder and start anew.")
    json: bool = parameter(False, "With --dry-run: print JSON.")
    download: bool = parameter(False, "Allow fetching pretrained weights from a hub.")
    device: str = parameter("auto", "Where networks run.", choices=("auto", "cpu", "cuda", "mps"))
    seed: int = parameter(0, "Seed of every random choice.", minimum=0, maximum=2**32 - 1)
    quiet: bool = parameter(False, "Say nothing but errors.")
    verbose: bool = parameter(False, "Say more.")
