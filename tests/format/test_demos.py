"""Files of demonstrations: parts, merging, splits, damage."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from demo_recordings import write_recordings

from tracekit.errors import BadDataError, MissingInputError
from tracekit.format.demos import Demo, describe_demos, holds_demos, merge_demos, read_contents, write_demo
from tracekit.format.provenance import Step, read

STEP = Step("simulate", ["simulate"], "0.1.0", {"seed": 0}, [])


def demo(name: str, number: int, length: int = 5) -> Demo:
    rng = np.random.default_rng(number)
    return Demo(
        name=name,
        parameters={"task": "push", "number": number},
        language="push the puck",
        success=True,
        actions=rng.uniform(-1, 1, (length, 4)),
        rewards=rng.uniform(size=length),
        dones=np.arange(length) == length - 1,
        agentview_image=rng.integers(0, 256, (length, 6, 8, 3), np.uint8),
        eye_in_hand_image=rng.integers(0, 256, (length, 6, 8, 3), np.uint8),
        proprio=rng.normal(size=(length, 4)),
    )


def parts(folder: Path, numbers: list[int]) -> dict[str, Path]:
    result = {}
    for index, number in enumerate(numbers):
        path = folder / f"part{index}.h5"
        write_demo(path, demo(f"d{index}", number, 5 + index))
        result[f"d{index}"] = path
    return result


def split(path: Path) -> dict[str, list[str]]:
    with h5py.File(path) as file:
        return {name: [member.decode() for member in members[:]] for name, members in file["mask"].items()}


def test_parts_become_one_file_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    sources = parts(tmp_path, [0, 1, 2])
    merge_demos(tmp_path / "all.h5", {name: sources[name] for name in ("d2", "d0", "d1")}, ["metaworld/push-v3"], STEP)
    with h5py.File(tmp_path / "all.h5") as file:
        assert [file[f"data/demo_{index}"].attrs["name"] for index in range(3)] == ["d2", "d0", "d1"]
        assert file["data"].attrs["total"] == 5 + 6 + 7
        expected = demo("d2", 2, 7)
        group = file["data/demo_0"]
        assert group.attrs["num_samples"] == 7 and group.attrs["success"] and group.attrs["language"] == "push the puck"
        np.testing.assert_array_equal(group["obs/agentview_image"], expected.agentview_image)
        np.testing.assert_array_equal(group["actions"], expected.actions.astype(np.float32))
        np.testing.assert_array_equal(group["dones"], expected.dones)
        assert [step.command for step in read(file)] == ["simulate"]
    assert read_contents(tmp_path / "all.h5") == {f"d{number}": {"task": "push", "number": number} for number in range(3)}


def test_a_file_grows_by_parts_and_is_its_own_source(tmp_path: Path) -> None:
    sources = parts(tmp_path, [0, 1, 2, 3])
    whole, grown = tmp_path / "whole.h5", tmp_path / "grown.h5"
    merge_demos(whole, sources, ["metaworld/push-v3"], STEP)
    merge_demos(grown, {name: sources[name] for name in ("d1", "d3")}, ["metaworld/push-v3"], STEP)
    merge_demos(grown, {**sources, "d1": grown, "d3": grown}, ["metaworld/push-v3"], STEP, force=True)
    with h5py.File(whole) as one, h5py.File(grown) as other:
        names: list[str] = []
        one.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(names) == 4 * 6 + 2
        for name in names:
            np.testing.assert_array_equal(one[name][()], other[name][()], err_msg=name)


@pytest.mark.parametrize(("num_starts", "num_valid"), [(1, 0), (2, 1), (10, 1), (16, 2), (30, 3)])
def test_the_last_tenth_of_the_starts_is_kept_for_validation(tmp_path: Path, num_starts: int, num_valid: int) -> None:
    """Two cameras film each start: both films are on the same side."""
    merge_demos(tmp_path / "all.h5", parts(tmp_path, [*range(num_starts), *range(num_starts)]), ["metaworld/push-v3"], STEP)
    found = split(tmp_path / "all.h5")
    later = [*range(num_starts - num_valid, num_starts), *range(2 * num_starts - num_valid, 2 * num_starts)]
    assert found["valid"] == [f"demo_{index}" for index in later]
    assert sorted(found["train"] + found["valid"]) == sorted(f"demo_{index}" for index in range(2 * num_starts))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = parts(tmp_path, [0])["d0"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(BadDataError, match="cut off"):
        read_contents(path)
    with pytest.raises(MissingInputError):
        read_contents(tmp_path / "none.h5")
    with h5py.File(tmp_path / "robomimic.h5", "w") as file:
        file.create_group("data/demo_0")
    with pytest.raises(BadDataError, match="holds no demonstrations"):
        read_contents(tmp_path / "robomimic.h5")
    with h5py.File(tmp_path / "robomimic.h5", "r+") as file:
        file.attrs["format"] = "tracekit/demos"
    with pytest.raises(BadDataError, match="has no format_version"):
        read_contents(tmp_path / "robomimic.h5")
    with h5py.File(tmp_path / "robomimic.h5", "r+") as file:
        file.attrs["format_version"] = 1
    with pytest.raises(BadDataError, match="did not make it"):
        read_contents(tmp_path / "robomimic.h5")


DATASETS = ("actions", "rewards", "dones", "obs/agentview_image", "obs/proprio")
ATTRIBUTES = ("name", "language", "success", "parameters", "num_samples")


def without(name: str):
    def damage(demo: h5py.Group) -> None:
        del (demo.attrs if name in demo.attrs else demo)[name]

    return damage


def with_other(name: str, value: object):
    def damage(demo: h5py.Group) -> None:
        if name in demo.attrs:
            demo.attrs[name] = value
        else:
            del demo[name]
            demo[name] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [(without(name), f"no {name}") for name in (*DATASETS, "obs")]
    + [(with_other(name, np.float32(5)), "axes are expected") for name in DATASETS]
    + [(with_other(name, h5py.SoftLink("/data")), "link") for name in ("actions", "obs/proprio")]
    + [(with_other("rewards", np.ones(4)), "5 in actions, 4 in rewards"), (with_other("obs/eye_in_hand_image", np.ones((5, 2))), "4 axes")]
    + [(without(name), name) for name in ATTRIBUTES]
    + [(with_other(name, np.arange(3.0)), name) for name in ATTRIBUTES]
    + [
        (with_other("num_samples", 6), "6 in num_samples"),
        (with_other("parameters", "{"), "JSON"),
        (with_other("parameters", "[]"), "JSON"),
    ],
)
def test_a_demonstration_that_lacks_a_part_is_refused_by_all_that_read_it(tmp_path: Path, damage, said: str) -> None:
    from tracekit.commands.info import read_report

    path = parts(tmp_path, [0])["d0"]
    with h5py.File(path, "r+") as file:
        damage(file["data/demo_0"])
    for read_it in (read_contents, lambda path: read_report(str(path), validate=False)):
        with pytest.raises(BadDataError, match=said) as caught:
            read_it(path)
        assert str(path) in str(caught.value)
    with pytest.raises(BadDataError, match=said):
        merge_demos(tmp_path / "all.h5", {"d0": path}, ["metaworld/push-v3"], STEP)
    assert not (tmp_path / "all.h5").exists()


def test_a_format_that_is_no_word_is_none(tmp_path: Path) -> None:
    from tracekit.commands.info import read_report

    path = parts(tmp_path, [0])["d0"]
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = np.arange(3)
    assert not holds_demos(str(path))
    for read_it in (read_contents, lambda path: read_report(str(path), validate=False)):
        with pytest.raises(BadDataError, match="`format`"):
            read_it(path)


def test_a_mask_that_is_a_group_names_nothing(tmp_path: Path) -> None:
    from tracekit.commands.info import read_report

    path = write_recordings(tmp_path / "lift.h5", [4, 3])
    with h5py.File(path, "r+") as file:
        file.create_group("mask/odd")
    assert "mask/odd" not in read_report(str(path), validate=True)["groups"]


def test_info_describes_demonstrations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tracekit.commands.info import read_report, show

    merge_demos(tmp_path / "all.h5", parts(tmp_path, [0, 1]), ["metaworld/push-v3"], STEP)
    path = str(tmp_path / "all.h5")
    assert holds_demos(path)
    report = read_report(path, validate=True)
    assert report == describe_demos(Path(path)) and report["format"] == "tracekit/demos"
    assert report["groups"] == {
        "data": "2 demonstrations, 11 steps",
        "data/*/actions": "4 numbers",
        "data/*/obs": "states: proprio (4 numbers); cameras: agentview_image (8 x 6 pixels), eye_in_hand_image (8 x 6 pixels)",
        "data/demo_0": "d0: 5 steps, done: push the puck",
        "data/demo_1": "d1: 6 steps, done: push the puck",
        "mask/train": "1 demonstration",
        "mask/valid": "1 demonstration",
    }
    assert {"path": "data/demo_1/obs/proprio", "shape": [6, 4]}.items() <= report["datasets"][-1].items()
    assert [step["command"] for step in report["provenance"]] == ["simulate"]
    show({**report, "valid": True})
    assert "push the puck" in capsys.readouterr().out


def test_info_finds_damage_in_demonstrations(tmp_path: Path) -> None:
    path = tmp_path / "one.h5"
    write_demo(path, demo("d0", 0))
    with h5py.File(path) as file:
        chunk = file["data/demo_0/obs/agentview_image"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)
    describe_demos(path)
    with pytest.raises(BadDataError):
        describe_demos(path, every_value=True)
    path.write_bytes(content[:-9])
    assert not holds_demos(str(path))
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file.attrs["format"] = "something/else"
    assert not holds_demos(str(other)) and not holds_demos(str(tmp_path)) and not holds_demos(str(tmp_path / "none.h5"))


def test_info_describes_demonstrations_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tracekit.commands.info import read_report, show

    path = tmp_path / "lift.h5"
    named = {"cameras": ("front",), "states": {"joints": 7, "hand": 1}, "masks": {"train": [0], "valid": [1, 2]}}
    write_recordings(path, [4, 1, 2], languages=["lift it", "", " "], **named)
    assert not holds_demos(str(path))
    for validate in (False, True):
        report = read_report(str(path), validate=validate)
        assert report["groups"] == {
            "data": "3 demonstrations, 7 steps; 2 without a sentence, which finetune --language gives",
            "data/*/actions": "3 numbers",
            "data/*/obs": "states: hand (1 number), joints (7 numbers); cameras: front (16 x 12 pixels)",
            "data/demo_0": "4 steps: lift it",
            "data/demo_1": "1 step: no sentence",
            "data/demo_2": "2 steps: no sentence",
            "mask/train": "1 demonstration",
            "mask/valid": "2 demonstrations",
        }
    assert len(report["datasets"]) == 3 * 4 and report["provenance"] == []
    assert {"path": "data/demo_0/obs/front", "shape": [4, 12, 16, 3], "dtype": "uint8"}.items() <= report["datasets"][1].items()
    show({**report, "valid": True})
    assert "lift.h5 robomimic's layout 0.0" in " ".join(capsys.readouterr().out.split())


def test_info_finds_damage_in_demonstrations_of_others(tmp_path: Path) -> None:
    from tracekit.commands.info import read_report

    path = write_recordings(tmp_path / "lift.h5", [4, 3])
    with h5py.File(path, "r+") as file:
        front = file.create_dataset("data/demo_1/obs/front", data=np.ones((3, 12, 16, 3), np.uint8), chunks=(1, 12, 16, 3), fletcher32=True)
        chunk = front.id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset] ^= 0xFF
    path.write_bytes(content)
    read_report(str(path), validate=False)
    with pytest.raises(BadDataError, match=r"data/demo_1/obs/front in lift\.h5 cannot be read: its checksum is wrong"):
        read_report(str(path), validate=True)


def test_info_names_all_that_it_knows_for_what_it_does_not(tmp_path: Path) -> None:
    from tracekit.commands.info import read_report

    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["data/demo_0/movements"] = np.ones(3)
    with pytest.raises(BadDataError, match=r"expected one of .*tracekit/demos, robomimic's layout"):
        read_report(str(path), validate=False)
    with h5py.File(path, "r+") as file:  # whoever says what it is, is believed
        file["data/demo_0/actions"] = np.ones((3, 2))
        file.attrs["format"] = "else"
    with pytest.raises(BadDataError, match=r"is of format else, but one of .*tracekit/demos, robomimic's layout is expected"):
        read_report(str(path), validate=False)
