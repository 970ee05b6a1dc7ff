"""What every room builds on: the frozen model, TOML with overrides, and fingerprints."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from dail.synth.core.errors import UsageError, describe

TOOL_VERSION = version("dail")

_TABLES = ("synth", "synthesis", "train", "eval")  # of a config file; each verb reads its own


class Frozen(BaseModel):
    """Base of everything stored or received: immutable, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Config(Frozen):
    """A room's settings: one table of a TOML file, then `key=value` overrides, unknown keys refused."""

    @classmethod
    def load(cls, path: Path | None, table: str, overrides: Sequence[str] = ()) -> Self:
        """Reads `[table]` of the file; `overrides` are `key=value` or `key.sub=value`, parsed as TOML values."""
        values: dict[str, Any] = {}
        if path is not None:
            document = _read_toml(path)
            if unknown := sorted(document.keys() - _TABLES):
                raise UsageError(f"{path}: there is no table {unknown[0]!r}; the tables are {', '.join(_TABLES)}")
            values = document.get(table, {})
            if not isinstance(values, dict):
                raise UsageError(f"{path}: {table} is a {type(values).__name__}; wanted a table, [{table}]")
        for override in overrides:
            _override(values, override)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            sources = [f"{path} [{table}]"] if path else []
            if overrides or not path:
                sources.append("the command line")
            raise UsageError(f"{' and '.join(sources)}: {describe(error)}{cls._names(error)}") from None

    @classmethod
    def _names(cls, error: ValidationError) -> str:
        """The settings there are, if an unknown one was named."""
        for fault in error.errors(include_url=False, include_input=False):
            if fault["type"] == "extra_forbidden":
                room: Any = cls
                for parent in fault["loc"][:-1]:
                    room = room.model_fields[parent].annotation
                return f"; the settings are {', '.join(room.model_fields)}"
        return ""


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"config file {path} does not exist; deploy/configs/ holds examples") from None
    except OSError as error:
        raise UsageError(f"config file {path} cannot be read: {error.strerror}; give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config file {path} is not TOML: {error}") from None


def _override(values: dict[str, Any], override: str) -> None:
    key, sep, text = override.partition("=")
    if not sep:
        raise UsageError(f"override {override!r} has no '='; write key=value, for example tau=0.8")
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UsageError(f"override {override!r}: {parent} is a single value and has no {last!r} in it")
    values[last] = value


def canonical(value: Any) -> bytes:
    """The one JSON spelling that is hashed: sorted keys, no spaces, UTF-8."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """`sha256:` and 64 hex digits of the canonical JSON."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()
