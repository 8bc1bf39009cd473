"""The grammar that all commands share."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from run_command import PROGRAM, environment, shell, tracekit
from typer.testing import CliRunner

from tracekit import __version__, options
from tracekit.cli import COMMANDS
from tracekit.documentation import commands_page, format_page
from tracekit.format.file import open_records
from tracekit.parameters import parameter

REPOSITORY = Path(__file__).parents[2]


def cpu_seconds(arguments: list[str], **options: object) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(arguments, check=True, capture_output=True, env=environment(), **options)  # type: ignore[call-overload]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    """At most 0.15 s of CPU: the best of five, since a shared machine can only make it slower."""
    assert min(cpu_seconds([*PROGRAM, "--help"]) for _ in range(5)) <= 0.15
    script = "import sys\nfrom tracekit.cli import run\nrun(['--help'])\nprint(sorted({'torch', 'numpy', 'h5py', 'cv2', 'scipy', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([PROGRAM[0], "-c", script], capture_output=True, text=True, check=True).stdout.endswith("[]\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_loads_no_torch(name: str) -> None:
    script = f"import sys\nfrom tracekit.cli import run\ncode = run([{name!r}, '--help'])\nprint(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    output = subprocess.run([PROGRAM[0], "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.endswith("0 False False\n")
    assert "Usage: tracekit" in output


def test_help_lists_the_commands_in_order_of_the_pipeline() -> None:
    text = tracekit("--help").stdout.decode()
    places = [text.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)


def test_every_command_has_a_file_and_every_file_a_command() -> None:
    files = {path.stem for path in (REPOSITORY / "commands").glob("*.py")} - {"__init__"}
    modules = {module for module, _ in COMMANDS.values()}
    assert modules <= files
    for part in files - modules:  # a command may be in several files: COMMAND_PART.py
        assert any(part.startswith(f"{module}_") for module in modules), part


def test_version() -> None:
    assert tracekit("-V").stdout.decode() == f"tracekit {__version__}\n"


def test_mistakes_are_usage_errors_and_name_what_is_near() -> None:
    done = tracekit("fliter")
    assert done.returncode == 2 and b"Did you mean filter?" in done.stderr
    done = tracekit("filter", "--treshold", "3")
    assert done.returncode == 2 and b"--threshold" in done.stderr
    done = tracekit("filter", "--threshold", "many")
    assert done.returncode == 2 and b"'--threshold'" in done.stderr and b"many" in done.stderr
    done = tracekit("filter", "--threshold", "-1")
    assert done.returncode == 2 and b"--threshold is -1.0, but the least is 0" in done.stderr


def test_an_unknown_backend_lists_the_known_ones(tmp_path: Path, episode_file: Path) -> None:
    done = tracekit("caption", "--captioner", "gpt", episode_file, "-o", tmp_path / "out.h5")
    assert done.returncode == 2 and b"template" in done.stderr
    assert not (tmp_path / "out.h5").exists()


def threshold(path: Path) -> float:
    with open_records(path) as file:
        return file.read("motion").threshold_px


def test_flag_over_environment_over_file_over_preset_over_default(tmp_path: Path, episode_file: Path) -> None:
    def run(*flags: object, env: dict[str, str] | None = None) -> float:
        done = tracekit("filter", "-q", episode_file, "-o", "out.h5", "--force", *flags, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        return threshold(tmp_path / "out.h5")

    env = {"TRACEKIT_FILTER_THRESHOLD": "22"}
    assert run() == 40.0
    preset = run("--preset", "release")
    assert preset == pytest.approx(((48 / 20) ** 2 + (64 / 20) ** 2) ** 0.5)
    (tmp_path / "tracekit.toml").write_text("seed = 3\n[filter]\nthreshold = 11\n")
    assert run() == 11.0
    assert run(env=env) == 22.0
    assert run("--threshold", 33, env=env) == 33.0
    with open_records(tmp_path / "out.h5") as file:
        step = file.steps()[-1]
    assert step.seed == 3 and step.parameters["threshold"] == 33.0, "info prints what was used"


@dataclass(frozen=True)
class Sweets:
    """Options of a command with presets."""

    preset: str = parameter("small", "How many.", choices=("small", "large", "odd"))
    number: int = parameter(1, "Pieces.")
    weight: float = parameter(0.5, "Of each.")
    wrapped: bool = parameter(True, "In paper.")
    colour: str = parameter("red", "Of all.")


def test_help_shows_what_the_first_preset_makes_of_a_default() -> None:
    """And another preset that says nothing of an option leaves it at its own default, not at that of the first."""
    made: list[Sweets] = []
    presets = {"small": {"number": 3, "weight": 1e-3, "wrapped": False}, "large": {"number": 90}, "odd": {"colour": "blue"}}
    app = options.typer_app("sweets", lambda sweets: made.append(sweets), {"sweets": Sweets}, sources=None, presets=presets)
    shown = CliRunner().invoke(app, ["--help"]).output
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip().startswith("--")}
    assert "[default: 3]" in lines["--number"] and "[default: (0.001)]" in lines["--weight"], shown
    assert "[default: no-wrapped]" in lines["--wrapped"] and "[default: red]" in lines["--colour"], shown
    for arguments in ([], ["--preset", "large"], ["--preset", "odd", "--wrapped"], ["--number", "1"], ["--preset", "odd", "--number", "3"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert made == [
        Sweets("small", 3, 1e-3, False, "red"),
        Sweets("large", 90, 0.5, True, "red"),
        Sweets("odd", 1, 0.5, True, "blue"),
        Sweets("small", 1, 1e-3, False, "red"),
        Sweets("odd", 3, 0.5, True, "blue"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[filter]\nthreshhold = 3\n", "no option 'threshhold'"),
        ("[fliter]\nthreshold = 3\n", "[fliter] is no command"),
        ("[filter]\nthreshold = 'a'\n", "filter.threshold is 'a', but float is expected"),
        ("[filter]\nthreshold = -4\n", "--threshold is -4.0, but the least is 0"),
        ("[filter\n", "tracekit.toml:"),
    ],
)
def test_a_bad_configuration_file_is_78(tmp_path: Path, episode_file: Path, text: str, message: str) -> None:
    (tmp_path / "tracekit.toml").write_text(text)
    done = tracekit("filter", episode_file, "-o", "out.h5", cwd=tmp_path)
    assert done.returncode == 78 and message in done.stderr.decode(), done.stderr


def test_dry_run_touches_nothing(tmp_path: Path, episode_file: Path) -> None:
    before = sorted(tmp_path.iterdir())
    done = tracekit("caption", episode_file, "-o", tmp_path / "out.h5", "--dry-run")
    assert done.returncode == 0 and done.stdout == b""
    assert b"captioning backend auto" in done.stderr and b"write captions" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_quiet_says_nothing_and_nothing_but_the_result_is_on_stdout(episode_file: Path) -> None:
    done = tracekit("filter", "-q", episode_file)
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.startswith(b"\x89HDF")
    assert b"tracekit filter" in tracekit("filter", episode_file).stderr


def test_info_as_json(episode_file: Path) -> None:
    report = json.loads(tracekit("info", "--json", "--validate", episode_file).stdout)
    assert report["valid"] is True and report["format"] == "tracekit/episode"
    assert {row["path"]: row["shape"] for row in report["datasets"]}["tracks/xyz_world"] == [6, 5, 3]
    assert report["provenance"][0]["command"] == "keypoints"


def test_an_executable_on_the_path_is_a_command(tmp_path: Path) -> None:
    program = tmp_path / "tracekit-hello"
    program.write_text('#!/bin/sh\necho "hello $*"\nexit 7\n')
    program.chmod(0o755)
    done = tracekit("hello", "--to", "you", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.returncode == 7 and done.stdout == b"hello --to you\n"


def test_another_package_can_add_a_command(tmp_path: Path) -> None:
    (tmp_path / "added-1.0.dist-info").mkdir()
    (tmp_path / "added-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: added\nVersion: 1.0\n")
    (tmp_path / "added-1.0.dist-info" / "entry_points.txt").write_text("[tracekit.commands]\nnewcomer = added:command\n")
    (tmp_path / "added.py").write_text(
        "import typer\n\nclass Command:\n    def typer_app(self):\n        app = typer.Typer()\n        app.command()(self.run)\n        return app\n"
        "    def run(self):\n        print('from elsewhere')\n\ncommand = Command()\n"
    )
    done = tracekit("newcomer", env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout == b"from elsewhere\n"
    assert b"newcomer" in tracekit("--help", env={"PYTHONPATH": str(tmp_path)}).stdout


def test_completion(tmp_path: Path) -> None:
    done = tracekit(env={"_TRACEKIT_COMPLETE": "complete_bash", "COMP_WORDS": "tracekit fil", "COMP_CWORD": "1"})
    assert done.stdout.decode().split() == ["filter"]
    done = tracekit(env={"_TRACEKIT_COMPLETE": "complete_bash", "COMP_WORDS": "tracekit filter --thr", "COMP_CWORD": "2"})
    assert b"--threshold" in done.stdout


def test_a_bug_of_ours_is_70_with_a_traceback(tmp_path: Path, episode_file: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import tracekit.extract.filter as stage\ndef broken(*a, **k): raise ZeroDivisionError('ours')\nstage.filter_moving = broken\n"
    )
    done = tracekit("filter", episode_file, "-o", tmp_path / "out.h5", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 70
    assert b"ZeroDivisionError: ours" in done.stderr and b"please report it" in done.stderr
    assert not (tmp_path / "out.h5").exists()


def test_the_source_is_never_the_target(episode_file: Path) -> None:
    done = tracekit("filter", episode_file, "-o", episode_file, "--force")
    assert done.returncode == 2 and b"inputs are never changed" in done.stderr


@pytest.mark.parametrize(("name", "page"), [("format.md", format_page), ("commands.md", commands_page)])
def test_generated_pages_are_fresh(name: str, page: object) -> None:
    assert (REPOSITORY / "docs" / name).read_text("utf-8") == page(), "run `make docs`"  # type: ignore[operator]


def test_a_pipe_equals_files(tmp_path: Path, episode_file: Path) -> None:
    env = {"SOURCE_DATE_EPOCH": "0"}
    assert (
        shell(f"tracekit filter -q {episode_file} | tracekit segment -q | tracekit caption -q -o {tmp_path}/piped.h5", env=env).returncode
        == 0
    )
    assert (
        shell(
            f"cd {tmp_path}; tracekit filter -q {episode_file} -o a.h5 && tracekit segment -q a.h5 -o b.h5 && tracekit caption -q < b.h5 > c.h5",
            env=env,
        ).returncode
        == 0
    )
    with open_records(tmp_path / "piped.h5") as one, open_records(tmp_path / "c.h5") as other:
        assert [row[:3] for row in one.datasets()] == [row[:3] for row in other.datasets()]
        assert one.read("captions").event_text == other.read("captions").event_text
        assert (one.read("motion").diameter_px == other.read("motion").diameter_px).all()
