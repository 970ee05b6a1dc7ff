r"""Whether a text gives away that its writer was shown a solution, an answer or a hint: a list of phrasings.

Traces are drawn by a model that sees the expert solution, and what is learnt from them is used where there is none: a
trace that cites it teaches to make up what cannot be seen. Loads nothing but `re`, and takes time in proportion to the
text.

    >>> mentions("According to the reference solution, n is odd."), mentions("In the reference frame of the train")
    (['according to the reference solution'], [])
"""

from __future__ import annotations

import re

# What may have been shown. "Solution" is also a liquid, a set, a root and a function, so it never counts alone.
_THING = (
    r"(?:solutions?|answers?|hints?|proofs?|derivations?|explanations?|write-?ups?|worked examples?|demonstrations?)"
)
# What follows makes it another thing: the solution set, the answer sheet, a solution of salt, a root of an equation.
_NOT_ELSE = (
    r"(?! (?:(?:sets?|spaces?|curves?|vectors?|pairs?|sheets?|choices?|options?|boxes|box|fields?|forms?|formats?"
    r"|problems?|to (?:the |this )?(?:equation|system|inequality|recurrence))\b"
    r"|of (?!the (?:problem|expert|author|teacher)|this problem|\d)[\w$\\]))"
)
# A word before it that says that somebody else wrote it.
_OTHERS = (
    r"(?:reference|provided|supplied|official|model|expert(?:['’]?s)?|ground[- ]truth|gold(?:en|[- ]standard)?|oracle"
    r"|author['’]?s['’]?|teacher['’]?s|instructor['’]?s|textbook['’]?s?|editorial|privileged|attached|accompanying"
    r"|sample|worked|suggested|human|published)"
)
# These say so of an answer or a proof, and of a solution only where no root or liquid is meant.
_MAYBE = r"(?:given|known|stated|expected|target|intended|standard|shown|hidden)"
_SAYS = (
    r"(?:says?|said|states?|claims?|mentions?|tells?|asserts?|argues?|writes?|wrote|suggests?|considers|begins|starts"
    r"|proceeds|continues|skips?|jumps|instructs|recommends|remarks|notes|explains|indicates)"
)
_SHOWN = r"(?:provided|given|supplied|shown|attached|included|handed)"
_GIVER = (
    r"(?:in|by|to|with) (?:the |my |this )?(?:prompts?|problem statement|user|instructions?|me|us|context|task|chat"
    r"|message)\b"
)
_END = r"(?=\s*(?:[,.;:!?)\"”]|$|we\b|i\b|it\b|this\b|that\b|here\b|the\b|above,))"

_PLAIN = (
    r"(?:given|provided|correct|final|full|complete|detailed|short|written|original|exact|step-by-step|whole|sketched"
    r"|expert|reference|official|model|\w+-(?:provided|written|given))"
)
_BY = r"(?:according to |following |based on |as per |per |from |in |as in )?"

