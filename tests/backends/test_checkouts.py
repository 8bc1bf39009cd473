"""Where other people's repositories are looked for."""

import sys

import pytest

from tracekit.backends.checkouts import FOLDER_OF_CHECKOUTS, Checkout, Repository, find_checkout, missing_checkout
from tracekit.backends.protocols import BackendSetup

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
