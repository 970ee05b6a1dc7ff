"""What every room builds on: the frozen model, TOML with overrides, fingerprints, and the error tree.

DailError                 exit 1   something of ours stopped; the message says what to do
├── UsageError            exit 2   a flag, a setting or a file the user named cannot be used
├── InputError            exit 2   expert solutions that cannot be used (`pointer` says where)
├── IntegrityError        exit 1   bytes that are not what the manifest or the lineage says
├── StorageError          exit 1   a disk or object store that refused
├── ApiError              exit 1   the API refused or could not be reached
├── ItemError             (a row)  one unit cannot run; its neighbours go on
└── EngineDead            exit 1   the engine is gone; the actor around it ends itself
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

TOOL_VERSION = version("dail")

_TABLES = ("synth", "synthesis", "train", "eval")  # of a config file; each verb reads its own

_PLAINLY = {
    "extra_forbidden": "there is no such name; check its spelling or remove it",
    "missing": "it is missing",
    "model_type": "wanted an object with names and values",
}

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_BATCH_FAILED, EXIT_CANCELLED = 0, 1, 2, 3, 4, 5


class DailError(Exception):
    """An error a user can act on: what, what was got, what was wanted, what to do."""

    code = "error"
    exit_code = EXIT_ERROR


class UsageError(DailError):
    code = "usage"
    exit_code = EXIT_USAGE


class InputError(DailError):
    """Refused expert solutions.

    `problems` holds one (JSON pointer, code, detail) per fault.
    """

    code = "invalid_input"
    exit_code = EXIT_USAGE

    def __init__(self, message: str, problems: Sequence[tuple[str, str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class IntegrityError(DailError):
    code = "integrity"


class StorageError(DailError):
    code = "storage"


class ApiError(DailError):
    """`status` is the HTTP status, 0 when the API could not be reached."""

    code = "api"

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ItemError(DailError):
    """One unit cannot run. `code` names the reason; `retryable` says whether another try may help."""

    def __init__(self, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class EngineDead(DailError):
    code = "engine_dead"


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


def describe(error: ValidationError) -> str:
    """One line per fault of a validation: JSON pointer, what is wrong, and the value's type (never the value)."""
    return "; ".join(
        f"{pointer(fault['loc'])}: {plainly(fault)}" for fault in error.errors(include_url=False, include_input=False)
    )


def plainly(fault: ErrorDetails) -> str:
    """What is wrong, for someone who does not know pydantic."""
    return _PLAINLY.get(fault["type"], fault["msg"].removeprefix("Value error, "))


def pointer(loc: Sequence[str | int]) -> str:
    """A pydantic location as a JSON pointer (RFC 6901).

    >>> pointer(("items", 3, "solution"))
    '/items/3/solution'
    """
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in loc) or "/"


def canonical(value: Any) -> bytes:
    """The one JSON spelling that is hashed: sorted keys, no spaces, UTF-8."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """`sha256:` and 64 hex digits of the canonical JSON."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this very machine, which a proxy of the environment would not find."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
