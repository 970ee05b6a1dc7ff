"""Files of every kind, and what is said of those that cannot be read."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dail.synth.core.errors import InputError, UsageError
from dail.synth.data.formats import read_table
from dail.synth.data.reader import load_items

ITEM: dict[str, Any] = {"problem": "1+1?", "solution": "It is \\boxed{2}."}
OTHER: dict[str, Any] = {"problem": "∑ 1?", "solution": "ζ(2)", "id": "b", "answer": None, "metadata": {"level": None}}
USER = {"role": "user", "content": "1+1?"}


def lines(*rows: Any) -> bytes:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


CSV = b'problem,solution,id,answer\n1+1?,It is \\boxed{2}.,,\n"\xe2\x88\x91 1?",\xce\xb6(2),b,\n'
SAME = {
    "a.jsonl": lines(ITEM, OTHER),
    "a.ndjson": lines(ITEM, OTHER),
    "crlf.jsonl": lines(ITEM, OTHER).replace(b"\n", b"\r\n"),
    "blank lines.jsonl": b"\n" + lines(ITEM, "", OTHER, "  "),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(ITEM, OTHER),
    "a.json": json.dumps([ITEM, OTHER]).encode(),
    "indented.json": json.dumps([ITEM, OTHER], indent=2).encode(),
    "bom.json": b"\xef\xbb\xbf" + json.dumps([ITEM, OTHER]).encode(),
    "a list.jsonl": json.dumps([ITEM, OTHER]).encode(),
    "an indented list.jsonl": json.dumps([ITEM, OTHER], indent=2).encode(),
    "lines.json": lines(ITEM, OTHER),
    "wrapped.json": json.dumps({"train": [ITEM, OTHER]}).encode(),
    "wrapped with more.json": json.dumps({"version": 2, "info": {"by": "us"}, "data": [ITEM, OTHER]}).encode(),
    "a.csv": CSV,
    "crlf.csv": CSV.replace(b"\n", b"\r\n"),
    "bom.csv": b"\xef\xbb\xbf" + CSV,
    "a.tsv": CSV.replace(b",", b"\t"),
    "a.jsonl.gz": gzip.compress(lines(ITEM, OTHER)),
    "a.json.gz": gzip.compress(json.dumps([ITEM, OTHER]).encode()),
    "A.CSV.GZ": gzip.compress(CSV),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_items_come_out_of_every_kind_of_file(tmp_path: Path, name: str):
    first, second = load_items(write(tmp_path, name, SAME[name]))
    assert (first.problem, first.solution, first.answer) == ("1+1?", "It is \\boxed{2}.", None)
    assert (second.problem, second.solution, second.id, second.metadata) == ("∑ 1?", "ζ(2)", "b", {})


def test_messages_several_solutions_nulls_and_dates_come_out_of_parquet(tmp_path: Path):
    import datetime as dt

    metadata = {"when": dt.date(2003, 3, 25), "at": dt.datetime(2003, 3, 25, 4), "none": None}
    row = {"problem": [USER], "solution": ["one", None, "two"], "metadata": metadata}
    folder = tmp_path / "run=3"  # some Parquet readers make a column of such a name
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([row] * 2000), folder / "items.parquet")
    (item,) = load_items(folder / "items.parquet")
    assert (item.problem_text, item.solution_text) == ("1+1?", "one\n\ntwo")
    assert item.metadata == {"when": "2003-03-25", "at": "2003-03-25T04:00:00"}


def test_rows_of_parquet_are_counted_over_all_its_groups(tmp_path: Path):
    rows = [{**ITEM, "problem": f"{n}?"} for n in range(3000)]
    rows[2500]["solution"] = ""
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=700)
    with pytest.raises(InputError, match=r"solution: the text is blank: .*a\.parquet row 2501$"):
        load_items(tmp_path / "a.parquet")


def test_one_item_alone_is_a_row_and_no_wrapping(tmp_path: Path):
    item = {"problem": [USER], "solution": ["a", "b"], "metadata": {"steps": [{"n": 1}]}}
    for name, text in (
        ("a.json", json.dumps(item)),
        ("b.json", json.dumps(item, indent=1)),
        ("c.jsonl", json.dumps(item)),
    ):
        (read,) = load_items(write(tmp_path, name, text.encode()))
        assert read.metadata == {"steps": [{"n": 1}]}


REFUSED: dict[str, tuple[bytes, str]] = {
    # name: (content, what is said)
    "utf16.jsonl": (
        json.dumps(ITEM).encode("utf-16"),
        r"the bytes FF FE: .* iconv -f UTF-16 -t UTF-8 .* > .*utf16\.utf8\.jsonl",
    ),
    "utf16be.jsonl": (b"\xfe\xff" + json.dumps(ITEM).encode("utf-16-be"), "bytes FE FF: this is UTF-16"),
    "no mark.jsonl": (json.dumps(ITEM).encode("utf-16-le"), "byte 1 is NUL: this is UTF-16LE"),
    "no mark, 32.jsonl": (json.dumps(ITEM).encode("utf-32-le"), "byte 1 is NUL: this is UTF-32LE"),
    "no mark, turned.jsonl": (json.dumps(ITEM).encode("utf-16-be"), "byte 0 is NUL: this is UTF-16BE"),
    "utf32.json": (json.dumps([ITEM]).encode("utf-32"), "this is UTF-32"),
    "latin1.jsonl": (
        b"{}\n" + '{"problem": "clé"}'.encode("latin1"),
        "line 2: byte 18, 0xE9, is not UTF-8; if it is LATIN1, convert it: iconv -f LATIN1 -t UTF-8 ",
    ),
    "latin1.csv": ("problem,solution\nclé,b\n".encode("latin1"), "line 2: byte 19, 0xE9, is not UTF-8"),
    "windows.jsonl": ('{"problem": "a’s"}'.encode("cp1252"), r"0x92, is not UTF-8; if it is WINDOWS-1252"),
    "latin1.json.gz": (
        gzip.compress('["clé"]'.encode("latin1")),
        r"gunzip -c .*latin1\.json\.gz \| iconv -f LATIN1 -t UTF-8 > .*latin1\.utf8\.json$",
    ),
    "packed.jsonl": (gzip.compress(lines(ITEM)), r"compressed by gzip; let its name end in \.gz"),
    "cut.jsonl.gz": (gzip.compress(os.urandom(500).hex().encode())[:200], "ended before the end-of-stream"),
    "no.jsonl.gz": (lines(ITEM), "Not a gzipped file"),
    "a.jsonl.zip": (b"PK\x03\x04", r"its name ends in '\.zip'; wanted \.jsonl, \.json, \.csv"),
    "zip.jsonl": (b"PK\x03\x04..", "zip archive; unpack it first: unzip"),
    "lfs.jsonl": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "page.jsonl": (b"<!DOCTYPE html><html></html>", "a page of HTML"),
    "parquet.jsonl": (b"PAR1....", r"let its name end in \.parquet"),
    "a.txt": (lines(ITEM), r"its name ends in '\.txt'; wanted"),
    "items": (b"", "its name ends in 'nothing'; wanted"),
    "cut.json": (b'[{"problem": "a", "solution": "b"},\n {"problem": ', "it is no JSON: .*line 2 column 14"),
    "number.json": (b"3", "it holds a number; wanted a list of rows"),
    "nothing.json": (b"{}", "an object with nothing in it"),
    "two.json": (json.dumps({"train": [ITEM], "test": [ITEM]}).encode(), r"2 lists of rows \(train, test\)"),
    "deep.json": (json.dumps({"data": {"train": [ITEM]}}).encode(), "an object of data; wanted a list of rows"),
    "columns.json": (
        json.dumps({"problem": ["a", "b"], "solution": ["c", "d"]}).encode(),
        'an object of columns; .*orient="records"',
    ),
    "pandas.json": (json.dumps({"problem": {"0": "a"}, "solution": {"0": "b"}}).encode(), "an object of columns"),
    "twice.json": (b'[{"a": 1, "a": 2}]', "key 'a' appears twice"),
    "nested.json": (b"[" * 100_000, "nested too deeply"),
    "empty.csv": (b"", "it is empty; wanted a line of column names"),
    "semicolon.csv": (b"problem;solution\na;b\n", "parted by ';'; wanted ','; write it with commas"),
    "tabs.csv": (b"problem\tsolution\na\tb\n", r"let its name end in \.tsv"),
    "twice.csv": (b"problem,problem\na,b\n", "column 'problem' appears twice"),
    "quotes.csv": (b'problem,solution\nc,d\n"a"x,b\n', "line 3: .*quote cells"),
    "open quote.csv": (b'problem,solution\n"a,b\n', "line 2: unexpected end of data"),
    "no.parquet": (b"PAR1 no PAR1", "cannot be read"),
    "empty.parquet": (b"", "it is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_read_is_the_user_s_error(tmp_path: Path, name: str):
    content, why = REFUSED[name]
    path = write(tmp_path, name, content)
    with pytest.raises(UsageError, match=why) as refused:
        load_items(path)
    assert str(refused.value).startswith(f"{path} cannot be read: ")


def test_the_iconv_line_that_is_offered_does_what_it_says(tmp_path: Path):
    for name, encoding in (
        ("a file.jsonl", "utf-16"),
        ("b.jsonl", "utf-16-le"),
        ("c.jsonl", "latin1"),
        ("d.jsonl", "cp1252"),
    ):
        text = "’" if encoding == "cp1252" else "é"
        path = write(tmp_path, name, json.dumps({**ITEM, "problem": text}, ensure_ascii=False).encode(encoding))
        with pytest.raises(UsageError) as refused:
            load_items(path)
        command = str(refused.value).rpartition("convert it: ")[2]
        subprocess.run(command, shell=True, check=True, timeout=20)
        (item,) = load_items(shlex.split(command)[-1])
        assert item.problem == text


def test_what_is_not_there_and_a_folder_with_a_file_s_name_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"missing\.jsonl does not exist; give a file"):
        load_items(tmp_path / "missing.jsonl")
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(UsageError, match="a folder without expert solutions"):
        load_items(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_table(tmp_path / "x.jsonl")


def test_lines_are_counted_from_one_and_blank_ones_too(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", lines(ITEM, "", '{"problem": "cut'))
    with pytest.raises(InputError, match=r"it is no JSON: .*a\.jsonl line 3$"):
        load_items(path)


def test_a_record_of_csv_is_named_by_the_line_it_begins_on(tmp_path: Path):
    path = write(tmp_path, "a.csv", b'problem,solution\n"a\nb",c\n\nd,\ne,f,g\n')
    with pytest.raises(InputError) as refused:
        load_items(path)
    assert [where for where, _, _ in refused.value.problems] == [f"{path} line 6", f"{path} line 5: solution"]


def test_a_broken_line_among_others_is_a_faulty_row_under_both_names(tmp_path: Path):
    for name in ("a.jsonl", "a.json"):
        path = write(tmp_path, name, lines(ITEM, "{oops", OTHER))
        with pytest.raises(InputError, match=r"1 fault in 1 of 3 rows; .*\n  it is no JSON: .* line 2$"):
            load_items(path)


def test_line_separators_inside_a_text_are_no_line_breaks(tmp_path: Path):
    text = json.dumps({**ITEM, "problem": "a\u2028b\u0085c"}, ensure_ascii=False) + "\r\n"
    assert load_items(write(tmp_path, "a.jsonl", text.encode()))[0].problem == "a\u2028b\u0085c"


def test_a_parquet_file_with_a_flipped_bit_is_taken_or_refused(tmp_path: Path):
    path = tmp_path / "items.parquet"
    pq.write_table(pa.Table.from_pylist([{**ITEM, "metadata": {"level": 3}}]), path)
    data, num_refused = path.read_bytes(), 0
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 2]) + data[place + 1 :])
        try:
            load_items(path)
        except (UsageError, InputError):
            num_refused += 1
    assert num_refused > len(data) / 4


def test_only_the_columns_that_are_used_are_read_from_parquet(tmp_path: Path):
    """Arrow would refuse the damaged column if it were read."""
    long = "x" * 4000
    rows = [{**ITEM, "problem": f"{n}?", "messages": [{"role": "user", "content": f"{n}{long}"}]} for n in range(50)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, compression="none", use_dictionary=False, write_page_checksum=True)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"x" * 40, b"y" * 40, 1))
    assert len(load_items(path)) == 50


def test_reading_starts_no_thread_and_no_heavy_package(tmp_path: Path):
    pq.write_table(pa.table({"problem": ["1 + 1?"], "solution": ["2"]}), tmp_path / "items.parquet")
    code = f"""
import os, sys
from dail.synth.data.reader import load_items
before = len(os.listdir("/proc/self/task"))
load_items({str(tmp_path / "items.parquet")!r})
print(len(os.listdir("/proc/self/task")) - before)
print({{"torch", "ray", "vllm", "transformers", "datasets", "pandas"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("0\nset()\n", "")
