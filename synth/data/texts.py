r"""What of a text is suspicious: signs of damage that may also be meant. What is lost for certain is refused before, by
`dail.synth.schema.texts`.

    The angle is 30Â°.             wrong decoding: "Â°" at 15 may have been "°"
    if $x &lt; 3$                  HTML entity: "&lt;" at 6 may be "<"
    So $x = 3 and y = 4.           unbalanced: "$" at 3 is never closed
    Then rac{1}{2} of it.          eaten backslash: "rac{" at 5 may have been \frac{

A note that is wrong costs more than one that is missing: whoever reads three of them in vain reads no fourth. So code,
figures and money are left alone, and what can be read in two ways is no sign. Time is linear in the text.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from dail.synth.core.config import Frozen
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.texts import Eaten, candidates

Damage = Literal["eaten backslash", "wrong decoding", "HTML entity", "invisible character", "unbalanced", "too many \\"]

_CODE = re.compile(
    r"(?P<fence>```)|(?P<tick>`)|\\verb\*?(?P<bar>[^A-Za-z\s*])|\\begin\{(?P<name>(?:verbatim|lstlisting|minted|asy"
    r"|tikzpicture)\*?)\}|(?P<asy>\[asy\])|<(?P<tag>asy|code|pre|script|style)\b[^<>]{0,200}>"
)
_CODE_ON_A_LINE = 400
_LEFT_OVER = re.compile(
    r"(?<![A-Za-z\\])(?:(?P<brace>rac|oxed|egin|ext|extbf|qrt|inom)\{|(?P<word>imes|riangle|ightarrow|orall)(?![A-Za-z]))"
)
_FIRST_LETTER = {
    "rac": "f", "oxed": "b", "egin": "b", "ext": "t", "qrt": "s", "inom": "b", "imes": "t", "riangle": "t",
    "ightarrow": "r", "orall": "f",
}  # fmt: skip
_TOO_MANY = re.compile(
    r"(?<!\\)\\\\(?:boxed|[dt]?frac|sqrt|cdot|times|text|angle|pi|theta|alpha|le|ge|neq)(?![A-Za-z])"
)
_LITERAL_BREAK = re.compile(r"(?<!\\)\\n\\n|(?<=[.!?$:])\\n(?=[A-Z$])")


def _class(*spans: tuple[int, int]) -> str:
    """How bytes look when they are read as windows-1252 or as latin-1, as a class of characters."""
    codes = [bytes([code]) for first, last in spans for code in range(first, last + 1)]
    return f"[{re.escape(''.join(code.decode(name, 'ignore') for code in codes for name in ('cp1252', 'latin-1')))}]"


# UTF-8 that was read so. Not what quotation marks and dashes behind a letter look like too: „groß”, “Ñ”.
_BYTE = _class((0x80, 0xBF))
_WRONG = re.compile(
    rf"Â{_class((0xA0, 0xBF))}|Ã{_BYTE}|Î{_class((0x95, 0x95), (0x98, 0xBF))}|Ï{_class((0x80, 0x89))}"
    rf"|â{_class((0x80, 0x80), (0x82, 0x82), (0x84, 0x84), (0x86, 0x8F), (0x99, 0x9F))}{_BYTE}"
    rf"|(?:[ÐÑ]{_BYTE}){{2,40}}|(?:[ã-é]{_BYTE}{{2}}){{2,40}}|ðŸ{_BYTE}{{2}}|ï»¿|‚Ä[ôúùìî¢¶]"
)
_ENTITY = re.compile(
    r"&(?:lt|gt|amp|nbsp|quot|apos|le|ge|ne|times|deg|minus|hellip|[nm]dash|[lr][sd]quo|plusmn|middot|sup[123]|frac1[24]"
    r"|#[0-9]{2,6}|#[xX][0-9a-fA-F]{2,5});"
)
_INVISIBLE = re.compile(
    "[\u200b\u2060-\u2064\ufeff\u00ad\u180e\u202d\u202e]|(?<=[ -~])[\u200c\u200d]|[\U000e0000-\U000e001f]"
)
_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202c\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")

_MARK = re.compile(
    r"\\\\|\\(?P<fence>left|right)(?![A-Za-z])|\\(?P<edge>begin|end)\s{0,4}\{(?P<name>[^{}\n]{0,40})\}|\\(?P<math>[()\[\]])"
    r"|\\.|(?P<dollars>\$\$?)|(?P<brace>[{}])|(?P<paragraph>\n[ \t]*+\n)",
    re.DOTALL,
)
_NO_FORMULA = re.compile(  # money, the sign itself, a variable of a shell or a template
    r"\$ ?\.?[0-9][0-9.,]*+(?!\s*[$^_\\=+*<>-]|\s*/(?!\s?[a-z]{2}))|\$(?=\s)(?<=[\s\"'(]\$)"
    r"|\$(?=[\s.,;:)]|\Z)(?:(?<=[0-9]\$)|(?<=[0-9] \$))"
    r"|\$[{<(]?[A-Za-z_]{3,}+(?!\$)|\$[{<][A-Za-z_]"
)
_LATEX = re.compile(r"\\[A-Za-z()\[\]]|\$[^$]+\$")


class Note(Frozen):
    """A sign of damage: its kind, the character of the text where it is first seen, how often, and what it may be."""

    kind: Damage
    place: int
    count: int
    detail: str


def item_notes(item: ExpertSolution) -> Iterator[tuple[str, Note]]:
    """The notes of all texts of an item, each with the text's place in the item: `problem`, `solution/1`, `answer`."""
    solutions = [item.solution] if isinstance(item.solution, str) else item.solution
    texts = [("problem", item.problem)] if isinstance(item.problem, str) else []
    if not isinstance(item.problem, str):
        texts += [(f"problem/{number}/content", message.content) for number, message in enumerate(item.problem)]
    texts += [
        ("solution" if len(solutions) == 1 else f"solution/{number}", one) for number, one in enumerate(solutions)
    ]
    texts += [("answer", item.answer or ""), ("privileged", item.privileged or "")]
    texts += [(f"waypoints/{number}", one) for number, one in enumerate(item.waypoints or ())]
    for where, text in texts:
        yield from ((where, note) for note in notes(text))


