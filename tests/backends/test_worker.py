"""Networks in a process of their own: what they may do wrong, done for real."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from tracekit.backends.checkouts import Checkout
from tracekit.backends.worker import Worker, WorkerMemoryError
from tracekit.errors import BadDataError, StorageError, UnavailableError

HERE = Checkout(sys.executable, None)


@pytest.fixture
def start(tmp_path):
    """Make a worker of the text of a network."""
    workers = []

    def make(text: str, checkout: Checkout = HERE, *, patience: float = 30.0, **options) -> Worker:
        path = tmp_path / f"network{len(workers)}.py"
        path.write_text(textwrap.dedent(text))
        workers.append(Worker("toy", str(path), checkout, options, patience=patience))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


ECHO = """
    def load(options):
        return lambda message, arrays: (message, arrays)
"""


def test_what_goes_in_comes_out(start):
    worker = start(ECHO)
    for count in (0, 1, 7):
        message, arrays = worker.call({"a": np.arange(count), "b": np.float32(3)}, text="µ", number=count)
        assert {key: message[key] for key in ("text", "number")} == {"text": "µ", "number": count}
        np.testing.assert_array_equal(arrays["a"], np.arange(count))
        assert arrays["b"].shape == () and arrays["b"] == 3


def test_arrays_of_more_than_100_megabytes(start):
    frames = np.random.default_rng(0).integers(0, 256, (120, 480, 640, 3), dtype=np.uint8)
    _, arrays = start(ECHO).call({"frames": frames})
    assert frames.nbytes > 100e6
    np.testing.assert_array_equal(arrays["frames"], frames)


def test_options_reach_the_network_and_its_own_time_is_kept(start):
    worker = start(
        """
        import time
        def load(options):
            def forward(message, arrays):
                time.sleep(0.2)
                return {"options": options}, {}
            return forward
        """,
        weights="/w.safetensors",
        device="cpu",
    )
    assert worker.call({})[0]["options"] == {"weights": "/w.safetensors", "device": "cpu", "repo": None}
    worker.call({})
    assert 0.4 <= worker.network_seconds < 0.8, "the start of the process is not the network's time"


def test_a_network_may_say_itself_how_long_it_took(start):
    worker = start("def load(options):\n    return lambda message, arrays: ({'seconds': 1000.0}, {})")
    worker.call({})
    assert worker.network_seconds == 1000.0


def test_code_of_the_checkout_is_imported_from_there_and_nothing_is_written_there(start, tmp_path):
    folder = tmp_path / "checkout"
    (folder / "wire").mkdir(parents=True)  # a name that a file of ours has, too
    (folder / "wire" / "__init__.py").write_text("WORD = 'theirs'")
    (folder / "serve.py").write_text("WORD = 'theirs, too'")
    worker = start(
        """
        import os
        def load(options):
            import serve, wire
            return lambda message, arrays: ({"words": [wire.WORD, serve.WORD], "folder": os.getcwd()}, {})
        """,
        Checkout(sys.executable, folder),
    )
    assert worker.call({})[0]["words"] == ["theirs", "theirs, too"]
    assert worker.call({})[0]["folder"] == str(folder)
    assert sorted(path.name for path in folder.rglob("*")) == ["__init__.py", "serve.py", "wire"]


def test_printing_does_no_harm(start):
    worker = start(
        """
        import os, subprocess, sys
        print("loading")
        def load(options):
            print("loaded", flush=True)
            def forward(message, arrays):
                print("x" * 100_000)
                sys.stdout.write("TKW1")
                os.write(1, b"straight to the descriptor")
                subprocess.run(["echo", "from a child"], check=True)
                return {"fine": True}, {}
            return forward
        """
    )
    for _ in range(3):
        assert worker.call({})[0]["fine"]


def test_what_a_network_prints_does_not_fill_the_disk_and_its_last_words_are_kept(start):
    worker = start(
        """
        import os, time
        def load(options):
            def forward(message, arrays):
                if message.get("end"):
                    print("its last words")
                    os._exit(3)
                print("x" * 8_000_000)
                time.sleep(message["seconds"])
                return {}, {}
            return forward
        """
    )
    for _ in range(3):
        worker.call({}, seconds=0.0)
    assert os.fstat(worker._said.fileno()).st_size < 10e6
    worker.call({}, seconds=2.0)  # while it works, too
    assert os.fstat(worker._said.fileno()).st_size < 10e3
    with pytest.raises(UnavailableError, match="exit code 3") as caught:
        worker.call({}, end=True)
    assert caught.value.hint.endswith("its last words")


def test_a_process_that_ends_without_a_word_is_told_with_what_to_do(start):
    with pytest.raises(UnavailableError, match="exit code 3") as caught:
        start("import os\ndef load(options):\n    os._exit(3)").call({})
    assert "check_adapters.py" in caught.value.hint


def test_weights_that_are_not_right_are_told_with_what_to_do_and_input_that_is_not_right_is_not_blamed_on_them(start):
    with pytest.raises(BadDataError, match="cut short") as caught:
        start("def load(options):\n    raise ValueError('cut short')").call({})
    assert "--weights" in caught.value.hint and "docs/backends/toy.md" in caught.value.hint
    worker = start("def load(options):\n    def forward(message, arrays):\n        raise ValueError('no depth')\n    return forward")
    with pytest.raises(BadDataError, match="no depth") as caught:
        worker.call({})
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    ("raised", "kind", "code", "said"),
    [
        ("ImportError('No module named einops')", UnavailableError, 69, "No module named einops"),
        ("ValueError('these are not its weights')", BadDataError, 65, "these are not its weights"),
        ("KeyError('pose_enc')", UnavailableError, 69, "KeyError: 'pose_enc'"),
        ("RuntimeError('shape mismatch')", UnavailableError, 69, "RuntimeError: shape mismatch"),
    ],
)
@pytest.mark.parametrize("when", ["load", "call"])
def test_an_error_is_told_by_its_kind_and_ends_the_process(start, raised, kind, code, said, when):
    body = f"    raise {raised}" if when == "load" else f"    def forward(message, arrays):\n        raise {raised}\n    return forward"
    worker = start(f"import os\ndef load(options):\n    open(options['pid'], 'w').write(str(os.getpid()))\n{body}", pid="/dev/null")
    with pytest.raises(kind, match="toy: ") as caught:
        worker.call({})
    assert caught.value.exit_code == code
    assert said in caught.value.message
    assert worker._process is None


def test_a_missing_package_names_the_python_that_lacks_it(start):
    worker = start("import a_package_that_nobody_has\ndef load(options): ...")
    with pytest.raises(UnavailableError, match=f"a_package_that_nobody_has.*{sys.executable}"):
        worker.call({})


@pytest.mark.parametrize(
    ("end", "kind", "said"),
    [
        ("os.abort()", UnavailableError, "ended by SIGABRT"),
        ("os._exit(3)", UnavailableError, "ended with exit code 3"),
        ("sys.exit(4)", UnavailableError, "ended with exit code 4"),
        ("os.kill(os.getpid(), 9)", StorageError, "killed, most likely for want of memory"),
        ("os.kill(os.getpid(), 11)", UnavailableError, "ended by SIGSEGV"),
    ],
)
@pytest.mark.parametrize("when", ["load", "call"])
def test_a_process_that_ends_is_told_at_once(start, end, kind, said, when):
    said_last = "print('its last words', flush=True); " + end
    body = f"    {said_last}" if when == "load" else f"    def forward(message, arrays):\n        {said_last}\n    return forward"
    worker = start(f"import os, sys\ndef load(options):\n{body}")
    started = time.monotonic()
    with pytest.raises(kind, match=said) as caught:
        worker.call({"frames": np.zeros((100, 100, 100))})
    assert time.monotonic() - started < 30
    if kind is UnavailableError:
        assert "its last words" in caught.value.hint


def test_a_process_that_ends_is_noticed_although_its_child_holds_the_pipe(start):
    worker = start(
        """
        import os, time
        def load(options):
            def forward(message, arrays):
                if os.fork() == 0:
                    time.sleep(60)
                os.abort()
            return forward
        """
    )
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="SIGABRT"):
        worker.call({})
    assert time.monotonic() - started < 30


HANGS = """
    import os, signal, subprocess, sys, time
    def load(options):
        def forward(message, arrays):
            if message.get("hang"):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
                with open(options["pids"], "w") as file:
                    file.write(f"{os.getpid()} {child.pid} ")
                time.sleep(600)
            return {"process": os.getpid()}, {}
        return forward
