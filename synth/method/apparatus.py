r"""What of an expert solution states no result: figures, headings, labels and references, dates, ordinals, footnotes.

It is a solution's apparatus, of which `without_apparatus` leaves blanks. The rest is read for waypoints.

    Case 2. By (5), on January 5, 2024, the 3rd figure [asy]draw((0,0)--(13,17));[/asy] shows $x = 7$.
    only 7 is left of the numbers

Where a text may be either, what stands around it decides: `(3)` after a sentence is a reference, after `=` or `\cdot` a
number; `12:30` after `=` is a ratio; `15. ` at the start of a line is the end of a sentence unless 14. came before it.
"""

from __future__ import annotations

import re

from dail.synth.method.figures import BLANK, blanked, without_figures

_HEADING = re.compile(
    r"^[ \t]{0,3}#{1,6}[ \t][^\n]*+"  # Markdown
    r"|^={2,6}[^=\n]{1,200}={2,6}[ \t]*+$"  # MediaWiki
    r"|\\(?:(?:sub){0,2}section|(?:sub)?paragraph|chapter|part|title)\*?\s{0,4}\{[^{}]{0,200}\}"
    r"|<h[1-6][^<>]{0,80}>[^<]{0,200}</h[1-6]>",
    re.MULTILINE | re.IGNORECASE,
)

# "we claim 5 is prime", "for example 5", "the solution 5": these name something only with a capital
_NAMED = (
    r"(?i:(?:sub)?problem|step|(?:sub)?case|(?:sub)?lemma|theorem|thm\.?|prop(?:osition|\.)|corollar(?:y|ie)|equation"
    r"|eqn?\.?|formula|inequality|relation|identity|condition|part|(?:sub)?section|sec\.|figure|fig\.|exercise|remark"
    r"|definition|method|approach|proof|table|chapter|question|item|footnote|fact|property)"
    r"|Claim|Solution|SOLUTION|CLAIM|Example|Observation|Way|Alternative|(?:Note|claim)(?= [0-9]{1,2}[.:])|§"
    r"|Algorithm|Appendix|Assumption|Axiom|Comment|Conjecture|Diagram|Hint|Hypothesis|Idea|Notation|Option|Paragraph|Phase"
    r"|Postulate|Scenario|Situation|Stage|Statement|Task|Trick|pp?\.|Q\.(?=\s?[0-9])"
)
_GAP = r"(?:[\s~#$*}]|\\[ ,;]|№|[Nn]o\.){0,5}"
_ORDINAL_NUMBER = r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){0,3}[a-z]?'{0,2}(?![0-9A-Za-z^_]|[.,][0-9]))"
# What makes a formula of it: the inequality 1 \\le 5, part 1/3, formula 7 - 2 = 5.
_GOES_ON = (
    r"\s{0,2}(?:[=<>≤≥≡≈≠^×·÷]|[+*/]\s?(?:[0-9\\(]|[a-z](?![a-z]))|[-−]\s?[0-9a-z]{1,3}\s?[=<>]"
    r"|\\(?:le|ge|lt|gt|ne|leq|geq|neq|equiv|cong|approx|mid|cdot|times|div|pm)(?![A-Za-z]))"
)
_IN_BRACKETS = rf"(?:\(\s?{_ORDINAL_NUMBER}\s?\)|\[\s?{_ORDINAL_NUMBER}\s?\])"
_MORE = r"\$?\s{0,2}(?:,\s{0,2}(?:and|or)?|and|or|&|to|through|[-–—]{1,3})\s{0,2}\$?"
_REFERENCE = re.compile(
    rf"(?=[A-Za-z§])(?<![A-Za-z\\])(?<!begin\{{)(?<!end\{{)(?:{_NAMED})(?:e?s?{_GAP}{_IN_BRACKETS}(?:{_MORE}{_IN_BRACKETS}){{0,8}}"
    rf"|e?s{_GAP}{_ORDINAL_NUMBER}(?:{_MORE}{_ORDINAL_NUMBER}){{0,8}}"
    rf"|{_GAP}{_ORDINAL_NUMBER}(?:[-–—]{{1,2}}[0-9]{{1,3}}(?!\w))?)(?!{_GOES_ON})"
)

