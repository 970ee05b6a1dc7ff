"""Formulas as MathML: what is one, what stays as written, and that nothing hostile comes through."""

from __future__ import annotations

import re
import time
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dail.train.evals.formulas import as_formula, visible, with_formulas

PIECES = [
    *("$", "$$", r"\(", r"\)", r"\[", r"\]", "{", "}", "^", "_", "x", "1", "&", " ", "<b>", "\n", "'", '"'),
    *(r"\frac", r"\sqrt", r"\boxed{", r"\text{<script>", r"\begin{pmatrix}", r"\end{pmatrix}", r"\href{javascript:a}"),
    *(r"\hspace{99999em}", r"\color{red}", r"\style{a}", r"\left(", r"\right)", r"\\", r"\foo", r"\not", "\x00"),
]


class Seen(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.values: set[str | None] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.values |= {value for _, value in attrs}


@pytest.mark.parametrize(
    "text",
    [r"$\frac{1}{2}$", r"\(\frac12\)", r"\[\frac12\]", r"$$\frac12$$", r"so \boxed{\frac12}.",
     r"\begin{align*}\frac12&=x\\y&=z\end{align*}"],
)  # fmt: skip
def test_formulas_become_mathml_and_keep_what_was_written(text: str) -> None:
    html = with_formulas(text)
    assert html.count("<math") == 1 and "<mfrac>" in html
    written = re.search(r'<annotation encoding="application/x-tex">(.*?)</annotation>', html, re.DOTALL)
    assert written is not None and written[1].replace("&amp;", "&") in text


@pytest.mark.parametrize(
    "text",
    ["It costs $5 and $6.", r"\$5 and \$6", r"$\foo$", r"$\frac{$", "a $ b $ c", "$" + "x" * 3000 + "$", "no formula",
     "$" + "{" * 70 + "}" * 70 + "$", "$a\n\nb$"],
)  # fmt: skip
def test_what_is_no_formula_or_cannot_be_converted_stays_as_written(text: str) -> None:
    assert with_formulas(text) == text


def test_a_formula_that_may_be_wider_than_a_telephone_is_broken_and_has_a_frame_to_move_it_in() -> None:
    long = "$1+2+(3+4)+5+6+7+8+9+10+11+12+13+14+15+16+17=150$"
    html = str(with_formulas(long))
    assert html.startswith('<span class="wide"><math>') and html.count("<math>") == 17
    assert html.count("<wbr>") == 16 and html.count("<annotation") == 1 and f">{long}</annotation>" in html
    assert "<span" not in with_formulas(r"$\frac{1}{2}+\sqrt{x^2+1}$")
    matrix = with_formulas(r"$$\begin{pmatrix}" + "&".join(map(str, range(20))) + r"\end{pmatrix}$$")
    assert str(matrix).startswith('<span class="wide displayed" tabindex="0"><math display="block">')


def test_answers_are_formulas_as_a_whole_if_they_have_commands() -> None:
    assert "<mfrac>" in as_formula(r"\frac{1}{2}") and "<msup>" in as_formula("$x^2$")
    assert as_formula("5 < 6") == "5 &lt; 6" and as_formula(r"\foo") == r"\foo"


def test_a_script_in_a_formula_is_text() -> None:
    html = with_formulas(r"$\text{<script>alert(1)</script>}$ and $\text{&lt;script&gt;}$")
    assert "<script" not in html and html.count("<math") == 2


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_only_known_elements_come_through_and_no_text_is_lost(text: str) -> None:
    html = str(with_formulas(text))
    seen = Seen(html)
    assert not seen.tags & {"script", "b", "a", "img", "style", "mglyph", "maction"}
    assert not any(name.startswith("on") or name in ("href", "style", "src") for name in seen.attributes)
    assert not any("99999" in (value or "") for value in seen.values)
    html = re.sub(r'<span class="wide[^>]*>|</span>|<wbr>', "", html)
    html = re.sub(r"<math[^>]*>(?!<semantics>).*?</math>", "", html, flags=re.DOTALL)
    written = re.sub(r"<math.*?<annotation [^>]*>(.*?)</annotation></semantics></math>", r"\1", html, flags=re.DOTALL)
    assert "".join(unescape(written).split()) == "".join(visible(text).split())


@pytest.mark.parametrize(
    "text",
    ["$x" * 9000, r"\(" * 9000, r"\boxed{" * 5000, r"\boxed{x{y{z}" * 2000, "$a\n" * 9000, r"\begin{align}" * 900],
)
def test_a_long_text_costs_little(text: str) -> None:
    started = time.process_time()
    with_formulas(text)
    assert time.process_time() - started < 2


def test_control_characters_are_shown_as_pictures() -> None:
    assert visible("a\x00b\x1bc\r\nd\te") == "a␀b␛c\nd\te"
