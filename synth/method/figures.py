"""What a solution draws or shows instead of saying: figure code in every dress, pictures, and what marks text up.

`without_figures` leaves blanks of it, so that no coordinate, width or address is taken for a result. Names of the
languages: Asymptote, TikZ, PSTricks, SVG; as environment, tag, forum code, fence or single command. Fenced code of
another kind is kept: it may calculate what the solution goes on with.
"""

from __future__ import annotations

import re

BLANK = "$"  # a dollar is part of no expression, so nothing is joined across it

_NAMES = (
    r"asy(?:mptote|def)?|tikz(?:picture|cd)?|figure|wrapfigure|subfigure|pspicture|picture|svg|img|attachment|geogebra"
)
_MARK = re.compile(
    rf"(?:\\(?:begin|(?P<end>end))\s{{0,4}}\{{\s{{0,4}}|\[\s{{0,4}}(?P<slash>/)?|(?:<|&lt;)\s{{0,4}}(?P<tag>/)?)"
    rf"(?P<name>{_NAMES})\b\*?(?:[\s=][^\]}}<>\n]{{0,200}})?\s{{0,4}}(?:\}}|\]|>|&gt;)",
    re.IGNORECASE,
)
_DRAWING = (
    r"(?:\s*+(?:latex|tex)?\s*+(?:\\begin\{(?:tikz|asy|pspicture)|<svg\b|\\tikz\b|import (?:graph|olympiad|cse5"
    r"|geometry|math|three|markers|patterns)\s?;|(?:size|unitsize|draw|filldraw|defaultpen)\s?\(|pair [A-Z]))"
)
_FENCED = re.compile(
    rf"```(?:[ \t]*+(?:asy(?:mptote)?|tikz|svg)\b|(?={_DRAWING}))[^`]*+(?:`(?!``)[^`]*+)*+```"
    rf"|~~~(?:[ \t]*+(?:asy(?:mptote)?|tikz|svg)\b|(?={_DRAWING}))[^~]*+(?:~(?!~~)[^~]*+)*+~~~",
    re.IGNORECASE,
)
_INLINE = (
    r"!\[[^\]\n]{0,300}\]\([^()\s]*+(?:\s[^()\n]{0,200})?\)"  # Markdown's picture
    r"|(?<=\])\((?:https?:|www\.|/|\./|images?/)[^()\s]*+\)"  # and its link
    r"|\[\[(?:File|Image):[^\[\]\n]{1,300}\]\]"  # MediaWiki
    r"|data:image/[a-z.+-]{1,20};base64,[A-Za-z0-9+/=\s]{1,99999}(?![A-Za-z0-9+/=])"
    r"|<[A-Za-z][A-Za-z0-9]{0,14}\s+[a-z:-]{2,20}\s*=\s*[\"'0-9a-z][^<>]*+>"  # a tag with attributes
    r"|&\#(?:[0-9]{2,6}|[xX][0-9a-fA-F]{2,5});"
    r"|\\tikz\s*+(?:\[[^\]\n]{0,200}\]\s*+)?(?:\{(?:[^{}]|\{[^{}]{0,200}\}){0,2000}\}|\\[a-z][^;$]{0,2000};)"
    r"|\\(?:ps(?:set|line|circle|polygon|dots?|frame|arc|axes|grid|curve|plot|ellipse|bezier|wedge|text)|[ru]put)(?![a-z])\*?"
    r"(?:\s{0,2}(?:\{[^{}]{0,200}\}|\[[^\]]{0,200}\]|\([^()]{0,80}\))){0,40}"
)
_PICTURE = re.compile(_INLINE)


def without_figures(text: str) -> str:
    """The text with figures and pictures blanked out, each character by one, so that all else keeps its place."""
    text = _FENCED.sub(_blank, blanked(text, _figures(text)))
    return _PICTURE.sub(_blank, text)


def _figures(text: str) -> list[tuple[int, int]]:
    """Where figures start and end. An opening that nothing closes opens none, whatever follows it."""
    opened: dict[str, list[int]] = {}
    spans: list[tuple[int, int]] = []
    for mark in _MARK.finditer(text):
        starts = opened.setdefault(mark["name"].lower(), [])
        if not (mark["end"] or mark["slash"] or mark["tag"]):
            starts.append(mark.start())
        elif starts:
            start = starts.pop()
            while spans and spans[-1][0] >= start:  # figures inside this one
                spans.pop()
            spans.append((start, mark.end()))
    return spans


def blanked(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with these spans, first character and the one behind the last, blanked out."""
    pieces, done = list[str](), 0
    for start, end in sorted(spans):
        if end > done:
            pieces += [text[done : max(start, done)], BLANK * (end - max(start, done))]
            done = end
    return "".join([*pieces, text[done:]])


def _blank(match: re.Match[str]) -> str:
    return BLANK * len(match[0])
