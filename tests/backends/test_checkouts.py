"""Where other people's repositories are looked for."""

import shutil
import sys
import venv
from pathlib import Path

import pytest

from tracekit.backends import registry
from tracekit.backends.checkouts import (
    FOLDER_OF_CHECKOUTS,
    Checkout,
    Repository,
    code_files,
    find_checkout,
    missing_checkout,
    missing_from_python,
)
from tracekit.backends.inventory import take_inventory
from tracekit.backends.protocols import BackendSetup
from tracekit.report import Report

REPOSITORY = Repository("vggt", "https://github.com/facebookresearch/vggt", "vggt/models/vggt.py", "a_package_that_nobody_has")


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv(FOLDER_OF_CHECKOUTS, raising=False)


def checkout(folder):
    (folder / "vggt" / "models").mkdir(parents=True)
    (folder / "vggt" / "models" / "vggt.py").touch()
    return folder


def test_nowhere():
    assert find_checkout(REPOSITORY, BackendSetup()) is None
    reason = missing_checkout(REPOSITORY, BackendSetup())
    assert reason is not None
    assert (
        "git clone https://github.com/facebookresearch/vggt" in reason
        and "docs/backends" in reason
        and "--repo" in reason
        and FOLDER_OF_CHECKOUTS in reason
    )


def test_the_folder_that_the_user_names_whatever_it_is_called(tmp_path):
    folder = checkout(tmp_path / "my copy")
    setup = BackendSetup(repo=str(folder))
    assert find_checkout(REPOSITORY, setup) == Checkout(sys.executable, folder)
    assert missing_checkout(REPOSITORY, setup) is None


def test_a_path_is_made_whole_because_workers_work_elsewhere(tmp_path, monkeypatch):
    folder = checkout(tmp_path / "here" / "vggt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    for name in ("here/vggt", "~/vggt"):
        assert find_checkout(REPOSITORY, BackendSetup(repo=name)) == Checkout(sys.executable, folder)


def test_a_folder_that_is_no_checkout_of_it_is_refused_even_if_another_would_do(tmp_path, monkeypatch):
    checkout(tmp_path / "vggt")
    monkeypatch.setenv(FOLDER_OF_CHECKOUTS, str(tmp_path))
    setup = BackendSetup(repo=str(tmp_path))
    assert find_checkout(REPOSITORY, setup) is None
    assert missing_checkout(REPOSITORY, setup) == f"{tmp_path} is no checkout of {REPOSITORY.url} (it has no {REPOSITORY.proof})"


def test_among_the_checkouts_it_is_found_by_its_name(tmp_path, monkeypatch):
    checkout(tmp_path / "another")
    monkeypatch.setenv(FOLDER_OF_CHECKOUTS, str(tmp_path))
    assert find_checkout(REPOSITORY, BackendSetup()) is None
    folder = checkout(tmp_path / "vggt")
    assert find_checkout(REPOSITORY, BackendSetup()) == Checkout(sys.executable, folder)


@pytest.mark.parametrize("fault", ["nowhere", "a file", "one level too deep", "something else of that name"])
def test_a_folder_of_checkouts_that_lacks_it_is_named_with_the_folder_that_was_looked_for(tmp_path, monkeypatch, fault):
    among = tmp_path / "checkouts"
    if fault == "a file":
        among.touch()
    elif fault == "one level too deep":
        checkout(among)
    elif fault == "something else of that name":
        (among / "vggt").mkdir(parents=True)
    monkeypatch.setenv(FOLDER_OF_CHECKOUTS, str(among))
    reason = missing_checkout(REPOSITORY, BackendSetup())
    assert reason is not None and f"{FOLDER_OF_CHECKOUTS} is {among}, " in reason and "docs/backends" in reason
    lack = "which is no folder" if fault in ("nowhere", "a file") else f"whose folder vggt has no {REPOSITORY.proof}"
    assert lack in reason


def test_a_folder_of_other_checkouts_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_OF_CHECKOUTS, str(tmp_path))
    assert f"{tmp_path}, in which there is no folder vggt" in (missing_checkout(REPOSITORY, BackendSetup()) or "")


def test_an_installed_package_comes_last_and_needs_no_folder(tmp_path, monkeypatch):
    installed = Repository("vggt", REPOSITORY.url, REPOSITORY.proof, "json")
    assert find_checkout(installed, BackendSetup()) == Checkout(sys.executable, None)
    monkeypatch.setenv(FOLDER_OF_CHECKOUTS, str(tmp_path))
    folder = checkout(tmp_path / "vggt")
    assert find_checkout(installed, BackendSetup()) == Checkout(sys.executable, folder)


