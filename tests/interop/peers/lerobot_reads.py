"""In an environment with lerobot: load a LeRobotDataset as its users do, and keep what it yields.

python lerobot_reads.py FOLDER OUTPUT.npz
"""

from __future__ import annotations

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

folder, output = sys.argv[1:]
dataset = LeRobotDataset("local/demos", root=folder)
items = [dataset[index] for index in range(len(dataset))]
kept = {key: np.stack([item[key].numpy() for item in items]) for key in items[0] if key != "task"}
for key in dataset.meta.camera_keys:  # (T, 3, H, W) from 0 to 1
    kept[key] = np.round(kept[key] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
stats = {f"stats {key} {name}": value for key, of_key in dataset.meta.stats.items() for name, value in of_key.items()}
np.savez(output, task=np.array([item["task"] for item in items]), fps=dataset.fps, episodes=dataset.num_episodes, **kept, **stats)
