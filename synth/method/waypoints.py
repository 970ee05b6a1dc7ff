r"""What the negative reference is told of an expert solution (paper App. B.1): final answer y and waypoints W.

The paper names four categories, numbers alone for verifiable problems, but not its expressions. Ours read a
solution once, left to right:

* The widest expression at a place counts, not its parts: a proof's `2k - 1` is `2k-1`, not also `2k`, `2` and `1`.
* A digit after a letter (`A1`) and a variable's subscript (`x_{12}`) are names. `\log_2` and `\sum_{i=1}` are not.
* Labels, references, lengths (`\tag{3}`, `\ref{eq:1}`, `\\[2pt]`) and Asymptote figures hold no results. Figures
  stay in the expert solution, as in the paper; their coordinates would drown the few numbers that matter.
* A minus belongs to a number if it touches it and touches no operand before it: `= -3` is -3, `x-3` and `x - 3` are 3.
* `\frac{1}{2}`, `\frac12` and `1/2` are the integers 1 and 2: the paper's numbers are integers, floats, scientific.
* Other LaTeX is not evaluated: `1.5 \times 10^{-3}` gives its parts.

Every quantifier that can fail after a long run is possessive or bounded, so time is linear in the text.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, Protocol

from dail.synth.core.errors import ItemError
from dail.synth.schema.synthesis import EXTRACTOR, PAPER

LONGEST_WAYPOINT = 200  # characters; more is no intermediate result but a table, a typo or an attack

_LETTER = r"[A-Za-zΑ-Ωα-ω]"
_GREEK = (
    r"\\(?:(?i:(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau"
    r"|upsilon|phi|chi|psi|omega))|ell)(?![A-Za-z])"
)
_SUBSCRIPT = r"(?:_(?:[A-Za-z0-9]|\{[^{}]{1,32}\}))?+"
_VARIABLE = rf"(?:{_LETTER}(?!{_LETTER})|{_GREEK}){_SUBSCRIPT}"
_SEPARATOR = r"(?:,(?:\\!)?|\{,\}|\\,)"  # of thousands: 1,000  1,\!000  1{,}000  1\,000
_UNSIGNED = (
    rf"(?:(?:[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}}(?![0-9]))++|[0-9]++)(?:\.[0-9]++)?+|(?<![0-9A-Za-z.)])\.[0-9]++)"
    r"(?:[eE][-+]?[0-9]++)?+"
)
_SIGN = rf"(?<!{_LETTER})(?<![0-9_)\]}}!'%−-])[-−]"

# 100  1.99  1e-10  -3  1{,}000; the first of two digits after \frac or \binom is an argument of its own
NUMBER = rf"(?:(?:(?<=\\frac)|(?<=\\[dt]frac)|(?<=\\binom))[0-9](?=[0-9])|(?:{_SIGN})?{_UNSIGNED})"

# 2k  100n  -3x_1  2ab  2\pi, but not 2nd
COEFFICIENT = (
    rf"(?:{_SIGN})?{_UNSIGNED}(?!(?:st|nd|rd|th)(?!{_LETTER}))"
    rf"(?:{_LETTER}{{1,3}}+(?!{_LETTER})|{_GREEK}){_SUBSCRIPT}"
)

_INK = r"[^{}\\$\n]|\\."
_BRACED = rf"\{{(?:{_INK}|\{{(?:{_INK}|\{{(?:{_INK})*+\}})*+\}})*+\}}"  # three deep, enough for 2^{2^{2^{n}}}
_NO_POWER = r"\{?\s*(?:\\(?:circ|prime|ast|star|dagger|text|mathrm|textrm)|\*|(?:st|nd|rd|th)\s*\})"  # 90^\circ  n^{th}

# n^{k+1}  e^{-x}  2^n  3x^2  ab^2  (-1)^n
EXPONENTIAL = (
    rf"(?:{_SIGN})?(?:(?:{_UNSIGNED})?(?:{_LETTER}{{1,3}}+|{_GREEK}){_SUBSCRIPT}|{_UNSIGNED}|\([-−]?{_UNSIGNED}\))"
    rf"\s*+\^\s*+(?!{_NO_POWER})(?:{_BRACED}|[-−]?[0-9]++|{_LETTER}|{_GREEK})"
)

_TERM_END = (
    rf"(?!{_LETTER})(?![0-9_(])"
    r"(?!\s*(?:[\^!/*·×÷]|\\(?:sqrt|[dtc]?frac|cdot|times|div|over|d?binom|left\s*\()))"
)
_NUMBER_TERM = rf"{_UNSIGNED}{_TERM_END}"
_VARIABLE_TERM = rf"(?:{_UNSIGNED})?+{_VARIABLE}{_TERM_END}"
_TERM = rf"(?:{_VARIABLE_TERM}|{_NUMBER_TERM})"
_PLUS = r"[ \t]*+[-+−]\s*+"
# neither a part of a name nor the last factor of a product: `2 \cdot n + 1`, `c_1 x + 1`, `k n + 1`, `\dots p - 1`
_NO_FACTOR = (
    rf"(?<!{_LETTER})(?<![0-9_)}}\]/*·×÷^!−-])(?<![0-9)}}\]/*·×÷−-] )"
    rf"(?<!\W{_LETTER} )(?<!dots )(?<!\\cdot )(?<!\\cdot)(?<!\\times )(?<!\\times)"
)
_FIRST_SIGN = r"(?:(?<![−-])[-−]|(?<=[0-9A-Za-z)}\]] )[-−] )"  # x^2 - 2n + 1 has -2n+1

# n+1  2k - 1  1 - x  3x + 2y - 5: two to eight terms, one of them with a variable, none with a power or a product
LINEAR = (
    rf"(?:{_FIRST_SIGN}|{_NO_FACTOR})"
    rf"(?:(?:{_NUMBER_TERM}{_PLUS}){{1,7}}+{_VARIABLE_TERM}(?:{_PLUS}{_TERM}){{0,6}}+"
    rf"|{_VARIABLE_TERM}(?:{_PLUS}{_TERM}){{1,7}}+)"
)

_LABEL = (
    r"\\(?:label|(?:eq|page|auto|[cC])?ref|tag|cite[pt]?|begin|end|[hv]space|includegraphics|url|color)\*?"
    r"(?:\[[^\]]{0,200}\])?\{[^{}]{0,200}\}|\\\\\*?\[[-0-9. ]{1,8}[a-z]{2}\]|https?://\S++"
)
_NAME = rf"(?:{_LETTER}++[0-9]*+|{_GREEK}){_SUBSCRIPT}"
_COMMAND = r"\\(?:[A-Za-z]++|.)"
_BETWEEN = rf"[^{_LETTER[1:-1]}0-9\\.(−-]++"


def _reader(*categories: str) -> re.Pattern[str]:
    """What is no waypoint is read too, so that no waypoint starts inside it."""
    return re.compile(rf"{_BETWEEN}|{_LABEL}|(?P<waypoint>{'|'.join(categories)})|{_NAME}|{_COMMAND}", re.DOTALL)


_READERS = {"verifiable": _reader(NUMBER), "proof": _reader(LINEAR, EXPONENTIAL, COEFFICIENT, NUMBER)}
# Stopping at the next opening keeps unclosed figures linear.
_FIGURE = re.compile(
    r"\[asy\][^\[]*+(?:\[(?!/?asy\])[^\[]*+)*+\[/asy\]"
    r"|\\begin\{asy\}[^\\]*+(?:\\(?!(?:begin|end)\{asy\})[^\\]*+)*+\\end\{asy\}"
)
_BOX_OR_BRACES = re.compile(r"(?P<box>\\boxed\s*+\{)|\\\\(?!boxed)|\\[{}]|(?P<open>\{+)|(?P<close>\}+)")
_LOOSE_SPACE = re.compile(r"(?<![A-Za-z]) | (?![A-Za-z])")  # the one in `\alpha n` holds it together
_THOUSANDS = re.compile(rf"(?<=[0-9]){_SEPARATOR}(?=[0-9]{{3}}(?![0-9]))")
_NO_INK = re.compile(r"\\[,;:! $]|[\s$~]|\\left(?![A-Za-z])|\\right(?![A-Za-z])")
_NEEDLESS_BRACES = re.compile(r"\^\{([A-Za-z]|[0-9]+)\}")
_DECIMAL = re.compile(r"-?[0-9]*(?:[0-9]|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_RATIO = re.compile(r"(-?)(?:\\[dt]?frac\{(-?[0-9]+)\}\{([0-9]+)\}|\\[dt]?frac([0-9])([0-9])|([0-9]+)/([0-9]+))")


class ExtractWaypoints(Protocol):
    r"""An extractor that somebody brought along, for `synthesis.extractor=FILE.py:NAME`.

    What a solution's intermediate results are depends on its field. In law they may be the provisions it cites:

        def provisions(solution, kind, answer):
            cited = dict.fromkeys(re.findall(r"(?:§|Art\.) ?\d+\w?", solution))
            return [one for one in cited if one != answer]

    Args:
        solution: the expert's text.
        kind: verifiable or proof.
        answer: the final answer, which is no waypoint; none if there is none.

    Returns:
        Short texts in the order in which they are to be shown, each once.
    """

    def __call__(self, solution: str, kind: str, answer: str | None) -> list[str]: ...


def extract(extractor: str, solution: str, kind: Literal["verifiable", "proof"], answer: str | None) -> list[str]:
    """The waypoints by an extractor, the paper's or another.

    Raises:
        ExtensionError: there is no such extractor.
        ItemError: it failed on this solution, or gave no list of texts.
    """
    if extractor == PAPER:
        return waypoints(solution, kind, answer)
    own: ExtractWaypoints = EXTRACTOR.load(extractor)
    try:
        found = own(solution, kind, answer)
    except Exception as error:  # of a user's function
        raise ItemError("extractor_failed", f"{extractor} failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ItemError("extractor_failed", f"{extractor} gave {found!r:.200}; wanted a list of texts")
    return found


def final_answer(solution: str) -> str | None:
    r"""Content of the last balanced `\boxed{...}` that is not blank (paper App. B.1), else none.

    `\boxed 7` is no answer, since TeX would box one character of `\boxed 42`; nor is `\fbox{7}`. Of two nested
    boxes the inner one starts last. A backslash too many, as in `\\boxed{7}`, is forgiven.

        So $\boxed{\frac{3}{4}}$.        \frac{3}{4}
        \boxed{5}, then \boxed{7         5
        \boxed{\{1, 2\}}                 \{1, 2\}
    """
    last_start, answer = -1, None
    depth, open_boxes = 0, list[tuple[int, int]]()  # a box: where its content starts, depth of its brace
    first_box = solution.find(r"\boxed")
    for match in _BOX_OR_BRACES.finditer(solution, first_box) if first_box >= 0 else ():
        if match["box"]:
            depth += 1
            open_boxes.append((match.end(), depth))
        elif match["open"]:
            depth += len(match["open"])
        elif match["close"]:
            left = max(depth - len(match["close"]), 0)
            while open_boxes and open_boxes[-1][1] > left:
                start, box_depth = open_boxes.pop()
                content = solution[start : match.start() + depth - box_depth].strip() if start > last_start else ""
                if content:
                    last_start, answer = start, content
            depth = left
    return answer


def waypoints(solution: str, kind: Literal["verifiable", "proof"], answer: str | None) -> list[str]:
    r"""Intermediate results in order of first appearance, each once, without the answer (paper App. B.1).

    Numbers are compared by value, all else as text without spaces and dollars: an answer 75 removes `075` and
    `75.0`. Of equals the first one's text stays. Thousands lose their separator: `1,000` is `1000`.

    Args:
        answer: None for nothing to remove, as in most proofs.

        waypoints("2n + 1 = 7, so n^{2} = 9", "proof", None)          ["2n+1", "7", "n^{2}", "9"]
        waypoints("2n + 1 = 7, so n^{2} = 9", "verifiable", "9")      ["2", "1", "7"]
    """
    matches = _READERS[kind].finditer(_FIGURE.sub(" ", solution))
    found: dict[str, str] = {}
    for expression in dict.fromkeys(match["waypoint"] for match in matches):
        if expression and len(expression) <= LONGEST_WAYPOINT:
            text = _tidy(expression)
            found.setdefault(_key(text), text)
    if answer is not None:
        found.pop(_key(answer), None)
    return list(found.values())


def _tidy(expression: str) -> str:
    words = " ".join(expression.replace("−", "-").split())
    return _LOOSE_SPACE.sub("", _THOUSANDS.sub("", words))


def _key(text: str) -> str:
    """Equal for equal numbers, and for expressions that differ in spacing, dollars or needless braces only."""
    if text.isascii() and text.isdigit():
        return text.lstrip("0") or "0"
    text = _NO_INK.sub("", _tidy(text)).removeprefix("+").rstrip(".")
    value = _value(text) if len(text) <= LONGEST_WAYPOINT else None
    return _NEEDLESS_BRACES.sub(r"^\1", text) if value is None else str(value)


def _value(text: str) -> Fraction | None:
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if ratio := _RATIO.fullmatch(text):
        numerator, denominator = (int(part) for part in ratio.groups()[1:] if part)
        if denominator:
            return Fraction(-numerator if ratio[1] else numerator, denominator)
    return None
