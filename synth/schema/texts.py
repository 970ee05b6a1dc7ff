r"""What of a text is lost for certain, and how to get it back: why a text is refused.

A backslash that is written once in JSON, in Python or in a shell is eaten there together with the letter behind it:
`"\theta"` is read as a tab and `heta`, `"\frac"` as a page break and `rac`. The text still looks almost right, so a
model would learn the damage. Here the command is named, and the cure. What is merely suspicious is for
`dail.synth.data.texts`.

    Let <tab>heta = 2      tab and "heta" at 4 are left of \theta, …
    Page 1.<page break>    a page break (U+000C) at 7 is not text; replace it by a line break

Tabs and line breaks are text too. So what follows them must be no word, or stand in a formula: an indented "an" and a
`\tan` whose backslash was eaten look alike. Time is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

# Lone surrogates break SQLite and Parquet; control characters break terminals and logs.
_NO_TEXT = re.compile(r"[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_UNDECODED = re.compile("\ufffd|ï¿½")  # the second is the first, decoded wrongly once more

_UNSEEN = ("C", "Z", "M")  # Unicode's categories of what nobody sees alone: controls, spaces, marks on other letters
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")  # letters and a symbol by category, and blank on paper

_ESCAPES = {
    "\a": ("a", "U+0007"), "\b": ("b", "U+0008"), "\t": ("t", "tab"), "\n": ("n", "line break"),
    "\v": ("v", "U+000B"), "\f": ("f", "page break"), "\r": ("r", "carriage return"), "\x1b": ("e", "U+001B"),
}  # fmt: skip
_COMMAND_NAMES = """
abs acute aleph alpha amalg angle approx approxeq arccos arcsin arctan arg array arrow ast asymp
backslash bar barwedge bbox because begin beta beth between bf bfseries big bigcap bigcirc bigcup bigg biggl biggr bigl
bigodot bigoplus bigotimes bigr bigskip bigsqcup bigstar bigtriangledown bigtriangleup biguplus bigvee bigwedge binom
blacksquare blacktriangle bm bmatrix bmod bold boldsymbol bot bowtie box boxed boxplus boxtimes bra breve bullet
ell em emph emptyset end enspace ensuremath epsilon eqref equiv eta euro exists exp
fbox flat floor footnote footnotesize forall frac frak framebox frown
nLeftarrow nRightarrow nabla natural ncong ne nearrow neg neq newcommand newline nexists ngeq ngeqslant ngtr nleq
nleqslant nless nmid noindent nolimits nonumber not notag notin nparallel nrightarrow nsim nsubseteq nu nwarrow
rangle rbrace rceil ref renewcommand rfloor rho right rightarrow rightharpoonup rightleftharpoons rm root rule rvert
tan tanh tag tau tbinom text textbf textcolor textdegree textit textmd textnormal textrm textsc textsf textsl textstyle
textsuperscript texttt textup tfrac therefore theta thickapprox thicksim thickspace thinspace tilde times tiny to top
triangle triangledown triangleleft trianglelefteq triangleq triangleright twoheadrightarrow
vDash varDelta varGamma varOmega varPhi varSigma varTheta varepsilon varkappa varnothing varphi varpi varpropto varrho
varsigma vartheta vartriangle vcenter vdash vdots vec vee verb vert vline vmatrix vphantom vskip vspace
"""
_COMMANDS = frozenset(_COMMAND_NAMES.split())
_LEFT_OVER = re.compile("[\a\b\t\n\v\f\r\x1b](?P<rest>[A-Za-z]++)(?![^\\W\\d_])")

# What is no word that a line or a cell may begin with; with a brace, `ext{` and `ag{` are none either.
_NO_WORDS = """
heta imes ilde riangle riangleq riangledown riangleleft rianglelefteq riangleright herefore hickapprox hicksim hickspace
hinspace extbf extcolor extdegree extit extmd extnormal extrm extsc extsf extsl extstyle extsuperscript exttt extup
woheadrightarrow abla onumber oindent olimits otag ewcommand ewline ight ightarrow ightharpoonup ightleftharpoons
enewcommand
"""
_NO_WORD = frozenset(_NO_WORDS.split())
_FOREIGN_WORD = ("heta", "ilde", "abla", "otag")  # of those: Swedish, Norwegian, Turkish
_NO_WORD_BEFORE_BRACE = ("ext", "ag", "frac", "binom", "ef", "ule")
# Of the rest, what stands in a formula only if a backslash was eaten: a line of one may well begin with u or an.
_NO_FORMULAS = """
an anh au op exists subseteq cong mid parallel ho angle floor ceil vert brace o eq otin leq geq ot e
"""
_NO_FORMULA = frozenset(_NO_FORMULAS.split())
_AMONG_MATHS = _NO_FORMULA - {"ot", "e", "mid", "parallel"}
_INSIDE = r"(?:[^$\\]|\\.){1,600}"
_FORMULA = re.compile(
    rf"(?<!\\)(?:\$\$(?P<display>{_INSIDE})\$\$|\$(?P<inline>{_INSIDE})\$)|\\\((?P<round>.{{1,600}}?)\\\)"
    r"|\\\[(?P<square>.{1,600}?)\\\]",
    re.DOTALL,
)
_PROSE = re.compile(r"[a-z]{3,}+ [a-z]{2}")
_SENTENCE_GOES_ON = re.compile(
    r"[,.;:!?]? (?!(?:is|are|equals|denotes|satisfies|lies|varies|the|we|where|which|such|with|radians|degrees)\b)"
    r"[^\W\d_]{2}"
)
_ANSWER = 80  # characters of an answer that is no sentence
_BETWEEN = ("o", "e", "eq", "otin", "leq", "geq")  # what stands between two operands
_OPERAND_BEFORE = re.compile(r"(?<![^\W_])[A-Za-z] ?$|[)}\]] ?$")
_MATHS_BEFORE = re.compile(r"[$({\[=<>+*/^|≤≥] ?$")
_OPERAND = r"\\(?!emph|text|[hu]r[el]|[cr]ite|[lr]abel|ref)[A-Za-z]|-?[0-9]|[A-Za-z](?![A-Za-z])"
_OPERAND_AFTER = re.compile(rf" ?(?:{_OPERAND})")
_MATHS_AFTER = re.compile(rf" ?(?:{_OPERAND}|[$^=<>+*/)}}({{]|_(?![A-Za-z]{{2}}))")


@dataclass(frozen=True)
class Eaten:
    r"""What is left of a command: `character` (tab) and `rest` (heta) of `command` (theta), at `place`."""

    place: int
    character: str
    rest: str

    @property
    def command(self) -> str:
        return _ESCAPES[self.character][0] + self.rest


def fault(text: str) -> str | None:
    """Why a text cannot be taken, and what to do; none if it can."""
    if found := eaten_commands(text):
        return _eaten(found)
    if (bad := _NO_TEXT.search(text)) is not None:
        return _no_text(text, bad.start())
    if (bad := _UNDECODED.search(text)) is not None:
        return (
            f"U+FFFD at {bad.start()} stands for what could not be decoded: something is lost; read the source in its "
            "own encoding (often windows-1252), or put in what stood there"
        )
    return None


def eaten_commands(text: str) -> list[Eaten]:
    r"""Every LaTeX command that has lost its backslash and first letter for certain, in the order of the text."""
    return [found for found, is_sure in candidates(text) if is_sure]


def candidates(text: str) -> Iterator[tuple[Eaten, bool]]:
    """All that may be left of commands, and whether each is so for certain."""
    formulas: list[tuple[int, int]] | None = None
    for match in _LEFT_OVER.finditer(text):
        character, rest = match[0][0], match["rest"]
        if _ESCAPES[character][0] + rest not in _COMMANDS:
            continue
        is_sure = character not in "\t\n\r" or _is_no_prose(match) or _is_alone(match)
        if not is_sure and not _begins_line(match):
            formulas = _formulas(text) if formulas is None else formulas
            is_sure = _is_of_formula(match, formulas) or (rest in _AMONG_MATHS and _among_maths(match))
        yield Eaten(match.start(), character, rest), is_sure


def _is_no_prose(match: re.Match[str]) -> bool:
    """Whether no line of prose begins so, nor a cell of a table."""
    text, rest = match.string, match["rest"]
    if rest in _NO_WORD_BEFORE_BRACE:
        return text[match.end() : match.end() + 1] == "{"
    if rest not in _NO_WORD or text[match.start() - 1 : match.start()] == "-":  # a word that was cut at a line's end
        return False
    if rest not in _FOREIGN_WORD:
        return True
    begins_line = match[0][0] != "\t" or _begins_line(match)  # else a line begins behind it
    return not (text.startswith("\t", match.end()) or (begins_line and _SENTENCE_GOES_ON.match(text, match.end())))


def _is_alone(match: re.Match[str]) -> bool:
    """Whether the text is an answer such as `2\\tau`: nobody puts a tab into one that has no other space."""
    return match[0][0] != "\n" and len(match.string) <= _ANSWER and len(re.findall(r"\s", match.string)) == 1


def _begins_line(match: re.Match[str]) -> bool:
    """Whether a tab may be an indentation, or stand behind what aligns formulas; a line break, behind a blank line."""
    if match[0][0] == "\r":
        return False
    before = match.string[max(0, match.start() - 80) : match.start()].rstrip(" \t")
    return not before or before[-1] in "\n\r" or (match[0][0] == "\t" and before.endswith(("&", r"\\")))


def _is_of_formula(match: re.Match[str], formulas: list[tuple[int, int]]) -> bool:
    """Whether a formula of one line begins with it, right behind its dollar, or it holds what no formula holds."""
    number = bisect_right(formulas, (match.start(), len(match.string)))
    if not number or match.start() >= formulas[number - 1][1]:
        return False
    start, end = formulas[number - 1]
    rest, before = match["rest"], match.string[max(0, match.start() - 3) : match.start()]
    if match.start() == start + 1 and before[-1] == "$":
        return "\n" not in match.string[match.end() : end]
    if rest == "ot":
        return match.string.startswith(("\\", "=", "<", ">"), match.end())
    if rest == "e":
        return before[-1] == " " and _among_maths(match)
    return rest in _NO_FORMULA


def _among_maths(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - 3) : match.start()]
    if match["rest"] in _BETWEEN and _OPERAND_BEFORE.search(before):
        return _OPERAND_AFTER.match(match.string, match.end()) is not None
    return bool(_MATHS_BEFORE.search(before) and _MATHS_AFTER.match(match.string, match.end()))


def _formulas(text: str) -> list[tuple[int, int]]:
    """Where formulas stand. What reads like prose or like a row of a table is none: dollars may be money."""
    spans = list[tuple[int, int]]()
    for match in _FORMULA.finditer(text):
        content = match[match.lastgroup or 0]
        if not _PROSE.search(content) and not re.search(r"\t(?![a-z])", content):
            spans.append(match.span())
    return spans


def _eaten(found: list[Eaten]) -> str:
    first = found[0]
    command, *others = dict.fromkeys("\\" + one.command for one in found)
    more = f" (so is {', '.join(others[:4])}{', …' if len(others) > 4 else ''})" if others else ""
    return (
        f'{_ESCAPES[first.character][1]} and "{first.rest}" at {first.place} are left of {command}: its backslash '
        f'was eaten where this was read{more}; write "\\{command}" in JSON, r"{command}" in Python'
    )


def _no_text(text: str, place: int) -> str:
    character = text[place]
    if character == "\f":
        return f"a page break (U+000C) at {place} is not text; replace it by a line break"
    told = f"character U+{ord(character):04X} at {place} is not text; "
    if character in _ESCAPES and re.match("[a-z]", text[place + 1 : place + 2]):
        letter = _ESCAPES[character][0]
        return told + f"if it was a command that begins with \\{letter}, double its backslash, else remove it"
    return told + "remove it"


def is_blank(text: str) -> bool:
    r"""Whether there is nothing to read in it: spaces, and characters that have no width or no form of their own.

    >>> is_blank(" \u200b\ufeff"), is_blank("\u00ad\u0301"), is_blank("\u3164"), is_blank("1"), is_blank("\U0001f600")
    (True, True, True, False, False)
    """
    return all(one in _FILLERS or unicodedata.category(one)[0] in _UNSEEN for one in text)
