r"""The beginning of a solution, for `synthesis.exposure`: cut between sentences or lines, never inside a formula.

    beginning("First $a. b$ is 3. Then 4 follows.", 0.6)      "First $a. b$ is 3."

What is kept is never more than the share. The last sentence or line that ends within it ends the text; where the first
one is longer than that, the last word does. Time is linear in the text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict

from dail.synth.core.errors import ItemError

_PARAGRAPH = "paragraph"
_FORMULAS = (
    r"equation|align(?:at|ed)?|gather(?:ed)?|multline|flalign|eqnarray|displaymath|math|array|[pbvBV]?matrix|cases|split"
    r"|tabular[xy]?|tikzpicture|asy|verbatim|lstlisting|minted"
)
_MARK = re.compile(
    rf"(?P<{_PARAGRAPH}>\n[ \t]*+\n)"
    r"|(?P<command>\\(?!(?:begin|end)\{)[A-Za-z]++\*?(?:\[[^\[\]\n]{0,40}\])?\s?\{)"
    rf"|\\(?:begin|end)\{{(?:{_FORMULAS})\*?\}}|\$\$|\$|\\[()\[\]]|\[/?asy\]|```|(?P<skipped>\\.)|[{{}}]",
    re.DOTALL,
)
_PRICE = re.compile(r"\$[0-9][0-9,.]*+\s[A-Za-z]{2}")
_CLOSES = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]", "[asy]": "[/asy]", "```": "```"}
_IN_A_PARAGRAPH = ("$", r"\(")
_SENTENCE = re.compile(r"[.!?。！？][\"'”’)\]*_]{0,3}(?=\s)|(?<=\S)(?=\n)")
_WORD = re.compile(r"(?<=\S)(?=\s)")
# Behind these a sentence goes on, or begins: the number of a list's member, a letter, an abbreviation.
_NO_END = re.compile(
    r"(?:^|[.!?\n])\s*\(?(?:[0-9]{1,3}|[ivx]{1,4})[.)]$"
    r"|(?:^|[\s(~])(?:[A-Za-z]|e\.g|i\.e|cf|resp|eqs?|figs?|no|vs|dr|prof|thm|lem)\.$",
    re.IGNORECASE,
)


def beginning(text: str, share: float) -> str:
    """At most this share of the text's characters.

    Raises:
        ItemError: it begins with a formula or a word that is longer than that.
    """
    if share >= 1:
        return text
    most = int(len(text) * share)
    uncut = _uncut(text)
    starts = [start for start, _ in uncut]
    for ends in (_SENTENCE, _WORD):
        for cut in reversed([found.end() for found in ends.finditer(text, 0, most + 1) if found.end() <= most]):
            place = bisect_right(starts, cut - 1) - 1
            is_inside = place >= 0 and cut < uncut[place][1]
            if not is_inside and not (ends is _SENTENCE and _NO_END.search(text[max(0, cut - 40) : cut])):
                return text[:cut]
    raise ItemError(
        "nothing_to_expose",
        f"exposure={share:g} of the {len(text)} characters to be shown are {most}, and the text begins with a formula "
        "or a word that is longer, which is never cut; raise exposure, or leave the item out",
    )


def _uncut(text: str) -> list[tuple[int, int]]:
    """From where to where nothing is cut, in order and apart: formulas, arguments of commands, pictures, code."""
    marks = [found for found in _MARK.finditer(text) if not found["skipped"]]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(_arguments(marks) + _formulas(marks) + _among_prices(text, marks)):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _arguments(marks: list[re.Match[str]]) -> list[tuple[int, int]]:
    """Of commands: what a box or a bold text holds. Their braces are counted whatever stands between."""
    spans, opened = list[tuple[int, int]](), list[tuple[int, bool]]()
    for mark in marks:
        if mark["command"] or mark[0] == "{":
            opened.append((mark.start(), bool(mark["command"])))
        elif mark[0] == "}" and opened:
            start, is_argument = opened.pop()
            if is_argument:
                spans.append((start, mark.end()))
    return spans


def _among_prices(text: str, marks: list[re.Match[str]]) -> list[tuple[int, int]]:
    """From the first to the last dollar of a paragraph in which they do not say what is a formula."""
    spans, dollars = list[tuple[int, int]](), list[int]()
    for place, what in [*((mark.start(), mark[0]) for mark in marks), (len(text), "")]:
        if what == "$":
            dollars.append(place)
        elif not what.strip():  # the paragraph ends
            if len(dollars) > 1 and (len(dollars) % 2 or any(_PRICE.match(text, one) for one in dollars)):
                spans.append((dollars[0], dollars[-1] + 1))
            dollars = []
    return spans


def _formulas(marks: list[re.Match[str]]) -> list[tuple[int, int]]:
    """What opens one and is never closed, or not in its paragraph, as the dollar of a price, opens none."""
    later: dict[str, list[int]] = defaultdict(list)
    for number, mark in enumerate(marks):
        later[_PARAGRAPH if mark[_PARAGRAPH] else mark[0]].append(number)
    ends = _environments(marks)
    spans, number = list[tuple[int, int]](), 0
    while number < len(marks):
        opener = marks[number][0]
        closing = ends.get(number) if opener.startswith(r"\begin") else _next(later[_CLOSES.get(opener, "")], number)
        if closing is not None and opener in _IN_A_PARAGRAPH:
            paragraph = _next(later[_PARAGRAPH], number)
            closing = None if paragraph is not None and paragraph < closing else closing
        if closing is None:
            number += 1
            continue
        spans.append((marks[number].start(), marks[closing].end()))
        number = closing + 1
    return spans


def _environments(marks: list[re.Match[str]]) -> dict[int, int]:
    """Of each beginning its own end, which may have others of its name in it."""
    ends, opened = dict[int, int](), defaultdict[str, list[int]](list)
    for number, mark in enumerate(marks):
        what, _, name = mark[0].partition("{")
        if what == r"\begin":
            opened[name].append(number)
        elif what == r"\end" and opened[name]:
            ends[opened[name].pop()] = number
    return ends


def _next(numbers: list[int], behind: int) -> int | None:
    place = bisect_right(numbers, behind)
    return numbers[place] if place < len(numbers) else None
