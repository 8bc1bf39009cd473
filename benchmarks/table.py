"""How every benchmark prints its rows."""

from __future__ import annotations

COLUMNS = ("work", "ours", "peer", "ratio", "goal")


def table(rows: list[dict]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    return "\n".join([*lines, *("| " + " | ".join(_text(row[column]) for column in COLUMNS) + " |" for row in rows)])


def _text(value: object) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def print_table(rows: list[dict]) -> None:
    print(table(rows))
