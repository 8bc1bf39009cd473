"""What is drawn for a training sample, and what a model is shown when it is tested."""

from __future__ import annotations

from dataclasses import dataclass

from tracekit.parameters import parameter

TAU_DISTRIBUTIONS = ("beta", "uniform")


@dataclass(frozen=True)
class SamplingParameters:
    """What is drawn for a training sample, and how."""

    max_keypoints: int = parameter(256, "Most keypoints of a sample; their number is uniform from 1 to this.", minimum=1)
    static_share: float = parameter(0.0, "Fraction of the keypoints that are taken from those that do not move.", minimum=0.0, maximum=0.9)
    color_jitter: float = parameter(0.3, "Strength of the changes of brightness, contrast and saturation; hue half.", minimum=0, maximum=1)
    depth_noise: float = parameter(0.01, "Standard deviation of the noise that is added to depth, in metres.", minimum=0.0)
    depth_dropout: float = parameter(0.7, "Probability that a sample goes without depth.", minimum=0.0, maximum=1.0)
    history_dropout: float = parameter(0.2, "Probability that a sample goes without history.", minimum=0.0, maximum=1.0)
    keypoint_history_dropout: float = parameter(0.3, "Probability that one keypoint goes without history.", minimum=0.0, maximum=1.0)
    tau_distribution: str = parameter("beta", "Flow times: Beta(1.5, 1), more of them noisy, or uniform.", choices=TAU_DISTRIBUTIONS)


@dataclass(frozen=True)
class EvaluationParameters:
    """What a model is given when it is tested."""

    num_keypoints: int = parameter(0, "Keypoints of a sample, spread over all there are; 0 takes all.", minimum=0)
    use_history: bool = parameter(True, "Show where the keypoints were before.")
    use_depth: bool = parameter(True, "Show depth where there is any.")
