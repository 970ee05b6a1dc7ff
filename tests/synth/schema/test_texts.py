r"""Commands whose backslash was eaten are refused with the cure, and no text that people write is."""

from __future__ import annotations

import json
import time

import pytest

from dail.synth.core.errors import InputError
from dail.synth.schema.items import check_items, strict_json
from dail.synth.schema.texts import eaten_commands, fault

# As somebody writes them who forgets the second backslash.
EATEN = [
    ("Let \theta be the angle", "theta"), ("\theta is the angle", "theta"), ("2\times 3", "times"),
    ("\n\times 5", "times"), (r"$" + "\tau = 5$", "tau"), ("$x \to 0$", "to"), ("$f: A \to B$", "to"),
    ("\\lim_{n \to \\infty}", "to"), ("f(x) \to 3 as x grows", "to"), ("$\tan x = 2$", "tan"),
    ("$\\sin x / \tan x$", "tan"), ("x = \tan 30^\\circ", "tan"), ("$\top$", "top"), ("$\tanh x$", "tanh"),
    ("so \text{km}", "text"), ("\text{area} = 12", "text"), ("\textbf{Step 1}", "textbf"), ("\tag{1}", "tag"),
    ("\tfrac{1}{2}", "tfrac"), ("\tbinom{n}{2}", "tbinom"), ("\tilde{x}", "tilde"), ("\triangle ABC", "triangle"),
    ("\therefore x = 2", "therefore"), ("the ratio \frac{1}{2}", "frac"), ("\forall x", "forall"),
    ("\floor{x}", "floor"), ("and \boxed{24}", "boxed"), ("\begin{cases}", "begin"), ("\bar{x}", "bar"),
    ("\binom{4}{2}", "binom"), ("\bigl(", "bigl"), ("\beta", "beta"), ("\bullet", "bullet"), ("$x \neq 0$", "neq"),
    ("x\neq y, so", "neq"), ("$\nabla f = 0$", "nabla"), ("\nabla \\cdot F", "nabla"), ("$a \notin B$", "notin"),
    ("x &= 1 \nonumber", "nonumber"), ("\\left( x \right)", "right"), ("\rightarrow", "rightarrow"),
    ("$(a, b\rangle$", "rangle"), ("$\rho = 2$", "rho"), ("$\\lfloor x \rfloor$", "rfloor"),
    ("$$\\lceil x\rceil$$", "rceil"), ("\alpha + 1", "alpha"), ("$\angle ABC$", "angle"), ("\approx 3", "approx"),
    ("\varphi", "varphi"), ("\vec{v}", "vec"), ("\vert", "vert"), ("\vdots", "vdots"), ("a \x1bquiv b", "equiv"),
    ("\\(\tau\\)", "tau"), ("\\[ x \neq y \\]", "neq"), ("$$\nx \to 2\n$$", "to"), ("y=\tan x", "tan"),
    ("\tau", "tau"), ("2\tau", "tau"), ("\rho", "rho"), ("(1,\tau)", "tau"),
    ("$\nu$ a measure", "nu"), ("$\neg p$", "neg"), ("$P(m) \ne 0$", "ne"), ("$a \ne b$", "ne"),
    ("$5 \nmid x$", "nmid"),
    ("$n \not\\equiv 1$", "not"), ("$a\not= b$", "not"), ("\\[ x &\neq y \\\\ z &= 1 \\]", "neq"),
    ("\\[ x &= y \\\\ \rho &= 1 \\]", "rho"), ("$$x$$ and $\tau$", "tau"),
]  # fmt: skip

