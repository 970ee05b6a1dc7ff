"""Signs of damage are noted with what they may have been, and what people write is left alone."""

from __future__ import annotations

import json
import time

import pytest

from dail.synth.data.texts import item_notes, notes
from dail.synth.schema.items import ExpertSolution
from tests.conftest import ROOT

SUSPICIOUS = {
    "wrong decoding": [
        "The angle is 30Â°.", "x â‰¤ 3", "cafÃ©", "Ï€ r^2", "Î±Î²", "itâ€™s", "donâ\x80\x99t", "x â\x89¤ y", "3 Ã— 4",
        "ÐŸÑ€Ð¸Ð²ÐµÑ‚", "ã€‚ä¸­å›½", "ðŸ˜€", "itâ€\x9dx", "‚Äôs", "9 cmÂ²", "√ is âˆš", "A â†’ B", "n â†’ âˆž",
    ],
    "HTML entity": ["if $x &lt; 3$", "a&nbsp;b", "it&#39;s", "x &le; y", "&#x2264;", "5 &times; 3", "AT&amp;T"],
    "invisible character": ["a\u200bb", "x\u202ey", "a\u200fb", "a\ufeffb", "soft\u00adhyphen", "2\u2062x", "a\u200db"],
    "eaten backslash": ["Then rac{1}{2} of", "so oxed{3}", "2 imes 3", "egin{cases}", "Let \tau be", "2 ext{ cm}",
        "\tau = 3", "\rho = 3",
    ],
    "too many \\": [r"\\frac{1}{2}", r"So \\boxed{3}.", r"First.\n\nThen $x$"],
    "unbalanced": [
        "So $x = 3 and y = 4.", "x$ is a variable", "$$ x = 3", "$ABC$ and $x", "Let $x be.\n\nThen y$ is", r"\(x",
        r"x\)",
        r"\[ x = 3", r"x = 3 \]", r"\left( x", r"x \right)", r"\begin{cases} a", r"a \end{cases}", r"\frac{1}{2",
        r"\frac{1}2}", r"\begin{align} \begin{cases} \end{align}", r"\text{abc $x$", r"$\{ x : x > 0 \}",
        r"\(x\) and \(y",
    ],
}  # fmt: skip

TEXTS = [
    "costs $5 and $x$ is", "$5", "$5/hr", "$5/hour and $x$", "$.50", "5$", "5 $",
    "if x:\n\tan = 3\n\tau = 4", "I paid $5, he paid $6, she $7.", r"US$ 5 and \pi", r"it costs 5$ each, \pi",
    r"escaped \$5 and $x$", "$a$$b$", "$$a$$ $b$", "$$\n\n x \n\n$$", "```\nif ($x) {\n```", "use `{` and $x$",
    r"\verb|{| $x$", "\\begin{verbatim}\n{ $\n\\end{verbatim} $x$", "a < b & c > d", r"x &= 1 \\ y &= 2",
    "„groß” und „Ä“",
    "déjà»", "“Ñ”", "CAFÉ”", "日本語 $x$", "αβγ 😀 👩\u200d👩\u200d👧", "e\u0301 $x$", "می\u200cخواهم", "שלום\u200f",
    r"\\[2pt] a", r"\begin{cases} a \\(x,y) \end{cases}", r"\leftarrow x \rightarrow", r"$\left\{ x \right.$",
    "$]0,1[$",
    r"\{1,2\}", "{1,2", '{"a": 1}', '[asy]\nlabel("$A$", (0,0)); if (x) {\n[/asy] so $x$', "<asy>\n{$\n</asy> $x$",
    "p = &map; q",
    r"\begin{array}{c|c} a & b \\ \hline c & d \end{array}", r"\text{if $x > 0$}", r"$$x \text{ if $y$}$$", "extra{x}",
    "next{1} $x$", r"$x$ costs \$5", "Smith & Sons; A&B", r"\newline next", "a\tan\tb", r"100\%", r"a\\ \frac12",
    "\\begin{align}a\\\\\n\\text{b}\\end{align}", r"\\left over", "IRMÃO", "5 € – 6 €", "naïve façade Ångström", "×—",
    r"x\nabla", r'printf("a\nb"); $x$', r"export A=$HOME/bin; \pi", r"cmake ${VAR}, \alpha",
    r"echo $x $LATEST and \pi", r"$\nu$ \neq \not", "It’s “fine” … – —", r"a price of $12 million and \alpha",
    "$n$th", "times ximes",
    r"$3$ apples at $2 each, \pi", "$(0, 1)$ and $[2, 3)$", "The $ sign and $x$", r"a_{1} \cdot b^{2}",
    r"\bigl( x \bigr)",
    r"\left(\frac{1}{2}\right]", "$x$.\n\n$$y$$\n\n\\[z\\]\n\n\\(w\\)", r"[0,1) and \(x\)", "a\r\nb $x$", "Â",
    "à la carte",
    r"\begin{asy} $ { \end{asy} $x$", "dist\tau\n1\t2", r"$x \in \left[0, 1\right)$", "ñandú €5 “x”", "°C ± 2 µm",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in SUSPICIOUS.items() for text in texts])
