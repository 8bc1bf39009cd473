"""How every benchmark prints its rows."""

from __future__ import annotations

COLUMNS = ("work", "ours", "peer", "ratio", "goal")


def table(rows: list[dict]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    return "\n".join([*lines, *("| " + " | ".join(str(row[column]) for column in COLUMNS) + " |" for row in rows)])


def print_table(rows: list[dict]) -> None:
    print(table(rows))