_OPERATOR = (
    r"\\(?:cdot|times|div|pm|mp|ast|le|leq|leqslant|ge|geq|geqslant|ne|neq|equiv|cong|sim|approx|mid|nmid|lt|gt|over"
    r"|log|ln|lg|exp|sin|cos|tan|cot|sec|csc|arc[a-z]{3}|gcd|lcm|min|max|det|deg|frac|sqrt|operatorname)(?![A-Za-z])"
)
# The first alternative is read so that the second does not start in it: f(3), \cdot (3), = (3), (3)(4) are numbers.
_ENUMERATION = re.compile(
    rf"(?:{_OPERATOR}\s{{0,4}}|[\w)}}\]!'^+*/=<>≤≥≡·×÷|−-]|[+*/=<>≤≥≡·×÷&−-]\s{{1,4}})\(\s?[0-9]++"
    r"|(?P<apparatus>\(\s?(?:[0-9]{1,2}[a-z]?'{0,2})\s?\)(?!\s{0,4}(?:[-+*/^=<>≤≥≡·×÷(!−]|\\(?:cdot|times|div|pm|mp|le"
    r"|leq|ge|geq|ne|neq|equiv|cong|approx|mid)(?![A-Za-z]))|[A-Za-z0-9\[_]))"
)

_LABEL_AT_START = re.compile(
    r"(?:\A(?! \S)|(?<=\n))[ \t]*+(?:\*\*|\\textbf\{|\\item\s)?(?P<label>(?P<number>[0-9]{1,2})[.)])"
    r"(?=(?:\*\*|\})?[ \t]++\S)"
    r"|\\item\s{0,4}(?P<option>\[[^\]\n]{0,40}\])"
)

_MONTH = r"(?:Jan(?:uary|\.)?|Feb(?:ruary|\.)?|Mar(?:ch|\.)?|Apr(?:il|\.)?|June?|July?|Aug(?:ust|\.)?" + (
    r"|Sept?(?:ember|\.)?|Oct(?:ober|\.)?|Nov(?:ember|\.)?|Dec(?:ember|\.)?)"
)
_YEAR = r"(?:1[0-9]|20)[0-9]{2}(?![0-9])"
_SUFFIX = r"(?:st|nd|rd|th)"
_DAY = r"(?:0?[1-9]|[12][0-9]|3[01])"
_DATE = re.compile(
    r"[0-9](?<![\w./-][0-9])(?:(?<=[12])[0-9]{3}(?P<between>[-/.])(?:0?[1-9]|1[0-2])(?P=between)(?:0[1-9]|[12][0-9]|3[01]|[1-9])"
    r"(?:T[0-9:.]{4,15}Z?)?(?![\w/-])(?!\s{0,2}[=^])"
    rf"|(?:(?<=[0-3])[0-9])?(?P<dot>[/.])[0-3]?[0-9](?P=dot){_YEAR}(?![/\w])"
    r"|(?<=[0-3])[0-9]/[0-3][0-9]/[0-9]{2}(?![/\w])"
    rf"|[0-9]?{_SUFFIX}?[ ~](?:of )?(?:{_MONTH}|May)(?![A-Za-z])(?:,?[ ~]{_YEAR})?)"
    rf"|(?<![A-Za-z])(?:{_MONTH}[ ~](?:{_DAY}{_SUFFIX}?(?![\w^])(?:,?[ ~]{{1,2}}{_YEAR})?|{_YEAR})"
    rf"|May[ ~](?:{_DAY}(?:{_SUFFIX}(?:,?[ ~]{_YEAR})?|,?[ ~]{{1,2}}{_YEAR})|{_YEAR}))"
)
_TIME = re.compile(
    r"[0-9](?<![\w.:][0-9])[0-9]?:[0-5][0-9](?::[0-5][0-9])?(?![\w:])(?!\s{0,2}[=:])"
    r"(?:\s?(?:[AaPp]\.?[Mm]\b\.?|o'clock))?"
)
_OF_A_RATIO = re.compile(
    r"ratio|proportion|divid|mix|scale|split|shar|[=:∼~]\s*\$?$|\\(?:sim|colon)\s*$|odds", re.IGNORECASE
)
_AT_A_TIME = re.compile(
    r"\b(?:at|from|until|till|by|to|before|after|around|and|time|clock|shows?)[\s$]*$", re.IGNORECASE
)

