"""tracekit export: write what other people's programs read."""

from __future__ import annotations

from typing import Protocol

import typer
from tracekit.commands.export_lerobot import LerobotExport
from tracekit.commands.export_release import StatsExport, TraceextractExport
from tracekit.commands.export_viewers import RerunExport, Tapip3dExport


class Kind(Protocol):
    """One thing that can be written."""

    def typer_app(self) -> typer.Typer: ...


class ExportCommand:
    """`tracekit export KIND`."""

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = kinds

    def typer_app(self) -> typer.Typer:
        app = typer.Typer(
            add_completion=False, rich_markup_mode=None, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
        )
        app.callback(help="Write what other people's programs read.")(lambda: None)
        for kind in self._kinds:
            app.registered_commands += kind.typer_app().registered_commands
        return app


command = ExportCommand(TraceextractExport(), StatsExport(), LerobotExport(), Tapip3dExport(), RerunExport())
