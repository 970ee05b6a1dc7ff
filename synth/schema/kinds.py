r"""What kind of item an expert solution is, and what its answer is, by a rule that is told.

    a `kind` that is stated             stands
    an answer                           verifiable, by that answer
    the word "proof" as an answer       a proof
    no answer, a box in the solution    verifiable, by the box; a proof if `lone_box` is "nothing"
    neither                             a proof

Wrappings of an answer are peeled (`$24$`, `\boxed{24}`, `\(24\)`), and words that mean none are none ("notfound").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from dail.synth.core.config import Frozen
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.items import ExpertSolution, Kind

LoneBox = Literal["answer", "nothing"]
Found = Literal["answer", "box", "nowhere"]

# Of an answer's letters and digits alone, in small letters: `See solution.` is seesolution. The answers "square" and
# "no solution" are answers.
_PROOF = re.compile(
    r"(?:a|the|see(?:the)?)?(?:proofs?|prove[dn]?)(?:problem|question|based|above|below|given|provided|required|needed"
    r"|omitted|complete)?|the(?:proofiscomplete|statementis(?:proved|proven))|qed|quoderatdemonstrandum"
)
_NONE = re.compile(
    r"|none|null|nan|unknown|unspecified|missing|tbd|todo|none(?:given|found|provided)"
    r"|(?:answer|solution)?(?:is)?not(?:found|available|provided|given|applicable|specified|stated)"
    r"|no(?:final|boxed)?answer(?:found|given|provided|available|specified)?"
    r"|see(?:the)?(?:solution|explanation|text)?(?:above|below)?"
)
_SIGNS_OF_NONE = {
    **dict.fromkeys(("N/A", "n/a", "N.A.", "n.a.", "NA", "<NA>", "#N/A", "[]", "{}"), "none"),  # Na is a metal
    **dict.fromkeys((r"\square", r"\blacksquare", "□", "■", "∎"), "qed"),
}
_WRAPPINGS = (
    ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("__", "__"), ("*", "*"), ("`", "`"),
    ('"', '"'), ("'", "'"), ("<answer>", "</answer>"), (r"\boxed{", "}"), (r"\fbox{", "}"), (r"\framebox{", "}"),
    (r"\ensuremath{", "}"), (r"\text{", "}"), (r"\textbf{", "}"), (r"\mathrm{", "}"), (r"\displaystyle{", "}"),
)  # fmt: skip
_SAYS = r"(?:the\s+)?(?:final\s+)?ans(?:wer)?(?:\s+is)?\s*(?::|\.(?=[\s*}])|(?<=is)\s)\s*"
_INTRODUCTION = re.compile(
    rf"(?:#{{2,6}}\s+|(\*\*|\*){_SAYS}\1\s*|\\text(?:bf)?\{{{_SAYS}\}}\s*|{_SAYS})(?=\S)", re.IGNORECASE
)
_REMARK = re.compile(r"(?<!\s)\s*+I hope it is correct\.?\Z")  # of prompts that ask for it
_DEEPEST = 32  # wrappings in wrappings: more are a typing error or an attack
_STOP = " \t\n.,;。"
_WORDS_ONLY = (r"\text{", r"\textbf{", r"\mathrm{", r"\displaystyle{")  # a text in these may be an answer as it stands
_NO_LETTER = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Resolved:
    """`answer` is what a completion is held against; `found` says where it stood."""

    kind: Kind
    answer: str | None
    found: Found


def resolve(item: ExpertSolution, lone_box: LoneBox = "answer") -> Resolved:
    """By the rule above. A proof may have an answer too, which is no waypoint then."""
    given = stated_answer(item.answer)
    box = stated_answer(final_answer(item.solution_text))
    answer = given or box
    found: Found = "answer" if given else "box" if box else "nowhere"
    if item.kind is not None:
        return Resolved(item.kind, answer, found)
    if given or (box and lone_box == "answer" and not says_proof(item.answer)):
        return Resolved("verifiable", answer, found)
    return Resolved("proof", answer, found)


def stated_answer(answer: str | None) -> str | None:
    """The answer without its wrappings; none for a word that means there is none."""
    if answer is None or _NONE.fullmatch(_word(answer)) or _PROOF.fullmatch(_word(answer)):
        return None
    return _peeled(answer, [one for one in _WRAPPINGS if one[0] not in _WORDS_ONLY]) or None


def says_proof(answer: str | None) -> bool:
    """Whether the answer is the word that there is none, since the problem asks for a proof."""
    return answer is not None and _PROOF.fullmatch(_word(answer)) is not None


def _word(answer: str) -> str:
    """Letters and digits alone; an answer without any, as `-` or `\\emptyset`'s sign, is no word but for the dashes."""
    bare = _peeled(answer, list(_WRAPPINGS))
    if bare in _SIGNS_OF_NONE:
        return _SIGNS_OF_NONE[bare]
    letters = _NO_LETTER.sub("", bare).lower()
    return letters if letters or not bare.strip("-–—?. /") else bare


def _peeled(text: str, wrappings: list[tuple[str, str]]) -> str:
    """Without an introduction and what stands around all of it."""
    text = _REMARK.sub("", text.strip())
    for _ in range(_DEEPEST):
        if introduction := _INTRODUCTION.match(text):
            text = text[introduction.end() :]
            continue
        inner = _inside(text, wrappings)
        if inner is None:
            inner = _inside(text.rstrip(_STOP), wrappings)  # $24$.
        if inner is None:
            break
        text = inner.strip()
    return text


def _inside(text: str, wrappings: list[tuple[str, str]]) -> str | None:
    for start, end in wrappings:
        if text.startswith(start) and text.endswith(end) and len(text) >= len(start + end):
            inner = text[len(start) : len(text) - len(end)]
            if _is_whole(inner, start):
                return inner
    return None


def _is_whole(inner: str, start: str) -> bool:
    """Whether the end belongs to the start: not `$1$ or $2$`, not `\\boxed{1} or \\boxed{2}`."""
    if not start.endswith("{"):
        return start not in inner.replace("\\$", "") and not inner.endswith("\\")
    depth = 0
    for char in re.sub(r"\\[{}]", "", inner):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0


class ItemKinds(Frozen):
    """How many items are of which kind. The first four add up to all (counted by `dail.synth.method.counts`)."""

    by_answer: int = Field(0, description="verifiable, by the answer that was given")
    by_box: int = Field(0, description="verifiable, by the last box of the solution")
    without_answer: int = Field(0, description="said to be verifiable, with neither an answer nor a box")
    proofs: int = 0
    without_waypoints: int | None = Field(
        None, description="whose negative reference is told no waypoint; null where that was not counted"
    )

    def told(self) -> str:
        """
        >>> ItemKinds(by_answer=2, by_box=1, without_waypoints=0).told()
        'verifiable: 2 by answer, 1 by the box of the solution, 0 without answer; 0 proofs; 0 without waypoints'
        """
        bare = "" if self.without_waypoints is None else f"; {self.without_waypoints} without waypoints"
        return (
            f"verifiable: {self.by_answer} by answer, {self.by_box} by the box of the solution, {self.without_answer} "
            f"without answer; {self.proofs} proof{'' if self.proofs == 1 else 's'}{bare}"
        )
