"""tracekit.toml in the working folder: defaults below flags and environment, above what is built in.

seed = 7                # any option that every command has

[filter]                # options of one command
threshold = 30
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tracekit.errors import ConfigurationError

FILE_NAME = "tracekit.toml"


def defaults_for(command: str, known: dict[str, type], commands: list[str]) -> dict[str, Any]:
    """Values of tracekit.toml for `command`; `known` maps its option names (with underscores) to types.

    Raises ConfigurationError for text that is no TOML, an unknown section or option, or a value of another type.
    """
    path = Path(FILE_NAME)
    if not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{FILE_NAME}: {error}") from None
    result: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            if key not in commands:
                raise ConfigurationError(f"{FILE_NAME}: [{key}] is no command", hint=f"commands are: {', '.join(commands)}")
            continue
        if key.replace("-", "_") in known:  # an option of some other command only is no fault
            result[key.replace("-", "_")] = _typed(value, known[key.replace("-", "_")], key)
    for key, value in content.get(command.split()[0], {}).items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigurationError(f"{FILE_NAME}: [{command}] has no option {key!r}", hint=f"options are: {', '.join(sorted(known))}")
        result[name] = _typed(value, known[name], f"{command}.{key}")
    return result


def _typed(value: Any, kind: type, key: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigurationError(f"{FILE_NAME}: {key} is {value!r}, but {kind.__name__} is expected")
    return value
