"""A run that is killed in the middle of one long clip goes on from there, and its output is that of an undisturbed run."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from long_clip import plugin, write_long_episode
from run_command import PROGRAM, environment, tracekit

from tracekit.format.file import open_records

NUM_FRAMES = 520
ARGUMENTS = {"reconstruct": ["--backend", "longclip", "--max-anchors", "20"], "track": ["--tracker", "longclip"]}
OUTPUT = "out.h5"


@dataclass
class Place:
    """A folder in which one command is run, with its source `in.h5`, and what the network was asked there."""

    folder: Path
    command: str
    env: dict[str, str]

    def start(self, *more: object, **env: object) -> subprocess.Popen:
        words = [*PROGRAM, self.command, "in.h5", "-o", OUTPUT, *ARGUMENTS[self.command], *map(str, more)]
        return subprocess.Popen(
            words, cwd=self.folder, env=environment({**self.env, **{key: str(value) for key, value in env.items()}}), stderr=subprocess.PIPE
        )

    def run(self, *more: object, **env: object) -> tuple[int, str]:
        process = self.start(*more, **env)
        _, error = process.communicate(timeout=120)
        return process.returncode, error.decode()

    def calls(self) -> list[str]:
        log = Path(self.env["LONG_CLIP_LOG"])
        calls = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return calls

    @property
    def progress(self) -> Path:
        return self.folder / f".{OUTPUT}.progress"

    def kept(self) -> list[Path]:
        return sorted(self.progress.glob("*.npz"))

    def result(self) -> str:
        """Digest of the output, byte by byte: the clock in the provenance stands still. Nothing else may be left in the folder."""
        assert sorted(path.name for path in self.folder.iterdir() if path.name != "log") == ["in.h5", OUTPUT]
        return hashlib.sha256((self.folder / OUTPUT).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each command reads; `site` is where the networks are installed."""
    folder = tmp_path_factory.mktemp("sources")
    env = plugin(folder / "site")
    episode = write_long_episode(folder / "in.h5", NUM_FRAMES)
    done = tracekit("reconstruct", episode, "-o", folder / "geometry.h5", *ARGUMENTS["reconstruct"], env=env)
    assert done.returncode == 0, done.stderr
    return {"reconstruct": episode, "track": folder / "geometry.h5", "site": folder / "site"}


@pytest.fixture(params=["reconstruct", "track"])
def command(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def place(tmp_path: Path, sources: dict[str, Path], command: str) -> Place:
    return place_in(tmp_path / "here", sources, command)


def place_in(folder: Path, sources: dict[str, Path], command: str) -> Place:
    folder.mkdir()
    shutil.copy(sources[command], folder / "in.h5")
    packages = os.pathsep.join([str(sources["site"]), str(Path(__file__).parents[1])])
    return Place(folder, command, {"PYTHONPATH": packages, "LONG_CLIP_LOG": str(folder / "log"), "SOURCE_DATE_EPOCH": "0"})


_undisturbed: dict[tuple, tuple[str, list[str]]] = {}


def undisturbed(tmp_path: Path, sources: dict[str, Path], command: str, *more: object, **env: object) -> tuple[str, list[str]]:
    """Digest of the output of a run in one go, and the calls of its network."""
    asked = (command, more, tuple(env.items()))
    if asked not in _undisturbed:
        place = place_in(tmp_path / "undisturbed", sources, command)
        assert place.run(*more, **env)[0] == 0
        calls = place.calls()
        _undisturbed[asked] = place.result(), calls
    return _undisturbed[asked]


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, sources: dict[str, Path], place: Place) -> None:
    expected, all_calls = undisturbed(tmp_path, sources, place.command)
    assert len(all_calls) >= 9
    middle = len(all_calls) // 2
    code, _ = place.run(LONG_CLIP_KILL_AT=middle)
    assert code == -signal.SIGKILL and not (place.folder / OUTPUT).exists()
    num_kept = len(place.kept())
    assert place.calls() == all_calls[:middle] and num_kept in (middle - 2, middle - 1), "the last one may not have been written yet"
    code, said = place.run()
    assert code == 0 and f"goes on from an earlier run: {num_kept} answers" in said
    assert place.calls() == all_calls[num_kept:], "only what was not kept is computed"
    assert place.result() == expected


