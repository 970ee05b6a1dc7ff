"""Files that are written whole or not at all: objects, which are made once and never changed, and single files."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dail.synth.core.errors import DailError, IntegrityError, ObjectExists, StorageError
from dail.synth.core.extensions import label

_NAME = r"(?!\.+(?:/|$))[A-Za-z0-9_.-]+"  # not of dots alone
STAGING = "_staging"
_KEY = re.compile(rf"{_NAME}(?:/{_NAME})*")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Stored(NamedTuple):
    """An object as a listing tells of it."""

    key: str
    size_bytes: int
    modified: dt.datetime


class Objects:
    """Objects under one local folder, created once and read with checks: never overwritten or renamed over.

    Keys are slash-separated names made by our own code. A bucket (`objects.py`) has the same face.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def url(self) -> str:
        """What people and workers call this place."""
        return str(self.root)

    def path(self, key: str) -> Path:
        if not is_key(key) or not (path := (self.root / key).resolve()).is_relative_to(self.root):
            raise StorageError(f"object key {key!r} is not a plain relative name")
        return path

    def put(self, key: str, data: bytes) -> None:
        """Writes the object durably, or not at all. Writing the same bytes again is no error.

        The bytes reach the disk under a temporary name first and are then linked, which fails if the key exists:
        a crash leaves either the whole object or a stray file in `_staging` that no manifest names.

        Raises:
            StorageError: the key holds other bytes, or the disk refused (full, read-only).
        """
        path = self.path(key)
        staged = self.root / STAGING / f"{os.getpid()}-{os.urandom(8).hex()}"
        try:
            staged.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(staged, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _link(staged, path, data)
            sync(path.parent)
        except OSError as error:
            hint = "free some space and rerun" if error.errno == errno.ENOSPC else "check the folder and rerun"
            raise StorageError(f"cannot write {path}: {error.strerror}; nothing was committed; {hint}") from error
        finally:
            with contextlib.suppress(OSError):
                staged.unlink()

    def get(self, key: str, *, size: int, digest: str) -> bytes:
        """Reads the object and refuses it unless size and sha256 are the expected ones.

        Raises:
            IntegrityError: missing, torn or rotten; names the file.
            StorageError: a bucket that cannot be reached, which says nothing of the object.
        """
        data = self.read(key)
        if _is_other(data, size, digest):
            data = self.read(key)  # once more: what came may have been cut on its way
        if _is_other(data, size, digest):
            raise IntegrityError(
                f"shard {self.name_of(key)} is damaged: got {len(data)} bytes, sha256 {sha256(data)[:16]}…; "
                f"the manifest wants {size} bytes, sha256 {digest[:16]}…; restore it from a copy or rebuild it"
            )
        return data

    def read(self, key: str) -> bytes:
        """The object as it is. Raises as `get` does."""
        path = self.path(key)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise self.missing(key) from None
        except OSError as error:
            raise IntegrityError(
                f"shard {path} cannot be read: {error.strerror}; restore it from a copy or rebuild it"
            ) from error

    def drop(self, key: str) -> None:
        """Deletes an object that nothing names any more; it may be gone already."""
        path = self.path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot delete {path}: {error.strerror}; check the folder") from error

    def listed(self) -> Iterator[Stored]:
        """All there is, to find what nothing names: no reader of traces looks here."""
        for path in self.root.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # it was dropped meanwhile
                if path.is_file() and not path.is_symlink():
                    seen = path.stat()
                    modified = dt.datetime.fromtimestamp(seen.st_mtime, dt.UTC)
                    yield Stored(path.relative_to(self.root).as_posix(), seen.st_size, modified)

    def name_of(self, key: str) -> str:
        return f"{self.url}/{key}"

    def missing(self, key: str) -> IntegrityError:
        return IntegrityError(f"shard {self.name_of(key)} is missing; the manifest lists it; restore it or rebuild it")


def is_key(text: str) -> bool:
    return bool(_KEY.fullmatch(text))


def _is_other(data: bytes, size: int, digest: str) -> bool:
    return len(data) != size or sha256(data) != digest


def _link(staged: Path, path: Path, data: bytes) -> None:
    try:
        os.link(staged, path)
    except FileExistsError:
        if sha256(path.read_bytes()) != sha256(data):
            raise ObjectExists(f"object {path} exists with other content; objects are never overwritten") from None


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Gives `path` the content that `write` puts into a file of another name: durably, and whole or not at all.

    Raises:
        StorageError: the disk refused; whatever was at `path` before is still there.
    """
    staged = path.with_name(f".{path.name}.new")
    try:
        write(staged)
        open_by_umask(staged)
        sync(staged)
        os.replace(staged, path)
        sync(path.parent)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        staged.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """`replace` with this text, in UTF-8."""
    replace(path, lambda staged: staged.write_text(text, "utf-8"))


@contextmanager
def new_folder(path: Path, fault: type[Exception] = OSError) -> Iterator[Path]:
    """Makes `path` of what is written into a folder of another name meanwhile: durably, and whole or not at all.

    Args:
        path: not there yet, or an empty folder.
        fault: what a library raises, beside OSError, when the disk refuses.

    Raises:
        StorageError: the disk refused; `path` is as it was.
    """
    staged = path.with_name(f".{path.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir(parents=True)
        yield staged
        for written in staged.rglob("*"):
            if written.is_file():
                open_by_umask(written)
            sync(written)
        os.rename(staged, path)
        sync(path.resolve().parent)
    except (OSError, fault) as error:
        raise refused(path, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def refused(path: Path, error: Exception) -> DailError:
    """What to tell when the disk would not take `path`; safetensors reports its errors as text only."""
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    hint = "free some space" if full else "check the folder"
    kept = "what was there before is kept" if path.exists() else "nothing was written"
    return StorageError(f"cannot write {path}: {error}; {kept}; {hint} and rerun to go on from the last checkpoint")


def open_by_umask(path: Path) -> None:
    """Gives a file the mode that this process's umask gives new files; safetensors keeps its own to their owner."""
    fresh = path.with_name(f".{path.name}.mode")
    try:
        fresh.touch(mode=0o666)
        path.chmod(fresh.stat().st_mode & 0o777)
    finally:
        fresh.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Forces a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def without_folders(value: Any) -> Any:
    """A value of JSON with the last part alone of every absolute path: this machine's folders are nobody's business.

    A pinned reference to a file of the user's own becomes its label, NAME#DIGEST.
    """
    if isinstance(value, dict):
        return {name: without_folders(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    if not (isinstance(value, str) and value.startswith("/")):
        return value
    return label(value) if "#" in value else Path(value).name
