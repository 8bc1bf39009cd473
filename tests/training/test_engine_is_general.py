"""The engine knows nothing of what it trains."""

from __future__ import annotations

import ast
from pathlib import Path

import tracekit.training


def test_the_engine_imports_nothing_of_what_it_trains() -> None:
    files = sorted(Path(tracekit.training.__file__).parent.glob("*.py"))
    imported = {
        (path.name, node.module)
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert ("train_step.py", "tracekit.training.learner") in imported
    assert not [entry for entry in imported if entry[1].startswith(("tracekit.mu0", "tracekit.action"))]