"""


def test_a_network_that_hangs_is_ended_with_all_that_it_started(start, tmp_path):
    pids = tmp_path / "pids"
    worker = start(HANGS, patience=2.0, pids=str(pids))
    worker.call({})
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="toy: no answer for 2 seconds; its process was ended") as caught:
        worker.call({}, hang=True)
    assert "--stall-timeout" in caught.value.hint
    assert 1.8 <= time.monotonic() - started < 30, "a little before a batch with the same patience gives up"
    both = [int(pid) for pid in pids.read_text().split()]
    assert len(both) == 2 and wait_until(lambda: not any(map(is_running, both)))


def test_a_network_that_takes_its_input_and_never_reads_on_hangs_too(start):
    worker = start(ECHO, patience=2.0)
    worker.call({})
    os.kill(worker._process.pid, signal.SIGSTOP)
    with pytest.raises(UnavailableError, match="no answer for 2 seconds"):
        worker.call({"frames": np.zeros((1000, 1000))})


MEMORY = """
    import numpy as np
    class Big:
        alive = 0
        def __init__(self):
            Big.alive += 1
        def __del__(self):
            Big.alive -= 1
    class OutOfMemoryError(RuntimeError):
        "Named like torch's, whose own this machine may not have."
    def work(n, how):
        held = Big()
        itself = [held]
        itself.append(itself)  # only the collector lets go of it
        if n > 10:
            try:
                if how == "numpy":
                    np.empty(1 << 60, np.uint8)
                raise OutOfMemoryError("CUDA out of memory") if how == "gpu" else RuntimeError("DefaultCPUAllocator: can't allocate memory")
            except Exception as error:
                if how == "chained":
                    raise MemoryError("while cleaning up") from error
                raise
        return Big.alive
    def load(options):
        if options.get("heavy"):
            raise MemoryError("weights of 5 GB")
        def forward(message, arrays):
            return {"alive": work(len(arrays["frames"]), message["how"])}, {}
        return forward
