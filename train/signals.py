r"""What is counted in a text to see a collapse: distinct n-grams, loops, self-correction, mentions of a solution.

One pass over the words of a text; loads no torch. Counts add up, so that a share over many texts is a share of sums:

    >>> counts = count_text("Wait, let me check: 2 + 2 = 4.", tokens=12)
    >>> counts.markers, counts.ngrams, counts.distinct
    (2, 9, 9)

Distinct n-grams are counted within windows of `WINDOW` words, since of a whole text the share would fall with its
length, and a long answer would look like a collapsed one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from dail.synth.schema.mentions import mentions

NGRAM, WINDOW = 4, 256
# A window of which so few 4-grams are distinct goes round in a loop of at most 64 words.
_LOOP = 0.25

# Chinese and Japanese are written without spaces: a sign is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")
# Behind these a sentence, or a thought, begins.
_BEGINS = r"(?:^|[.!?…:;(\n–—\"“]\s*|\b(?:but|oh|no|ah|hey|ok|okay|hm+|so|and),?\s+)"
_I_WILL = (
    r"(?:let\s+me|let['’]s|let\s+us|i\s+(?:should|need\s+to|want\s+to|must|have\s+to|will|can|could)|i['’]ll|we\s+should"
    r"|maybe\s+(?:i|we)\s+(?:should|can|need\s+to))\s+(?:(?:just|quickly|also|first|try\s+to|carefully)\s+){0,2}"
)
_MARKERS = (
    rf"{_BEGINS}wait\b(?!\s+(?:times?|lists?|for|until|till|staff|here|there)\b)",
    r"\bhm+\b|\bhmm+\b|\b(?:oops|whoops|uh-oh)\b|\b(?:hold|hang)\s+on\b(?!\s+to\b)",
    rf"{_I_WILL}(?:double[-\s]?check|re-?check|check|verify|re-?verify|confirm|re-?examine|reconsider|re-?think"
    r"|re-?compute|re-?calculate|redo|re-?do|re-?read|revisit|re-?evaluate|think\s+(?:again|about\s+(?:this|it)\s+(?:again"
    r"|differently|more))|start\s+over|try\s+(?:again|another|a\s+different|something\s+else)|backtrack|step\s+back|go\s+back"
    r"|make\s+sure|see\s+(?:if|whether)\s+(?:this|that|it)\b|test\s+(?:this|that|it)\b|correct\s+(?:this|that|myself))",
    rf"{_BEGINS}actually\b|\bactually,",
    r"\bon\s+second\s+thoughts?\b|\bscratch\s+that\b|\b(?:my|a)\s+mistake\b(?!\s+(?:in|of)\s+the\s+book)|\bi\s+was\s+wrong\b"
    r"|\bi\s+mis(?:read|counted|calculated|understood|took)\b|\bi(?:['’]ve|\s+have|\s+may\s+have|\s+might\s+have)?"
    r"\s+(?:made|messed\s+up|overlooked|forgot|forgotten)\b",
    r"\b(?:that|this|it)(?:['’]s|\s+is|\s+was|\s+seems)\s+(?:not\s+(?:quite\s+)?(?:right|correct)|wrong|incorrect|off)\b(?!\s+by\b)",
    r"\b(?:that|this|it)\s+(?:can['’]t|cannot|can\s+not)\s+be(?:\s+(?:right|correct)|(?=\s*[.!?,]))"
    r"|\b(?:that|this|it)\s+(?:doesn['’]t|does\s+not|didn['’]t)\s+(?:seem|look|feel|sound|make\s+sense|work\s+out|add\s+up)\b",
    r"\bsomething(?:['’]s|\s+is|\s+went)\s+(?:wrong|off|amiss)\b|\bsanity\s+check\b|\bto\s+double[-\s]?check\b"
    r"|\bdouble[-\s]?checking\b|\bis\s+(?:that|this|it)\s+(?:right|correct)\s*\?|\bam\s+i\s+(?:sure|missing|right)\b"
    r"|\bi['’]?m\s+not\s+(?:so\s+|quite\s+|entirely\s+)?sure\b",
    rf"{_BEGINS}alternatively\b|\b(?:perhaps|maybe)\s+(?:i|we|there|it|this|that)\b",
    r"(?:^|[。！？!?\n，,…])\s*(?:等等|等一下|等下|慢着)(?=[，,。！!…\n])|(?:^|[。！？!?\n，,…])\s*(?:不对|不是这样)"
    r"|让我(?:们)?(?:再|重新|仔细)?(?:检查|验证|确认|核对|想想|想一下)|再(?:检查|验证|确认|核对|算)一?[下遍次]"
    r"|重新(?:考虑|计算|检查|审视|思考|验证)|(?:^|[。！？!?\n])\s*嗯+[，,。…]|我(?:搞|算|弄|看)错了|其实[，,]",
)
_MARKER = re.compile("|".join(f"(?:{one})" for one in _MARKERS), re.MULTILINE)


@dataclass(frozen=True)
class Counts:
    """Of one text, or added up over `texts`. `tokens` are the model's; `looping`, `mentioning` and `cut` are texts."""

    texts: int = 0
    tokens: int = 0
    ngrams: int = 0
    distinct: int = 0
    markers: int = 0
    looping: int = 0
    mentioning: int = 0
    cut: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def count_text(text: str, tokens: int, *, problem: str = "", is_cut: bool = False) -> Counts:
    """One text's counts.

    Args:
        tokens: how many of the model's tokens it has.
        problem: what was asked; what it says itself is no mention (`mentions`).
        is_cut: whether it ended at a limit of tokens.
    """
    ngrams, distinct, loops = _ngrams(text.lower())
    return Counts(
        texts=1,
        tokens=tokens,
        ngrams=ngrams,
        distinct=distinct,
        markers=len(markers(text)),
        looping=int(loops),
        mentioning=int(bool(mentions(text, problem))),
        cut=int(is_cut),
    )


def markers(text: str) -> list[str]:
    """The words of self-correction in a text, in small letters."""
    return [match[0].strip() for match in _MARKER.finditer(text.lower())]


def _ngrams(text: str) -> tuple[int, int, bool]:
    """How many there are, how many are distinct within their window, and whether one goes round in a loop."""
    words = _WORD.findall(text)
    total, distinct, loops = 0, 0, False
    for start in range(0, len(words), WINDOW):
        window = words[start : start + WINDOW]
        here = len(window) - NGRAM + 1
        if here <= 0:
            break
        found = len(set(zip(window, window[1:], window[2:], window[3:], strict=False)))
        total, distinct = total + here, distinct + found
        # a short window may hold a list; half of one says enough
        loops = loops or (2 * len(window) >= WINDOW and found < _LOOP * here)
    return total, distinct, loops