TEXTS = [
    "a\tan apple", "\tan apple a day", "\tan $n$-gon", "\tau revoir", "x\ty\tz\n1\t2\t3", "\n\ton the table\n\to be",
    "if x:\n\treturn x\n\tan(x)", "def f():\r\n\treturn 1\r\n", "costs $5 and\nnot $6", "$5\tau\t$6", "au\to\tan\nx",
    "distance\tau\n5\t6", "foo\tan\tbar", "a line\nexists here", "so\neq (1) gives $x$ and\neq (2) gives $y$",
    "Old\rMac\rangle ABC\rfloor 3\rho\r", "[asy]\n\tdraw((0,0)--(1,1));\n\tfill(p);\n[/asy]", "$$\n\ta + b\n\tan+b\n$$",
    "\\begin{align}\n\tan &= 2 \\\\\n\tan+1 &= 3\n\\end{align}", "x &\tan + b", "\theta dagar i juni",
    "en\theta\tsommar", "日本語\n\t中文", "αβγ ∑ 😀 e\u0301", "$x$\n\nu is", "$a\n+ e\nu + v$", "dün\nabla geldi",
    "\top secret", "5\tau\t3", "Ett\ttag\tpris $3", "list:\n\tau lait $5\n\tan egg $3", "\tag one",
    "\text here", "\next",
    "fort-\night", "f(x)\neq_out = g(1)\neq_in = 3", "f(x)\neq = g(1)\neq(a, b)", "int a;\n\tan = a * (b);\n\tto(x)",
    "name\tan\tau\to\n",
    r"\theta \frac{1}{2} \neq \boxed{\text{a}}", "$x$,\tan integer, $y$",
    "$n$ is\tan integer > $3$", "a < b & c > d", "5 o\tàu", "\tauß", "$3\n\tau lait$", "\\$5\tor \\$6", "x\r\n\r\ny",
    "$\nu + v\n$", "$$\nu = 3\n$$", "$a +\ne b$", "$ab\ne^2$", "$x$\nnot so", "$\nu\n$ and $\ne\n$",
]  # fmt: skip


@pytest.mark.parametrize(("text", "command"), EATEN, ids=[command for _, command in EATEN])
def test_an_eaten_command_is_named_with_the_cure(text: str, command: str):
    assert [found.command for found in eaten_commands(text)] == [command]
    told = fault(text)
    assert told is not None and f'write "\\\\{command}" in JSON' in told


@pytest.mark.parametrize("text", TEXTS)
def test_what_people_write_is_taken(text: str):
    assert fault(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Page one.\fPage two", "a page break (U+000C) at 9 is not text; replace it by a line break"),
        ("a\x00b", "character U+0000 at 1 is not text; remove it"),
        ("a \bother", "if it was a command that begins with \\b, double its backslash, else remove it"),
        ("caf\ufffd", "U+FFFD at 3 stands for what could not be decoded"),
        ("cafï¿½", "U+FFFD at 3 stands for what could not be decoded"),
        (
            "Let \theta, \frac12 and \beta",
            "left of \\theta: its backslash was eaten where this was read (so is \\frac, ",
        ),
    ],
)
def test_other_losses_are_told_with_what_to_do(text: str, why: str):
    assert why in str(fault(text))


@pytest.mark.parametrize("piece", ["\tau $", "$\tau ", "\neq ", "$x \to ", "\\( \tan ", "\theta ", "$$$\to", "\t \tau"])
def test_time_is_linear_in_the_text(piece: str):
    """800,000 characters take a tenth of a second to one; a square takes many seconds."""
    start = time.process_time()
    fault(piece * (800_000 // len(piece)))
    assert time.process_time() - start < 5


def test_the_place_is_told_in_the_user_s_json():
    item = {"problem": "1+1?", "solution": ["It is 2.", "So \boxed{2}."]}
    with pytest.raises(InputError) as caught:
        check_items([item])
    ((where, _, detail),) = caught.value.problems
    assert where == "/items/0/solution/1" and r'write "\\boxed" in JSON, r"\boxed" in Python' in detail


def test_a_backslash_that_json_does_not_know_is_told_with_the_cure():
    json.loads(r'"\\sqrt"')
    with pytest.raises(ValueError, match=r"Invalid \\escape: line 1 column 5 .*is written twice in JSON: \\\\sqrt"):
        strict_json(rb'"So \sqrt 2"')
