"""A file of text, unpacked, line by line: UTF-8, or refused with the byte where it is not and what cures it."""

from __future__ import annotations

import gzip
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_UTF8_BOM = b"\xef\xbb\xbf"
# UTF-32's begin as UTF-16's do; JSON in UTF-16 without a mark has a NUL beside its first character.
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_ASCII_AS = {b"101": "UTF-16BE", b"010": "UTF-16LE", b"111": "UTF-32BE", b"011": "UTF-32LE"}
_NOT_TEXT = (
    (b"\x1f\x8b", "it is compressed by gzip; let its name end in .gz"),
    (b"PAR1", "it is Parquet; let its name end in .parquet"),
    (b"PK\x03\x04", "it is a zip archive; unpack it first: unzip {name}"),
    (b"\x28\xb5\x2f\xfd", "it is compressed by zstd; unpack it first: unzstd {name}"),
    (b"version https://git-lfs", "it is a pointer of git-lfs, not the data; get the data: git lfs pull"),
    (b"<!DOCTYPE", "it is a page of HTML, not the data; download the raw file"),
    (b"<html", "it is a page of HTML, not the data; download the raw file"),
)


def suffix_of(path: Path) -> str:
    """Its kind by its name, without `.gz`."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked, behind its byte order mark. Raises ValueError if it is no UTF-8 by its beginning."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
        head = file.read(32)
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                raise ValueError(_converted(path, f"it begins with the bytes {mark.hex(' ').upper()}: ", encoding))
        if b"\x00" in head[:2]:
            nulls = bytes(49 if byte == 0 else 48 for byte in head[:3])
            raise ValueError(_converted(path, f"byte {head.index(0)} is NUL: ", _ASCII_AS.get(nulls, "UTF-16LE")))
        for magic, what in _NOT_TEXT:
            if head.startswith(magic):
                raise ValueError(what.format(name=shlex.quote(str(path))))
        file.seek(len(_UTF8_BOM) if head.startswith(_UTF8_BOM) else 0)
        yield file  # type: ignore[misc]  # gzip's is one too


def numbered_lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1; a line ends with LF alone or CR LF. Raises ValueError where one is not UTF-8."""
    before = file.tell()
    for number, line in enumerate(file, 1):
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(_not_utf8(path, line, error.start, f"line {number}: ", before + error.start)) from None
        before += len(line)


def _not_utf8(path: Path, data: bytes, at: int, where: str, offset: int) -> str:
    guess = "WINDOWS-1252" if any(0x80 <= byte <= 0x9F for byte in data[at : at + 1]) else "LATIN1"
    what = f"{where}byte {offset}, 0x{data[at]:02X}, is not UTF-8; if it is {guess}, "
    return _converted(path, what, guess, is_certain=False)


def _converted(path: Path, what: str, encoding: str, is_certain: bool = True) -> str:
    packed = path.name.lower().endswith(".gz")
    plain = path.with_name(path.name[: -len(".gz")]) if packed else path
    target = plain.with_name(f"{plain.stem}.utf8{plain.suffix}")
    name, convert = shlex.quote(str(path)), f"iconv -f {encoding} -t UTF-8"
    source = f"gunzip -c {name} | {convert}" if packed else f"{convert} {name}"
    said = f"{what}this is {encoding}, wanted is UTF-8; " if is_certain else what
    return f"{said}convert it: {source} > {shlex.quote(str(target))}"
