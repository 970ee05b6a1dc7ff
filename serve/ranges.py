"""Parts of a file (RFC 9110, 13 and 14): a download that broke off goes on where it was, of the same bytes or anew."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header
from fastapi.responses import Response

from dail.serve.errors import RequestError

Range = Annotated[str | None, Header(alias="Range", description="one range, bytes=FIRST-LAST, FIRST- or -COUNT")]
IfRange = Annotated[
    str | None, Header(alias="If-Range", description="the ETag of the earlier part; the whole file if it is another")
]
_ONE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def whole_or_part(
    data: bytes, etag: str, media_type: str, headers: dict[str, str], wanted: str | None, if_range: str | None
) -> Response:
    """The file, or the range of it that is wanted. Several ranges, and what is no range, are answered with the whole.

    Args:
        etag: in quotes; it stands for these very bytes.
        wanted: the header Range.

    Raises:
        RequestError: 416; the range begins behind the end.
    """
    headers = {**headers, "ETag": etag, "Accept-Ranges": "bytes"}
    part = None if if_range not in (None, etag) else _part(wanted, len(data))
    if part is None:
        return Response(data, media_type=media_type, headers=headers)
    if not part:
        raise RequestError(
            416,
            "no_such_range",
            f"the file has {len(data)} bytes, and the range begins behind them; ask for less, or without Range",
            Content_Range=f"bytes */{len(data)}",
        )
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
    return Response(data[part.start : part.stop], 206, media_type=media_type, headers=headers)


def _part(wanted: str | None, size: int) -> range | None:
    """Which bytes; an empty range where there are none, and None for the whole."""
    found = _ONE.fullmatch(wanted or "")
    if found is None or found.groups() == ("", ""):
        return None
    first, last = (int(number) if number else None for number in found.groups())
    if first is None:
        assert last is not None, "one of them is given"
        return range(max(0, size - last), size)
    if last is not None and last < first:
        return None
    return range(first, size if last is None else min(last + 1, size))
