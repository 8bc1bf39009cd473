"""lerobot and robomimic themselves read what we write, and we read what lerobot writes.

They live in environments of their own, which `tools/install_demo_peers.sh` makes in build/peers (or in the folder that TRACEKIT_DEMO_PEERS names).
TRACEKIT_DEMOS names a file of demonstrations to check with instead of the small one that is made here.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_lerobot_export import LENGTHS, bring_in, demo, export, psnr, smooth

from tracekit.format.demo_file import DemoFile, DemoLayout
from tracekit.format.demos import merge_demos, write_demo
from tracekit.format.provenance import Step

REPOSITORY = Path(__file__).parents[2]
PEERS = Path(os.environ.get("TRACEKIT_DEMO_PEERS", REPOSITORY / "build" / "peers"))

pytestmark = pytest.mark.slow


def run_peer(peer: str, script: str, *arguments: object) -> None:
    """Run a script of tests/interop/peers in the environment of a peer; skip where there is none."""
    python = PEERS / peer / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{peer} is not installed in {PEERS}: run tools/install_demo_peers.sh")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TRACEKIT_"))}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(PEERS / "cache"), "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    if (PEERS / peer / "ffmpeg").is_dir():
        env["LD_LIBRARY_PATH"] = str(PEERS / peer / "ffmpeg")
    path = Path(__file__).parent / "peers" / script
    done = subprocess.run([python, path, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as `tracekit simulate --demos` writes it."""
    if "TRACEKIT_DEMOS" in os.environ:
        return Path(os.environ["TRACEKIT_DEMOS"])
    folder = tmp_path_factory.mktemp("demos")
    for number, length in enumerate(LENGTHS):
        write_demo(folder / f"{number}.h5", demo(number, length))
    sources = {f"push_{number}": folder / f"{number}.h5" for number in range(3)}
    merge_demos(folder / "all.h5", sources, ["metaworld/push-v3"], Step("simulate", [], "0", {}, []))
    return folder / "all.h5"


@pytest.mark.parametrize("split", ["train", "valid"])
def test_robomimic_reads_our_demonstrations(demos: Path, split: str, tmp_path: Path) -> None:
    run_peer("robomimic", "robomimic_reads.py", demos, tmp_path / "seen.npz", split)
    seen = np.load(tmp_path / "seen.npz")
    about = json.loads(str(seen["about"]))
    with h5py.File(demos) as file:
        keys = sorted((key.decode() for key in file[f"mask/{split}"][:]), key=lambda key: int(key[5:]))
        assert about["demos"] == keys and about["env"] == json.loads(file["data"].attrs["env_args"])
        for name in ("actions", "rewards", "dones"):
            np.testing.assert_array_equal(seen[name], np.concatenate([file[f"data/{key}/{name}"][:] for key in keys]))
        for name in ("proprio", "agentview_image", "eye_in_hand_image"):
            np.testing.assert_array_equal(seen[name], np.concatenate([file[f"data/{key}/obs/{name}"][:] for key in keys]))
        height, width = file[f"data/{keys[0]}/obs/agentview_image"].shape[1:3]
    assert about["shapes"]["agentview_image"] == [3, height, width]


@pytest.mark.parametrize(("codebase", "images"), [("v3.0", False), ("v3.0", True), ("v2.1", False), ("v2.1", True)])
def test_lerobot_loads_our_export(demos: Path, codebase: str, images: bool, tmp_path: Path) -> None:
    """Codebase v2.1 goes through lerobot's own converter, which reads its metadata, statistics, rows and videos."""
    export(demos, tmp_path / "set", codebase=codebase, images=images)
    if codebase == "v2.1":
        run_peer("lerobot", "lerobot_converts.py", tmp_path, "set")
    run_peer("lerobot", "lerobot_reads.py", tmp_path / "set", tmp_path / "seen.npz")
    seen = np.load(tmp_path / "seen.npz")
    with DemoFile(demos) as file:
        heads = sorted(file.demos, key=lambda head: head.split == "valid")
        actions, states = (np.concatenate([part(head.key) for head in heads]) for part in (file.actions, file.states))
        np.testing.assert_array_equal(seen["action"], actions)
        np.testing.assert_array_equal(seen["observation.state"], states)
        assert seen["episodes"] == len(heads) and seen["task"].tolist() == [
            head.language for head in heads for _ in range(head.num_samples)
        ]
        row, worst = 0, np.inf
        for head in heads:
            for step in range(head.num_samples):
                for camera, true in (("agentview", file.agentview(head.key, step)), ("eye_in_hand", file.gripper(head.key, step))):
                    worst = min(worst, psnr(seen[f"observation.images.{camera}"][row], true))
                row += 1
    print(f"{codebase}, {'PNG' if images else 'H.264'}: worst picture {worst:.1f} dB")
    assert worst > (100 if images else 30)
    np.testing.assert_allclose(np.ravel(seen["stats action mean"]), actions.astype(np.float64).mean(axis=0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(np.ravel(seen["stats action max"]), actions.max(axis=0))
    assert seen["stats observation.images.agentview mean"].shape == (3, 1, 1)


def test_we_read_what_lerobot_records(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = [6, 9, 4]
    # SVT-AV1 takes no smaller pictures than 64 pixels.
    pictures = np.concatenate([smooth(rng, length) for length in lengths]).repeat(4, axis=1).repeat(4, axis=2)
    actions, states = rng.normal(size=(19, 3)).astype(np.float32), rng.normal(size=(19, 2)).astype(np.float32)
    np.savez(tmp_path / "in.npz", actions=actions, states=states, pictures=pictures, lengths=lengths)
    run_peer("lerobot", "lerobot_writes.py", tmp_path / "set", tmp_path / "in.npz")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert info["features"]["observation.images.front"]["info"]["video.codec"] == "av1"
    bring_in(tmp_path / "set", tmp_path / "back.h5")
    with DemoFile(tmp_path / "back.h5", DemoLayout(gripper="")) as file:
        np.testing.assert_array_equal(file.all_actions, actions)
        np.testing.assert_array_equal(file.all_states, states)
        assert [(head.num_samples, head.language) for head in file.demos] == [(6, "task 0"), (9, "task 1"), (4, "task 0")]
        frames = [file.agentview(head.key, step) for head in file.demos for step in range(head.num_samples)]
    run_peer("lerobot", "lerobot_reads.py", tmp_path / "set", tmp_path / "seen.npz")
    for row, (ours, theirs) in enumerate(zip(frames, np.load(tmp_path / "seen.npz")["observation.images.front"], strict=True)):
        assert psnr(ours, theirs) > 45, row  # the same frame, decoded twice; what AV1 leaves of the picture is another matter
        assert psnr(ours, pictures[row]) > 25 and (row == 0 or psnr(ours, pictures[row - 1]) < 22), row
