"""Waypoints are marked where they stand, and what stands nowhere is said."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dail.synth.data.reader import load_items
from dail.synth.method.expressions import key, tidy
from dail.synth.method.marks import located
from dail.synth.method.waypoints import extract, places, waypoints
from tests.conftest import OLYMPIAD

TEX = r"\frac \sqrt \le \\ { } ( ) [ ] = ^ _ $ . , - 0 1 2 x n+1 1,000 …"
PIECES = [*TEX.split(), " ", "\n", "\0", "\1"]
Kind = Literal["verifiable", "proof"]


def marked(solution: str, kind: Kind, extractor: str, found: list[str] | None = None) -> str:
    found = extract(extractor, solution, kind, None) if found is None else found
    spans, _ = located(solution, kind, extractor, found)
    for start, end in reversed(spans):
        solution = f"{solution[:start]}<{solution[start:end]}>{solution[end:]}"
    return solution


@pytest.mark.parametrize(
    ("extractor", "kind", "solution", "wanted"),
    [
        ("paper", "verifiable", r"By (5), $x\in[0,100]$, so $x=-3$.", r"By (5), $x\in[<0>,<100>]$, so $x=<-3>$."),
        ("paper", "verifiable", r"$\frac 12 + \frac 13 = 1{,}000$", r"$\frac <1><2> + \frac <1><3> = <1{,}000>$"),
        ("paper", "verifiable", r"$-5\le x\le-2$, $x_1 = 7$", r"$<-5>\le x\le<-2>$, $x_1 = <7>$"),
        ("paper", "proof", "Let $n = 2k + 1$ and $m = n^{2}$.", "Let $n = <2k + 1>$ and $m = <n^{2}>$."),
        ("paper-sorted", "verifiable", "First 9, then 10.", "First <9>, then <10>."),
        ("official", "verifiable", "So $2k-1 = 7$ and $12$.", "So $<2k-1> = <7>$ and $<12>$."),
        ("rhs", "verifiable", r"$x = 3^2 + 1 = 10$, so", r"$x = <3^2 + 1> = <10>$, so"),
        ("rhs", "verifiable", r"$x=59{,}049$, $a_1=-1$, so $n-1$", r"$x=<59{,}049>$, $a_1=<-1>$, so $n-1$"),
        ("official", "verifiable", "$(n)+2$ and $a_2 = 2$", "$(n)<+2>$ and $a_2 = <2>$"),
        ("rhs", "verifiable", r"$y = \left( a, b \right)$.", r"$y = <\left( a, b \right)>$."),
    ],
)
def test_each_waypoint_is_marked_where_it_stands(extractor: str, kind: Kind, solution: str, wanted: str):
    assert marked(solution, kind, extractor) == wanted


def test_of_an_own_extractor_whole_texts_are_marked_and_the_others_told():
    solution = "By § 437 and 12k-1, 2k - 1 = 3.5, not 35 or axb."
    found = ["§ 437", "2k-1", "3", "b", "Art. 7", " "]
    assert marked(solution, "proof", "own", found) == "By <§ 437> and 12k-1, <2k - 1> = 3.5, not 35 or axb."
    assert located(solution, "proof", "own", found)[1] == ["3", "b", "Art. 7"]


def test_the_answer_is_not_marked():
    assert marked(r"$1+1 = 2$, so \boxed{2}", "verifiable", "paper", ["1"]) == r"$<1>+<1> = 2$, so \boxed{2}"


def assert_places_are_what_is_found(solution: str, kind: Kind) -> None:
    read = [solution[start:end] for start, end in places(solution, kind)]
    short = {key(tidy(one)) for one in read if len(re.sub(r"\s", "", one)) <= 100}
    assert short <= {key(one) for one in waypoints(solution, kind, None)}
    assert {key(one) for one in waypoints(solution, kind, None)} <= {key(tidy(one)) for one in read}


def test_what_stands_at_the_places_is_what_is_found():
    for item in load_items(OLYMPIAD):
        for kind in ("verifiable", "proof"):
            assert_places_are_what_is_found(item.solution_text, kind)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.sampled_from(["verifiable", "proof"]),
)
def test_places_of_any_text_are_what_is_found(solution: str, kind: Kind):
    if not {"\0", "\1"} & set(solution):  # texts of items have neither
        assert_places_are_what_is_found(solution, kind)
    else:
        assert all(0 <= start < end <= len(solution) for start, end in places(solution, kind))
