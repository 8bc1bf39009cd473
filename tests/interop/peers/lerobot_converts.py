"""In an environment with lerobot: bring a folder of codebase v2.1 to v3.0 with lerobot's own converter, in place.

python lerobot_converts.py PARENT NAME
"""

from __future__ import annotations

import sys

from lerobot.datasets.v30.convert_dataset_v21_to_v30 import convert_dataset

parent, name = sys.argv[1:]
convert_dataset(name, root=parent, push_to_hub=False)
