"""Objects in a bucket: created once, whole or not at all, whatever breaks on the way to a real S3-compatible server."""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dail.synth.core import objects as objects_module
from dail.synth.core.errors import (
    DailError,
    IntegrityError,
    ObjectExists,
    ObjectsAway,
    StorageError,
    UsageError,
)
from dail.synth.core.files import Objects, sha256
from dail.synth.core.objects import MARK, Bucket, check_mark, mark, open_objects
from tests.bucket import KEY, S3, SECRET, Breaking


@pytest.fixture
def bucket(s3_place: str) -> Objects:
    return open_objects(s3_place)


@pytest.fixture
def broken(way: Breaking, s3_place: str, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """The same bucket, over the way on which things go wrong."""
    monkeypatch.setattr(objects_module, "RETRY_S", 3.0)
    return open_objects(s3_place)


@pytest.fixture(params=["folder", "bucket"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket")


def got(objects: Objects, key: str, data: bytes) -> bytes:
    return objects.get(key, size=len(data), digest=sha256(data))


def test_what_was_put_is_got_and_the_same_bytes_again_are_no_error(either: Objects):
    either.put("shards/b/one.parquet", b"some bytes")
    either.put("shards/b/one.parquet", b"some bytes")
    assert got(either, "shards/b/one.parquet", b"some bytes") == b"some bytes"


def test_other_bytes_are_refused_by_the_name_of_the_object_and_the_first_stay(either: Objects):
    either.put("a/b", b"first")
    with pytest.raises(ObjectExists, match=f"{either.url}/a/b exists with other content"):
        either.put("a/b", b"other")
    assert got(either, "a/b", b"first") == b"first"


def test_of_sixteen_that_write_one_key_at_once_one_wins(either: Objects):
    def attempt(number: int) -> str:
        try:
            either.put("a/race", b"%d" % number)
        except ObjectExists:
            return "lost"
        return f"won as {number}"

    with ThreadPoolExecutor(16) as pool:
        ends = Counter(pool.map(attempt, range(16)))
    (winner,) = [end for end in ends if end != "lost"]
    assert ends["lost"] == 15
    assert either.read("a/race") == winner.removeprefix("won as ").encode()


def test_what_is_missing_or_other_than_wanted_is_refused_by_its_name(either: Objects):
    with pytest.raises(IntegrityError, match=f"{either.url}/a/none is missing"):
        got(either, "a/none", b"x")
    either.put("a/b", b"rotten")
    with pytest.raises(IntegrityError, match=f"{either.url}/a/b is damaged: got 6 bytes"):
        got(either, "a/b", b"as it was")


def test_a_dropped_object_is_gone_and_dropping_it_again_is_no_error(either: Objects):
    either.put("a/b", b"1")
    either.drop("a/b")
    either.drop("a/b")
    with pytest.raises(IntegrityError):
        either.read("a/b")


def test_a_listing_tells_of_all_there_is(either: Objects):
    for name in ("a/one", "a/b/two"):
        either.put(name, b"four")
    assert sorted((one.key, one.size_bytes) for one in either.listed() if not one.key.startswith("_")) == [
        ("a/b/two", 4),
        ("a/one", 4),
    ]


@pytest.mark.parametrize("key", ["../a", "a/../../b", "/etc/passwd", "a//b", "", "a/%2e%2e/b\n", "ü"])
def test_a_key_that_is_no_plain_name_reaches_no_bucket(bucket: Objects, key: str):
    for ask in (bucket.read, bucket.drop, lambda key: bucket.put(key, b"")):
        with pytest.raises(StorageError, match="not a plain relative name"):
            ask(key)


@pytest.mark.parametrize(
    "fault", ["500", "503", "429", "409", "lost", "silent"], ids=lambda fault: f"put meets {fault}"
)
def test_a_put_that_breaks_is_repeated_and_neither_lost_nor_doubled(
    broken: Objects, bucket: Objects, way: Breaking, fault: str
):
    way.next = [fault, fault]
    broken.put("a/b", b"the bytes")
    assert way.next == []
    assert got(bucket, "a/b", b"the bytes") == b"the bytes"
    assert [one.key for one in bucket.listed()] == ["a/b"]


def test_a_put_whose_reply_was_lost_still_refuses_other_bytes_than_are_there(
    broken: Objects, bucket: Objects, way: Breaking
):
    bucket.put("a/b", b"first")
    way.next = ["lost", "503", "409"]
    with pytest.raises(ObjectExists):
        broken.put("a/b", b"other")
    assert bucket.read("a/b") == b"first"


@pytest.mark.parametrize("fault", ["500", "503", "lost", "cut", "short"])
def test_a_read_that_breaks_is_repeated(broken: Objects, way: Breaking, fault: str):
    broken.put("a/b", b"the bytes")
    way.next = [fault]
    assert got(broken, "a/b", b"the bytes") == b"the bytes"
    assert way.next == []


def test_a_bucket_that_is_slow_is_given_up_and_asked_again(
    broken: Objects, way: Breaking, s3_place: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(objects_module._TIMES_OUT, "read_timeout", "500ms")
    hasty = open_objects(s3_place)
    way.next = ["slow"]
    hasty.put("a/b", b"the bytes")
    way.next = ["slow"]
    assert got(hasty, "a/b", b"the bytes") == b"the bytes"
    assert len(way.seen) >= 4


def test_bytes_that_stay_cut_are_damage_and_a_bucket_that_stays_away_is_not(broken: Objects, way: Breaking):
    broken.put("a/b", b"the bytes")
    way.next = ["short"] * 2
    with pytest.raises(IntegrityError, match="damaged"):
        got(broken, "a/b", b"the bytes")
    way.next = ["503"] * 100
    with pytest.raises(ObjectsAway, match=r"cannot read s3://.*/a/b: it answered 503.*AWS_ENDPOINT_URL"):
        got(broken, "a/b", b"the bytes")


def test_a_bucket_that_stays_away_is_said_after_a_while_and_nothing_is_there(
    broken: Objects, bucket: Objects, way: Breaking
):
    way.next = ["503"] * 100
    with pytest.raises(ObjectsAway, match="again and again for 3 s; nothing was committed"):
        broken.put("a/b", b"the bytes")
    assert 3 < len(way.seen) < 30  # with pauses that grow
    way.next = []
    assert list(bucket.listed()) == []


def test_wrong_credentials_are_said_at_once_and_no_secret_of_them(
    s3_place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-another")
    with pytest.raises(StorageError, match=r"cannot write s3://.*: it answered 403.*rights") as raised:
        open_objects(s3_place).put("a/b", b"x")
    for told in (str(raised.value), caplog.text):
        assert not any(secret in told for secret in (KEY, SECRET, "canary", "StringToSign"))


NO_PLACES = (
    "http://127.0.0.1/a https://bucket/a file://host/a file:/etc ftp://a/b az://a/b memory://a S4://a s3:bucket s3:// "
    "s3:///a s3://a/../b s3://a//b s3://a?x=1 s3://a#b s3://key:canary@a/b s3://a:80/b s3://[ gs://a~b"
)


@pytest.mark.parametrize("url", ["", *NO_PLACES.split()])
def test_what_is_no_place_is_refused_without_repeating_a_password(url: str):
    with pytest.raises(UsageError, match=r"wanted a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX") as raised:
        open_objects(url)
    assert "canary" not in str(raised.value)


def test_one_place_has_one_mark_whoever_asks_first(either: Objects):
    with ThreadPoolExecutor(8) as pool:
        (value,) = set(pool.map(lambda _: mark(either), range(8)))
    check_mark(either, value)
    assert either.read(MARK) == value.encode()


def test_another_place_is_told_from_the_one_that_is_meant(either: Objects, tmp_path: Path):
    value = mark(either)
    other = Objects(tmp_path / "other")
    with pytest.raises(StorageError, match=f"{other.url} is not the place .* got mark none, wanted {value[:8]}"):
        check_mark(other, value)
    mark(other)
    with pytest.raises(StorageError, match="is not the place"):
        check_mark(other, value)


def test_a_place_that_may_only_be_read_is_not_taken_for_ours(broken: Objects, way: Breaking):
    value = mark(broken)
    way.methods, way.next = ("PUT",), ["403"]
    with pytest.raises(StorageError, match="cannot write"):
        check_mark(broken, value)


def test_a_bucket_without_a_server_is_a_line(s3_place: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(objects_module, "RETRY_S", 0.2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DailError, match="it did not answer as a whole") as raised:
        open_objects(s3_place).read("a/b")
    assert "\n" not in str(raised.value)


def test_a_bucket_has_no_paths(s3_place: str, s3: S3):
    bucket = open_objects(f"{s3_place}/")
    assert isinstance(bucket, Bucket)
    assert bucket.url == s3_place
    with pytest.raises(StorageError, match="has no path"):
        bucket.path("a/b")
