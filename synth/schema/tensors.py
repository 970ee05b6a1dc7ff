"""What a safetensors file says it holds: names, types, shapes and places of its tensors, read from its header alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dail.synth.core.errors import UsageError

_BLOCK = 1 << 24


@dataclass(frozen=True)
class TensorEntry:
    """`begin` and `end`: its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def tensors_of(file: Path) -> dict[str, TensorEntry]:
    """By name. Holds the file's size against its own table of contents.

    Raises:
        UsageError: it is no safetensors file, or was cut short.
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    try:
        with open(file, "rb") as content:
            header_size = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(min(header_size, size)))
        begin = 8 + header_size
        found = {
            name: TensorEntry(
                entry["dtype"],
                tuple(entry["shape"]),
                begin + entry["data_offsets"][0],
                begin + entry["data_offsets"][1],
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
        wanted = max(entry.end for entry in found.values())
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        raise UsageError(f"{file} is no safetensors file, or was cut short; copy it again") from None
    if size != wanted:
        raise UsageError(f"{file} has {size} bytes, and by its own table of contents {wanted}; copy it again")
    return found


# Little-endian, so the last bytes of a number hold its sign and exponent: width, and for every last byte that a number
# which is none may have, the least that the byte before it then has, the sign left out.
_NOT_FINITE = {
    "BF16": (2, {0x7F: 0x80}),
    "F32": (4, {0x7F: 0x80}),
    "F64": (8, {0x7F: 0xF0}),
    "F16": (2, dict.fromkeys(range(0x7C, 0x80), 0)),
}
FLOATS = tuple(_NOT_FINITE)


def is_finite(file: Path, entry: TensorEntry) -> bool:
    """Whether a tensor of one of `FLOATS` holds neither NaN nor infinity. Needs no numpy, which the API lacks."""
    width, least = _NOT_FINITE[entry.dtype]
    for block in _blocks(file, entry):
        last, before = block[width - 1 :: width], block[width - 2 :: width]
        for byte, bound in least.items():
            for signed in (byte, byte | 0x80):
                place = last.find(signed)
                while place >= 0:
                    if before[place] >= bound:
                        return False
                    place = last.find(signed, place + 1)
    return True


def _blocks(file: Path, entry: TensorEntry) -> Iterator[bytes]:
    with open(file, "rb") as content:
        content.seek(entry.begin)
        left = entry.end - entry.begin
        while left > 0 and (block := content.read(min(_BLOCK, left))):
            left -= len(block)
            yield block