_ORDINAL = re.compile(
    rf"[0-9](?<![\w.][0-9])[0-9]*+(?:,[0-9]{{3}})*+\$?-?\$?(?:{_SUFFIX}(?![A-Za-z])"
    rf"|\s?\^\s?(?:\{{\s?(?:\\(?:text|mathrm|textrm|rm|mbox)\s?)?\{{?\s?{_SUFFIX}\s?\}}|{_SUFFIX}(?![A-Za-z])"
    rf"|\\(?:text|mathrm|textrm|mbox)\s?\{{\s?{_SUFFIX}\s?\}})"
    rf"|\\(?:text|mathrm|textrm|mbox|textsuperscript)\s?\{{-?\s?{_SUFFIX}\s?\}}|<sup>{_SUFFIX}</sup>)"
)
_FOOTNOTE = re.compile(
    r"\[\^[0-9]{1,3}\]|\\footnote(?:mark|text)?\[[0-9]{1,3}\]"
    r"|\[[0-9]{1,2}(?:, ?[0-9]{1,2}){0,5}\](?<!\\sqrt\[[0-9]\])(?=(?!\s?[\[{(^=])(?![A-Za-z0-9]))"
    r"|\$\s?\^\s?(?:\{\s?[0-9]{1,2}\s?\}|[0-9])\s?\$|\^(?:\{[0-9]{1,2}\}|[0-9]{1,2})(?![0-9])"
    r"|\\textsuperscript\{[0-9]{1,2}\}|<sup>\s?\[?[0-9]{1,2}\]?\s?</sup>"
)
# Before a mark that could as well be an exponent or an index: the end of a word or of a sentence.
_WORD_BEFORE = re.compile(r"(?:[a-z]{3}|[A-Za-z)][.,;:!?\"”’])$")
_SENTENCE_BEFORE = re.compile(r"[A-Za-z$)}][.,;:!?\"”’]$")
_OF_A_LIST = re.compile(r"\b(?:array|interval|list|over|pair|range|row|segment|sequence|set|tuple|values?|vector)\s$")
_BEFORE_CITATION = re.compile(r"(?:[a-z]{3}[.,;:!?]?\s?|[A-Za-z$)}0-9][.,;:!?])$")


def without_apparatus(solution: str) -> str:
    """The text with its apparatus blanked out, each character by one, so that all else keeps its place."""
    text = without_figures(solution)
    for pattern in (_HEADING, _DATE, _REFERENCE, _ORDINAL):
        text = pattern.sub(_blank, text)
    text = _TIME.sub(_blank_time, text)
    text = _ENUMERATION.sub(_blank_group, text)
    text = _FOOTNOTE.sub(_blank_footnote, text)
    return _without_labels(text)


def _blank(match: re.Match[str]) -> str:
    return BLANK * len(match[0])


def _blank_group(match: re.Match[str]) -> str:
    return _blank(match) if match["apparatus"] else match[0]


def _before(match: re.Match[str], size: int) -> str:
    return match.string[max(0, match.start() - size) : match.start()]


def _blank_time(match: re.Match[str]) -> str:
    if _OF_A_RATIO.search(_before(match, 24)):
        return match[0]
    is_plain = match[0][1] != ":" or match[0][-1] not in "0123456789"  # 12:30, 9:15 pm; 9:15 wants a word before it
    return _blank(match) if is_plain or _AT_A_TIME.search(_before(match, 12)) else match[0]


def _blank_footnote(match: re.Match[str]) -> str:
    mark = match[0]
    if mark.startswith(("[^", "\\footnote")):
        return _blank(match)
    wanted = _BEFORE_CITATION if mark[0] == "[" else _SENTENCE_BEFORE if mark[0] == "^" else _WORD_BEFORE
    if mark[0] == "[" and "," in mark and _OF_A_LIST.search(_before(match, 16)):
        return mark
    return _blank(match) if wanted.search(_before(match, 5)) and "\\" not in _before(match, 5) else mark


def _without_labels(text: str) -> str:
    """Without `1. ` and `2) ` at starts of lines. After a line that broke off, a number goes on with its sentence."""
    last = 0
    spans: list[tuple[int, int]] = []
    for match in _LABEL_AT_START.finditer(text):
        if match["option"]:
            spans.append(match.span("option"))
            continue
        number = int(match["number"])
        before = text[match.start() - 2] if match.start() > 1 else ""
        if (number == last + 1 and last) or not (before.isalnum() or (before and before in "=,+-(&")):
            spans.append(match.span("label"))
            last = number
    return blanked(text, spans)
