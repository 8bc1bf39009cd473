"""How a stage declares its parameters: once, in a frozen dataclass from which the command line, the configuration file,
the documentation and the provenance all derive."""

from __future__ import annotations

import dataclasses
from typing import Any

from tracekit.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a parameter means and which values it takes."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    wins_over: tuple[str, ...] = ()
    """Fields that do not count where this one is given."""


def parameter(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    wins_over: tuple[str, ...] = (),
) -> Any:
    """A field of a parameters dataclass: its default, its one line of help, its range or choices (both ends included), and fields that
    do not count where it is given: one of them on the command line puts away what a preset says of this field."""
    return dataclasses.field(default=default, metadata={"rule": Rule(help, minimum, maximum, choices, wins_over)})


def rules(parameters: type) -> dict[str, Rule]:
    """The rule of every field of a parameters dataclass, in order."""
    return {field.name: field.metadata["rule"] for field in dataclasses.fields(parameters)}


def check(parameters: Any) -> None:
    """Raise ConfigurationError naming the first field whose value its rule does not allow."""
    for name, rule in rules(type(parameters)).items():
        value = getattr(parameters, name)
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if rule.choices is not None and value not in rule.choices:
            raise ConfigurationError(f"{flag} is {value!r}", hint=f"choose one of: {', '.join(rule.choices)}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if value != value:
                raise ConfigurationError(f"{flag} is not a number")
            if rule.minimum is not None and value < rule.minimum:
                raise ConfigurationError(f"{flag} is {value}, but the least is {rule.minimum}")
            if rule.maximum is not None and value > rule.maximum:
                raise ConfigurationError(f"{flag} is {value}, but the most is {rule.maximum}")
