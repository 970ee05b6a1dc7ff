"""Where objects may lie: a folder, or a bucket of S3 or Google Cloud Storage that no disk needs to be shared for.

    open_objects("runs/api/objects")       a folder
    open_objects("s3://traces/team-a")     AWS_ACCESS_KEY_ID … from the environment; AWS_ENDPOINT_URL for other stores
    open_objects("gs://traces/team-a")     GOOGLE_APPLICATION_CREDENTIALS from the environment

A place has a mark, a small object with a random value. Who reads the same value sees the same place: a worker on
another machine may have a folder of the same name.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dail.synth.core.errors import IntegrityError, ObjectExists, ObjectsAway, StorageError, UsageError
from dail.synth.core.files import Objects, Stored, is_key, sha256

MARK = "_dail/place"
RETRY_S = 15.0  # how long a bucket that does not answer is asked again, by a caller who is waited for
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 3.0
_TIMES_OUT = {"connect_timeout": "5s", "read_timeout": "20s", "timeout": "120s"}
_STATUS = re.compile(r"status code: (\d{3})[^:]*")
_NO_BUCKET = ("NoSuchBucket", "bucket does not exist")
_WANTED = "wanted a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"

Value = TypeVar("Value")


def open_objects(place: str | Path) -> Objects:
    """Raises UsageError for what is no place; whether it is there is seen when it is used."""
    if isinstance(place, Path) or "://" not in place:
        if not str(place) or str(place).startswith(("file:", "s3:", "gs:")):
            raise UsageError(f"objects {str(place)!r}: {_WANTED}")
        return Objects(Path(place))
    return Bucket(place)


def mark(objects: Objects) -> str:
    """The value of this place's mark, made when first asked for."""
    try:
        return _value_of(objects)
    except IntegrityError:
        pass
    with contextlib.suppress(ObjectExists):  # somebody else did at this moment
        objects.put(MARK, secrets.token_hex(16).encode())
    return _value_of(objects)


def check_mark(objects: Objects, wanted: str) -> None:
    """Whether this is the place that has that mark, and we may write there.

    Raises:
        StorageError: it is another place, or closed to us.
    """
    try:
        got = _value_of(objects)
    except IntegrityError:
        got = "none"
    if got != wanted:
        raise StorageError(
            f"{objects.url} is not the place that the API means by it: got mark {got[:8]}, wanted {wanted[:8]}; "
            f"mount the API's folder here, or give both one bucket (`dail serve --objects s3://…`)"
        )
    objects.put(MARK, wanted.encode())  # the same bytes: it only shows whether we may


def _value_of(objects: Objects) -> str:
    return objects.read(MARK).decode("ascii", "replace")


