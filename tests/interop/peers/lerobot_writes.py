"""In an environment with lerobot: record a LeRobotDataset as its users do, its videos in AV1, which is its default.

python lerobot_writes.py FOLDER INPUT.npz     with actions, states, pictures and lengths of episodes
"""

from __future__ import annotations

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

folder, source = sys.argv[1:]
content = np.load(source)
features = {
    "action": {"dtype": "float32", "shape": content["actions"].shape[1:], "names": None},
    "observation.state": {"dtype": "float32", "shape": content["states"].shape[1:], "names": None},
    "observation.images.front": {"dtype": "video", "shape": content["pictures"].shape[1:], "names": ["height", "width", "channels"]},
}
dataset = LeRobotDataset.create("local/recorded", fps=10, features=features, root=folder)
start = 0
for number, length in enumerate(content["lengths"]):
    for row in range(start, start + length):
        frame = {
            "action": content["actions"][row],
            "observation.state": content["states"][row],
            "observation.images.front": content["pictures"][row],
        }
        dataset.add_frame({**frame, "task": f"task {number % 2}"})
    dataset.save_episode()
    start += length
dataset.finalize()
