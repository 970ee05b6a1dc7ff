"""What people import: the doors' names with their signatures and fields are those of public_names.txt.

python -m tests.test_public_names    # writes it anew, when a change is meant
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

from tests.test_rooms import DOORS

FILE = Path(__file__).parent / "public_names.txt"


def lines() -> Iterator[str]:
    for door in DOORS:
        module = importlib.import_module(door)
        for name in module.__all__:
            yield from _told(f"{door}.{name}", getattr(module, name))


def _told(name: str, what: Any) -> Iterator[str]:
    if inspect.isclass(what):
        bases = [one.__name__ for one in what.__mro__[1:] if not one.__module__.startswith("dail.")]
        yield f"class {name}({', '.join(bases[:1])})"
        yield from sorted(_members(what))
    else:
        yield f"{name}{inspect.signature(what)}" if callable(what) else f"{name}: {type(what).__name__}"


def _members(what: type) -> Iterator[str]:
    """Fields, properties and methods that it has of ours."""
    seen: set[str] = set()
    for owner in what.__mro__:
        if not owner.__module__.startswith("dail."):
            continue
        for key, kind in inspect.get_annotations(owner).items():
            if not key.startswith("_") and key not in seen and key != "model_config":
                seen.add(key)
                yield f"    {key}: {kind}{_default(what, key)}"
        for key, value in vars(owner).items():
            if key.startswith(("_", "model_")) or key in seen:
                continue
            function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            if isinstance(value, property):
                seen.add(key)
                yield f"    {key}: property {inspect.signature(value.fget).return_annotation if value.fget else ''}"
            elif inspect.isfunction(function):
                seen.add(key)
                yield f"    {key}{inspect.signature(function)}"


def _default(what: type, key: str) -> str:
    fields = getattr(what, "model_fields", {}) or getattr(what, "__dataclass_fields__", {})
    if (field := fields.get(key)) is None:
        return ""
    is_required = field.is_required() if hasattr(field, "is_required") else _is_missing(field)
    return "" if is_required else " = …"


def _is_missing(field: Any) -> bool:
    from dataclasses import MISSING

    return field.default is MISSING and field.default_factory is MISSING


def test_what_people_import_is_as_it_was():
    was, now = FILE.read_text("utf-8").splitlines(), list(lines())
    changed = list(unified_diff(was, now, "public_names.txt", "now", lineterm="", n=1))
    assert not changed, "\n".join(
        ["", *changed, "", "A line that is gone or other breaks somebody's program: say so in CHANGELOG.md, then run",
         "`python -m tests.test_public_names`."]
    )  # fmt: skip


def test_a_change_of_a_signature_or_a_field_is_seen():
    from dail.synth import Synthesis

    class Other(Synthesis):
        tau: float = 0.5
        more: int

        def told(self, more: int) -> str:
            return ""

    Other.__module__ = "dail.synth"
    before, after = set(_told("S", Synthesis)), set(_told("S", Other))
    assert {"    more: int", "    told(self, more: 'int') -> 'str'"} <= after - before


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n", "utf-8")
