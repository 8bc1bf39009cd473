"""How much each term of the training loss counts."""

from __future__ import annotations

from dataclasses import dataclass

from tracekit.parameters import parameter

DISTANCES = ("squared", "plain")


@dataclass(frozen=True)
class LossWeights:
    """Weights of Eq. 10."""

    # The release weighs the mean over 32 steps with 0.5; Eq. 8 is their sum.
    done: float = parameter(0.5 / 32, "Weight of validity, lambda_done of Eq. 10.", minimum=0.0)
    rigidity: float = parameter(0.1, "Weight of rigidity, lambda_rig of Eq. 10.", minimum=0.0)
    rigid_distance: str = parameter("squared", "Distances that rigidity keeps: squared (Eq. 9) or plain (the release).", choices=DISTANCES)
