"""What can go wrong that is not our own mistake. Each error knows the exit code that a shell sees.

A message says what and where; the hint says what to do next. The command line prints both without a traceback. Anything
that is not a TracekitError is a bug of ours and exits with 70.
"""

from __future__ import annotations


class TracekitError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple:
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[TracekitError], message: str, hint: str) -> TracekitError:
    """Errors travel from worker processes to the batch that started them."""
    return kind(message, hint=hint)


class UsageError(TracekitError):
    """The command line does not make sense."""

    exit_code = 2


class BadDataError(TracekitError):
    """A file or stream holds something else than it should."""

    exit_code = 65


class MissingInputError(TracekitError):
    """An input is not there, or the command before us in the pipe failed."""

    exit_code = 66


class UnavailableError(TracekitError):
    """A backend, a package or its weights are not on this machine."""

    exit_code = 69


class CannotCreateError(TracekitError):
    """An output cannot be created."""

    exit_code = 73


class StorageError(TracekitError):
    """Reading or writing failed in the operating system: disk full, device error."""

    exit_code = 74


class ResumableError(TracekitError):
    """Stopped before the end; the same command goes on from here."""

    exit_code = 75


class ConfigurationError(TracekitError):
    """A value in tracekit.toml or of a preset is not allowed (one in a flag or in the environment: 2)."""

    exit_code = 78


class PipeClosedError(TracekitError):
    """The command after us in the pipe stopped reading. No message: that command has said why."""

    exit_code = 141
