"""A year is what a column says, or the id; never a guess."""

from __future__ import annotations

import pytest

from dail.synth.core.errors import UsageError
from dail.train.studies.years import Years, year_of


@pytest.mark.parametrize(
    ("metadata", "name", "year", "found"),
    [
        ({"year": 1985}, None, 1985, "column"),
        ({"Year": 1985.0}, "2024-I-3", 1985, "column"),
        ({"YEAR": "2003-03-25"}, None, 2003, "column"),
        ({"year": "2010 AIME I"}, None, 2010, "column"),
        ({"year": None}, "2024-I-3", 2024, "id"),
        ({"year": "1999-2000"}, None, None, "nowhere"),
        ({"year": "1999/1999"}, None, 1999, "column"),
        ({"year": 85}, None, None, "nowhere"),
        ({"year": 120003}, None, None, "nowhere"),
        ({"year": True}, None, None, "nowhere"),
        ({}, "1983-1", 1983, "id"),
        ({}, "IMO-2005-3", 2005, "id"),
        ({}, "AIME_I_2001_3", 2001, "id"),
        ({}, "harp:1999-AIME-4", 1999, "id"),
        ({}, "problem-2000", None, "nowhere"),
        ({}, "12000-3", None, "nowhere"),
        ({}, "2000", None, "nowhere"),
        ({}, "x" * 128, None, "nowhere"),
        ({}, None, None, "nowhere"),
    ],
)
def test_a_year_is_found_in_a_column_or_in_an_id(metadata, name, year, found):
    assert year_of(metadata, name) == (year, found)


def test_both_ends_of_a_range_belong_to_it():
    years = Years.parse(" 1985 – 2023 ")
    assert [year in years for year in (1984, 1985, 2023, 2024)] == [False, True, True, False]
    assert 2024 in Years.parse("2024") and 2023 not in Years.parse("2024")


@pytest.mark.parametrize("text", ["", "85-23", "2023-1985", "1985-", "1985,1986", "since 1985"])
def test_what_is_no_range_is_refused(text: str):
    with pytest.raises(UsageError, match=r"curate\.years is .*such as 1985-2023"):
        Years.parse(text)