@pytest.mark.slow
def test_killed_at_any_moment_again_and_again(tmp_path: Path, sources: dict[str, Path], place: Place) -> None:
    expected, all_calls = undisturbed(tmp_path, sources, place.command)
    chance, num_kills, code = random.Random(3), 0, None
    while code != 0:
        process = place.start(LONG_CLIP_SECONDS=0.15)
        try:
            process.wait(timeout=chance.uniform(0.5, 1.1) if num_kills < 12 else 60)
        except subprocess.TimeoutExpired:
            process.kill()
            num_kills += 1
        process.communicate()
        code = process.returncode
        assert code in (0, -signal.SIGKILL)
        if (place.folder / OUTPUT).exists():  # perhaps it was killed right after
            break
    calls = place.calls()
    assert num_kills >= 2 and set(calls) == set(all_calls)
    assert len(calls) <= len(all_calls) + 2 * num_kills, "of each run that was killed, at most two calls were in vain"
    assert hashlib.sha256((place.folder / OUTPUT).read_bytes()).hexdigest() == expected


def test_damaged_answers_are_computed_again(tmp_path: Path, sources: dict[str, Path], place: Place) -> None:
    expected, all_calls = undisturbed(tmp_path, sources, place.command)
    last = len(all_calls)
    assert place.run(LONG_CLIP_KILL_AT=last)[0] == -signal.SIGKILL
    place.calls()
    kept = place.kept()
    assert last - 1 >= len(kept) >= 8
    content = kept[0].read_bytes()
    kept[0].write_bytes(content[: len(content) // 2])
    flipped = bytearray(kept[1].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    kept[1].write_bytes(flipped)
    kept[2].write_bytes(b"")
    shutil.copy(kept[4], kept[3])  # the answer to another question
    with np.load(kept[5]) as entry, open(kept[5].with_suffix(".other"), "wb") as file:
        np.savez(file, of_inputs=entry["of_inputs"], world_from_camera=np.array([Unpickled(tmp_path / "ran")], object))
    os.replace(kept[5].with_suffix(".other"), kept[5])
    with np.load(kept[6]) as entry, open(kept[6].with_suffix(".other"), "wb") as file:
        np.savez(file, of_inputs=entry["of_inputs"])
    os.replace(kept[6].with_suffix(".other"), kept[6])
    (place.progress / "000007.npz.part").write_bytes(content[:100])
    code, said = place.run()
    assert code == 0 and "Traceback" not in said
    assert not (tmp_path / "ran").exists(), "no code in an answer is run"
    assert place.calls() == [all_calls[i] for i in (0, 1, 2, 3, 5, 6, *range(len(kept), last))]
    assert place.result() == expected


class Unpickled:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def change_nothing(place: Place) -> None:
    pass


def touch_source(place: Place) -> None:
    os.utime(place.folder / "in.h5", ns=(1, 1))


def damage_key(place: Place) -> None:
    (place.progress / "key.json").write_text('{"command": "rec')


def remove_key(place: Place) -> None:
    (place.progress / "key.json").unlink()


@pytest.mark.parametrize(
    ("change", "more", "env"),
    [
        (change_nothing, ["--chunk", 50], {}),
        (change_nothing, ["--seed", 1], {}),
        (change_nothing, [], {"LONG_CLIP_WEIGHTS": "other"}),
        (touch_source, [], {}),
        (damage_key, [], {}),
        (remove_key, [], {}),
    ],
    ids=["chunk", "seed", "weights", "source", "damaged key", "no key"],
)
@pytest.mark.parametrize("command", ["reconstruct"], indirect=True)
def test_what_was_computed_from_something_else_is_discarded(tmp_path, sources, place, change, more, env) -> None:
    expected, all_calls = undisturbed(tmp_path, sources, place.command, *more, **env)
    assert place.run(LONG_CLIP_KILL_AT=6)[0] == -signal.SIGKILL
    place.calls()
    change(place)
    code, said = place.run(*more, **env)
    assert code == 0 and "is discarded" in said
    assert place.calls() == all_calls and place.result() == expected


def test_a_pass_that_ran_out_of_memory_does_so_again(tmp_path: Path, sources: dict[str, Path], place: Place) -> None:
    """Chunks in the file, counts and notes included, are those of the undisturbed run."""
    expected, all_calls = undisturbed(tmp_path, sources, place.command, LONG_CLIP_MOST_FRAMES=40)
    middle = len(all_calls) - 3
    assert place.run(LONG_CLIP_MOST_FRAMES=40, LONG_CLIP_KILL_AT=middle)[0] == -signal.SIGKILL
    place.calls()
    num_kept = len(place.kept())
    assert num_kept >= middle - 2
    assert place.run()[0] == 0, "by now there is memory enough, but half of the clip was cut already"
    assert place.calls() == all_calls[num_kept:]
    assert place.result() == expected


@pytest.mark.parametrize("command", ["reconstruct"], indirect=True)
def test_a_run_that_memory_ends_is_tried_in_full_again(place: Place) -> None:
    code, said = place.run(LONG_CLIP_MOST_FRAMES=4)
    assert code == 74 and "out of memory" in said and not place.progress.exists()
    place.calls()
    assert place.run()[0] == 0


def test_the_source_of_a_batch_goes_on_too(tmp_path: Path, sources: dict[str, Path], place: Place) -> None:
    _, all_calls = undisturbed(tmp_path, sources, place.command)
    arguments = [place.command, str(place.folder / "in.h5"), "-d", str(tmp_path / "out"), *ARGUMENTS[place.command]]
    failed = tracekit(*arguments, env={**place.env, "LONG_CLIP_KILL_AT": "6"})
    assert failed.returncode == 70 and b"SIGKILL" in failed.stderr
    num_kept = len(list((tmp_path / "out" / ".in.h5.progress").glob("*.npz")))
    assert num_kept in (4, 5)
    place.calls()
    assert tracekit(*arguments, env=place.env).returncode == 0
    assert place.calls() == all_calls[num_kept:]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".h5" or "progress" in path.name] == ["in.h5"]


@pytest.mark.parametrize("command", ["reconstruct"], indirect=True)
def test_no_progress_is_kept_without_a_file_to_go_on_to(tmp_path: Path, place: Place) -> None:
    arguments = [*PROGRAM, "reconstruct", "in.h5", *ARGUMENTS["reconstruct"]]
    done = subprocess.run(arguments, cwd=place.folder, env=environment({**place.env, "LONG_CLIP_KILL_AT": "5"}), capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in place.folder.iterdir()) == ["in.h5", "log"]


@pytest.mark.parametrize("command", ["reconstruct"], indirect=True)
def test_a_disk_that_is_nearly_full_ends_the_journal_and_not_the_run(tmp_path: Path, sources: dict[str, Path], place: Place) -> None:
    expected, all_calls = undisturbed(tmp_path, sources, place.command)
    disk = tmp_path / "disk"
    disk.mkdir()
    # Some answers fit (1.5 MB each) and must make way for the output (0.5 MB).
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        small = place_in(disk / "here", sources, "reconstruct")
        small.env["LONG_CLIP_LOG"] = place.env["LONG_CLIP_LOG"]
        code, said = small.run()
        assert code == 0 and "the progress of this run is no longer kept" in said and "nearly full" in said
        assert small.result() == expected and place.calls() == all_calls
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("command", ["reconstruct"], indirect=True)
def test_two_runs_to_the_same_output_do_not_disturb_each_other(tmp_path: Path, sources: dict[str, Path], place: Place) -> None:
    expected, _ = undisturbed(tmp_path, sources, place.command)
    first = place.start(LONG_CLIP_SECONDS=0.6)
    while not place.kept():
        assert first.poll() is None
        time.sleep(0.01)
    second = place.start()
    _, said = second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert second.returncode == 0 and b"another process keeps its progress" in said
    assert first.returncode == 73, "the second was faster, and a file that is there is not replaced"
    assert not place.progress.exists(), "nobody would ask for what the first has kept: its output is there"
    place.calls()
    assert place.result() == expected


@pytest.mark.parametrize("command", ["track"], indirect=True)
def test_the_provenance_tells_nothing_of_it(tmp_path: Path, place: Place) -> None:
    assert place.run(LONG_CLIP_KILL_AT=4)[0] == -signal.SIGKILL
    assert place.run()[0] == 0
    with open_records(place.folder / OUTPUT) as file:
        step = file.steps()[-1]
    assert "earlier run" not in json.dumps(step.notes) and step.counts["tracks"] > 100
