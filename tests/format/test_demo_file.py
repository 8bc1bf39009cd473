"""Reading demonstrations: ours, robomimic's, and those that are wrong."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from demo_recordings import actions, pictures, write_recordings

from tracekit.errors import BadDataError, MissingInputError, TracekitError
from tracekit.format.demo_file import DemoFile, DemoHead, DemoLayout, layout_from_json
from tracekit.format.demos import Demo, merge_demos, write_demo
from tracekit.format.provenance import Step


def test_a_file_of_robomimic_without_anything_of_ours(tmp_path: Path) -> None:
    states = {"robot0_eef_pos": 3, "robot0_gripper_qpos": 2}
    path = write_recordings(tmp_path / "image.hdf5", [4] * 11 + [6], cameras=("agentview_image", "robot0_eye_in_hand_image"), states=states)
    layout = DemoLayout(gripper="robot0_eye_in_hand_image", state=("robot0_gripper_qpos", "robot0_eef_pos"))
    with DemoFile(path, layout) as file:
        assert [head.key for head in file.demos] == [f"demo_{number}" for number in range(12)]  # demo_2 before demo_10
        assert file.demos[-1] == DemoHead("demo_11", "demo_11", 6, "", "train")
        assert (file.num_samples, file.action_size, file.state_size) == (50, 3, 5)
        np.testing.assert_array_equal(file.actions("demo_11"), actions(11, 6).astype(np.float32))
        state = file.states("demo_11")
        np.testing.assert_array_equal(state[:, :2], np.arange(12).reshape(6, 2) + 11_000)
        np.testing.assert_array_equal(state[:, 2:], np.arange(18).reshape(6, 3) + 11_000)
        assert state.dtype == np.float32
        for step in range(6):
            np.testing.assert_array_equal(file.agentview("demo_11", step), pictures(11, 6, 0)[step])
            np.testing.assert_array_equal(file.gripper("demo_11", step), pictures(11, 6, 1)[step])
        np.testing.assert_array_equal(file.all_actions[file.rows("demo_10")], file.actions("demo_10"))


def test_our_own_file_with_sentences_and_splits(tmp_path: Path) -> None:
    sources = {}
    for number in range(3):
        rng = np.random.default_rng(number)
        views = rng.integers(0, 256, (2, 5, 6, 8, 3), np.uint8)
        demo = Demo(
            f"take-{number}",
            {"number": number},
            "push the puck",
            True,
            rng.uniform(-1, 1, (5, 4)),
            rng.uniform(size=5),
            np.arange(5) == 4,
            *views,
            proprio=rng.normal(size=(5, 4)),
        )
        write_demo(tmp_path / f"{number}.h5", demo)
        sources[f"take-{number}"] = tmp_path / f"{number}.h5"
    merge_demos(tmp_path / "all.h5", sources, ["metaworld/push-v3"], Step("simulate", [], "0.1.0", {}, []))
    file = DemoFile(tmp_path / "all.h5")
    assert [(head.name, head.language, head.split) for head in file.demos] == [
        ("take-0", "push the puck", "train"),
        ("take-1", "push the puck", "train"),
        ("take-2", "push the puck", "valid"),
    ]
    np.testing.assert_array_equal(file.agentview("demo_2", 4), np.random.default_rng(2).integers(0, 256, (2, 5, 6, 8, 3), np.uint8)[0, 4])


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ({}, ["train"] * 4),
        ({"train": [0, 1], "valid": [2]}, ["train", "train", "valid", ""]),
        ({"train": [0, 1, 2], "valid": [2]}, ["train", "train", "valid", ""]),
        ({"valid": [3]}, ["train", "train", "train", "valid"]),
        ({"train": [0]}, ["train", "", "", ""]),
        ({"20_percent": [0]}, ["train"] * 4),
    ],
)
def test_masks_say_what_is_trained_on(tmp_path: Path, masks: dict[str, list[int]], expected: list[str]) -> None:
    path = write_recordings(tmp_path / "d.h5", [2] * 4, masks=masks)
    assert [head.split for head in DemoFile(path).demos] == expected


def test_masks_of_texts_of_any_length_and_of_strangers(tmp_path: Path) -> None:
    path = write_recordings(tmp_path / "d.h5", [2] * 3)
    with h5py.File(path, "r+") as file:
        file.create_dataset("mask/valid", data=["demo_1", "demo_77"], dtype=h5py.string_dtype())
    assert [head.split for head in DemoFile(path).demos] == ["train", "valid", "train"]
    replace(path, "mask/valid", np.arange(3))
    with pytest.raises(BadDataError, match=r"mask/valid in .*d\.h5 is no list of names"):
        DemoFile(path)


def test_robocasa_says_what_is_done_in_the_facts_of_an_episode(tmp_path: Path) -> None:
    path = write_recordings(tmp_path / "d.h5", [2, 2])
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs["ep_meta"] = '{"lang": "close the drawer ", "layout_id": 3}'
    assert [head.language for head in DemoFile(path).demos] == ["", "close the drawer"]
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["ep_meta"] = "{"
    with pytest.raises(BadDataError, match="ep_meta of data/demo_0"):
        DemoFile(path)


def test_one_number_a_step_is_a_state_and_no_state_is_none(tmp_path: Path) -> None:
    path = write_recordings(tmp_path / "d.h5", [3])
    with h5py.File(path, "r+") as file:
        file["data/demo_0/obs/opening"] = np.array([0.5, 0.25, 0.0])
    np.testing.assert_array_equal(DemoFile(path, DemoLayout(state=("opening", "proprio"))).states("demo_0")[:, 0], [0.5, 0.25, 0.0])
    assert DemoFile(path, DemoLayout(state=())).state_size == 0


def replace(path: Path, dataset: str, values: np.ndarray) -> None:
    with h5py.File(path, "r+") as file:
        del file[dataset]
        file[dataset] = values


def changed_action(path: Path, value: float) -> None:
    with h5py.File(path, "r+") as file:
        file["data/demo_1/actions"][3, 1] = value


def link_out(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/obs/agentview_image"]
        file["data/demo_1/obs/agentview_image"] = h5py.ExternalLink("/etc/other.h5", "/data")


def without(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]


def number(path: Path, value: float | h5py.Empty) -> None:
    """In place of the actions of a demonstration."""
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1"].create_dataset("actions", data=value)


def no_text(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_group(b"data/demo_\xff")


def attribute(path: Path, name: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs[name] = value


def emptied(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["data"]
        file.create_group("data")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: changed_action(path, np.nan), r"`actions` of demo_1 at step 3, number 1 \(from 0\) in .*d\.h5 is not finite"),
        (lambda path: changed_action(path, np.inf), r"`actions` of demo_1 at step 3"),
        (lambda path: changed_action(path, 1e300), r"`actions` of demo_1 at step 3"),
        (lambda path: replace(path, "data/demo_1/obs/proprio", np.full((5, 2), -np.inf)), r"`proprio` of demo_1 at step 0"),
        (lambda path: replace(path, "data/demo_1/obs/proprio", np.zeros((4, 2))), "demo_1 .* has 5 actions, but 4 observations `proprio`"),
        (lambda path: replace(path, "data/demo_1/obs/proprio", np.zeros((5, 3))), "states have 3 numbers in demo_1, but 2 in demo_0"),
        (lambda path: replace(path, "data/demo_1/actions", np.zeros((5, 4))), "actions have 4 numbers in demo_1, but 3 in demo_0"),
        (lambda path: replace(path, "data/demo_1/actions", np.zeros(5)), r"actions of demo_1 .* shape \(5,\)"),
        (lambda path: replace(path, "data/demo_1/actions", np.zeros((0, 3))), r"actions of demo_1 .* shape \(0, 3\)"),
        (lambda path: replace(path, "data/demo_1/actions", np.array([b"up"] * 5)), "demo_1 .* has no numbers `actions`"),
        (lambda path: without(path, "data/demo_1/actions"), "demo_1 .* has no numbers `actions`"),
        (lambda path: without(path, "data/demo_1/obs"), "demo_1 .* has no observations"),
        (lambda path: without(path, "data/demo_1/obs/proprio"), r"demo_1 .* has no state `proprio`\n.*are: none"),
        (
            lambda path: without(path, "data/demo_1/obs/agentview_image"),
            r"no camera `agentview_image`\n  its cameras are: eye_in_hand_image",
        ),
        (lambda path: replace(path, "data/demo_1/obs/agentview_image", np.zeros((5, 3, 12, 16), np.uint8)), r"shape \(5, 3, 12, 16\)"),
        (lambda path: replace(path, "data/demo_1/obs/agentview_image", np.zeros((5, 12, 16, 3), np.float32)), "type float32"),
        (lambda path: replace(path, "data/demo_1/obs/agentview_image", pictures(1, 6)), "5 actions, but 6 observations `agentview_image`"),
        (link_out, "link"),
        (lambda path: number(path, np.float32(np.nan)), "demo_1 .* has no numbers `actions`"),
        (lambda path: number(path, h5py.Empty("f")), "demo_1 .* has no numbers `actions`"),
        (no_text, "a name that is no UTF-8"),
        (lambda path: attribute(path, "num_samples", 7), "demo_1 .* has 5 actions, but its num_samples is 7"),
        (emptied, "holds no demonstrations: its group `data` is empty"),
        (lambda path: without(path, "data"), "holds no demonstrations: it has no group `data`"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cut off"),
        (lambda path: path.write_bytes(b"demonstrations"), "not an HDF5 file"),
        (lambda path: path.write_bytes(b""), "is empty"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    path = write_recordings(tmp_path / "d.h5", [4, 5])
    spoil(path)
    with pytest.raises(BadDataError) as raised:
        DemoFile(path)
    assert re.search(message, str(raised.value)), str(raised.value)
    assert "d.h5" in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"none\.h5 does not exist"):
        DemoFile(tmp_path / "none.h5")


def test_a_camera_of_another_name_is_not_there_and_those_that_are_are_named(tmp_path: Path) -> None:
    path = write_recordings(tmp_path / "d.h5", [4])
    with pytest.raises(BadDataError, match="`front`\n  its cameras are: agentview_image, eye_in_hand_image"):
        DemoFile(path, DemoLayout(agentview="front"))
    with pytest.raises(BadDataError, match="`wrist`"):
        DemoFile(path, DemoLayout(gripper="wrist"))
    with pytest.raises(BadDataError, match="`joints`\n  observations that may be states are: proprio"):
        DemoFile(path, DemoLayout(state=("proprio", "joints")))


def test_a_camera_behind_a_link_is_neither_read_nor_named(tmp_path: Path) -> None:
    path, other = tmp_path / "d.h5", tmp_path / "other.h5"
    write_recordings(path, [5, 5])
    with h5py.File(other, "w") as file:
        file["secret"] = pictures(0, 5)
    with h5py.File(path, "r+") as file:
        for group in file["data"].values():
            group["obs/out"] = h5py.ExternalLink(str(other), "/")
            group["obs/secret"] = h5py.ExternalLink(str(other), "/secret")
            group["obs/own/camera"] = group["obs/agentview_image"][()]
    with DemoFile(path, DemoLayout(agentview="own/camera")) as demos:
        assert (demos.agentview("demo_0", 1) == pictures(0, 5)[1]).all()
    for camera in ("out/secret", "secret"):
        with pytest.raises(BadDataError, match="is a soft or external link"):
            DemoFile(path, DemoLayout(agentview=camera))
    for camera in ("nowhere/secret", "agentview_image/secret", "own/", "/"):
        with pytest.raises(BadDataError, match="has no camera") as error:
            DemoFile(path, DemoLayout(agentview=camera))
        assert error.value.hint == "its cameras are: agentview_image, eye_in_hand_image"


def test_a_damaged_picture_is_named_by_its_step_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (2, 5, 6, 8, 3), np.uint8)
    write_demo(path, Demo("one", {}, "push", True, np.zeros((5, 4)), np.zeros(5), np.zeros(5, bool), *views, proprio=np.zeros((5, 4))))
    with h5py.File(path) as file:
        chunk = file["data/demo_0/obs/agentview_image"].id.get_chunk_info(3)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20] ^= 255
    path.write_bytes(content)
    file = DemoFile(path)
    with pytest.raises(BadDataError, match=r"`agentview_image` of demo_0 at step 3 in .*d\.h5 cannot be read"):
        file.agentview("demo_0", 3)
    np.testing.assert_array_equal(file.agentview("demo_0", 2), views[0, 2])


def test_any_damage_is_an_error_in_words_or_harmless(tmp_path: Path) -> None:
    """A byte after another is spoilt: what comes is a file or an error that a user can act on."""
    path = write_recordings(tmp_path / "d.h5", [2, 2], masks={"train": [0], "valid": [1]}, languages=["a", "b"])
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for place in rng.choice(len(whole), 120, replace=False):
        content = bytearray(whole)
        content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        try:
            with DemoFile(path) as file:
                for head in file.demos:
                    file.agentview(head.key, 0), file.gripper(head.key, 0)
            outcomes.add("read")
        except TracekitError as error:
            outcomes.add("refused")
            assert str(error)
    assert outcomes == {"read", "refused"}


def _read_in_child(file: DemoFile, queue: multiprocessing.Queue) -> None:
    queue.put(file.agentview("demo_1", 2))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_every_process_opens_the_file_for_itself(tmp_path: Path, method: str) -> None:
    file = DemoFile(write_recordings(tmp_path / "d.h5", [4, 5]))
    file.agentview("demo_0", 0)  # the parent has it open from now on
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(file, queue))
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=60), pictures(1, 5)[2])
    child.join()
    np.testing.assert_array_equal(file.agentview("demo_0", 1), pictures(0, 4)[1])
    copy = pickle.loads(pickle.dumps(file))
    file.close()
    np.testing.assert_array_equal(copy.agentview("demo_1", 4), pictures(1, 5)[4])
    np.testing.assert_array_equal(file.agentview("demo_1", 4), pictures(1, 5)[4])  # opens it anew


def test_a_layout_comes_back_from_json_and_nothing_else_does() -> None:
    layout = DemoLayout("front", "", ("a", "b"))
    assert layout_from_json(layout.to_json(), "x") == layout
    for wrong in (
        None,
        {},
        {**layout.to_json(), "more": 1},
        {**layout.to_json(), "state": "proprio"},
        {**layout.to_json(), "gripper": None},
    ):
        with pytest.raises(BadDataError, match=r"config\.json"):
            layout_from_json(wrong, "config.json")


@pytest.mark.slow
def test_ten_thousand_demonstrations_open_in_seconds(tmp_path: Path) -> None:
    path = write_recordings(tmp_path / "many.h5", [3] * 10_000)
    start = time.process_time()
    with DemoFile(path) as file:
        assert len(file.demos) == 10_000
    assert time.process_time() - start < 30
