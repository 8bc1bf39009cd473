"""tracekit.toml in the working folder: defaults below flags and environment, above what is built in.

seed = 7                # any option that every command has

[filter]                # options of one command
threshold = 30
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tracekit.errors import ConfigurationError, MissingInputError

FILE_NAME = "tracekit.toml"


def defaults_for(command: str, known: dict[str, type], commands: list[str]) -> dict[str, Any]:
    """Values of tracekit.toml for `command`; `known` maps its option names (with underscores) to types.

    Raises ConfigurationError for text that is no TOML, an unknown section or option, or a value of another type.
    """
    path = Path(FILE_NAME)
    if not path.is_file():
        return {}
    content = _read(path, FILE_NAME)
    result: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            if key not in commands:
                raise ConfigurationError(f"{FILE_NAME}: [{key}] is no command", hint=f"commands are: {', '.join(commands)}")
            continue
        if key.replace("-", "_") in known:  # an option of some other command only is no fault
            result[key.replace("-", "_")] = _typed(value, known[key.replace("-", "_")], FILE_NAME, key)
    return result | _section(content.get(command.split()[0], {}), command, known, FILE_NAME)


def options_in(path: str, command: str, known: dict[str, type]) -> dict[str, Any]:
    """Values of a file that configures one command: its options, or a section of its name that holds them.

    Raises MissingInputError when there is no such file, ConfigurationError as `defaults_for`.
    """
    if not Path(path).is_file():
        raise MissingInputError(f"{path} does not exist", hint="--config takes a TOML file of options")
    content = _read(Path(path), path)
    section = content.pop(command, {})
    if not isinstance(section, dict):
        raise ConfigurationError(f"{path}: {command} is no section")
    return _section({**content, **section}, command, known, path)


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name}: {error}") from None


def _section(content: dict[str, Any], command: str, known: dict[str, type], file: str) -> dict[str, Any]:
    result = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigurationError(f"{file}: [{command}] has no option {key!r}", hint=f"options are: {', '.join(sorted(known))}")
        result[name] = _typed(value, known[name], file, f"{command}.{key}")
    return result


def _typed(value: Any, kind: type, file: str, key: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigurationError(f"{file}: {key} is {value!r}, but {kind.__name__} is expected")
    return value
