r"""What a solution that is too long for the prompt loses first: its later solutions.

Several human solutions of one problem are a list, or stand in one text under headings, `Solution 1:`, `Solution 2:` …
The authors' code drops the last of them and what follows it, again and again, and halves a text without such a heading.
"""

from __future__ import annotations

import re

from dail.synth.schema.items import ExpertSolution

# A heading of a later solution alone on its line, or with a colon behind its number, in any common dress. What repeats
# is possessive: a line of forty stars is read as dress in one way, not in millions.
_RULE = r"(?:[ \t]*+(?:-{3,}+|\*{3,}+|_{3,}+)[ \t]*+\n\s*+)?"
_DRESS = (
    r"[ \t>-]*+(?:[0-9]\.[ \t])?(?:\#++[ \t]*+|\*++|_++|=++[ \t]*+|\{\\bf[ \t]|\$|<(?:h[1-6]|b|strong|p)>|\[b\]|\[|\("
    r"|\\(?:(?:sub)*section|paragraph|textbf|textit|underline)\*?\{)*+"
)
_GAP = r"[ \t\u00a0]*+"
_NUMBER = r"(?:[2-9][A-C]?|[1-9][0-9]|II|III|IV|V|VI|B|C|D|two|three|four|five)"
_NAMED = (
    rf"(?:solution|sol\.?|method|approach|proof|variant){_GAP}(?:\#|no\.?)?{_GAP}"
    rf"(?:\({_NUMBER}\)|\[{_NUMBER}\]|{_NUMBER}(?![A-Za-z0-9]))"
)
_COUNTED = (
    r"(?:second|third|fourth|fifth|2nd|3rd|4th|5th|II|III|2\.|3\.|alternat(?:e|ive)|another)[ \t]++"
    r"(?:solution|proof|approach|method)(?:[ \t]++[1-9])?+\b"
)
_END = r"[ \t\u00a0]*+(?:[:)\]}*_$]|\.(?![0-9])|</|\[/|=++[ \t]*+$|$|\((?!mod\b)|[-–—](?:[ \t]|$)|by[ \t](?-i:[A-Z]))"
_LATER = re.compile(rf"^{_RULE}{_DRESS}(?:{_NAMED}|{_COUNTED}){_END}", re.MULTILINE | re.IGNORECASE)


def without_last_solution(item: ExpertSolution) -> tuple[ExpertSolution, str] | None:
    """The item without its last solution, and that solution's text; none if it has one only.

    An item of one list member may still have several in that member's text.
    """
    *earlier, last = (item.solution,) if isinstance(item.solution, str) else item.solution
    headings = [found.start() for found in _LATER.finditer(last) if last[: found.start()].strip()]
    if headings:
        kept, dropped = last[: headings[-1]].rstrip(), last[headings[-1] :]
        return _with(item, (*earlier, kept)), dropped
    return (_with(item, tuple(earlier)), last) if earlier else None


def halved(item: ExpertSolution) -> tuple[ExpertSolution, str] | None:
    """The item with the first half of its solution's characters, and the second half; none if nothing would be left."""
    text = item.solution_text
    kept = text[: len(text) // 2].rstrip()
    return (_with(item, (kept,)), text[len(kept) :]) if kept else None


def _with(item: ExpertSolution, solutions: tuple[str, ...]) -> ExpertSolution:
    return item.model_copy(update={"solution": solutions[0] if len(solutions) == 1 else solutions})
