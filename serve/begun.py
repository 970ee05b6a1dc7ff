"""An output folder of ours: begun with some inputs and settings, gone on with under the same, refused under others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dail.synth.core.console import say
from dail.synth.core.errors import IntegrityError, UsageError, few
from dail.synth.core.files import replace_text


def begin(out: Path, marker: str, what: str, decided: Mapping[str, Any], beside: Mapping[str, str]) -> None:
    """Makes `out`, or goes on in it.

    Args:
        marker: the name of the file that says what was decided.
        what: what lies there, for people: `rounds`.
        decided: what everything in it depends on, by the name of a setting or of an input; values of JSON or paths.
        beside: text files that are written anew each time, by name.

    Raises:
        UsageError: it holds something else, was begun otherwise, or cannot be written.
        IntegrityError: the marker is damaged.
    """
    path = out / marker
    try:
        out.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            _check_same(json.loads(path.read_text("utf-8")), dict(decided), what, out)
            say(f"going on with the {what} in {out}")
        elif any(one.name != "invalid.jsonl" for one in out.iterdir()):
            raise UsageError(f"{out} holds something that is not of this verb; give another --out")
        text = json.dumps(decided, indent=1, default=str) + "\n"
        for name, content in {**beside, marker: text}.items():
            write(out / name, content)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}; choose another --out") from None
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged ({error}); choose another --out") from None


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)


def _check_same(theirs: Any, ours: dict[str, Any], what: str, out: Path) -> None:
    if not isinstance(theirs, dict):
        raise ValueError(f"it holds a {type(theirs).__name__}, wanted an object")
    ours = json.loads(json.dumps(ours, default=str))
    other = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if other:
        said = [f"{name} {_short(theirs.get(name))} there, {_short(ours.get(name))} here" for name in other]
        raise UsageError(
            f"the {what} in {out} were begun otherwise: {few(said)}; give the same again, or another --out"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
