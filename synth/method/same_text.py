r"""Equality of two final answers as texts, as the authors' evaluation decides it: `eval.grader=official`.

It is our reading of that, after the published description of the normalisation that came with the MATH data set
(Hendrycks et al. 2021). Spacing, the size of a fraction, degrees, dollars, percent signs and a unit behind `\text{ `
say nothing; `\frac12`, `1/2` and `0.5` are the same, and so are `x = 5` and `5`, `073` and `73`. Nothing is calculated:
`\sqrt{8}` is not `2\sqrt{2}`, and `2/4` is not `1/2`. It is for figures that are compared with the paper's; `math`
judges better.
"""

from __future__ import annotations

import re

_DROPPED = re.compile(
    r"\\!|\\(?:left|right)(?![A-Za-z])|\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?|\\?\$|\\?%|\s+"  # in this order
)
_UNIT = re.compile(r"(?<=\S)\s*\\(?:text|mbox)\{\s.*", re.DOTALL)
_NAME = re.compile(r"[^=]{1,2}=(?=[^=]+\Z)")
_POINT_FIRST = re.compile(r"(?<![0-9])\.(?=[0-9])")
_ROOT = re.compile(r"\\sqrt(?=[^{\[\\A-Za-z])(.)|\\sqrt(?=\s*[A-Za-z])\s*([A-Za-z])")
_ARGUMENT = r"(?:\{(?P<%s>[^{}]*)\}|(?P<%s>[0-9A-Za-z]))"
_FRACTION = re.compile(rf"\\frac{_ARGUMENT % ('above', 'one_above')}{_ARGUMENT % ('below', 'one_below')}")
_RATIO = re.compile(r"(-?[0-9]+)/(-?[0-9]+)")
_LEADING_ZEROS = re.compile(r"\A(-?)0+(?=[0-9])")


def same_text(given: str, wanted: str) -> bool:
    r"""Whether two answers are one text once both are written in one way.

    same_text(r"\dfrac12", "0.5")          True
    same_text(r"12\text{ cm}", "x = 12")   True
    same_text(r"\sqrt{8}", r"2\sqrt{2}")   False
    """
    return normal(given) == normal(wanted)


def normal(answer: str) -> str:
    """The one way of writing."""
    text = _UNIT.sub("", answer.strip())
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\\(frac|sqrt)\s+", r"\\\1", text)
    text = _DROPPED.sub("", text)
    text = _NAME.sub("", text)
    text = _POINT_FIRST.sub("0.", text)
    text = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", text)
    text = _FRACTION.sub(_braced, text)
    text = _RATIO.sub(r"\\frac{\1}{\2}", text) if _RATIO.fullmatch(text) else text
    text = _LEADING_ZEROS.sub(r"\1", text) if re.fullmatch(r"-?[0-9.]+", text) else text
    return r"\frac{1}{2}" if text == "0.5" else text


def _braced(fraction: re.Match[str]) -> str:
    above = fraction["above"] if fraction["one_above"] is None else fraction["one_above"]
    below = fraction["below"] if fraction["one_below"] is None else fraction["one_below"]
    return rf"\frac{{{above}}}{{{below}}}"