def notes(text: str) -> list[Note]:
    """What is suspicious in a text, at most one of each kind but for what is unbalanced."""
    plain = _without_code(text)
    found = [_eaten(plain), _too_many(plain), _wrong(text), _entity(plain), _invisible(text)]
    return [note for note in found if note is not None] + _unbalanced(plain)


def _without_code(text: str) -> str:
    """With spaces in place of code and figures, so that all else keeps its place. What is never closed is none."""
    pieces, done, place = list[str](), 0, 0
    absent = set[str]()
    while (opening := _CODE.search(text, place)) is not None:
        place = opening.end()
        closing, last = _closing(opening), None
        if opening["tick"] or opening["bar"]:
            line = text.find("\n", place, place + _CODE_ON_A_LINE)
            last = place + _CODE_ON_A_LINE if line < 0 else line
        end = -1 if closing in absent else text.find(closing, place, last)
        if end >= 0:
            place = end + len(closing)
            pieces += [text[done : opening.start()], " " * (place - opening.start())]
            done = place
        elif last is None:
            absent.add(closing)
    return "".join([*pieces, text[done:]])


def _closing(opening: re.Match[str]) -> str:
    if opening["name"]:
        return rf"\end{{{opening['name']}}}"
    if opening["tag"]:
        return f"</{opening['tag']}>"
    return opening["fence"] or opening["tick"] or opening["bar"] or "[/asy]"


def _note(kind: Damage, matches: list[re.Match[str]], meant: str) -> Note | None:
    if not matches:
        return None
    first = matches[0]
    detail = f'"{first[0]}" at {first.start()} {meant}'
    return Note(kind=kind, place=first.start(), count=len(matches), detail=detail)


def _eaten(text: str) -> Note | None:
    single = {character for character in "\t\r" if text.count(character) == 1}
    for left_over, is_sure in candidates(text):
        if not is_sure and _is_odd(text, left_over, left_over.character in single):
            name = "a tab" if left_over.character == "\t" else "a carriage return"
            detail = f'{name} and "{left_over.rest}" at {left_over.place} may have been \\{left_over.command}'
            return Note(kind="eaten backslash", place=left_over.place, count=1, detail=detail)
    matches = list(_LEFT_OVER.finditer(text))
    if not matches:
        return None
    left = matches[0][0]
    letter = next(_FIRST_LETTER[start] for start in _FIRST_LETTER if left.startswith(start))
    return _note("eaten backslash", matches, f"may have been \\{letter}{left}")


def _is_odd(text: str, left_over: Eaten, is_single: bool) -> bool:
    """Whether it stands where no table has a tab, or before a relation as the only one of its text."""
    place, end = left_over.place, left_over.place + 1 + len(left_over.rest)
    is_of_maths = left_over.rest in ("au", "op") and left_over.character == "\t"
    if is_of_maths and re.search(r"\S $", text[max(0, place - 2) : place]):
        return True
    return is_single and re.match(" ?[=<>^]", text[end : end + 2]) is not None


