"""Stand-ins for packages that a repository imports although following points never needs them: viewers, video readers, bundle adjustment."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any


def stand_in_for(packages: Iterable[str]) -> None:
    """Let these packages, and all modules in them, be imported where they are not installed; or single modules ("package.module").

    What is installed is used as ever, and keeps finding out what it lacks itself. Whatever is imported from a stand-in is a class; making an
    object of it raises ImportError, so nothing that matters can pass for done.
    """
    sys.meta_path.append(_Finder(frozenset(name for name in packages if "." in name or importlib.util.find_spec(name) is None)))


def absent(name: str) -> type:
    """A class in the place of something that is not installed."""

    def refuse(self: Any, *arguments: Any, **named: Any) -> None:
        raise ImportError(f"{name} is needed after all, and is not installed")

    # Annotations subscript what they name.
    return type(name.rpartition(".")[2], (), {"__init__": refuse, "__class_getitem__": classmethod(lambda cls, item: cls)})


class _StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return absent(f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last among the finders: it is asked for what no other has."""

    def __init__(self, absent_ones: frozenset[str]) -> None:
        self._absent_ones = absent_ones

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in self._absent_ones and fullname not in self._absent_ones:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""