def test_its_own_virtual_environment_runs_it(tmp_path):
    folder = checkout(tmp_path / "vggt")
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    found = find_checkout(REPOSITORY, BackendSetup(repo=str(folder)))
    assert found == Checkout(str(python), folder), "the link itself: what it leads to knows nothing of the environment"


@pytest.mark.parametrize("name", ["nowhere", "a file"])
def test_a_folder_that_does_not_exist_is_called_so(tmp_path, name):
    (tmp_path / "a file").touch()
    reason = missing_checkout(REPOSITORY, BackendSetup(repo=str(tmp_path / name)))
    assert reason == f"there is no folder {tmp_path / name}: --repo takes a checkout of {REPOSITORY.url}"


def test_packages_that_our_own_python_lacks_are_named_unless_the_checkout_has_them(tmp_path):
    needs = ("json", "no_such_package", "of_the_checkout", "nor_this")
    (tmp_path / "of_the_checkout.py").touch()
    assert missing_from_python(Checkout(sys.executable, tmp_path), needs[:1]) is None
    reason = missing_from_python(Checkout(sys.executable, tmp_path), needs)
    install = f"{sys.executable} -m pip install no_such_package nor_this"
    assert reason == f"{sys.executable}, which runs it, lacks no_such_package, nor_this: {install}"
    assert "of_the_checkout" in str(missing_from_python(Checkout(sys.executable, None), needs))


def test_the_python_of_a_checkout_is_asked_what_it_has_and_not_ours(tmp_path, monkeypatch):
    folder = checkout(tmp_path / "vggt")
    venv.create(folder / ".venv", symlinks=True)
    (folder / "of_the_checkout.py").write_text("raise RuntimeError('imported')")
    ours = tmp_path / "on our path"
    ours.mkdir()
    (ours / "ours.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(ours))
    found = find_checkout(REPOSITORY, BackendSetup(repo=str(folder)))
    assert found is not None and found.python == str(folder / ".venv" / "bin" / "python")
    assert missing_from_python(found, ("json", "of_the_checkout")) is None
    reason = missing_from_python(found, ("json", "numpy", "box", "ours", "of_the_checkout"))
    assert reason == f"{found.python}, which runs it, lacks numpy, python-box, ours: {found.python} -m pip install numpy python-box ours"


@pytest.mark.parametrize(("python", "said"), [("#!/bin/sh\necho 'no library' >&2; exit 1", "no library"), ("nothing", "cannot be started")])
def test_a_python_that_does_not_work_is_a_reason(tmp_path, python, said):
    broken = tmp_path / "python"
    broken.write_text(python)
    broken.chmod(0o755)
    assert said in str(missing_from_python(Checkout(str(broken), tmp_path), ("json",)))


def test_auto_passes_over_a_network_whose_python_lacks_packages(tmp_path, monkeypatch):
    shutil.copytree(Path(__file__).parent / "doubles" / "vggt", tmp_path / "vggt")
    venv.create(tmp_path / "vggt" / ".venv", symlinks=True)
    published = tmp_path / "hub" / "models--facebook--VGGT-1B"
    (published / "refs").mkdir(parents=True)
    (published / "refs" / "main").write_text("abc")
    (published / "snapshots" / "abc").mkdir(parents=True)
    (published / "snapshots" / "abc" / "model.safetensors").touch()
    monkeypatch.setenv(FOLDER_OF_CHECKOUTS, str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    vggt = next(entry for entry in take_inventory(BackendSetup())["reconstruction"] if entry.name == "vggt")
    assert "lacks torch, numpy, huggingface_hub, safetensors: " in str(vggt.missing)
    report = Report()
    assert registry.create("reconstruction", "auto", BackendSetup(), report, candidates=["vggt", "planar"]).name == "planar"
    assert any(note.startswith("reconstruction: took planar") for note in report.notes)


def test_code_is_that_of_the_checkout_whatever_else_lies_in_it(tmp_path):
    folder = checkout(tmp_path / "vggt")
    venv.create(folder / "venv", symlinks=True)
    (folder / "venv" / "installed.py").touch()
    (folder / ".git").mkdir()
    (folder / ".git" / "hook.py").touch()
    (folder / "settings.yaml").touch()
    (folder / "picture.png").touch()
    (folder / "dangling.json").symlink_to(tmp_path / "nowhere")
    found = code_files(REPOSITORY, Checkout(sys.executable, folder))
    assert found == {name: folder / name for name in ("settings.yaml", "vggt/models/vggt.py")}