class Bucket(Objects):
    """Objects in a bucket. What it cannot know of a request that broke off, it asks for again: all are repeatable."""

    def __init__(self, url: str) -> None:
        self._url = _checked(url)
        self._by = "GOOGLE_APPLICATION_CREDENTIALS" if url.startswith("gs:") else "AWS_ENDPOINT_URL, AWS_REGION"
        self._store = _open(self._url)

    @property
    def url(self) -> str:
        return self._url

    def path(self, key: str) -> Path:
        raise StorageError(f"{self.name_of(key)} is in a bucket and has no path")

    def put(self, key: str, data: bytes) -> None:
        """Creates the object whole, or not at all. Writing the same bytes again is no error.

        Raises:
            ObjectExists: the key holds other bytes.
            StorageError: the bucket refused; as ObjectsAway, it did not answer.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        self._check(key)

        def create() -> bool:
            try:
                # one request: of several parts, a part that is lost would leave an upload that is paid for
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                there = bytes(obstore.get(self._store, key).bytes())  # not there: two wrote at once and neither did
                return sha256(there) == sha256(data)
            return True

        if not self._asked(key, "write", create, is_missing_final=False):
            raise ObjectExists(f"object {self.name_of(key)} exists with other content; objects are never overwritten")

    def read(self, key: str) -> bytes:
        import obstore

        self._check(key)
        return self._asked(key, "read", lambda: bytes(obstore.get(self._store, key).bytes()))

    def drop(self, key: str) -> None:
        import obstore

        self._check(key)
        with contextlib.suppress(IntegrityError):
            self._asked(key, "delete", lambda: obstore.delete(self._store, key))

    def listed(self) -> Iterator[Stored]:
        import obstore

        def pages() -> list[Stored]:
            found = [entry for page in obstore.list(self._store) for entry in page]
            return [Stored(entry["path"], entry["size"], _utc(entry["last_modified"])) for entry in found]

        yield from self._asked("", "list", pages)

    def _check(self, key: str) -> None:
        if not is_key(key):
            raise StorageError(f"object key {key!r} is not a plain relative name")

    def _asked(self, key: str, verb: str, ask: Callable[[], Value], is_missing_final: bool = True) -> Value:
        """The answer, asked for again while the bucket is away or busy."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        until, pause_s = time.monotonic() + RETRY_S, _PAUSE_S
        while True:
            try:
                return ask()
            except FileNotFoundError as error:
                if any(said in str(error) for said in _NO_BUCKET):
                    raise StorageError(
                        f"cannot {verb} {self.name_of(key)}: there is no such bucket; create it, or name another"
                    ) from None
                if is_missing_final:
                    raise self.missing(key) from None
                why: Exception = error
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise StorageError(
                    f"cannot {verb} {self.name_of(key)}: {_told(error)}; give this process the rights to read, write, "
                    f"list and delete there (AWS_… or GOOGLE_… in its environment)"
                ) from None
            except (BaseError, OSError) as error:
                why = error
            if time.monotonic() + pause_s > until:
                raise ObjectsAway(
                    f"cannot {verb} {self.name_of(key)}: {_told(why)}, again and again for {RETRY_S:.0f} s; nothing "
                    f"was committed; check that the bucket is there and can be reached ({self._by})"
                ) from None
            time.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _checked(url: str) -> str:
    """The URL without a slash at its end. It is never repeated whole in an error: it may hold a password."""
    try:
        parts = urlsplit(url)
        prefix = parts.path.removesuffix("/").removeprefix("/")
        names = [parts.netloc, *prefix.split("/")] if prefix else [parts.netloc]
        is_plain = not (parts.query or parts.fragment or "@" in parts.netloc or ":" in parts.netloc)
    except ValueError:
        raise UsageError(f"the URL of the objects is none; {_WANTED}") from None
    if parts.scheme not in ("s3", "gs"):
        raise UsageError(f"objects at {parts.scheme}://…: {_WANTED}")
    if not is_plain or not all(is_key(name) for name in names):
        raise UsageError(
            f"the URL of the objects holds more than a bucket and plain names; {_WANTED}; credentials and endpoint "
            f"come from the environment"
        )
    return f"{parts.scheme}://{'/'.join(names)}"


def _open(url: str) -> Any:
    from obstore.store import from_url

    # what broke off is asked again by us: obstore itself does not repeat a create that timed out
    client: dict[str, Any] = {**_TIMES_OUT}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    named: dict[str, Any] = {"endpoint": endpoint} if endpoint and url.startswith("s3:") else {}
    if urlsplit(endpoint).scheme == "http":
        client["allow_http"] = True
    once: Any = {"max_retries": 0, "retry_timeout": dt.timedelta(seconds=RETRY_S)}
    try:
        return from_url(url, client_options=client, retry_config=once, **named)  # type: ignore[call-overload]
    except Exception as error:  # of many kinds, by what the environment holds
        raise UsageError(
            f"cannot open {url}: {type(error).__name__}; check AWS_… or GOOGLE_… in the environment"
        ) from None


def _told(error: Exception) -> str:
    """What is known of a refusal. Not its text, which may repeat keys and what was signed."""
    if found := _STATUS.search(str(error)):
        return f"it answered {found[0].removeprefix('status code: ').strip()}"
    if isinstance(error, FileNotFoundError):
        return "it says there is no such bucket or object"
    return "it did not answer as a whole"


def _utc(at: Any) -> dt.datetime:
    return at if isinstance(at, dt.datetime) else dt.datetime.fromisoformat(str(at))
