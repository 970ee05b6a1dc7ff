"""Objects are written once and whole, and read only as what they were."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dail.synth.core.errors import IntegrityError, StorageError
from dail.synth.core.files import Objects, new_folder, sha256

KEY, DATA = "shards/b/u/e0-0123.parquet", b"some bytes"


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path / "out")


def files(objects: Objects) -> list[str]:
    return sorted(str(path.relative_to(objects.root)) for path in objects.root.rglob("*") if path.is_file())


def test_what_was_put_is_got(objects: Objects):
    objects.put(KEY, DATA)
    assert objects.get(KEY, size=len(DATA), digest=sha256(DATA)) == DATA
    assert files(objects) == [KEY]


def test_the_same_bytes_again_are_no_error(objects: Objects):
    objects.put(KEY, DATA)
    objects.put(KEY, DATA)
    assert files(objects) == [KEY]


def test_other_bytes_are_refused_and_the_first_ones_stay(objects: Objects):
    objects.put(KEY, DATA)
    with pytest.raises(StorageError, match="exists with other content; objects are never overwritten"):
        objects.put(KEY, b"other")
    assert objects.path(KEY).read_bytes() == DATA
    assert files(objects) == [KEY]


def test_killed_before_the_link_it_leaves_no_object_and_a_rerun_writes_it(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
):
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(os, "link", lambda *_: os._exit(9))  # like a SIGKILL, nothing is cleaned up
        try:
            objects.put(KEY, DATA)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    (stray,) = files(objects)
    assert stray.startswith("_staging/")
    objects.put(KEY, DATA)
    assert files(objects) == [stray, KEY]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "No space left on device; nothing was committed; free some space"),
        (errno.EROFS, "check the folder"),
    ],
)
def test_a_disk_that_refuses_is_told_with_what_to_do(
    objects: Objects, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
):
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=hint):
        objects.put(KEY, DATA)
    assert files(objects) == []


def test_bytes_and_folder_are_synced_before_put_returns(objects: Objects, monkeypatch: pytest.MonkeyPatch):
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{objects.root}/").partition("/")[0])
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    objects.put(KEY, DATA)
    assert synced == ["_staging", "shards"]


@pytest.mark.parametrize("blocked", ["_staging", "shards", "shards/b"])
def test_a_file_where_a_folder_must_be_is_a_storage_error(objects: Objects, blocked: str):
    path = objects.root / blocked
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        objects.put(KEY, DATA)


def test_a_folder_where_the_object_must_be_is_a_storage_error(objects: Objects):
    objects.path(KEY).mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot write"):
        objects.put(KEY, DATA)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/../b",
        "a/..",
        ".",
        "..",
        "a//b",
        "a/",
        "a b",
        "a\n",
        "a\x00",
        "é",
        "a\\b",
    ],
)
def test_a_key_that_is_no_plain_name_is_refused(objects: Objects, key: str):
    with pytest.raises(StorageError, match="is not a plain relative name"):
        objects.put(key, DATA)


def test_a_link_out_of_the_folder_is_not_followed(objects: Objects, tmp_path: Path):
    objects.root.mkdir()
    (objects.root / "shards").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="is not a plain relative name"):
        objects.put(KEY, DATA)


def test_names_with_dots_are_fine(objects: Objects):
    objects.put("a/.b..c/e0-1.parquet", DATA)


@pytest.mark.parametrize("found", [b"", b"some byte", b"some bytez", b"some bytes and more"])
def test_torn_or_rotten_bytes_are_refused_naming_the_file(objects: Objects, found: bytes):
    objects.put(KEY, DATA)
    objects.path(KEY).write_bytes(found)
    with pytest.raises(IntegrityError, match=rf"{KEY} is damaged: got {len(found)} bytes.*restore it"):
        objects.get(KEY, size=len(DATA), digest=sha256(DATA))


def test_a_missing_object_is_refused_naming_the_file(objects: Objects):
    with pytest.raises(IntegrityError, match=f"{KEY} is missing"):
        objects.get(KEY, size=1, digest=sha256(DATA))


def test_an_object_that_cannot_be_read_is_refused_naming_the_file(objects: Objects):
    objects.path(KEY).mkdir(parents=True)
    with pytest.raises(IntegrityError, match=f"{KEY} cannot be read: Is a directory"):
        objects.get(KEY, size=1, digest=sha256(DATA))


def test_a_new_folder_appears_whole_and_readable_and_nothing_lies_beside_it(tmp_path: Path):
    (tmp_path / ".out.new").mkdir()
    (tmp_path / ".out.new" / "of an earlier try").touch()
    (tmp_path / "out").mkdir()  # an empty one may be there
    with new_folder(tmp_path / "out") as staged:
        (staged / "deep").mkdir()
        (staged / "deep" / "file").write_text("x")
        (staged / "deep" / "file").chmod(0o600)
        assert not any((tmp_path / "out").iterdir())
    (tmp_path / "other").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "file", "other", "out"]
    assert (tmp_path / "out" / "deep" / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_new_folder_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        "dail.synth.core.files.sync", lambda path: synced.append((path.name, (tmp_path / "out").exists()))
    )
    with new_folder(tmp_path / "out") as staged:
        (staged / "file").touch()
    assert synced == [("file", False), (tmp_path.name, True)]


@pytest.mark.parametrize(
    ("raised", "told"),
    [(OSError(errno.ENOSPC, "no"), StorageError), (EOFError("no"), StorageError), (KeyError, KeyError)],
)
def test_a_new_folder_that_could_not_be_written_is_not_there(tmp_path: Path, raised: Exception, told: type[Exception]):
    with pytest.raises(told), new_folder(tmp_path / "out", EOFError) as staged:
        (staged / "file").touch()
        raise raised
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_not_replaced(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(StorageError, match="what was there before is kept"), new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]
