"""In an environment with robomimic: load a file of demonstrations as its training does, and keep what it yields.

python robomimic_reads.py DEMOS.h5 OUTPUT.npz SPLIT
"""

from __future__ import annotations

import json
import sys

import numpy as np
import robomimic.utils.file_utils as file_utils
import robomimic.utils.obs_utils as obs_utils
from robomimic.utils.dataset import SequenceDataset

path, output, split = sys.argv[1:]
cameras = ("agentview_image", "eye_in_hand_image")
obs_utils.initialize_obs_utils_with_obs_specs([{"obs": {"low_dim": ["proprio"], "rgb": list(cameras)}}])
dataset = SequenceDataset(
    path, ("proprio", *cameras), ("actions", "rewards", "dones"), filter_by_attribute=split, seq_length=1, load_next_obs=False
)
items = [dataset[index] for index in range(len(dataset))]
kept = {key: np.concatenate([item[key] for item in items]) for key in ("actions", "rewards", "dones")}
kept |= {key: np.concatenate([item["obs"][key] for item in items]) for key in ("proprio", *cameras)}
about = {
    "env": file_utils.get_env_metadata_from_dataset(path),
    "shapes": file_utils.get_shape_metadata_from_dataset(path, all_obs_keys=["proprio", *cameras])["all_shapes"],
    "demos": list(dataset.demos),
}
np.savez(output, about=json.dumps(about), **kept)
