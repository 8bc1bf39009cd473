"""The other end of `foreign/serve.py`: starts a network in a process of its own, asks it, and ends it when it hangs or is no longer needed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.backends.checkouts import Checkout, environment_of
from tracekit.backends.foreign import wire
from tracekit.backends.protocols import SOONER
from tracekit.errors import BadDataError, StorageError, TracekitError, UnavailableError

SERVE = Path(wire.__file__).with_name("serve.py")
STDERR_TAIL = 600
"""Characters of what a failed network said last that go into the error."""
MOST_SAID = 1 << 20
"""Bytes of what a network prints that are kept: nobody reads more than the end."""
TRY_ALONE = "tools/check_adapters.py tries it alone"


class WorkerMemoryError(MemoryError):
    """The network ran out of memory; a smaller request may succeed."""


class Worker:
    """One network in a process of its own. It starts with the first `call`, and `close` ends it."""

    def __init__(self, name: str, network: str, checkout: Checkout, options: Mapping[str, Any], *, patience: float) -> None:
        """`name` is what errors call the backend, `network` a file of `foreign/` without its .py, or the path of a file elsewhere; `options`
        go to its `load` beside the repository.

        A process from which nothing is heard for `patience` seconds (nearly: SOONER) is ended.
        """
        self.name = name
        self.network_seconds = 0.0
        """Time that the network itself took, over all calls; the rest is ours."""
        self._command = [checkout.python, str(SERVE), network]
        self._options = {**options, "repo": str(checkout.folder) if checkout.folder else None}
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._said: Any = None

    def call(self, arrays: Mapping[str, np.ndarray], **message: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The network's answer. Raises WorkerMemoryError where it ran out of memory, BadDataError where weights or input are not right,
        UnavailableError where its code cannot run or hangs."""
        if self._process is None:
            self._start()
            try:
                self._exchange(
                    self._options, {}, hint=f"give --weights the file that docs/backends/{self.name}.md names, as it was published"
                )
            except WorkerMemoryError as error:
                self.close()
                raise StorageError(
                    f"{error} while its weights were loaded", hint="free memory on the device, or use --device cpu"
                ) from None
        answer, results = self._exchange(message, arrays)
        self.network_seconds += float(answer.get("seconds", 0.0))
        return answer, results

    def close(self) -> None:
        """End the process, and with it all memory that it holds."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, self._said):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _start(self) -> None:
        # Weights come from us alone, and a checkout is an input: nothing is written into it.
        environment = environment_of(self._command[0]) | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        fcntl.fcntl(
            self._said, fcntl.F_SETFL, fcntl.fcntl(self._said, fcntl.F_GETFL) | os.O_APPEND
        )  # or what is cut off would leave a hole
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                bufsize=0,
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            self._said.close()
            raise UnavailableError(f"{self.name}: cannot start {self._command[0]}: {error.strerror}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        os.set_blocking(self._process.stdout.fileno(), False)

    def _exchange(
        self, message: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, hint: str = ""
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """`hint`: what to do when the process says that what it was given is not right."""
        try:
            wire.send(self._write, message, arrays)
            answer, results = wire.receive(self._read_into)
        except (EOFError, BrokenPipeError, wire.BrokenWireError) as error:
            raise self._died(error) from None
        except BaseException:  # whoever interrupts us must not leave half a message behind
            self.close()
            raise
        kind, text = answer.get("error"), f"{self.name}: {answer.get('text', '')}"
        if kind is None:
            return answer, results
        if kind == "memory":
            raise WorkerMemoryError(text)
        self.close()
        if kind == "data":
            raise BadDataError(text, hint=hint)
        if kind == "device":
            raise UnavailableError(text, hint="--device: auto, cpu")
        if kind == "missing":
            raise UnavailableError(
                f"{text} (in {self._command[0]})",
                hint=f"install it into that Python; docs/backends/{self.name}.md says what else is needed",
            )
        raise UnavailableError(f"{self.name}: its own code failed: {answer.get('text', '')}", hint=TRY_ALONE)

    def _died(self, error: Exception) -> TracekitError:
        """What to say when the process is gone, or says what is no message."""
        assert self._process is not None
        if not isinstance(error, wire.BrokenWireError) or isinstance(error.__cause__, EOFError):
            with contextlib.suppress(subprocess.TimeoutExpired):  # its streams are closed: it is about to end
                self._process.wait(timeout=5.0)
        code = self._process.poll()
        said = self._last_words()
        self.close()
        if code == -signal.SIGKILL:
            return StorageError(f"{self.name}: its process was killed, most likely for want of memory", hint="lower --chunk")
        if code is None:
            return UnavailableError(f"{self.name}: {error}", hint=said or TRY_ALONE)
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return UnavailableError(f"{self.name}: its process ended {how}", hint=said or TRY_ALONE)

    def _last_words(self) -> str:
        """The end of what it wrote to stderr. Read by place, because the process goes on writing where the file's own position is."""
        return self._end_of_said().decode("utf-8", "replace").strip()

    def _end_of_said(self) -> bytes:
        descriptor = self._said.fileno()
        return os.pread(descriptor, STDERR_TAIL, max(0, os.fstat(descriptor).st_size - STDERR_TAIL))

    def _forget_what_was_said(self) -> None:
        """All but the end, when it is much: a network that prints must not fill the disk."""
        descriptor = self._said.fileno()
        if os.fstat(descriptor).st_size > MOST_SAID:
            end = self._end_of_said()
            os.ftruncate(descriptor, 0)
            os.write(descriptor, end)

    def _write(self, data: Any) -> None:
        assert self._process is not None and self._process.stdin is not None
        descriptor, view = self._process.stdin.fileno(), memoryview(data).cast("B")
        while view:
            self._wait(reading=False)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(descriptor, view) :]

    def _read_into(self, view: memoryview) -> None:
        assert self._process is not None and self._process.stdout is not None
        descriptor, done = self._process.stdout.fileno(), 0
        while done < len(view):
            self._wait(reading=True)
            with contextlib.suppress(BlockingIOError):
                count = os.readv(descriptor, [view[done:]])
                if count == 0:
                    raise EOFError
                done += count

    def _wait(self, *, reading: bool) -> None:
        """Until the pipe is ready. Ends a process that has not stirred for nearly `patience` seconds."""
        assert self._process is not None
        stream = self._process.stdout if reading else self._process.stdin
        assert stream is not None
        poll = select.poll()
        poll.register(stream, select.POLLIN if reading else select.POLLOUT)
        started = time.monotonic()
        while (left := started + SOONER * self._patience - time.monotonic()) > 0:
            self._forget_what_was_said()
            ended = self._process.poll() is not None
            # Short waits, so that a signal of ours is heard soon.
            if poll.poll(1000 * min(left, 1.0)):
                return
            if ended:  # and what it started still holds the other end
                raise EOFError
        said = self._last_words()
        self.close()
        raise UnavailableError(
            f"{self.name}: no answer for {self._patience:g} seconds; its process was ended",
            hint=f"raise --stall-timeout, or lower --chunk{': ' + said if said else ''}",
        )
