import subprocess
import sys
from pathlib import Path

from tracekit.backends import foreign

FOLDER = Path(foreign.__file__).parent


def run(code: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: finders of modules would stay."""
    begin = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); from stand_ins import absent, stand_in_for\n"
    return subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True)


def test_what_is_absent_can_be_imported_and_annotated_with_but_not_used():
    done = run("""
stand_in_for(["no_such_package"])
import no_such_package.editor as editor
from no_such_package.deep.down import Thing
def f(x: Thing["b c"]) -> None: ...
class Child(Thing): ...
for use in (Thing, Child, editor.Clip):
    try:
        use(3)
    except ImportError as error:
        print(error)
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "no_such_package.deep.down.Thing is needed after all, and is not installed",
        "no_such_package.deep.down.Thing is needed after all, and is not installed",
        "no_such_package.editor.Clip is needed after all, and is not installed",
    ]


def test_what_is_installed_is_used_and_still_finds_out_what_it_lacks():
    done = run("""
stand_in_for(["numpy", "json", "numpy.no_such_part"])
import numpy
import json
import numpy.no_such_part
assert numpy.arange(3).sum() == 3 and json.loads("[1]") == [1]
for missing in ("json.no_such_part", "another_absent_package"):
    try:
        __import__(missing)
    except ImportError:
        print("missing", missing)
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["missing json.no_such_part", "missing another_absent_package"]
