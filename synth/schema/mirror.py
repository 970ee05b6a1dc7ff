"""A manifest by its URL: what it lists is copied to this machine once, under the same keys, and read from there.

    s3://BUCKET/PREFIX/manifests/BATCH/v1.json          credentials from the environment; gs:// alike
    http://HOST:8765/v1/batches/BATCH/manifest          the token from DAIL_TOKEN

The copies lie under DAIL_CACHE (~/.cache/dail), a folder for each place. A copy is made whole or not at all, so
processes may do it side by side and be killed meanwhile; each is checked by size and sha256 whenever it is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from dail.synth.core.errors import DailError, IntegrityError, UsageError
from dail.synth.core.files import STAGING, Objects, sha256
from dail.synth.core.http import Client
from dail.synth.core.objects import open_objects
from dail.synth.schema.manifest import Manifest, parse_manifest
from dail.synth.schema.units import ShardRef

Fetch = Callable[[int, ShardRef], bytes]  # by the number of its file in the manifest
Tell = Callable[[int, int], None]  # files that are there, of how many

_AT_ONCE = 8
_IN_BUCKET = re.compile(r"(?P<place>(?:s3|gs)://.+)/(?P<key>manifests/[^/]+/[^/]+\.json)")
_IN_API = re.compile(r"(?P<api>https?://.+)/v1/batches/(?P<batch>[A-Za-z0-9_-]+)/manifest/?")
_WANTED = (
    "wanted a path, s3://BUCKET/PREFIX/manifests/BATCH/v1.json (or gs://), or "
    "http://HOST:PORT/v1/batches/BATCH/manifest"
)

_log = logging.getLogger(__name__)


def local_manifest(source: str | Path) -> Path:
    """The path of a manifest; of a URL, of a copy that lies with copies of all its shards.

    Raises:
        UsageError: no such URL, or there is no manifest.
        IntegrityError: the manifest or a shard is not what it must be.
        StorageError, ApiError: the bucket, the API or this machine's disk refused.
    """
    if isinstance(source, Path) or "://" not in source:
        return Path(source)
    if found := _IN_BUCKET.fullmatch(source):
        place, named = open_objects(found["place"]), found["key"]
        return _mirrored(source, named, lambda: place.read(named), _from(place), _cache(place.url))
    if found := _IN_API.fullmatch(source):
        with Client(found["api"], os.environ.get("DAIL_TOKEN")) as api:
            return copy_manifest(api, found["batch"], _cache(api.url))
    raise UsageError(f"the manifest is given by a URL that is none of a manifest; {_WANTED}")


def is_manifest_url(text: str) -> bool:
    return bool(_IN_BUCKET.fullmatch(text) or _IN_API.fullmatch(text))


def copy_manifest(api: Client, batch_id: str, copies: Objects, tell: Tell = lambda done, total: None) -> Path:
    """The path of a copy of a batch's manifest, beside copies of all its shards. What is there already is checked.

    Raises:
        ApiError: the API refused, such as for a batch that goes on.
        IntegrityError, StorageError: as `local_manifest`.
    """
    path = f"/v1/batches/{batch_id}"
    data = json.dumps(api.get(f"{path}/manifest"), ensure_ascii=False).encode()
    key = f"manifests/{batch_id}/v{parse_manifest(data, f'{api.url}{path}/manifest').generation}.json"
    return _mirrored(f"{api.url}{path}/manifest", key, lambda: data, _over(api, path), copies, tell)


def _cache(place: str) -> Objects:
    base = Path(os.environ.get("DAIL_CACHE") or "~/.cache/dail").expanduser()
    return Objects(base / hashlib.sha256(place.encode()).hexdigest()[:16])


def _from(place: Objects) -> Fetch:
    return lambda _, shard: place.get(shard.key, size=shard.size_bytes, digest=shard.sha256)


def _over(api: Client, path: str) -> Fetch:
    return lambda number, shard: api.file(f"{path}/shards/{number}", shard.size_bytes)


def _mirrored(
    source: str,
    key: str,
    read: Callable[[], bytes],
    fetch: Fetch,
    copies: Objects,
    tell: Tell = lambda done, total: None,
) -> Path:
    manifest, new = _manifest(copies, key, source, read)
    files = manifest.files
    missing = [(number, shard) for number, shard in enumerate(files) if not _is_there(copies, shard)]

    def copy(one: tuple[int, ShardRef]) -> None:
        number, shard = one
        data = fetch(number, shard)
        if len(data) != shard.size_bytes or sha256(data) != shard.sha256:
            raise IntegrityError(
                f"shard {shard.key} of {source} is damaged: got {len(data)} bytes, sha256 {sha256(data)[:16]}…; the "
                f"manifest wants {shard.size_bytes} bytes, sha256 {shard.sha256[:16]}…; restore it from a copy"
            )
        copies.put(shard.key, data)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for done, _ in enumerate(pool.map(copy, missing), len(files) - len(missing) + 1):
            tell(done, len(files))
    if new is not None:
        copies.put(key, new)  # last: where a manifest is, there are its shards
    with suppress(OSError):
        copies.path(STAGING).rmdir()  # of a folder that is somebody's
    _log.info(f"{source}: {len(missing)} of {len(files)} files copied to {copies.url}")
    return copies.path(key)


def _manifest(copies: Objects, key: str, name: str, read: Callable[[], bytes]) -> tuple[Manifest, bytes | None]:
    """The copy, if it is whole: a manifest never changes. Else what was read, with its bytes."""
    try:
        return parse_manifest(copies.read(key), copies.name_of(key)), None
    except DailError:
        copies.drop(key)
    try:
        data = read()
        try:
            manifest = parse_manifest(data, name)
        except DailError:
            data = read()  # once more: what came may have been cut on its way
            manifest = parse_manifest(data, name)
    except IntegrityError as error:
        raise UsageError(f"the manifest cannot be read: {error}; `dail results` says where it is") from None
    return manifest, data


def _is_there(copies: Objects, shard: ShardRef) -> bool:
    try:
        copies.get(shard.key, size=shard.size_bytes, digest=shard.sha256)
    except IntegrityError:
        copies.drop(shard.key)
        return False
    return True
