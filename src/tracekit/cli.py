"""The `tracekit` program: finds the command, runs it, and turns errors into exit codes.

Nothing heavy is imported here; `tracekit --help` loads neither numpy nor h5py nor torch. A command lives in
`tracekit.commands.<module>` and offers `command`, an object with a method `typer_app()`. Another package adds or replaces one
by an entry point of the group `tracekit.commands` that names such an object.
"""

from __future__ import annotations

import difflib
import errno
import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
from typing import Any, NoReturn

import typer
import typer.core
from typer.exceptions import TyperException

from tracekit import plugins
from tracekit.errors import PipeClosedError, StorageError, TracekitError
from tracekit.printable import printable

# In order of the pipeline: name -> (module in tracekit.commands, one line of help).
COMMANDS: dict[str, tuple[str, str]] = {
    "import": ("import_", "bring in recordings, and what other people extracted or trained"),
    "keypoints": ("keypoints", "choose the points that matter on every thing in a video"),
    "reconstruct": ("reconstruct", "recover depth and cameras of every frame in one global frame"),
    "track": ("track", "follow the points through the clip in 3D"),
    "filter": ("filter", "mark which tracks move"),
    "segment": ("segment", "cut the clip into events"),
    "caption": ("caption", "say what happens in each event"),
    "fit-bspline": ("fit_bspline", "turn episodes into a corpus of spline-fitted traces"),
    "pretrain": ("pretrain", "train μ0, the trace world model, on a corpus"),
    "finetune": ("finetune", "train an action expert on top of μ0 from demonstrations"),
    "rollout": ("rollout", "predict traces with μ0, or let a policy act in a simulator"),
    "simulate": ("simulate", "make clips with ground truth in a simulator"),
    "evaluate": ("evaluate", "score predicted traces, or an extraction against ground truth"),
    "export": ("export", "write what other people's programs read"),
    "info": ("info", "what is in a file, and who wrote it"),
    "view": ("view", "draw what is in an episode"),
    "demo": ("demo", "run the whole chain on a bundled clip"),
}

EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
_ENTRY_POINTS = "tracekit.commands"


class Terminated(BaseException):
    """SIGTERM arrived: unwind, remove temporaries, leave."""


class LazyGroup(typer.core.TyperGroup):
    """Imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *plugins.added(_ENTRY_POINTS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load_command(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = [(name, about) for name, (_, about) in COMMANDS.items()]
        rows += [(name, "added by another package") for name in plugins.added(_ENTRY_POINTS)]
        with formatter.section("Commands, in order of the pipeline"):
            formatter.write_dl(rows)
        with formatter.section("Example"):
            formatter.write_text("tracekit keypoints in.mp4 | tracekit reconstruct | tracekit track | tracekit filter |")
            formatter.write_text("tracekit segment | tracekit caption -o in.h5")


def find_command(name: str) -> Any:
    """The object `command` of the module behind `name`, ours or another package's; None when there is none."""
    third_party = plugins.added(_ENTRY_POINTS)
    if name in third_party:  # may replace one of ours
        return third_party[name].load()
    if name in COMMANDS:
        return importlib.import_module(f"tracekit.commands.{COMMANDS[name][0]}").command
    return None


def find_stage(name: str) -> Any:
    """The stage of a command, or of a kind of it: "track", "import rgbd"."""
    first, _, kind = name.partition(" ")
    command = find_command(first)
    return command.stages[kind] if kind else command


def load_command(name: str) -> Any:
    """The Typer command called `name`; an executable tracekit-NAME on PATH is one too."""
    if command := find_command(name):
        return typer.main.get_command(command.typer_app())
    if executable := shutil.which(f"tracekit-{name}"):
        return _external_command(name, executable)
    return None


def _external_command(name: str, executable: str) -> Any:
    app = typer.Typer(add_completion=False)

    @app.command(name, context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
    def run(ctx: typer.Context) -> None:
        raise typer.Exit(subprocess.run([executable, *ctx.args], check=False).returncode)

    return typer.main.get_command(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from tracekit import __version__

        typer.echo(f"tracekit {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    name="tracekit",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command reads HDF5 and writes HDF5: `tracekit COMMAND --help` says which groups. Exit codes: docs/commands.md.",
)


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", "-V", help="Show the version and leave.", callback=_show_version, is_eager=True),
) -> None:
    """Turn videos into captioned 3D interaction traces."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the program and leave with its exit code."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    # The matrices of the chain are small: BLAS threads would spin idly, on every core of a cluster node and for every --jobs.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Imports make many objects that live for ever; looking through them again and again is a tenth of a short command.
    gc.set_threshold(100_000, 50, 100)
    code = run(sys.argv[1:] if arguments is None else arguments)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains at exit
        code = code or PipeClosedError.exit_code
    except OSError as error:
        _say(f"error: writing to standard output: {error.strerror}", [])
        code = code or StorageError.exit_code
    if code == StorageError.exit_code:
        # After a failed write HDF5 cannot close its file and crashes in its exit handler: leave without running it.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the program; returns the exit code instead of leaving."""
    try:
        return app(arguments, standalone_mode=False, prog_name="tracekit") or 0
    except PipeClosedError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return error.exit_code
    except TracekitError as error:
        _say(f"error: {error}", arguments)
        return error.exit_code
    except typer.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except Terminated:
        return EXIT_TERMINATED
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 2
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        command = _command_name(arguments)
        if not command and arguments and (close := difflib.get_close_matches(arguments[0], COMMANDS, 1)):
            message += f" Did you mean {close[0]}?"
        _say(f"error: {message}\n  try: tracekit {command + ' ' if command else ''}--help", arguments)
        return 2
    except (BrokenPipeError, SystemExit):  # we never raise SystemExit: it is how typer and rich answer a closed pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PipeClosedError.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF):
            return _report_bug(arguments)
        _say(f"error: {error.strerror} (standard input or output)", arguments)
        return StorageError.exit_code
    except Exception:
        return _report_bug(arguments)


def _report_bug(arguments: list[str]) -> int:
    import platform
    import traceback

    from tracekit import __version__

    traceback.print_exc()
    _say(f"this is a bug of tracekit {__version__} (Python {platform.python_version()}, {platform.platform()})", arguments)
    _say("please report it to the maintainers with the lines above and the command that you typed", arguments)
    return EXIT_BUG


def _command_name(arguments: list[str]) -> str:
    first = next((word for word in arguments if not word.startswith("-")), "")
    return first if first in COMMANDS else ""


def _say(text: str, arguments: list[str]) -> None:
    command = _command_name(arguments)
    print(f"tracekit{' ' + command if command else ''}: {printable(text)}", file=sys.stderr)


def _on_sigterm(*_: object) -> None:
    raise Terminated
