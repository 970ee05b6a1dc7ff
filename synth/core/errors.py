"""Every error that a user can act on, what exit code it has, and how a fault of a validation is told.

DailError                 exit 1   something of ours stopped; the message says what to do
├── UsageError            exit 2   a flag, a setting or a file the user named cannot be used
│   └── ExtensionError    exit 2   what a user brought along is not here, has changed or fails
├── InputError            exit 2   expert solutions that cannot be used (`pointer` says where)
├── IntegrityError        exit 1   bytes that are not what the manifest or the lineage says
├── StorageError          exit 1   a disk or object store that refused
│   ├── StoreBusy         exit 1   the API's store is held by another process
│   └── ObjectsAway       exit 1   the bucket cannot be reached or does not answer
├── ApiError              exit 1   the API refused or could not be reached
├── GateStopped           exit 6   signs of a collapse, where gate.action says stop; what there is, is kept
├── ItemError             (a row)  one unit cannot run; its neighbours go on
└── EngineDead            exit 1   the engine is gone; the actor around it ends itself
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_BATCH_FAILED, EXIT_CANCELLED = 0, 1, 2, 3, 4, 5
EXIT_GATE = 6

_PLAINLY = {
    "extra_forbidden": "there is no such name; check its spelling or remove it",
    "missing": "it is missing",
    "model_type": "wanted an object with names and values",
    "dict_type": "wanted an object with names and values",
    "string_type": "wanted a text",
}


class DailError(Exception):
    """An error a user can act on: what, what was got, what was wanted, what to do."""

    code = "error"
    exit_code = EXIT_ERROR

    def facts(self) -> dict[str, Any]:
        """What `--json` prints when a verb ends with this error."""
        return {"error": self.code, "message": str(self), "exit_code": self.exit_code}

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way would call a subclass with its message alone: engines and Ray send errors as pickles.
        return _remade, (type(self), self.args, vars(self))


def _remade(kind: type[DailError], args: tuple[Any, ...], state: dict[str, Any]) -> DailError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class UsageError(DailError):
    code = "usage"
    exit_code = EXIT_USAGE


class ExtensionError(UsageError):
    code = "extension"
    retryable = True  # of a unit: another worker may have it


class InputFault(NamedTuple):
    """One thing that is wrong with what was given. `where`: a JSON pointer, or of a row the field's name."""

    where: str
    code: str
    detail: str


class InputError(DailError):
    """Refused expert solutions. `problems` holds one for each fault, or the first of `num_problems`."""

    code = "invalid_input"
    exit_code = EXIT_USAGE

    def __init__(self, message: str, problems: Sequence[InputFault] = (), num_problems: int = 0) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        self.num_problems = max(num_problems, len(self.problems))

    def facts(self) -> dict[str, Any]:
        told = [{"pointer": where, "code": code, "detail": detail} for where, code, detail in self.problems]
        return {**super().facts(), "problems": told}


class IntegrityError(DailError):
    code = "integrity"


class StorageError(DailError):
    code = "storage"


class StoreBusy(StorageError):
    """Another process holds the store; the same request succeeds once it lets go."""

    code = "store_busy"


class StoreAway(StoreBusy):
    """The server that has the store does not answer; the same request succeeds once it does."""

    code = "store_away"


class ObjectsAway(StorageError):
    """A bucket that cannot be reached, which says nothing of what is in it; the same call succeeds once it can."""

    code = "objects_away"


class ObjectExists(StorageError):
    """An object's key holds other bytes."""

    code = "object_exists"


class ApiError(DailError):
    """`status` is the HTTP status, 0 when the API could not be reached."""

    code = "api"

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class GateStopped(DailError):
    code = "gate"
    exit_code = EXIT_GATE


class ItemError(DailError):
    """One unit cannot run. `code` names the reason; `retryable` says whether another try may help."""

    def __init__(self, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class EngineDead(DailError):
    code = "engine_dead"


def few(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many more there are.

    >>> few(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def describe(error: ValidationError) -> str:
    """One line per fault of a validation: JSON pointer, what is wrong, and the value's type (never the value)."""
    return "; ".join(
        f"{pointer(fault['loc'])}: {plainly(fault)}" for fault in error.errors(include_url=False, include_input=False)
    )


def plainly(fault: ErrorDetails) -> str:
    """What is wrong, for someone who does not know pydantic."""
    bounds = fault.get("ctx", {})
    if fault["type"] == "too_long" and bounds.get("field_type") == "Value":  # of a text
        return f"it has {bounds['actual_length']} characters; at most {bounds['max_length']} are taken"
    return _PLAINLY.get(fault["type"], fault["msg"].removeprefix("Value error, "))


def pointer(loc: Sequence[str | int]) -> str:
    """A pydantic location as a JSON pointer (RFC 6901).

    >>> pointer(("items", 3, "solution"))
    '/items/3/solution'
    """
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in loc) or "/"
