"""What every room builds on: the frozen model, a table of settings, a path that is absolute, and fingerprints."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue

TOOL_VERSION = version("dail")


class Frozen(BaseModel):
    """Base of everything stored or received: immutable, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Config(Frozen):
    """The settings of one table, `[table]` in a file; `dail.synth.core.settings` reads them."""


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except RuntimeError as error:  # of a `~` without a home
        raise ValueError(f"{error}; write the whole path") from None


# Every setting that is a path has this type. It is made absolute where it is read, against the current folder, since
# engines and workers run in other folders.
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


def canonical(value: Any) -> bytes:
    """The one JSON spelling that is hashed: sorted keys, no spaces, UTF-8."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """`sha256:` and 64 hex digits of the canonical JSON."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


def storable(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Itself, for a field of JSON. Raises ValueError: no file and no store takes a text in it."""
    try:
        canonical(value)
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is not text; remove it") from None
    return value
