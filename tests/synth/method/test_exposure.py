"""The beginning of a solution: never more than the share, between sentences, and no formula is cut."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dail.synth.core.errors import ItemError
from dail.synth.method.exposure import beginning

WHOLE = [
    "$a. b$", r"\[ x. y \]", r"\boxed{1. 2}", r"\( n. m \)", "[asy] draw(a). b [/asy]", "```x. y```",
    r"\textbf{so. it}", "$$ p. q $$", r"\begin{align} a. \\ b. \end{align}",
]  # fmt: skip
PARTS = [
    *(one + " " for one in WHOLE), "One. ", "two, three ", "costs $5 now. ", "\n\n", "- a line\n", r"\$ ", "} ",
    "e.g. this. ",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "share", "kept"),
    [
        ("First $a. b$ is 3. Then 4 follows.", 0.6, "First $a. b$ is 3."),
        ("First $a. b$ is 3. Then 4 follows.", 0.3, "First"),
        ("First line\nsecond line\nthird line", 0.7, "First line\nsecond line"),
        ("By this we get\n\n1. First do it. 2. Second do it now.", 0.75, "By this we get\n\n1. First do it."),
        (r"So \[ x. y \] holds. And \boxed{a. b} done. More text here.", 0.75, None),
        (r"So \[ x. y \] holds. And \boxed{a. b} done. More text here.", 0.6, r"So \[ x. y \] holds."),
        ("It costs $5 in all. Then we buy two more of these.", 0.6, "It costs $5 in all."),
        (r"We have \begin{align} a &= b. \\ c &= d \end{align} so. End here now.", 0.6, "We have"),
        (r"X \begin{cases} \begin{cases} a \end{cases} b. c \end{cases} now. end of it", 0.6, "X"),
        (r"\textbf{Claim. It is so.} Proof follows here. And more of it.", 0.3, None),
        (r"A price of \$5. Then $x. y$ and more of it.", 0.5, r"A price of \$5."),
        ("See e.g. the book. It is in there.", 0.4, "See e.g. the"),
        ("It costs $5 now. Then $x. y$ and $6 more. And so on and on.", 0.5, "It costs"),
        ("After C: 071. After F: 444. After B: 102.", 0.75, "After C: 071. After F: 444."),
        ("Done. All of it.", 1.0, "Done. All of it."),
    ],
)
def test_the_last_sentence_or_line_that_fits_ends_the_text(text: str, share: float, kept: str | None):
    if kept is None and share < 0.5:
        with pytest.raises(ItemError, match="which is never cut"):
            beginning(text, share)
        return
    assert beginning(text, share) == (kept or r"So \[ x. y \] holds. And \boxed{a. b} done.")


@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=12).map("".join), st.floats(0.05, 0.99))
def test_what_is_kept_is_a_prefix_within_the_share_that_cuts_no_formula(text: str, share: float):
    try:
        kept = beginning(text, share)
    except ItemError as error:
        assert error.code == "nothing_to_expose"
        return
    assert text.startswith(kept) and len(kept) <= share * len(text) and kept.strip()
    for whole in WHOLE:
        place = text.find(whole)
        while place >= 0:
            assert not place < len(kept) < place + len(whole), (kept, whole)
            place = text.find(whole, place + 1)


@pytest.mark.parametrize(
    "junk", [r"\( ", "$ ", r"\boxed{", r"\begin{align} ", "a. ", "{", r"\[", "`", "x", " ", "\n", "e.g. "]
)
def test_time_is_linear_in_the_text(junk: str):
    started = time.process_time()
    with contextlib.suppress(ItemError):
        beginning(junk * (200_000 // len(junk)), 0.5)
    assert time.process_time() - started < 5
