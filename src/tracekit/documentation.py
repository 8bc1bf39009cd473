"""Pages that are made from the code, so that they cannot be wrong: docs/format.md and docs/commands.md.

`python -m tracekit.documentation docs` (or `make docs`) writes them; a test fails when they are stale.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from tracekit import errors
from tracekit.cli import COMMANDS, EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED, find_command
from tracekit.format import provenance
from tracekit.format.schema import KINDS, ROOT_ATTRIBUTES, Entry, FileKind, Group

_MADE = "<!-- Made by `make docs` from the code; edit the code instead. -->\n"

_STORED = {"depth": "u2 (mm), f2 or f4", "str": "UTF-8 text"}
_VALUES = {"mask": "0 or 1", "pose": "rigid motions", "finite": "finite"}


def format_page() -> str:
    """docs/format.md: every kind of file, group, dataset and attribute."""
    parts = [_MADE, "# File formats\n", _FORMAT_INTRODUCTION]
    for kind in KINDS.values():
        parts.append(_kind_section(kind))
    parts.append(
        "## /provenance\n\nEvery command appends one group, `/provenance/0000` and so on, whose attributes say how the file came about.\n"
    )
    parts.append(table(("attribute", "meaning"), [(f"`{name}`", meaning) for name, meaning in provenance.MEANING.items()]))
    return "\n".join(parts)


def commands_page() -> str:
    """docs/commands.md: the --help of every command, and the exit codes."""
    parts = [_MADE, "# Commands\n", _COMMANDS_INTRODUCTION]
    for name, (_, about) in COMMANDS.items():
        parts.append(f"## tracekit {name}\n\n{about[0].upper() + about[1:]}.\n")
        app = typer.main.get_command(find_command(name).typer_app())
        for words, command in _with_subcommands(name, app):
            parts.append(f"```\n{_help(words, command)}\n```\n")
    parts.append("## Exit codes\n")
    parts.append(table(("code", "meaning"), _exit_codes()))
    return "\n".join(parts)


def _kind_section(kind: FileKind) -> str:
    parts = [f"## {kind.name}, version {kind.version}\n\n{kind.about[0].upper() + kind.about[1:]}.\n"]
    for group in kind.groups:
        parts.append(_group_section(group))
    return "\n".join(parts)


def _group_section(group: Group) -> str:
    first_paragraph = (group.record.__doc__ or "").strip()
    lines = [f"### /{group.name}\n", "\n".join(line.strip() for line in first_paragraph.splitlines()), ""]
    needs = f" Computed from: {', '.join(group.needs)}." if group.needs else ""
    lines.append(f"Written by: {group.written_by}.{needs}\n")
    rows = [_row(entry) for entry in group.entries()]
    lines.append(table(("name", "type", "shape", "unit", "frame", "values", "meaning"), rows))
    return "\n".join(lines)


def _row(entry: Entry) -> tuple[str, ...]:
    spec = entry.spec
    name = f"attribute `{entry.field}`" if entry.is_attribute else f"`{entry.path}`"
    shape = "" if spec.shape is None else f"({', '.join(str(axis) for axis in spec.shape)})"
    rule, _, symbol = spec.values.partition(" ")
    values = f"0 .. {symbol}-1" if rule == "range" else _VALUES.get(rule, "")
    return (
        name,
        _STORED.get(spec.dtype, spec.dtype),
        shape,
        spec.unit,
        spec.frame,
        values,
        spec.meaning + ("" if spec.required else " (optional)"),
    )


def _with_subcommands(name: str, command: Any) -> list[tuple[str, Any]]:
    """A command, or the commands of a group (`tracekit import rgbd`)."""
    inner = getattr(command, "commands", None)
    return [(f"{name} {key}", value) for key, value in inner.items()] if inner else [(name, command)]


def _help(words: str, command: Any) -> str:
    context = command.make_context(f"tracekit {words}", [], resilient_parsing=True, terminal_width=110, max_content_width=110)
    return command.get_help(context).rstrip()


def _exit_codes() -> list[tuple[str, str]]:
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.TracekitError)]
    rows = {0: "done"}
    for kind in kinds:
        if kind is not errors.TracekitError:
            rows[kind.exit_code] = (kind.__doc__ or "").splitlines()[0]
    rows |= {
        EXIT_BUG: "A bug of ours: a traceback, and where to report it.",
        EXIT_INTERRUPTED: "Interrupted (SIGINT).",
        EXIT_TERMINATED: "SIGTERM.",
    }
    return [(str(code), text) for code, text in sorted(rows.items())]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


_FORMAT_INTRODUCTION = f"""Every file is plain HDF5 (readable by h5py, h5dump, HDFView and MATLAB) with these root attributes:

{table(("attribute", "meaning"), [(f"`{name}`", meaning) for name, meaning in ROOT_ATTRIBUTES.items()])}
Conventions that hold everywhere:

- Cameras use OpenCV axes: x right, y down, z forward. `world_from_camera` maps camera coordinates to world coordinates.
- Pixels are those of the processed grid, H x W; the centre of the top-left pixel is (0, 0).
- Entries that do not hold (see the masks) are NaN in an episode and 0 in a corpus.
- A letter in a shape has one value in a file; numbers are fixed. Axes named T count frames.
- Types are NumPy codes: f4 is a 32-bit float, u1 an unsigned byte. Depth is kept as 16-bit millimetres (attribute
  `metres_per_unit`) when metric, as 16-bit floats when relative; 0 is unknown.
- Text is UTF-8: datasets of fixed length (h5py: `dataset.asstr()[...]`), attributes as they are.
- Datasets are chunked with shuffle, gzip and a checksum (fletcher32); a flipped bit is an error that names the dataset.
- Datasets that this schema does not know are carried along. Links out of the file, external storage, virtual datasets and
  declared sizes beyond reason are refused before anything is read.

The version of a kind grows by one when an older tracekit could misread the file. Newer files are refused, older ones stay readable.
"""

_COMMANDS_INTRODUCTION = """    tracekit COMMAND [OPTIONS] [SOURCE...] [-o OUTPUT]

- `SOURCE` is a path or `-`. Without one, a command reads standard input. Without `-o` it writes to standard output, unless that
  is a terminal.
- Several sources, or `--manifest FILE`, need `-d DIR`: one output per source, `DIR/ID.h5`. Outputs that are there are skipped, so
  the same command resumes. A bad source does not stop the others; it is listed in `DIR/failures.jsonl`. `--shard I/N` takes every
  N-th source.
- An option is looked for as a flag, then in the environment (`TRACEKIT_FILTER_THRESHOLD`; `TRACEKIT_SEED` for one that every
  command has), then in `tracekit.toml` in the working folder (`[filter]` / `threshold = 30`), then in the preset; then the
  default holds. `tracekit info` prints what was used.
- Progress and messages go to standard error, progress only to a terminal. Nothing but the result goes to standard output.
- Completion: `tracekit --install-completion`.
- Another package adds a command by an entry point of the group `tracekit.commands`; an executable `tracekit-NAME` on PATH is one too.
"""


def main() -> None:
    """Write the pages into the folder that is named."""
    folder = Path(sys.argv[1])
    (folder / "format.md").write_text(format_page(), "utf-8")
    (folder / "commands.md").write_text(commands_page(), "utf-8")


if __name__ == "__main__":
    main()
