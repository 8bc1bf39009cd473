"""Run one network in a process of its own: `python serve.py NETWORK` answers messages on standard input with messages on standard output.

NETWORK is a file of this folder, NETWORK.py, or the path of one that lies elsewhere, with a function `load(options) -> forward`, where `forward(message, arrays)` returns
(message, arrays). The first message holds the options: `repo` (folder of the checkout, or null where the package is installed), `weights`
(a local file, or null for random ones), `device` ("auto", "cpu", "cuda"), and what the network itself wants. Every reply has "seconds", how long
the network itself took, or "error" and "text": "memory" (out of memory; the process goes on), "data" (ValueError: weights or input are not
right), "missing" (an import failed), "device" (DeviceError), "failed" (anything else).
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PREFIX = "tracekit_foreign_"


def main(network: str) -> None:
    parent = os.getppid()
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    # Repositories print: what they say goes to stderr, and the messages keep standard output to themselves.
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    # And some ask, in a debugger or by input(): they find the end of the file, not our requests.
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    # Nothing of this folder may be taken for a module of the repository.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    sys.meta_path.append(_Shared())
    wire = importlib.import_module("tracekit_foreign_wire")

    def write(data: Any) -> None:
        view = memoryview(data)
        while view:
            view = view[replies.write(view) :]

    def read_into(view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = requests.readinto(view[done:])
            if not count:
                raise EOFError
            done += count

    forward: Any = None
    while True:
        try:
            message, arrays = wire.receive(read_into)
        except EOFError:
            return
        started = time.perf_counter()
        try:
            if forward is None:
                forward, answer, results = _load(network, message), {}, {}
                started = time.perf_counter()
            else:
                answer, results = forward(message, arrays)
            answer = {"seconds": time.perf_counter() - started, **answer}
        except Exception as error:
            answer, results = {"error": _kind(error), "text": _said(error)}, {}
        arrays = {}  # they are not held while the next ones come
        try:
            wire.send(write, answer, results)
        except (TypeError, ValueError) as error:  # nothing of it was written
            wire.send(write, {"error": "failed", "text": _said(error)}, {})


def _load(network: str, options: dict[str, Any]) -> Any:
    if options.get("repo"):
        sys.path.insert(0, options["repo"])
        os.chdir(options["repo"])  # some repositories read their configuration from the working folder
    return _network(network).load(options)


class _Shared(importlib.abc.MetaPathFinder):
    """The files of this folder that networks share, under names that no repository has: tracekit_foreign_safe_weights. Read when they are
    asked for: some need torch."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        file = HERE / f"{fullname.removeprefix(PREFIX)}.py"
        return importlib.util.spec_from_file_location(fullname, file) if fullname.startswith(PREFIX) and file.is_file() else None


def _network(name: str) -> Any:
    """A file of this folder (or the file at a full path), under a name that no repository has."""
    path = HERE / name if name.endswith(".py") else HERE / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{PREFIX}{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _kind(error: Exception) -> str:
    if importlib.import_module(f"{PREFIX}out_of_memory").is_out_of_memory(error):
        _free_memory(error)
        return "memory"
    if _is_device_error(error):
        return "device"
    return "missing" if isinstance(error, ImportError) else "data" if isinstance(error, ValueError) else "failed"


def _is_device_error(error: Exception) -> bool:
    return isinstance(error, importlib.import_module(f"{PREFIX}devices").DeviceError)


def _free_memory(error: BaseException) -> None:
    """Let go of what the failed call held, so that a smaller one can succeed."""
    seen: set[int] = set()
    causes: list[BaseException | None] = [error]
    while causes:
        cause = causes.pop()
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            traceback.clear_frames(cause.__traceback__)
            causes += [cause.__cause__, cause.__context__]
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _said(error: Exception) -> str:
    traceback.print_exception(error)  # to stderr, which the other side keeps
    in_our_words = isinstance(error, (ValueError, ImportError)) or _is_device_error(error)
    return f"{error}" if in_our_words else f"{type(error).__name__}: {error}"


def _end_with_parent(parent: int) -> None:
    """A network must not outlive who asked, whatever killed that process: its memory would be lost to everybody."""
    while os.getppid() == parent:
        time.sleep(1.0)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with whatever the network started
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