"""


@pytest.mark.parametrize("how", ["numpy", "gpu", "cpu", "chained"])
def test_out_of_memory_lets_go_of_what_was_held_and_goes_on(start, how):
    worker = start(MEMORY)
    worker.call({"frames": np.zeros(1)}, how=how)
    process = worker._process.pid
    for _ in range(3):
        with pytest.raises(WorkerMemoryError, match="toy: "):
            worker.call({"frames": np.zeros(20)}, how=how)
    assert worker.call({"frames": np.zeros(5)}, how=how)[0]["alive"] <= 2, "this call's, and the one that no memory error collected"
    assert worker._process.pid == process


def test_out_of_memory_while_loading_ends_the_process(start):
    worker = start(MEMORY, heavy=True)
    with pytest.raises(StorageError, match=r"weights of 5 GB.* while its weights were loaded"):
        worker.call({"frames": np.zeros(1)}, how="cpu")
    assert worker._process is None


def test_an_answer_that_cannot_be_sent_is_an_error_of_the_network(start):
    for answer in ("{'x': np.float32(1)}, {}", "{}, {'tracks': np.array([None])}"):
        worker = start(f"import numpy as np\ndef load(options):\n    return lambda message, arrays: ({answer})")
        with pytest.raises(UnavailableError, match="its own code failed"):
            worker.call({})


def test_noise_in_the_place_of_messages(start, tmp_path):
    """A Python that is none: what it says is no message."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Welcome to this machine, have a nice day'\nsleep 30\n")
    python.chmod(0o755)
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="holds something else than messages"):
        start(ECHO, Checkout(str(python), None)).call({})
    assert time.monotonic() - started < 20
    with pytest.raises(UnavailableError, match=r"cannot start .*nowhere"):
        start(ECHO, Checkout(str(tmp_path / "nowhere"), None)).call({})


