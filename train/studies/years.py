"""From which year a problem is: a column says it, or its id, such as 2024-I-3 or IMO-2005-3.

python -c "from dail.train.studies.years import Years; print(2023 in Years.parse('1985-2023'))"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

from dail.synth.core.errors import UsageError
from dail.synth.data.values import text_of

COLUMN = "year"
Found = Literal["column", "id", "nowhere"]

_YEAR = r"(?:1[89]|20)\d\d"
_TEXT = re.compile(rf"(?<!\d)({_YEAR})(?!\d)")
_ID = re.compile(rf"[A-Za-z_.: -]*({_YEAR})[-_.:]")
_RANGE = re.compile(r"\s*(\d{4})\s*(?:[-–]\s*(\d{4})\s*)?")


class Years(NamedTuple):
    """Both ends belong to it."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `1985-2023` or `2024`. Raises UsageError."""
        match = _RANGE.fullmatch(text)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise UsageError(f"curate.years is {text!r}; wanted a year or two, the earlier first, such as 1985-2023")
        return cls(int(match[1]), int(match[2] or match[1]))

    def __contains__(self, year: object) -> bool:
        return isinstance(year, int) and self.first <= year <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def year_of(metadata: Mapping[str, object], name: str | None) -> tuple[int | None, Found]:
    """The year, and where it stood.

    Args:
        metadata: of the row; its column `year`, in any case, counts if it names one year alone.
        name: the row's id, of which only a year with more behind it counts: problem-2000 may be the 2000th.
    """
    for column, value in metadata.items():
        if column.lower() == COLUMN:
            found = set(_TEXT.findall(str(text_of(value))))
            if len(found) == 1:
                return int(found.pop()), "column"
    match = _ID.match(name or "")
    return (int(match[1]), "id") if match else (None, "nowhere")