_PHRASINGS = (
    rf"{_BY}(?:the|a|an|this|that|our|its|my|your) (?:{_PLAIN} ){{0,2}}(?:{_OTHERS}|\w+-(?:provided|written))"
    rf" (?:(?:and|or) \w+ )?(?:{_PLAIN} ){{0,2}}{_THING}(?:['’]s)?\b{_NOT_ELSE}",
    rf"\b(?:according to|following|as per|per) the given (?:{_PLAIN} ){{0,2}}(?:solution|answer|proof"
    rf"|hint)\b{_NOT_ELSE}",
    # a thing of somebody's
    rf"\b(?:the|this|a) {_THING} (?:from|by|of|written by|given by|provided by) (?:the|an"
    rf"|our) (?:human )?(?:expert|author"
    r"|teacher|instructor|key)\b",
    r"\b(?:the|this) solution['’]s (?:own )?(?:approach|method|argument|reasoning|way|steps?|idea|notation|claim"
    r"|result"
    r"|answer|derivation|logic|author|wording|strategy|trick)\b",
    r"\b(?:the|a) (?:solutions?|answers?) (?:manual|guide|sketch|outline|text)\b|\bback of the (?:text)?book\b",
    r"\b(?:solution|answer|hint|text) (?:is|was|as) (?:only |just )?for reference\b",
    # "the given answer", "the expected answer of 25"; a standard solution is a liquid, a known solution a function
    rf"\b(?:the|this) {_MAYBE} (?:final |correct )?(?:answer|proof|derivation|explanation|hint)s?\b"
    r"(?! (?:(?:sheets?|choices?|options?|problems?|boxes|box|fields?|forms?|formats?)\b"
    r"|(?:is|should be|must be|will be) (?:an?|in|given|expressed|positive|negative|of|rounded|either|between)\b))",
    rf"\b(?:the|this) (?:given|intended|hidden|expected|shown) solution\b{_NOT_ELSE}(?! is (?:valid|a root))",
    r"\b(?:the |a )?ground[- ]truth\b(?! tables?)",
    r"\b(?:the|an) answer key\b(?! of)|\b(?:the|a) (?:mark(?:ing)?|grading) scheme\b|\bthe rubrics? \w+",
    r"\bfrom the key(?=\s*[,.;:]|\s+(?:we|i|that|it)\b)",
    # who speaks: the solution says, the hint suggests, the expert writes, the reference gives
    rf"\b(?:the|this) solution (?:also |already |then |even |itself |only |just |clearly |here |above "
    rf"|above also |goes on to )?(?:{_SAYS}"
    rf"|shows (?:that|how|us))\b(?! (?:of|to (?:boil|freeze|react|cool)|(?:a|its) ph)\b)",
    rf"\b(?:the|this|that) (?:hint|answer key|editorial|rubric)s? (?:also |already )?(?:{_SAYS}|uses?|gives?|is to"
    r"|asks?|lists?)\b|\bhints? (?:says?|states|suggests|tells|recommends)\b|\bthe key (?:says|lists|states)\b",
    r"\b(?:the|this) expert (?:says|said|states|writes|wrote|uses|used|notes|claims|defines|defined|chose|chooses"
    r"|sets"
    r"|lets|considers|derives|derived|concludes|concluded|gets|got|skips|assumes|did|does)\b",
    r"\b(?:the|this) expert['’]s (?:approach|method|reasoning|argument|way|idea|notation|work|result|steps?)\b",
    r"\b(?:the|this) (?:reference|textbook) (?:says|states|claims|uses|notes|mentions|gives|shows|writes|got|has"
    r"|lists)\b",
    r"\bin the reference\s*[,.;]|\bas (?:shown|stated|given|done|seen|written|derived) in the reference\b(?! \w)",
    r"\b(?:consistent with|match(?:es|ed|ing)?|agree(?:s|d|ing)? with|in line with|against|compar(?:e|es|ed"
    r"|ing) (?:to|with)"
    r"|per) the (?:reference|key|expert)(?=\s*[,.;:)]|\s+(?:i|we|it|this|that|and|but|so)\b|$)",
    r"\b(?:the|this) (?:provided|given|supplied|attached) reference(?=\s*[,.;:]|\s+(?:has|says|states|is|uses"
    r"|gives|shows"
    r"|does|text|material)\b)",
    # where it is taken from
    r"\b(?:know|known|knew|see|saw|seen|learn|learned|learnt|read|got|took|taken|copy"
    r"|copied) (?:[^.,;]{1,50} )?from the"
    r" (?:solution|answer key|reference|key)(?=\s*[,.;:)]|\s+(?:that|and|we|i)\b|$)",
    r"\b(?:have|had|has|having|were|was|am|are|been) (?:already |also |just )?(?:seen|read|shown|access to|looked at)"
    rf" (?:the|a|any) (?:\w+ )?(?:solution|answer|hint)\b{_NOT_ELSE}",
    r"\b(?:answer|result|solution|one) (?:provided |given |stated |shown |found |written )?(?:in|by"
    r"|from) the (?:reference|answer"
    r" key|official|expert|solution)(?=\s*[,.;:)]|\s+(?:is|was|we|i|and|which|says|has)\b|$)",
    r"\b(?:according to|as per|per|based on|following|using|use|used|apply|applying|from|by|in"
    r"|with) the hints?\b(?! of)",
    r"\bas (?:the hints?\b|(?:suggested|stated|given|said|noted|indicated|recommended|provided) (?:in"
    r"|by) the hints?\b)",
    rf"\b(?:according to|as per|per) (?:the|this) (?:final )?(?:solution|answer|explanation|key|expert|reference)\b"
    rf"{_NOT_ELSE}",
    rf"\bas (?:shown|stated|given|done|seen|written|derived|described|explained|suggested|noted|claimed|provided"
    r"|mentioned|indicated|found) (?:in|by)"
    rf" the (?:solution|answer|explanation)\b{_NOT_ELSE}",
    rf"\b(?:looking|look|looked|going|refer|referring|referred|turning|peek|peeking) (?:back )?(?:at|to) the"
    rf" (?:solution|answer|expert)\b{_NOT_ELSE}",
    rf"\b(?:we|i) (?:can )?(?:know|see|read|learn|get|have) (?:that )?from the (?:solution|answer)\b{_NOT_ELSE}",
    rf"\bfollowing the solution\b{_END}",
    r"\bhow the solution (?:gets|got|arrives|does|obtains|goes|comes)\b",
    rf"\b(?:the|a|this) (?:correct |final |full |complete |detailed )?solution"
    rf" (?:that (?:was|is) |which (?:was|is) |i was |i am |we were |we are )?{_SHOWN}"
    r"(?=\s*[,.;:]|\s+(?:here|above|below|uses?|says|skips|states|is|does|has|considers|" + _GIVER + r"))",
    r"\bthe answer (?:that (?:was|is) |which (?:was|is) )?(?:provided|supplied|given|stated) " + _GIVER,
    r"\b(?:the|a|this) hint (?:that )?(?:was |is |(?:i|we) (?:was|were|am|are|have been) )?(?:provided|given"
    r"|supplied)\b",
    r"\b(?:told|gave|informed|given) (?:us|me) (?:that )?the (?:final |correct )?(?:answer|solution)\b(?! (?:to"
    r"|of|sheet))",
    r"\bthe (?:final |correct )?(?:answer|solution) is already (?:given|known|provided|supplied|there)\b",
    r"\bprivileged (?:information|context|hint)\b",
    r"\bthe (?:final |correct |right )?answer (?:that (?:was|is) |which (?:was|is) )?(?:provided|supplied|given)"
    r"(?=\s*[,;:]| (?:is|was|as|here)\b)",
    r"\b(?:knowing|(?:we|i) (?:already |do )?know) (?:that )?the (?:final |correct |right )?answer (?:is"
    r"|should be|must be)"
    r"(?= (?:\d|\$|\\|-\d|supposed))",
    r"\b(?:it['’]s|it is|it was|we have) (?:given|known|stated) that the (?:final |correct |right )?answer is\b",
    r"\b(?:solution|answer|hint|proof) (?:that |which )?(?:they|he|she|you|the user|somebody|someone) (?:gave"
    r"|sent|showed|provided|handed)"
    r" (?:me|us)\b|\bcomes with (?:a|the|its) (?:solution|answer|hint)\b",
    # who gave it
    r"\b(?:we|i)(?: are| were| was| am| have been|['’]re|['’]m|['’]ve been)? (?:told|given"
    r"|informed) (?:that )?(?:the|a|an)"
    rf" (?:final |correct |right |expert['’]?s? |reference )*(?:answer|solution|hint)\b{_NOT_ELSE}",
    r"\b(?:the|a|its) (?:final |correct |right )?answer is (?:(?:given|known|stated|told|said) (?:as|to be)"
    r"|supposed to be (?=[\d$\\-]))",
    rf"\bthe (?:user|prompt|instructions?|system prompt|task) (?:has |have |had |also )?(?:already )?"
    rf"(?:gave|gives?|given|provided?|provides|shared|shows?|showed|included?|includes|attached|supplied|supplies)"
    rf" (?:me |us )?(?:with )?(?:the|a|an) (?:\w+(?:['’]s)? ){{0,2}}{_THING}\b",
    r"\b(?:provided|given|listed|supplied) (?:waypoints|intermediate results)\b"
    r"|\b(?:waypoints|intermediate results) (?:that (?:were|are) )?(?:provided|supplied|given|listed)\b",
    # what the instructions said
    r"\b(?:without|never|not|avoid|don['’]t) (?:to )?(?:mention(?:ing)?|reveal|say|admit|show|refer(?:ring)? to"
    r"|cit(?:e|ing)|reveal(?:ing)?"
    r"|quot(?:e|ing)|copy(?:ing)?) (?:that )?(?:(?:i|we) (?:have |had |was |were |am )?(?:seen|given|know|shown) )?"
    r"(?:the|a|any) (?:\w+ )?(?:solution|answer|hint|expert|reference)\b",
    r"\bpretend(?:ing)? (?:that )?(?:i|we|not|to) (?:\w+ ){0,4}(?:the|a|any) (?:\w+ )?(?:solution|answer)\b",
    # Chinese: reference, standard, given, provided answer or solution; by the hint
    r"(?:参考|标准|给出的|给定的|提供的|所给的?|专家的?|官方的?)(?:答案|解答|解法|解析|证明)|根据(?:提示|答案|解答|解析)"
    r"|提示(?:说|告诉|建议|指出)",
    # French, German, Spanish, Portuguese, Italian
    r"\bsolution (?:de référence|de l['’]expert|fournie|officielle)\b|\bréponse (?:fournie|de référence|attendue)\b",
    r"\b(?:musterlösung|referenzlösung|lösungsschlüssel|(?:vor)?gegebenen? (?:muster)?lösung(?! der)"
    r"|angegebenen? antwort)\b",
    r"\bsoluci[óo]n (?:de referencia|del experto|proporcionada|oficial)\b"
    r"|\brespuesta (?:proporcionada|de referencia)\b",
    r"\bsolução (?:de referência|fornecida|oficial)\b|\bsoluzione (?:di riferimento|fornita|ufficiale)\b",
)  # fmt: skip
_MENTION = re.compile("|".join(f"(?:{one})" for one in _PHRASINGS))
# One of these is in every phrasing. Most of a long trace is far from any, and need not be looked at so closely.
_STEM = re.compile(
    "solution|answer|hint|proof|derivation|explanation|write|worked|demonstration|truth|scheme|rubric|key|expert|reference"
    "|textbook|book|privileged|editorial|waypoint|intermediate|答案|解答|解法|解析|证明|提示|réponse|lösung|antwort|soluci|respuesta|solução"
    "|soluzione"
)
_AROUND = 120  # characters on either side of a stem; no phrasing is longer
_SPACE = re.compile(r"[\s*_`]+")  # a line break or emphasis in the middle of a phrase changes nothing
# Two words that are often in a problem, where an answer may take them up.
_IN_PROBLEMS = re.compile(r"\b(?:hint|key)")


def mentions(text: str, problem: str = "") -> list[str]:
    """The phrases that give it away, in order and in small letters.

    Args:
        problem: what was asked; a phrase that stands in it, or a hint that it gives itself, may be taken up.
    """
    text = _SPACE.sub(" ", text).lower()
    found = [match[0] for start, end in _places(text) for match in _MENTION.finditer(text, start, end)]
    if not found or not problem:
        return found
    asked = _SPACE.sub(" ", problem).lower()
    own = {word[0] for word in _IN_PROBLEMS.finditer(asked)}
    return [one for one in found if one not in asked and not any(word in one for word in own)]


def _places(text: str) -> list[tuple[int, int]]:
    """Stretches around stems, joined where they meet."""
    places: list[tuple[int, int]] = []
    for stem in _STEM.finditer(text):
        start, end = max(0, stem.start() - _AROUND), stem.end() + _AROUND
        if places and start <= places[-1][1]:
            start = places.pop()[0]
        places.append((start, end))
    return places
