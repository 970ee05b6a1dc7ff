"""Parts of the method that users bring along, by a reference in a setting, without editing this source.

    NAME              built in, or an entry point that an installed package declares
    FILE.py:NAME      a function in a file
    MODULE:NAME       a function in an importable module
    FOLDER            of prompt templates
    …#DIGEST          any of these, pinned: what is loaded must have this source

What was asked for is pinned once, when a run begins, and travels as that. So whoever loads it later, in another process
or after a restart, gets the same code or an error; and its label, NAME#DIGEST, says in every output what made it.

The digest is of the file, or of all Python files of the package: what they import from elsewhere is not in it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import AfterValidator

from dail.synth.core.errors import ExtensionError

_NAME = re.compile(r"[A-Za-z][\w.-]*")
_DIGEST_DIGITS = 16
# What a user's code may raise, in any way it likes. sys.exit in it would end our process with its exit code, perhaps 0.
FAULTS = (Exception, SystemExit)


@dataclass(frozen=True)
class Extension:
    """A kind of extension: what it is called, the group of its entry points, and the names that are built in.

    `files`: which files of a folder are one, where a folder can be.
    """

    what: str
    group: str
    builtin: tuple[str, ...]
    files: str = ""

    def pin(self, reference: str) -> str:
        """The reference with the digest of its source; of what is built in as it is. Imports nothing.

        Raises:
            ExtensionError: there is no such thing, or it is pinned already and its source changed.
        """
        if reference in self.builtin:
            return reference
        place, _, wanted = reference.partition("#")
        if self.files and Path(place).is_dir():
            place = str(Path(place).resolve())
        digest = _digest(self._source(place))
        if wanted and digest != wanted:
            raise ExtensionError(
                f"{self.what} {place} has source {digest}, wanted {wanted}: it changed since this began; restore it, "
                "or begin anew with the changed one"
            )
        return f"{place}#{digest}"

    def load(self, reference: str) -> Any:
        """What a reference means, looked up once per process; of a folder, its path.

        Raises:
            ExtensionError: as `pin`, or its import fails.
        """
        return _load(self, reference)

    def check_name(self, reference: str) -> str:
        """The reference, if it is a mere name: what comes over the network may not say which file is run. Raises
        ValueError."""
        if reference in self.builtin or _NAME.fullmatch(reference.partition("#")[0]):
            return reference
        raise ValueError(
            f"{reference!r} is no name of a {self.what}; the API takes what is installed on server and workers (an "
            f"entry point of {self.group}) and runs no file that a request names; `dail synth` does; {self._known()}"
        )

    def _source(self, place: str) -> list[Path]:
        if self._is_folder(place):
            return self._files_in(Path(place))
        where, sep, name = place.rpartition(":")
        if not sep:
            return _module_source(self._entry_point(place).partition(":")[0], self.what, place)
        if not name or not where:
            raise ExtensionError(f"{self.what} {place!r} is not FILE.py:NAME or MODULE:NAME; {self._known()}")
        if where.endswith(".py"):
            if not Path(where).is_file():
                raise ExtensionError(f"{self.what} {place}: there is no file {where}; give FILE.py:NAME")
            return [Path(where)]
        return _module_source(where, self.what, place)

    def _is_folder(self, place: str) -> bool:
        return bool(self.files) and ":" not in place and "/" in place

    def _files_in(self, folder: Path) -> list[Path]:
        files = sorted(folder.glob(self.files))
        if not files:
            raise ExtensionError(f"{self.what} {folder}: there is no folder with {self.files} files; {self._known()}")
        return files

    def _entry_point(self, name: str) -> str:
        found = sorted({one.value for one in entry_points(group=self.group, name=name)})
        if len(found) == 1:
            return found[0]
        if found:
            raise ExtensionError(
                f"{self.what} {name!r} is declared {len(found)} times ({', '.join(found)}); give MODULE:NAME"
            )
        raise ExtensionError(f"there is no {self.what} {name!r}; {self._known()}")

    def _known(self) -> str:
        installed = sorted({one.name for one in entry_points(group=self.group)})
        names = ", ".join([*self.builtin, *installed])
        own = f"FILE.py:NAME, MODULE:NAME, {'a FOLDER, ' if self.files else ''}or an entry point of {self.group}"
        return f"known are {names}; your own is {own}"

    def import_(self, place: str) -> Any:
        """What is there, whatever its source."""
        if self._is_folder(place):
            return Path(place)
        where, _, name = (place if ":" in place else self._entry_point(place)).rpartition(":")
        try:
            module = _import_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        except FAULTS as error:
            raise ExtensionError(f"{self.what} {place} cannot be imported: {type(error).__name__}: {error}") from error
        value: Any = module
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is None:
            raise ExtensionError(f"{self.what} {place}: {where} has nothing named {name}; check its spelling")
        return value


def label(reference: str) -> str:
    """NAME#DIGEST of a pinned reference, wherever its file lies; what is built in as it is.

    >>> label("/home/me/law.py:citations#0123456789abcdef")
    'citations#0123456789abcdef'
    """
    place, sep, digest = reference.partition("#")
    return f"{Path(place).name.rpartition(':')[2]}{sep}{digest}"


def _absolute(reference: str) -> str:
    """With its path made absolute, where it has one."""
    place, sep, digest = reference.partition("#")
    where, colon, name = place.rpartition(":")
    if where.endswith(".py"):
        return f"{Path(where).expanduser().resolve()}{colon}{name}{sep}{digest}"
    if not colon and "/" in place:
        return f"{Path(place).expanduser().resolve()}{sep}{digest}"
    return reference


# The type of a setting that takes an extension. Its path is made absolute where it is read, as `AbsolutePath` is.
Reference = Annotated[str, AfterValidator(_absolute)]


@cache
def _load(extension: Extension, reference: str) -> Any:
    return extension.import_(extension.pin(reference).partition("#")[0])


def _import_file(file: Path) -> ModuleType:
    """Compiled anew: Python's cache goes by size and second, so it may hold what the file was before."""
    module = ModuleType(f"dail_extension_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    exec(compile(file.read_bytes(), file, "exec"), vars(module))
    return module


def _module_source(module: str, what: str, place: str) -> list[Path]:
    """The files of its top-level package, found without importing it."""
    top = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise ExtensionError(f"{what} {place}: there is no module {top} to import; install it, or give FILE.py:NAME")
    if spec.submodule_search_locations:
        return [file for folder in spec.submodule_search_locations for file in _python_files(Path(folder))]
    return [Path(spec.origin)] if spec.origin and Path(spec.origin).is_file() else []


def _python_files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*.py")) if file.is_file())


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(file.name.encode() + b"\0" + len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:_DIGEST_DIGITS]
