"""Where weights are looked for, and how they are fetched from a hub: a real server on this machine."""

import errno
import hashlib
import http.server
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

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
        assert f"the folder {name} lacks config.json and model.safetensors" == missing_weights(setup, BESIDE)
        with pytest.raises(UnavailableError, match=rf"the folder {name} lacks model\.safetensors$"):
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
    """Has owner/net/model.pt, and faults for other repositories. Its headers are those of the real one."""

    content = b"weights" * 1000
    faults: ClassVar = {
        "gated": (403, "GatedRepo"),
        "nowhere": (401, "RepoNotFound"),
        "busy": (503, ""),
        "limited": (429, ""),
        "secret": (403, ""),
    }
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        found = self.path.endswith("/owner/net/resolve/main/model.pt")
        status, code = (200, "") if found else self.faults.get(self.path.split("/")[2], (404, "EntryNotFound"))
        self.send_response(status)
        if found:
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"etag-of-model-pt"')
        elif code:
            self.send_header("X-Error-Code", code)
        if status == 429:
            self.send_header("Retry-After", "300")
        body = self.content if found else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a hub that is the one to ask."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked.clear()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(repository: str, ask: str = "get_weights(BackendSetup(download=True), published)") -> str:
    """What is fetched, or said of it, in a process of its own: the hub's client reads the environment when it is imported.

    Nothing else may be said anywhere.
    """
    program = f"""
from tracekit.backends.captioning.model_folders import get_model
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.weights import Published, get_weights
from tracekit.errors import UnavailableError
published = Published({repository!r}, ("model.safetensors", "model.pt"))
try:
    print({ask})
except UnavailableError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "thrown while" not in ran.stderr and "Retrying" not in ran.stderr, ran.stderr
    return ran.stdout.strip()


def test_a_download_takes_the_first_file_that_is_there_and_is_found_again(server):
    path = Path(fetch("owner/net"))
    assert path.name == "model.pt" and path.read_bytes() == Hub.content
    assert find_weights(BackendSetup(), PUBLISHED) == path
    assert sha256_of(path) == hashlib.sha256(Hub.content).hexdigest()


@pytest.mark.parametrize(
    "name, reason, hint",
    [
        ("gated", "access to it must be granted", "ask for it at {server}/owner/gated and run `hf auth login`"),
        ("nowhere", "there is no such repository, or it is private", "see its name; for a private one run `hf auth login`"),
        ("busy", "the hub answers 503", "try again later"),
        ("limited", "the hub answers 429", "try again later"),
        ("secret", "the hub answers 403", "run `hf auth login`"),
        ("other", "it has no model.safetensors or model.pt", "name another repository"),
        ("n..t", "", "see the network"),
    ],
)
def test_what_a_hub_does_not_give_is_told_in_one_line_at_the_first_answer(server, name, reason, hint):
    said, next_step = fetch(f"owner/{name}").splitlines()
    assert said.startswith(f"could not fetch owner/{name} from {server}: {reason}")
    assert hint.format(server=server) in next_step and next_step.endswith("or give --weights a local file or folder")
    assert len(Hub.asked) == {"other": 2, "n..t": 0}.get(name, 1), Hub.asked


def test_a_hub_that_is_not_there_is_told_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    for ask in ("get_weights(BackendSetup(download=True), published)", "get_model('owner/net', download=True, flag='--weights')"):
        began = time.monotonic()
        said, next_step = fetch("owner/net", ask).splitlines()
        assert time.monotonic() - began < 15, "the client's own tries take 23 seconds"
        assert said == f"could not fetch owner/net from {address}: [Errno {errno.ECONNREFUSED}] Connection refused"
        assert next_step.strip().startswith("see the network of this machine, or give --weights a local f")


def test_a_hub_that_takes_the_question_and_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert fetch("owner/net", "get_model('owner/net', download=True, flag='--weights')").splitlines()[0].endswith("timed out")
        assert time.monotonic() - began < 15, "one question of a second, and the 3 that the client may take for one of its own"


def test_a_file_that_cannot_be_read_is_bad_data(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    assert read_tensors(tmp_path / "w.pt")["a"].tolist() == [1, 1]
    (tmp_path / "w.pt").write_bytes(b"nothing")
    with pytest.raises(BadDataError, match=r"w\.pt"):
        read_tensors(tmp_path / "w.pt")
