"""The wheel holds everything that the checkout does."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from tracekit.commands.demo import SAMPLE

REPOSITORY = Path(__file__).parents[1]


def test_every_package_on_disk_is_listed() -> None:
    """setuptools leaves out an unlisted package in silence."""
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {"tracekit.commands"}
    for init in (REPOSITORY / "src").rglob("__init__.py"):
        on_disk.add(".".join(init.parent.relative_to(REPOSITORY / "src").parts))
    assert set(listed) == on_disk


def test_what_is_imported_is_declared() -> None:
    """Every third-party module that the code imports at any level belongs to a declared dependency."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    dependencies = [
        *project["dependencies"],
        *(d for extra in ("sim", "robosuite", "log", "lerobot", "rerun") for d in project["optional-dependencies"][extra]),
    ]
    declared = {dependency.split(">")[0].split("=")[0].split(";")[0].strip().lower() for dependency in dependencies}
    modules = {"cv2": "opencv-python-headless", "PIL": "pillow", "huggingface_hub": "huggingface-hub", "rerun": "rerun-sdk"}
    imported = set()
    for folder in ("src", "commands"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            if path.parent.name == "foreign" and path.stem.endswith("_network"):
                continue  # it runs in the environment of the repository that it is for
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    imported.add(node.module.split(".")[0])
    imported.discard("robocasa")  # it is on no package index: who has it has installed it from its own checkout
    third_party = {name for name in imported if name not in sys.stdlib_module_names and name not in ("tracekit", "__future__")}
    assert {modules.get(name, name).lower() for name in third_party} <= declared


@pytest.mark.slow
def test_a_wheel_in_a_clean_environment_runs_the_demo(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("tracekit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for folder, prefix in (("src/tracekit", "tracekit"), ("commands", "tracekit/commands")):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert f"{prefix}/{path.relative_to(REPOSITORY / folder)}" in names
    assert f"tracekit/samples/{SAMPLE}.mp4" in names
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True, capture_output=True)
    # The dependencies of the environment that runs the tests; its own tracekit is an editable one, which PYTHONPATH does not bring.
    env = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    program = tmp_path / "venv" / "bin" / "tracekit"
    where = subprocess.run(
        [python, "-c", "import tracekit; print(tracekit.__file__)"], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(tmp_path / "venv") in where.stdout
    done = subprocess.run([program, "demo", "-d", tmp_path / "demo"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "valid" in done.stdout and (tmp_path / "demo" / "traces.png").stat().st_size > 10_000
