"""Options of `tracekit rollout`: of predictions, and of a policy in an environment."""

from __future__ import annotations

from dataclasses import dataclass

from tracekit.parameters import parameter

EXAMPLE = "tracekit rollout mu0 test.h5 | tracekit evaluate --metric dtw"


@dataclass(frozen=True)
class RolloutOptions:
    """What is asked about, and where the answer goes."""

    output: str | None = parameter(
        None,
        "The predictions file to write; without it the result goes to standard output. With --env: the episodes, in the layout of"
        " demonstrations, all in one file FILE.h5, or a file for each in a folder.",
    )
    picture: str | None = parameter(
        None,
        "Also draw the traces over the frames (.png, .jpg). Without -o, that is all for --image and when standard output is a terminal.",
    )
    pictures: int = parameter(6, "Samples on the picture, evenly spread over all.", minimum=1, maximum=100)
    image: str | None = parameter(None, "Ask about this picture, of which nothing else is known, instead of a corpus or an episode.")
    points: str | None = parameter(
        None, "CSV of the keypoints on the picture: a line u,v each, in pixels, the centre of the first one 0,0."
    )
    # 256 keypoints: the most that the network is trained with.
    grid: int = parameter(16, "Without --points: N x N keypoints on the picture.", minimum=1, maximum=64)
    caption: str | None = parameter(None, "What is to be done, in place of what the data or the environment say; may be empty.")
    swap_captions: bool = parameter(False, "Give every sample of a corpus the caption of another task: does the network listen?")
    every: int = parameter(1, "Take every N-th sample; those of an episode are every fourth frame.", minimum=1)
    videos: str | None = parameter(None, "A folder of videos that are not where the corpus or episode says.")
    vlm: str = parameter("", "Where the frozen VLM is now, a folder or hub id; where it was in training when not given.")
    dino: str = parameter("", "Where the frozen DINOv2 is now, a folder or hub id; where it was in training when not given.")
    download: bool = parameter(False, "Allow fetching weights from a hub.")
    seed: int = parameter(0, "Seed of every random choice.", minimum=0, maximum=2**32 - 1)
    device: str = parameter("auto", "Where networks run.", choices=("auto", "cpu", "cuda", "mps"))
    force: bool = parameter(False, "Replace outputs that exist.")
    dry_run: bool = parameter(False, "Say what would be read and written; touch nothing.")
    quiet: bool = parameter(False, "Say nothing but errors.")
    verbose: bool = parameter(False, "Say more.")


@dataclass(frozen=True)
class EnvironmentOptions:
    """A policy at work in simulated environments."""

    env: str | None = parameter(
        None,
        "Let a policy act: metaworld/TASK[,TASK...], metaworld/mt10, metaworld/mt50, robosuite/TASK, robocasa/TASK, or the id of a Gymnasium"
        " environment. Starts are drawn from --seed, and are others than those of simulate with the same --seed.",
    )
    policy: str | None = parameter(
        None, "The folder of a policy that `finetune` made, scripted (the environment's own expert), or random (uniform actions)."
    )
    world_model: str = parameter("", "Where the policy's world model is now, if not with the policy.")
    num_episodes: int = parameter(50, "Episodes of each environment.", minimum=1, maximum=1_000_000)
    num_envs: int = parameter(
        1, "Episodes at the same time, each in a process of its own. It has no influence on the result.", minimum=1, maximum=1024
    )
    max_steps: int | None = parameter(None, "Actions of an episode, at most; the environment's own limit when not given.", minimum=1)
    execute: int | None = parameter(
        None,
        "Actions of a chunk that are carried out before the next one is planned; what the policy was made for when not given.",
        minimum=1,
    )
    size: str | None = parameter(
        None,
        "Width and height of the pictures that the policy is shown; those that it has learnt from when not given, or 256x192. Gymnasium decides itself.",
    )
    camera: str = parameter("", "The camera that sees the scene, or its key in a Gymnasium environment's observations.")
    gripper_camera: str = parameter("", "The camera on the gripper, likewise.")
    state: str = parameter("", "Keys of a Gymnasium environment's observations that make up proprioception, by comma.")
    video: str | None = parameter(None, "A folder for a video of each episode, with what the world model expects drawn in.")
    json: bool = parameter(False, "Print all figures as JSON, every episode with its seed.")
    stall_timeout: float = parameter(
        300.0,
        "End an environment's process that makes no progress for this many seconds; its episode counts as failed to run.",
        minimum=1.0,
    )
