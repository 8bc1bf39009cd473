"""Command-line options made from dataclasses, so that a default and its help are written once.

Precedence: flag, then environment (TRACEKIT_<COMMAND>_<OPTION>, or TRACEKIT_<OPTION> for options that every command has),
then the file of --config where a command has that option, then tracekit.toml in the working folder, then the preset, then the default of
the dataclass. --help shows what holds without any of the former: with the preset that is chosen when no other is.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from tracekit import config, parameters
from tracekit.errors import ConfigurationError, UsageError

_SHORT = {"output": "-o", "out_dir": "-d", "dry_run": "-n", "quiet": "-q", "verbose": "-v"}


def typer_app(
    name: str,
    run: Callable[..., None],
    groups: dict[str, type],
    *,
    sources: str | None,
    metavar: str = "SOURCE...",
    presets: dict[str, dict[str, Any]] | None = None,
    flags: Mapping[str, tuple[str, ...]] | None = None,
    own: Sequence[str] = ("parameters",),
    about: str = "",
) -> typer.Typer:
    """A Typer application of one command.

    `groups` maps a keyword of `run` to the parameters dataclass that fills it; every field becomes an option. `sources` is the
    help of the positional arguments, None for a command without any. `flags` replaces the flag of a field. `own` are the groups whose
    options other commands do not share, so that only TRACEKIT_<COMMAND>_<OPTION> is theirs. `run` is called with `sources` and one
    instance per group.
    """
    fields = {field.name: field for group in groups.values() for field in dataclasses.fields(group)}
    common = {field.name for key, group in groups.items() if key not in own for field in dataclasses.fields(group)}
    hints = {key: hint for group in groups.values() for key, hint in typing.get_type_hints(group).items()}
    kinds = {key: _without_none(hint) for key, hint in hints.items()}
    flags = flags or {}
    preset_field = fields.get("preset")
    # What --help shows: what holds when no other preset is chosen.
    first = _preset(presets, str(preset_field.default), preset_field) if preset_field is not None else {}
    plain = {key: field.default for key, field in fields.items() if key in first}

    def callback(ctx: typer.Context, **values: Any) -> None:
        paths = list(values.pop("sources", None) or [])
        chosen = _explicit(ctx, values)
        from_file = config.defaults_for(name, kinds, _commands())
        if path := chosen.get("config") or from_file.get("config"):
            from_file |= config.options_in(path, name, kinds)
        preset = chosen.get("preset") or from_file.get("preset") or values.get("preset") or ""
        given = {**from_file, **chosen}
        merged = {**values, **plain, **_still_meant(_preset(presets, preset, preset_field), given, fields), **given}
        built = {key: group(**{field.name: merged[field.name] for field in dataclasses.fields(group)}) for key, group in groups.items()}
        for value in built.values():
            _check(value, chosen)
        run(sources=paths, **built) if sources is not None else run(**built)

    signature = [inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    if sources is not None:
        argument = typer.Argument(metavar=metavar, help=sources, show_default=False)
        signature.append(_parameter("sources", list[str] | None, argument, None))
    for field in fields.values():
        envvars = [f"TRACEKIT_{name}_{field.name}".upper().replace("-", "_").replace(" ", "_")]
        if field.name in common:
            envvars.append(f"TRACEKIT_{field.name}".upper())
        default = first.get(field.name, field.default)
        signature.append(_option(field, hints[field.name], flags.get(field.name), envvars, default))
    callback.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name.split()[-1], help=about, context_settings={"help_option_names": ["-h", "--help"]})(callback)
    return app


def _commands() -> list[str]:
    from tracekit.cli import COMMANDS

    return list(COMMANDS)


def _parameter(name: str, kind: Any, info: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _option(field: dataclasses.Field, kind: Any, flags: tuple[str, ...] | None, envvars: list[str], default: Any) -> inspect.Parameter:
    rule: parameters.Rule = field.metadata["rule"]
    flag = "--" + field.name.replace("_", "-")
    declarations: tuple[str, ...] = flags or (flag,)
    if kind is bool and field.default is True:
        declarations = (f"{flag}/--no-{flag[2:]}",)
    if short := _SHORT.get(field.name):
        declarations = (*declarations, short)
    text = rule.help + (f" One of: {', '.join(rule.choices)}." if rule.choices else "")
    complete = (lambda incomplete: [choice for choice in rule.choices or () if choice.startswith(incomplete)]) if rule.choices else None
    shown: bool | str = not (default is None or default == "" or (default is False and field.default is False))
    if isinstance(default, float):
        shown = repr(default).removesuffix(".0")  # all digits: what is shown is what is used
    info = typer.Option(*declarations, help=text, envvar=envvars, show_envvar=False, show_default=shown, autocompletion=complete)
    return _parameter(field.name, kind, info, default)


def _without_none(kind: Any) -> type:
    """`float` of `float | None`, `list` of `list[str] | None`."""
    members = typing.get_args(kind)
    if type(None) in members:
        kind = next(member for member in members if member is not type(None))
    return typing.get_origin(kind) or kind


def _explicit(ctx: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Values given by flag or environment."""
    return {
        name: value
        for name, value in values.items()
        if getattr(ctx.get_parameter_source(name), "name", "") in ("COMMANDLINE", "ENVIRONMENT")
    }


def _preset(presets: dict[str, dict[str, Any]] | None, name: str, field: dataclasses.Field | None) -> dict[str, Any]:
    """Values of a preset. Where the command does not list its presets, "paper" is one, too: the defaults."""
    if presets is None or not name:
        return {}
    known = {**presets} if field is not None and field.metadata["rule"].choices else {"paper": {}, **presets}
    if name not in known:
        raise UsageError(f"there is no preset {name!r}", hint=f"choose one of: {', '.join(known)}")
    return known[name]


def _still_meant(preset: dict[str, Any], given: dict[str, Any], fields: dict[str, dataclasses.Field]) -> dict[str, Any]:
    """What a preset says, without what would win over a value that the user has given."""
    return {
        name: value
        for name, value in preset.items()
        if name not in fields or not any(loser in given for loser in fields[name].metadata["rule"].wins_over)
    }


def _check(value: Any, explicit: dict[str, Any]) -> None:
    try:
        parameters.check(value)
    except ConfigurationError as error:
        raise (UsageError if any(f"--{name.replace('_', '-')} " in error.message for name in explicit) else ConfigurationError)(
            error.message, hint=error.hint
        ) from None
