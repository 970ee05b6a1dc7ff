"""Which tables are meant by what stands on a command line: files, folders, patterns, and sets of the hub."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dail.synth.core.errors import UsageError
from dail.synth.core.files import file_sha256
from dail.synth.data.faults import Place
from dail.synth.data.formats import SUFFIXES, read_table
from dail.synth.data.hub import PREFIX, read_hub
from dail.synth.data.table import TAKEN, Row, Table, refusing
from dail.synth.data.text import suffix_of

# what the hub and its library leave beside the data
_NO_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json"}
_SPLIT = re.compile(
    r"(?:^|[/_.-])(train|training|test|testing|dev|val|valid|validation|eval)(?=[/_.-]|$)", re.IGNORECASE
)
_ONE_SPLIT = {"training": "train", "testing": "test", "val": "validation", "valid": "validation", "dev": "validation"}


def read_tables(names: Iterable[str | Path]) -> Iterator[Table]:
    """The tables that are named, each once, in the order of the names; files of a folder by their names.

    Raises:
        UsageError: a name leads to nothing, or to what cannot be read.
    """
    seen: set[str | Path] = set()
    for name in names:
        text = str(name)
        if text.startswith(PREFIX):
            if text not in seen:
                seen.add(text)
                yield read_hub(text)
            continue
        if "://" in text:
            raise UsageError(f"{text} is an address; download the file, or name a set of the hub as hf:OWNER/NAME")
        for path in _files(text):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield read_table(path)


def source_sha256(name: str) -> str | None:
    """Of the bytes of the file that a source's name is; none of a set of the hub, or of objects."""
    path = Path(name).expanduser()
    return file_sha256(path) if name and not name.startswith(PREFIX) and path.is_file() else None


def names_of_tables(name: str) -> list[str]:
    """What the tables that `read_tables` finds under one name are called: the files themselves, or the set.

    Raises:
        UsageError: the name leads to nothing.
    """
    return [name] if name.startswith(PREFIX) or "://" in name else [str(path) for path in _files(name)]


def read_objects(values: Iterable[Mapping[str, Any]]) -> Table:
    """Objects that are there already, as a table without a name."""
    rows = [Row(Place("", "item", number), _named(value)) for number, value in enumerate(values)]
    return Table("", None, lambda _: iter(rows))


def _named(value: Any) -> Any:
    return {str(name): part for name, part in value.items()} if isinstance(value, Mapping) else value


def _files(name: str) -> Sequence[Path]:
    path = Path(name).expanduser()
    with refusing(name):
        if path.is_dir():
            return _of_folder(path)
        if path.exists() or not glob.has_magic(name):
            return [path]
    found = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    if not found:
        raise UsageError(f"{name} matches no file; look with: ls {shlex.quote(str(path.parent))}")
    return [file for match in found for file in (_of_folder(match) if match.is_dir() else [match])]


def _of_folder(folder: Path) -> list[Path]:
    """All its files of one kind, if they are of one split."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path.relative_to(folder))]
    data = [path for path in files if suffix_of(path) in SUFFIXES and path.name not in _NO_DATA]
    if not data:
        arrow = any(path.suffix == ".arrow" for path in files)
        cure = (
            "it was written by save_to_disk of the datasets library; write it with to_parquet" if arrow
            else f"wanted files {TAKEN}"
        )  # fmt: skip
        raise UsageError(f"{folder} is a folder without expert solutions: {_count(files)} in it; {cure}")
    for what, of in (("kinds", suffix_of), ("splits", lambda path: _split(path.relative_to(folder)))):
        by = {key: list(same) for key, same in groupby(sorted(data, key=of), key=of)}
        if len(by) > 1:
            each = "; ".join(f"{key or 'neither'}: {same[0]}" for key, same in by.items())
            raise UsageError(f"{folder} holds files of several {what} ({each}); name the files that are meant")
    return data


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _split(path: Path) -> str:
    """`train` of data/train-00000-of-00002.parquet; blank if its name says none."""
    found = _SPLIT.search(path.as_posix())
    word = found.group(1).lower() if found else ""
    return _ONE_SPLIT.get(word, word)


def _count(files: list[Path]) -> str:
    return f"{len(files)} other file{'' if len(files) == 1 else 's'}"
