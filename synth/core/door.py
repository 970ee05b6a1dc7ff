"""A package's door for Python: its names are there at once, and what they need is imported when one is used.

_WHERE = {"synthesise": "dail.synth.run.local"}  # or "module:name", where it has another name there
__getattr__ = opener(__name__, _WHERE, extra="worker")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def opener(package: str, where: Mapping[str, str], extra: str) -> Callable[[str], Any]:
    """A `__getattr__` for the package's `__init__.py` (PEP 562). `extra`: of `pip install`, which brings what it needs.

    Raises, when a name is asked for:
        AttributeError: the door has no such name.
        ImportError: something that it needs is not installed.
    """

    def find(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, there = where[name].partition(":")
        try:
            return getattr(import_module(module), there or name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "dail":
                raise
            raise ImportError(
                f"{package}.{name} needs the package {error.name}; run: pip install 'dail[{extra}]'"
            ) from error

    return find
