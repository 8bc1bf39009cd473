"""Where weights are looked for, and how they are fetched from a hub: a real server on this machine."""

import hashlib
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tracekit.backends import registry
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.weights import Published, find_weights, get_weights, missing_weights, read_tensors, sha256_of
from tracekit.errors import BadDataError, UnavailableError, UsageError
from tracekit.report import Report

PUBLISHED = Published("owner/net", ("model.safetensors", "model.pt"))
BESIDE = Published("owner/net", ("model.safetensors",), ("config.json",))


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """A machine whose hub cache is empty."""
    for name in ("HF_HUB_OFFLINE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(hub: Path, repository: str, *names: str) -> Path:
    """As the hub's client lays its cache out."""
    folder = hub / ("models--" + repository.replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "blobs").mkdir()
    for name in names:
        (folder / "blobs" / name.replace(".", "-")).write_bytes(name.encode())
        (folder / "snapshots" / "abc" / name).symlink_to(folder / "blobs" / name.replace(".", "-"))
    return folder / "snapshots" / "abc"


def test_a_file_is_taken_whatever_it_is_called_and_its_path_is_whole(tmp_path, monkeypatch):
    (tmp_path / "mine.pt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("mine.pt", "./mine.pt", "~/mine.pt", str(tmp_path / "mine.pt")):
        assert find_weights(BackendSetup(weights=name), PUBLISHED) == tmp_path / "mine.pt"
        assert missing_weights(BackendSetup(weights=name), PUBLISHED) is None


def test_of_a_folder_the_best_file_is_taken(tmp_path):
    setup = BackendSetup(weights=str(tmp_path))
    assert find_weights(setup, PUBLISHED) is None
    (tmp_path / "model.pt").touch()
    assert find_weights(setup, PUBLISHED) == tmp_path / "model.pt"
    (tmp_path / "model.safetensors").touch()
    assert find_weights(setup, PUBLISHED) == tmp_path / "model.safetensors"
    assert find_weights(setup, BESIDE) is None
    (tmp_path / "config.json").touch()
    assert find_weights(setup, BESIDE) == tmp_path / "model.safetensors"


def test_the_cache_of_the_hub_is_looked_into_by_name(hub):
    default, other = cached(hub, "owner/net", "model.pt"), cached(hub, "owner/other", "model.safetensors")
    assert find_weights(BackendSetup(), PUBLISHED) == default / "model.pt", "the link: what it leads to has no suffix"
    assert find_weights(BackendSetup(weights="owner/other"), PUBLISHED) == other / "model.safetensors"
    assert find_weights(BackendSetup(weights="owner/third"), PUBLISHED) is None


def test_what_is_missing_and_how_to_get_it(tmp_path, monkeypatch):
    reason = missing_weights(BackendSetup(), PUBLISHED)
    assert reason is not None and "owner/net" in reason and "--download" in reason and "--weights" in reason
    assert missing_weights(BackendSetup(download=True), PUBLISHED) is None
    reason = missing_weights(BackendSetup(weights=str(tmp_path / "gone.pt"), download=True), PUBLISHED)
    assert reason is not None and f"there are no weights at {tmp_path / 'gone.pt'}" in reason
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reason = missing_weights(BackendSetup(download=True), PUBLISHED)
    assert reason is not None and "HF_HUB_OFFLINE" in reason
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE"):
        get_weights(BackendSetup(download=True), PUBLISHED)


def test_a_folder_that_is_there_is_no_hub_id_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "net").mkdir(parents=True)
    (tmp_path / "bare").mkdir()
    both = Published("owner/net", ("model.safetensors", "model.pt"), ("config.json", "preprocessor_config.json"))
    for name in ("bare", "owner/net", "./bare"):
        setup = BackendSetup(weights=name, download=True)
        assert f"the folder {name} lacks config.json and model.safetensors; it must hold" in str(missing_weights(setup, BESIDE))
        with pytest.raises(UnavailableError, match=r"lacks model\.safetensors; it must hold model\.safetensors$"):
            get_weights(setup, PUBLISHED)
    for name in ("config.json", "model.pt"):
        (tmp_path / "bare" / name).touch()
    reason = str(missing_weights(BackendSetup(weights="bare"), both))
    needed = "config.json, preprocessor_config.json and model.safetensors"
    assert reason == f"the folder bare lacks preprocessor_config.json; it must hold {needed}"


@pytest.mark.parametrize("weights", ["", " ", "\t\n"])
@pytest.mark.parametrize("kind, name", [("features", "dinov2"), ("captioning", "smolvlm"), ("reconstruction", "auto")])
def test_weights_without_a_name_are_a_mistake(tmp_path, monkeypatch, weights, kind, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--weights is empty"):
        registry.create(kind, name, BackendSetup(weights=weights), Report())


class Hub(http.server.BaseHTTPRequestHandler):
    """Has owner/net/model.pt; access to owner/gated must be granted."""

    content = b"weights" * 1000

    def do_GET(self) -> None:
        found = self.path.endswith("/owner/net/resolve/main/model.pt")
        self.send_response(200 if found else 403 if "/owner/gated/" in self.path else 404)
        if found:
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"etag-of-model-pt"')
        else:
            self.send_header("X-Error-Code", "GatedRepo" if "/owner/gated/" in self.path else "EntryNotFound")
        body = self.content if found else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def fetch(monkeypatch):
    """get_weights in a process of its own, because the hub's client reads the environment when it is imported."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")

    def run(repository: str) -> str:
        program = f"""
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.weights import Published, get_weights
from tracekit.errors import UnavailableError
try:
    print(get_weights(BackendSetup(download=True), Published({repository!r}, ("model.safetensors", "model.pt"))))
except UnavailableError as error:
    print(error)
"""
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()

    yield run
    server.shutdown()
    server.server_close()


def test_a_download_takes_the_first_file_that_is_there_and_is_found_again(fetch):
    path = Path(fetch("owner/net"))
    assert path.name == "model.pt" and path.read_bytes() == Hub.content
    assert find_weights(BackendSetup(), PUBLISHED) == path
    assert sha256_of(path) == hashlib.sha256(Hub.content).hexdigest()


def test_weights_to_which_access_must_be_granted(fetch):
    said = fetch("owner/gated")
    assert said.startswith("could not fetch owner/gated") and "hf auth login" in said


def test_a_file_that_cannot_be_read_is_bad_data(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    assert read_tensors(tmp_path / "w.pt")["a"].tolist() == [1, 1]
    (tmp_path / "w.pt").write_bytes(b"nothing")
    with pytest.raises(BadDataError, match=r"w\.pt"):
        read_tensors(tmp_path / "w.pt")