def test_a_sign_of_damage_is_noted_with_its_kind(kind: str, text: str):
    assert kind in [note.kind for note in notes(text)]


@pytest.mark.parametrize("text", TEXTS)
def test_what_people_write_is_left_alone(text: str):
    assert notes(text) == []


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("x â‰¤ 3, y â‰¥ 4", '"â‰¤" at 2 may have been "≤": read the source as UTF-8'),
        ("if $x &lt; 3$", '"&lt;" at 6 may be "<"'),
        ("Then rac{1}{2} of", r'"rac{" at 5 may have been \frac{'),
        ("for orall x", r'"orall" at 4 may have been \forall'),
        ("a riangle", r'"riangle" at 2 may have been \triangle'),
        ("a ightarrow b", r'"ightarrow" at 2 may have been \rightarrow'),
        ("a\u200bb", "U+200B at 1 cannot be seen, and the model reads it; remove it"),
        (r"\begin{cases} a", r'"\begin{cases}" at 0 never ends'),
        ("So $x = 3 and y = 4.", '"$" at 3 is never closed'),
    ],
)
def test_a_note_says_where_and_what_was_meant(text: str, detail: str):
    assert [note.detail for note in notes(text)] == [detail]


def test_equal_signs_of_one_kind_are_counted():
    assert [(note.place, note.count) for note in notes("x â‰¤ 3, y â‰¥ 4, 5Â°")] == [(2, 3)]


def test_every_text_of_an_item_is_looked_at_and_named():
    item = ExpertSolution(
        problem=({"role": "system", "content": "cafÃ©"}, {"role": "user", "content": "1+1?"}),  # type: ignore[arg-type]
        solution=("2", r"\(2"),
        answer="&lt;2",
        privileged="2Â°",
        waypoints=("1", "$x"),
    )
    assert [where for where, _ in item_notes(item)] == [
        "problem/0/content",
        "solution/1",
        "answer",
        "privileged",
        "waypoints/1",
    ]


@pytest.mark.parametrize("name", ["olympiad.jsonl", "expert_solutions.jsonl"])
def test_the_bundled_solutions_are_clean(name: str):
    lines = (ROOT / "deploy" / "demo" / name).read_text("utf-8").splitlines()
    assert [note for line in lines for note in item_notes(ExpertSolution.model_validate(json.loads(line)))] == []


@pytest.mark.parametrize(
    "piece",
    ["$", "{", r"\(", "`a", "```", r"\left", r"\begin{a", "Ã", "&#", "rac{", r"\verb|", "[asy]", "<code>", "$5 ", "Ð",
    "ã",
     r"\n", r"\begin{asy}", "<pre ", "\n\n$", r"\begin{a}", "\t au"],
)  # fmt: skip
def test_time_is_linear_in_the_text(piece: str):
    """800,000 characters take a tenth of a second to one; a square takes many seconds."""
    start = time.process_time()
    notes(piece * (800_000 // len(piece)))
    assert time.process_time() - start < 5
