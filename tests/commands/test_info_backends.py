"""tracekit info --backends: what can run here, and what another package can do to the list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from run_command import PROGRAM, environment, tracekit

from tracekit.backends.registry import BUILT_IN

EMBEDDED = {"features": "lowlevel", "reconstruction": "planar", "tracking": "klt", "captioning": "template"}

THEIRS = """
from pathlib import Path
from tracekit.backends.checkouts import Repository
from tracekit.backends.protocols import Facts
from tracekit.backends.weights import Published, missing_weights

class Follower:
    name = "follower"
    facts = Facts("follows", code="https://example.org/follower", code_licence="MIT", weights="someone/follower",
                  weights_licence="CC-BY-NC-4.0", commercial="no")
    repository = Repository("follower", "https://example.org/follower", "follow.py")
    published = Published("someone/follower")

    @classmethod
    def missing(cls, setup):
        return missing_weights(setup, cls.published)

class Silent:
    name = "silent"

    @classmethod
    def missing(cls, setup):
        return None

class Raising(Silent):
    @classmethod
    def missing(cls, setup):
        raise OSError("no such device")
"""
ENTRY_POINTS = """[tracekit.backends]
tracking.follower = theirs:Follower
tracking.silent = theirs:Silent
tracking.raising = theirs:Raising
tracking.gone = theirs:NotThere
captioning.broken = theirs_broken:Captioner
nonsense.silent = theirs:Silent
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Environment of a machine with a package that adds backends, one checkout and one file of weights."""
    site, cache, checkouts = tmp_path / "site", tmp_path / "hub", tmp_path / "checkouts"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "theirs.py").write_text(THEIRS)
    (site / "theirs_broken.py").write_text("raise RuntimeError('built for another CUDA')\n")
    snapshot = cache / "models--someone--follower" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(bytes(1500))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    python = checkouts / "follower" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (checkouts / "follower" / "follow.py").write_text("")
    return {"PYTHONPATH": str(site), "HF_HUB_CACHE": str(cache), "TRACEKIT_CHECKOUTS": str(checkouts)}


def listing(env: dict[str, str]) -> dict:
    done = tracekit("info", "--backends", "--json", env=env)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_every_backend_is_listed_and_auto_is_what_runs_first(tmp_path: Path) -> None:
    found = listing({"HF_HUB_CACHE": str(tmp_path)})
    for kind, backends in BUILT_IN.items():
        by_name = {backend["name"]: backend for backend in found[kind]["backends"]}
        assert list(by_name) == list(backends)
        assert found[kind]["auto"][-1] == EMBEDDED[kind] and by_name[EMBEDDED[kind]]["runs"] is True
        for name, backend in by_name.items():
            assert backend["runs"] == (backend["missing"] is None), name
            assert None not in (backend["about"], backend["code_licence"], backend["weights_licence"], backend["commercial"]), name
            if backend["weights"] == "none":
                assert backend["weights_licence"] == "" and backend["weights_file"] is None
    assert found["reconstruction"]["auto"] == ["sensor", "planar"]
    assert [found[kind]["paper"] for kind in BUILT_IN] == ["dinov2", "vggt", "tapip3d", "smolvlm"]


def test_it_imports_no_network(tmp_path: Path) -> None:
    heavy = "{'torch', 'transformers', 'timm', 'numba'}"
    script = f"import sys\nfrom tracekit.cli import run\ncode = run(['info', '--backends'])\nprint(code, {heavy} & set(sys.modules))"
    done = subprocess.run([PROGRAM[0], "-c", script], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.endswith("0 set()\n")


def test_other_packages_are_listed_with_what_they_say_and_what_is_here(machine: dict[str, str]) -> None:
    tracking = {backend["name"]: backend for backend in listing(machine)["tracking"]["backends"]}
    follower = tracking["follower"]
    assert follower["runs"] and follower["package"] == "theirs" and follower["commercial"] == "no"
    assert follower["checkout"] == f"{machine['TRACEKIT_CHECKOUTS']}/follower"
    assert follower["python"] == f"{machine['TRACEKIT_CHECKOUTS']}/follower/.venv/bin/python"
    assert follower["weights_file"].startswith(machine["HF_HUB_CACHE"]) and follower["weights_bytes"] == 1500
    silent = tracking["silent"]
    assert silent["runs"] and silent["commercial"] is None and silent["code_licence"] is None and silent["about"] is None
    text = tracekit("info", "--backends", env={**machine, "COLUMNS": "160"}).stdout.decode()
    row = next(line for line in text.splitlines() if line.startswith("follower"))
    assert row.split()[:4] == ["follower", "yes", "no", "follows"]
    assert next(line for line in text.splitlines() if line.startswith("silent")).split()[:3] == ["silent", "yes", "unknown"]
    assert f"follower: code: https://example.org/follower, MIT ({follower['checkout']}, run by {follower['python']})" in text
    assert f"follower: weights: someone/follower; licence: CC-BY-NC-4.0 ({follower['weights_file']}, 0 MB)" in text


def test_a_broken_package_breaks_neither_the_list_nor_auto(machine: dict[str, str], episode_file: Path, tmp_path: Path) -> None:
    found = listing(machine)
    tracking = {backend["name"]: backend for backend in found["tracking"]["backends"]}
    assert "no such device" in tracking["raising"]["missing"] and not tracking["raising"]["runs"]
    assert "NotThere" in tracking["gone"]["missing"] and "theirs" in tracking["gone"]["missing"]
    broken = found["captioning"]["backends"][-1]
    assert broken["name"] == "broken" and "built for another CUDA" in broken["missing"] and not broken["automatic"]
    assert found["captioning"]["auto"] == ["template"] and "nonsense" not in found
    done = tracekit("caption", episode_file, "--captioner", "broken", "-o", tmp_path / "out.h5", env=machine)
    assert done.returncode == 69 and b"built for another CUDA" in done.stderr and not (tmp_path / "out.h5").exists()
    assert tracekit("caption", episode_file, "-o", tmp_path / "out.h5", env=machine).returncode == 0


def test_it_is_about_the_machine_and_not_about_a_file(episode_file: Path) -> None:
    for arguments in ((episode_file,), ("--validate",)):
        done = tracekit("info", "--backends", *arguments)
        assert done.returncode == 2 and b"takes no file" in done.stderr
