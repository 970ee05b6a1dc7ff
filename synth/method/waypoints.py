r"""What the negative reference is told of an expert solution (paper App. B.1): final answer y and waypoints W.

The paper names four categories, numbers alone for verifiable problems, but not its expressions. Ours read a
solution once, left to right:

* The widest expression at a place counts, not its parts: a proof's `2k - 1` is `2k-1`, not also `2k`, `2` and `1`.
* A digit after a letter (`A1`) and a variable's subscript (`x_{12}`) are names. `\log_2` and `\sum_{i=1}` are not.
* Labels, references and lengths (`\tag{3}`, `\ref{eq:1}`, `\\[2pt]`) hold no results, nor does what `apparatus.py`
  leaves out: figures, headings, enumerations, dates. Figures stay in the expert solution, as in the paper.
* A minus belongs to a number if it touches it and touches no operand before it: `= -3` and `\le-3` are -3, `x-3` and
  `x - 3` are 3. Right after a relation a space may stand between: `= - 3`.
* `\frac{1}{2}`, `\frac 12` and `1/2` are the integers 1 and 2: the paper's numbers are integers, floats, scientific.
* A bare comma between digits separates thousands (`12,345`) unless it separates members of a list, a tuple, an interval
  or a set (`1,100,x`, `(12,345)`, but not `(12,345 people)` or `(1,000)`), or a zero leads. `12{,}345`, `12\,345` and
  `12,\!345` are one number anywhere.
* Other LaTeX is not evaluated: `1.5 \times 10^{-3}` gives its parts.

Every quantifier that can fail after a long run is possessive or bounded, so time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, Protocol

from dail.synth.core.errors import ItemError
from dail.synth.core.extensions import FAULTS
from dail.synth.method.apparatus import without_apparatus
from dail.synth.method.expressions import LONGEST_WAYPOINT, SEPARATOR, key, tidy
from dail.synth.method.official import official
from dail.synth.method.rhs import right_hand_sides
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import resolve
from dail.synth.schema.synthesis import EXTRACTOR, PAPER, Synthesis

# Put into the text before it is read, where only TeX or what stands around a place tells what it is.
_OPERAND_ENDS = "\0"  # behind a digit that is an argument of its own, behind a comma that joins no digits
_SIGN_FOLLOWS = "\1"  # behind a relation or an operator

_LETTER = r"[A-Za-zΑ-Ωα-ω]"
_GREEK = (
    r"\\(?:(?i:(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau"
    r"|upsilon|phi|chi|psi|omega))|ell)(?![A-Za-z])"
)
_SUBSCRIPT = r"(?:_(?:[A-Za-z0-9]|\{[^{}]{1,32}\}))?+"
_VARIABLE = rf"(?:{_LETTER}(?!{_LETTER})|{_GREEK}){_SUBSCRIPT}"
_UNSIGNED = (
    rf"(?:(?:(?!0[0-9]*+,(?!\\!))[0-9]{{1,3}}(?:{SEPARATOR}[0-9]{{3}}(?![0-9]))++|[0-9]++)(?:\.[0-9]++)?+"
    r"|(?<![0-9A-Za-z.)])\.[0-9]++)(?:[eE][-+]?[0-9]++)?+"
)
_SIGN = rf"(?:(?<={_SIGN_FOLLOWS})[-−] ?|(?<!{_LETTER})(?<![0-9_)\]}}!'%−{_OPERAND_ENDS}-])[-−])"

# 100  1.99  1e-10  -3  1{,}000
NUMBER = rf"(?:{_SIGN})?{_UNSIGNED}"

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
    rf"(?<!{_LETTER})(?<![0-9_)}}\]/*·×÷^!−{_OPERAND_ENDS}-])(?<![0-9)}}\]/*·×÷−-] )"
    rf"(?<!\W{_LETTER} )(?<!dots )(?<!\\cdot )(?<!\\cdot)(?<!\\times )(?<!\\times)"
)
_FIRST_SIGN = rf"(?:(?<={_SIGN_FOLLOWS})[-−] ?|(?<![−-])[-−]|(?<=[0-9A-Za-z)}}\]] )[-−] )"  # x^2 - 2n + 1 has -2n+1

# n+1  2k - 1  1 - x  3x + 2y - 5: two to eight terms, one of them with a variable, none with a power or a product
LINEAR = (
    rf"(?:{_FIRST_SIGN}|{_NO_FACTOR})"
    rf"(?:(?:{_NUMBER_TERM}{_PLUS}){{1,7}}+{_VARIABLE_TERM}(?:{_PLUS}{_TERM}){{0,6}}+"
    rf"|{_VARIABLE_TERM}(?:{_PLUS}{_TERM}){{1,7}}+)"
)

_LABEL = (
    r"\\begin\{(?:tabular[xy]?|longtable|array|multicols|minipage|parbox)\*?\}(?:\[[^\]]{0,40}\])?"
    r"(?:\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,40}\}){0,80}\}){0,200}\})?|"
    r"\\(?:label|(?:eq|page|auto|[cC])?ref|tag|cite[pt]?|begin|end|[hv]space|includegraphics|url|color)\*?"
    r"(?:\[[^\]]{0,200}\])?\{[^{}]{0,200}\}|\\\\\*?\[[-0-9. ]{1,8}[a-z]{2}\]|https?://\S++"
    r"|\\(?:rule|setlength|addtolength)\*?\s?\{[^{}]{0,80}\}\s?\{[^{}]{0,80}\}|\\[cvhmk](?:skip|kern|ern)\s?-?[0-9.]{1,8}\s?[a-z]{2}"
    r"|\\multicolumn\s?\{[0-9]{1,3}\}\s?\{[^{}]{0,80}\}|\\(?:cline|cmidrule(?:\([lr]{1,2}\))?|scalebox|multirow)\s?\{[^{}]{0,40}\}"
)
_NAME = rf"(?:{_LETTER}++[0-9]*+|{_GREEK}){_SUBSCRIPT}"
_COMMAND = r"\\(?:[A-Za-z]++|.)"
_BETWEEN = rf"[^{_LETTER[1:-1]}0-9\\.(−-]++"


def _reader(*categories: str) -> re.Pattern[str]:
    """What is no waypoint is read too, so that no waypoint starts inside it."""
    return re.compile(rf"{_BETWEEN}|{_LABEL}|(?P<waypoint>{'|'.join(categories)})|{_NAME}|{_COMMAND}", re.DOTALL)


_READERS = {"verifiable": _reader(NUMBER), "proof": _reader(LINEAR, EXPONENTIAL, COEFFICIENT, NUMBER)}

_OPERAND_COMMAND = (  # after one of these a minus subtracts
    r"(?:infty|[lcdv]?dots[bcmio]?|circ|degree|prime|hbar|imath|jmath|aleph|emptyset|varnothing|square|triangle|blacksquare"
    r"|r(?:angle|floor|ceil|vert|Vert|brace|brack)|Re|Im|partial|nabla|top|bot|qed|begin|end)(?![A-Za-z])"
)
_BEFORE_SIGN = re.compile(
    rf"(?:\\(?!{_GREEK[2:]}|{_OPERAND_COMMAND})[A-Za-z]++|[=<>≤≥≡≈≠]\}}{{0,2}}"  # \mathrel{=}-3
    r"|\\(?:text|mbox|mathrm)\{[^{}]{0,40}\b(?:or|and|is|are|by|if|to|from|than|then)\s?\})"
    rf"\s?(?=[-−] ?(?:[0-9.]|{_LETTER}(?!{_LETTER})))"
)
_ONE_ARGUMENT = (
    r"sqrt|overline|underline|bar|hat|vec|tilde|dot|widehat|widetilde|overrightarrow|cancel|f?box(?:ed)?|math(?:bf|rm|it|sf"
    r"|cal|bb)|boldsymbol|bm|text(?:bf|it|rm)?|mbox|pmod|phantom"
)
_TWO_ARGUMENTS = r"[cdt]?frac|sfrac|nicefrac|[dt]?binom|stackrel|overset|underset"
_BARE_SECOND = re.compile(
    rf"(?P<before>\\(?:{_TWO_ARGUMENTS})(?:\s*+{_BRACED}|\s++{_LETTER}|\s*+\\[A-Za-z]++)\s*+)(?P<digit>[0-9])"
)
_BARE_FIRST = re.compile(
    rf"(?P<one>\\(?:{_ONE_ARGUMENT})\s*+(?:\[[^\[\]]{{0,40}}\]\s*+)?)(?P<digit>[0-9])"
    rf"|(?P<two>\\(?:{_TWO_ARGUMENTS})\s*+)(?P<first>[0-9])(?P<space>\s*+)(?P<second>[0-9]?)"
)
_BARE_COMMA = re.compile(r"[0-9],[0-9]")
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})++")
_ZERO_FIRST = re.compile(r",0")  # no member of a list is written 000
_BRACKET_OR_LIST = re.compile(
    r"(?P<list>(?<![0-9])[0-9]++(?:,[0-9]++)++)|\\\\|\\[\[\]()]"
    r"|(?P<open>[(\[]|\\\{|\\l(?:brace|brack|angle)(?![A-Za-z]))|(?P<close>[)\]]|\\\}|\\r(?:brace|brack|angle)(?![A-Za-z]))"
    r"|(?P<paragraph>\n[ \t]*+\n)"
)
_LIST_BEFORE = re.compile(
    r"[,._^]$|(?:[0-9]\s*;|(?:\\[lc]?dots|\.\.\.|…),?|,\s*\\?[A-Za-z][\w{}]{0,8}\s*(?:=|\\in)"
    r"|\b(?:numbers|values|integers|primes|roots|terms|elements|digits|sides|angles|lengths|divisors|factors|multiples)"
    r"(?:\s(?:are|were|is|of))?:?)[\s$]*$"
)
_LIST_AFTER = re.compile(r",\s{0,2}(?:\\!)?(?:\\[lc]?dots|\.\.\.|…)|,[^\s\\$'\"”’)]|,\\[A-Za-z]|\s?;\s?[0-9]")
# Inside brackets: words that nobody writes beside the first or the last of several members.
_AMOUNT_BEFORE = re.compile(
    r"\b(?:about|approximately|roughly|nearly|almost|exactly|around|over|only|just|some|than|least|most|totalling)[\s$~]{1,2}$"
    r"|(?:\\\$|[€£¥]|(?<![:<>!])=)\s{0,2}$"
)
_NO_AMOUNT = (
    r"(?!(?:and|are|being|both|but|each|exclusive|for|from|has|have|if|inclusive|is|lies|mod|modulo|not|or|then|with|where"
    r"|which|when)\b)"
)
_AMOUNT_AFTER = re.compile(
    rf"\$?(?:[\s~]|\\[ ,])\$?{_NO_AMOUNT}(?:[a-z]{{3,}}+|[ckm]m|k?g|ft)(?![A-Za-z(])"
    rf"|\$?(?:[\s~]|\\[ ,;])?\\(?:text|mathrm|mbox)\{{\s?{_NO_AMOUNT}[a-z]{{2}}"
)


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


def waypoints_of(item: ExpertSolution, synthesis: Synthesis | None = None) -> list[str]:
    """The item's own waypoints, else those of its solution without its answer. Raises ItemError: the extractor failed.

    Args:
        synthesis: whose extractor is taken, and what a lone box is; the defaults if left out.
    """
    if item.waypoints is not None:
        return list(item.waypoints)
    asked = synthesis or Synthesis()
    resolved = resolve(item, asked.lone_box)
    return extract(asked.extractor, item.solution_text, resolved.kind, resolved.answer)


def extract(extractor: str, solution: str, kind: Literal["verifiable", "proof"], answer: str | None) -> list[str]:
    """The waypoints by an extractor, one of `EXTRACTORS` or another.

    Raises:
        ExtensionError: there is no such extractor.
        ItemError: it failed on this solution, or gave no list of texts.
    """
    if extractor in _BUILT_IN:
        return _BUILT_IN[extractor](solution, kind, answer)
    own: ExtractWaypoints = EXTRACTOR.load(extractor)
    try:
        found = own(solution, kind, answer)
    except FAULTS as error:
        raise ItemError("extractor_failed", f"{extractor} failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ItemError("extractor_failed", f"{extractor} gave {found!r:.200}; wanted a list of texts")
    return found


def waypoints(solution: str, kind: Literal["verifiable", "proof"], answer: str | None) -> list[str]:
    r"""Intermediate results in order of first appearance, each once, without the answer (paper App. B.1).

    Numbers are compared by value, all else as text without spaces and dollars: an answer 75 removes `075` and
    `75.0`. Of equals the first one's text stays. Thousands lose their separator: `1,000` is `1000`.

    Args:
        answer: None for nothing to remove, as in most proofs.

        waypoints("2n + 1 = 7, so n^{2} = 9", "proof", None)          ["2n+1", "7", "n^{2}", "9"]
        waypoints("2n + 1 = 7, so n^{2} = 9", "verifiable", "9")      ["2", "1", "7"]
    """
    found: dict[str, str] = {}
    for expression in dict.fromkeys(match["waypoint"] for match in _READERS[kind].finditer(_marked(solution))):
        text = (expression or "").replace(_OPERAND_ENDS, "").replace(_SIGN_FOLLOWS, "")
        if text and len(text) <= LONGEST_WAYPOINT:
            text = tidy(text)
            found.setdefault(key(text), text)
    if answer is not None:
        found.pop(key(answer), None)
    return list(found.values())


def places(solution: str, kind: Literal["verifiable", "proof"]) -> list[tuple[int, int]]:
    """Where in the solution `waypoints` reads an expression: first character, and the one behind the last."""
    text, found = _marked(solution), list[tuple[int, int]]()
    done, num_marks = 0, 0
    for match in _READERS[kind].finditer(text):
        if match["waypoint"]:
            ends = list[int]()
            for end in match.span("waypoint"):
                num_marks += text.count(_OPERAND_ENDS, done, end) + text.count(_SIGN_FOLLOWS, done, end)
                done = end
                ends.append(end - num_marks)
            found.append((ends[0], ends[1]))
    return found


def _sorted_waypoints(solution: str, kind: Literal["verifiable", "proof"], answer: str | None) -> list[str]:
    """In an order that says nothing of the solution's way, as the authors' code shows them."""
    return sorted(waypoints(solution, kind, answer))


_BUILT_IN: dict[str, Callable[[str, Literal["verifiable", "proof"], str | None], list[str]]] = {
    PAPER: waypoints,
    "paper-sorted": _sorted_waypoints,
    "official": official,
    "rhs": right_hand_sides,
}


def _marked(solution: str) -> str:
    """The text to read: without apparatus, with a mark wherever what stands around a place decides what it is."""
    plain = solution.replace(_OPERAND_ENDS, " ").replace(_SIGN_FOLLOWS, " ")
    text = _without_lists(without_apparatus(plain))
    text = _BARE_SECOND.sub(rf"\g<before>{_OPERAND_ENDS}\g<digit>{_OPERAND_ENDS}", text)
    text = _BARE_FIRST.sub(_apart, text)
    return _BEFORE_SIGN.sub(rf"\g<0>{_SIGN_FOLLOWS}", text)


def _apart(command: re.Match[str]) -> str:
    """TeX gives a command without braces one digit an argument: 1 and 2 in `\\frac 12 3`, 2 in `\\sqrt 23`."""
    if command["one"]:
        return f"{command['one']}{command['digit']}{_OPERAND_ENDS}"
    second = command["second"] and command["second"] + _OPERAND_ENDS
    return f"{command['two']}{command['first']}{_OPERAND_ENDS}{command['space']}{second}"


def _without_lists(text: str) -> str:
    """With a mark behind each bare comma that separates no thousands."""
    if not _BARE_COMMA.search(text):
        return text
    lists = list[re.Match[str]]()
    free = list[int]()  # of the lists, those in no brackets that were closed
    opened = list[int]()  # how many lists there were at each open bracket
    for token in _BRACKET_OR_LIST.finditer(text):
        if token["list"]:
            free.append(len(lists))
            lists.append(token)
        elif token["open"]:
            opened.append(len(lists))
        elif token["close"] and opened:
            first = opened.pop()
            while free and free[-1] >= first:
                free.pop()
        elif token["paragraph"]:
            opened.clear()
    pieces, done, numbers = list[str](), 0, set(free)
    for place, found in enumerate(lists):
        is_one = place in numbers or _ZERO_FIRST.search(found[0]) is not None or _is_amount(found)
        if not (is_one and _is_number(found)):
            pieces += [text[done : found.start()], found[0].replace(",", f",{_OPERAND_ENDS}")]
            done = found.end()
    return "".join([*pieces, text[done:]])


def _is_amount(found: re.Match[str]) -> bool:
    """Whether words around it make it one number also inside brackets."""
    before = found.string[max(0, found.start() - 20) : found.start()]
    return bool(_AMOUNT_BEFORE.search(before) or _AMOUNT_AFTER.match(found.string, found.end()))


def _is_number(found: re.Match[str]) -> bool:
    text, start = found.string, found.start()
    return bool(
        _THOUSANDS.fullmatch(found[0])
        and not _LIST_BEFORE.search(text[max(0, start - 40) : start])
        and not _LIST_AFTER.match(text, found.end())
    )