def test_half_a_message_is_no_message(start):
    worker = start(
        """
        import os, struct
        def load(options):
            def forward(message, arrays):
                replies = next(d for d in range(3, 64) if os.path.exists(f"/proc/self/fd/{d}") and "pipe" in os.readlink(f"/proc/self/fd/{d}"))
                os.write(replies, struct.pack(">4sI", b"TKW1", 100) + b"{")
                os._exit(0)
            return forward
        """
    )
    with pytest.raises(UnavailableError, match="exit code 0"):
        worker.call({})


def test_a_call_that_is_interrupted_leaves_no_half_message(start, tmp_path):
    """Ctrl-C while the network works, and while the frames are on their way: the next call gets its own answer, from a new process."""
    worker = start(HANGS, pids=str(tmp_path / "pids"))
    first = worker.call({})[0]["process"]

    def interrupted(frames: np.ndarray) -> None:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            worker.call({"frames": frames}, hang=True)
        timer.join()

    interrupted(np.zeros(1))
    assert wait_until(lambda: not is_running(first))
    second = worker.call({})[0]["process"]
    os.kill(second, signal.SIGSTOP)  # the pipe fills up: half of the frames are in it
    interrupted(np.zeros((1000, 1000)))
    assert wait_until(lambda: not is_running(second))
    assert worker.call({}, mark=1)[0]["process"] not in (first, second)


def test_a_worker_ends_with_the_process_that_asked_even_if_that_is_killed(tmp_path):
    network, pids = tmp_path / "network.py", tmp_path / "pids"
    network.write_text(textwrap.dedent(HANGS))
    program = f"""
        import sys
        from tracekit.backends.checkouts import Checkout
        from tracekit.backends.worker import Worker
        Worker("toy", {str(network)!r}, Checkout(sys.executable, None), {{"pids": {str(pids)!r}}}, patience=600).call({{}}, hang=True)
    """
    asking = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        assert wait_until(lambda: pids.exists() and pids.read_text().endswith(" "), 30)
        both = [int(pid) for pid in pids.read_text().split()]
        assert all(map(is_running, both))
        asking.kill()
        asking.wait()
        assert wait_until(lambda: not any(map(is_running, both)), 6), "the network, or what it started, goes on alone"
    finally:
        asking.kill()
        asking.wait()


def test_close_ends_the_process_and_a_later_call_starts_another(start):
    worker = start("import os\ndef load(options):\n    return lambda message, arrays: ({'process': os.getpid()}, {})")
    worker.close()
    first = worker.call({})[0]["process"]
    worker.close()
    worker.close()
    assert not is_running(first)
    assert worker.call({})[0]["process"] != first


def test_descriptors_are_given_back(start):
    worker = start(ECHO)
    worker.call({})
    worker.close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        worker.call({})
        worker.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_network_that_asks_on_standard_input_finds_its_end_and_not_our_requests(start):
    worker = start(
        """
        import subprocess, sys
        def load(options):
            def forward(message, arrays):
                eaten = subprocess.run(["cat"], stdout=subprocess.PIPE).stdout
                return {"eaten": len(eaten) + len(sys.stdin.read())}, arrays
            return forward
        """,
        patience=10,
    )
    for number in range(3):
        message, arrays = worker.call({"a": np.full(100_000, number)})
        assert message["eaten"] == 0 and (arrays["a"] == number).all()


def test_a_network_sees_no_keys(start, monkeypatch):
    for name in ("TRACEKIT_API_KEY", "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    worker = start(
        """
        import os
        def load(options):
            return lambda message, arrays: ({"secrets": [name for name, value in os.environ.items() if value == "secret"]}, {})
        """
    )
    assert worker.call({})[0]["secrets"] == []