def _too_many(text: str) -> Note | None:
    matches = list(_TOO_MANY.finditer(text)) or list(_LITERAL_BREAK.finditer(text))
    return _note("too many \\", matches, "has a backslash too many: it was escaped twice") if matches else None


def _wrong(text: str) -> Note | None:
    matches = list(_WRONG.finditer(text))
    if not matches:
        return None
    return _note("wrong decoding", matches, f'may have been "{_decoded(matches[0][0])}": read the source as UTF-8')


def _decoded(text: str) -> str:
    if text.startswith("‚"):
        return text.encode("mac_roman").decode("utf-8", "replace")
    code = b"".join(_byte(one) for one in text)
    return code.decode("utf-8", "replace")


def _byte(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def _entity(text: str) -> Note | None:
    matches = list(_ENTITY.finditer(text))
    return _note("HTML entity", matches, f'may be "{html.unescape(matches[0][0])}"') if matches else None


def _invisible(text: str) -> Note | None:
    matches = list(_INVISIBLE.finditer(text))
    if not matches and not _RIGHT_TO_LEFT.search(text):
        matches = list(_DIRECTION.finditer(text))
    if not matches:
        return None
    place = matches[0].start()
    detail = f"U+{ord(matches[0][0]):04X} at {place} cannot be seen, and the model reads it; remove it"
    return Note(kind="invisible character", place=place, count=len(matches), detail=detail)


# -- balance


def _unbalanced(text: str) -> list[Note]:
    """One note for each kind of bracket that is not closed, or closed without being open."""
    if not _LATEX.search(text) and "$" not in text:
        return []
    marks = list(_MARK.finditer(text))
    faults = [_dollars(text, marks), _braces(marks), *_maths(marks), _fences(marks), _environments(marks)]
    return [
        Note(kind="unbalanced", place=place, count=1, detail=f'"{what}" at {place} {why}')
        for place, what, why in filter(None, faults)
    ]


_Fault = tuple[int, str, str]


def _dollars(text: str, marks: list[re.Match[str]]) -> _Fault | None:
    """Where a sign that opens a formula may be another one, nothing can be said."""
    opened: re.Match[str] | None = None
    broken: re.Match[str] | None = None
    openings = list[int]()
    for mark in marks:
        if mark["paragraph"] and opened and opened[0] == "$":
            broken, opened = broken or opened, None
        elif not mark["dollars"]:
            continue
        elif opened is None:
            opened = mark
            openings.append(mark.start())
        elif opened[0] == mark[0] or opened[0] == "$":
            opened = opened if mark[0] == "$$" and opened[0] == "$" else None  # $a$$b$
    broken = broken or opened
    if broken is None or any(_NO_FORMULA.match(text, place) for place in openings):
        return None
    return broken.start(), broken[0], "is never closed"


def _braces(marks: list[re.Match[str]]) -> _Fault | None:
    opened = list[int]()
    for mark in marks:
        if mark["brace"] == "{":
            opened.append(mark.start())
        elif mark["brace"]:
            if not opened:
                return mark.start(), "}", "closes nothing"
            opened.pop()
    return (opened[-1], "{", "is never closed") if opened else None


def _maths(marks: list[re.Match[str]]) -> Iterator[_Fault | None]:
    r"""`\(` and `\)`, `\[` and `\]`."""
    for opening, closing in ("()", "[]"):
        opened: int | None = None
        for mark in marks:
            if mark["math"] == opening:
                opened = mark.start()
            elif mark["math"] == closing:
                if opened is None:
                    yield mark.start(), "\\" + closing, "closes nothing"
                    break
                opened = None
        else:
            yield None if opened is None else (opened, "\\" + opening, "is never closed")


def _fences(marks: list[re.Match[str]]) -> _Fault | None:
    opened = list[int]()
    for mark in marks:
        if mark["fence"] == "left":
            opened.append(mark.start())
        elif mark["fence"]:
            if not opened:
                return mark.start(), r"\right", r"has no \left"
            opened.pop()
    return (opened[-1], r"\left", r"has no \right") if opened else None


def _environments(marks: list[re.Match[str]]) -> _Fault | None:
    edges = [mark for mark in marks if mark["edge"]]
    balance = Counter[str]()
    for mark in edges:
        balance[mark["name"]] += 1 if mark["edge"] == "begin" else -1
    for mark in edges:
        if balance[mark["name"]] > 0 and mark["edge"] == "begin":
            return mark.start(), mark[0], "never ends"
        if balance[mark["name"]] < 0 and mark["edge"] == "end":
            return mark.start(), mark[0], "was never begun"
    return None
