r"""Right-hand sides of equations as waypoints: `synthesis.extractor=rhs`.

What stands between an `=` and the next relation, the end of the formula, of its line or of the sentence:

    $x = 3^2 + 1 = 10$, so $y = \frac{x}{2}$.        3^2+1   10   \frac{x}{2}
"""

from __future__ import annotations

import re

from dail.synth.method.apparatus import without_apparatus
from dail.synth.method.expressions import LONGEST_WAYPOINT, key, tidy

_RELATION = (
    r"[<>≤≥≡≈≠]|\\(?:le|leq|leqslant|ge|geq|geqslant|lt|gt|ne|neq|equiv|cong|sim|approx|to|rightarrow|Rightarrow"
    r"|Longrightarrow|implies|iff|Leftrightarrow|mid|in|qquad|quad|text|textbf|tag|label|pmod|mod|therefore|because)"
    r"(?![A-Za-z])"
)
_TOKEN = re.compile(
    rf"(?P<equals>\{{\s?=\s?\}}|(?<![:<>!=])=(?!=))"  # \overset{{?}}{{=}} is an equals sign too
    rf"|(?P<open>(?:\\\{{|[{{(\[]|\\begin\{{[A-Za-z]?(?:small)?matrix\}}))"
    rf"|(?P<close>(?:\\\}}|[}})\]]|\\end\{{[A-Za-z]?(?:small)?matrix\}}))"
    rf"|(?P<end>\$|\\\\|\\[\]\)]|\\(?:end|begin)(?![A-Za-z])|\n|[&;]|[.,](?=\s|\Z|\$)|(?<![A-Za-z])[a-z]{{3,}}+|{_RELATION})"
    r"|\\(?:[A-Za-z]++|.)|_\s?\{[^{}]{0,80}\}",  # the k=1 below a sum is no equation
    re.DOTALL,
)
_BOX = re.compile(r"\\boxed\s*+\{(.*)\}", re.DOTALL)
_EDGE = " \t\n.,;:!~"


def right_hand_sides(solution: str, kind: str, answer: str | None) -> list[str]:
    """In order of first appearance, each once, without the answer. A box is taken off."""
    found: dict[str, str] = {}
    for side in _sides(without_apparatus(solution)):
        box = _BOX.fullmatch(side)
        text = tidy(box[1] if box else side).strip(_EDGE)
        if text:
            found.setdefault(key(text), text)
    if answer is not None:
        found.pop(key(answer), None)
    return list(found.values())


def _sides(text: str) -> list[str]:
    """One pass. Brackets that open inside a side hide what would end it."""
    sides, start, depth = list[str](), -1, 0
    for token in _TOKEN.finditer(text):
        if token["open"]:
            depth += 1
        elif token["close"] and depth:
            depth -= 1
        elif depth and token["end"] not in ("$", "\n\n") and start >= 0:
            continue
        elif token["equals"] or token["end"] or token["close"]:
            if start >= 0 and token.start() - start <= LONGEST_WAYPOINT:
                sides.append(text[start : token.start()].strip(_EDGE))
            start, depth = (token.end() if token["equals"] else -1), 0
    if start >= 0 and len(text) - start <= LONGEST_WAYPOINT:
        sides.append(text[start:].strip(_EDGE))
    return sides
