r"""Formulas in texts as MathML, which a page shows without a script, a font or a network.

What a model writes is hostile until shown otherwise: of what the converter makes, only elements and attributes that are
known to be harmless are kept, and every text is escaped. What cannot be converted stays as it was written.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import lru_cache
from xml.etree.ElementTree import Element

from markupsafe import Markup, escape

_MOST_CHARS = 1500  # of one formula; a longer one is a text in dollars
_MOST_DEPTH = 60
_WIDE = 24  # signs; fewer fit into a telephone's width
_MATH = re.compile(
    r"(?P<escaped>\\\\|\\\$)"
    r"|\$\$(?P<dollars>[^$]{1,1500}?)\$\$|\\\[(?P<bracket>(?:(?!\\\]).){1,1500}?)\\\]"
    r"|\\\((?P<paren>(?:(?!\\\)).){1,1500}?)\\\)"
    r"|\$(?P<dollar>(?![\s$])(?:\\\$|[^$\n]|\n(?!\s*\n)){1,1500}?(?<![\s\\]))\$(?![0-9])"
    r"|(?P<environment>\\begin\{(?P<name>(?:align|equation|gather|multline|eqnarray)\*?)\}.{1,1500}?\\end\{(?P=name)\})"
    r"|(?P<boxed>\\boxed\{(?:[^{}$]|\{(?:[^{}$]|\{[^{}$]{0,200}\}){0,400}\}){1,800}\})",
    re.DOTALL,
)
_BRACKETS, _OPENING, _CLOSING = tuple("()[]{}|"), tuple("([{"), tuple(")]}")
_BREAKABLE = tuple("=+-−<>≤≥≠≡≈→⇒⟹⇔∈∣")
_DISPLAYED = ("dollars", "bracket", "environment")
_ELEMENTS = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "ms", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup",
    "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mstyle", "menclose", "mpadded", "mphantom",
}  # fmt: skip
_ATTRIBUTES = {
    "stretchy", "fence", "form", "separator", "largeop", "movablelimits", "linethickness", "minsize", "maxsize",
    "mathvariant", "width", "height", "depth", "lspace", "rspace", "columnalign", "rowspacing", "columnspacing",
    "displaystyle", "scriptlevel", "accent", "accentunder", "columnlines", "rowlines", "notation",
}  # fmt: skip
_VALUE = re.compile(r"(?!.*[0-9]{4})[A-Za-z0-9 .%+-]{1,40}")  # no space of a thousand lines
# HTML knows none of these, and a browser guesses
_CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "\u2421", 13: "\n"}


def visible(text: str) -> str:
    """With a picture of each control character, so that nothing a model wrote is lost or is markup."""
    return text.replace("\r\n", "\n").translate(_CONTROL)


def with_formulas(text: str, spans: Sequence[tuple[int, int]] = ()) -> Markup:
    """A text with what is between dollars, `\\(...\\)`, `\\[...\\]`, or in a box or an environment as MathML; all else
    escaped.

    Args:
        spans: of characters, in order and apart, that are marked; a formula is marked as a whole.
    """
    spans = [(len(visible(text[:start])), len(visible(text[:end]))) for start, end in spans]
    text, done, parts = visible(text), 0, list[Markup]()
    for match in _MATH.finditer(text):
        if match["escaped"]:
            continue
        kind = match.lastgroup if match.lastgroup != "name" else "environment"
        assert kind is not None, "every branch has a name"
        found = _math(match[kind], match[0], kind in _DISPLAYED)
        if found is not None:
            # a displayed formula begins its line, and ends it: the space or line break behind it would begin the next
            begins = match.start() - (kind in _DISPLAYED and text[done : match.start()].endswith("\n"))
            is_marked = any(start < match.end() and match.start() < end for start, end in spans)
            parts += [
                _marked(text, done, begins, spans),
                Markup("<mark>{}</mark>").format(found) if is_marked else found,
            ]
            done = match.end() + (kind in _DISPLAYED and text[match.end() : match.end() + 1] in (" ", "\n"))
    return Markup("").join([*parts, _marked(text, done, len(text), spans)])


def marked(text: str, spans: Sequence[tuple[int, int]] = ()) -> Markup:
    """A text as it was written, escaped, with spans of its characters marked."""
    places = [(len(visible(text[:start])), len(visible(text[:end]))) for start, end in spans]
    shown = visible(text)
    return _marked(shown, 0, len(shown), places)


def _marked(text: str, start: int, end: int, spans: Sequence[tuple[int, int]]) -> Markup:
    """A part of the text, escaped, with what of the spans lies in it marked."""
    parts, done = list[Markup](), start
    for first, last in spans:
        first, last = max(first, start), min(last, end)
        if first < last:
            parts += [escape(text[done:first]), Markup("<mark>{}</mark>").format(text[first:last])]
            done = last
    return Markup("").join([*parts, escape(text[done:end])])


def as_formula(text: str) -> Markup:
    """An answer or a waypoint: a formula as a whole if it has a command of TeX, a power or an index, else code."""
    text = visible(text)
    inner = text.strip().strip("$")
    found = _math(inner, text, False) if re.search(r"\\[A-Za-z]|[\^_]", inner) and "$" not in inner else None
    return escape(text) if found is None else found


@lru_cache(maxsize=4096)
def _math(formula: str, written: str, is_displayed: bool) -> Markup | None:
    """None if it cannot be converted as a whole."""
    from latex2mathml.converter import convert_to_element

    if len(formula) > _MOST_CHARS or not formula.strip() or _depth(formula) > _MOST_DEPTH:
        return None
    try:
        root = convert_to_element(formula)
    except Exception:  # of a converter that expects whole formulas
        return None
    pieces = [_clean(piece, 0) for piece in (_pieces(root) if _inked(formula) > _WIDE else [root])]
    known = [piece for piece in pieces if piece is not None]
    if len(known) < len(pieces):
        return None
    is_broken = len(pieces) > 1
    display = Markup("")
    if is_displayed:
        display = Markup(' displaystyle="true"') if is_broken else Markup(' display="block"')
    maths = [Markup("<math{}>{}</math>").format(display, piece) for piece in known[:-1]]
    last = Markup(
        '<math{}><semantics>{}<annotation encoding="application/x-tex">{}</annotation></semantics></math>'
    ).format(display, known[-1], written)
    found = Markup("<wbr>").join([*maths, last])
    if _inked(formula) <= _WIDE:
        return found
    # what is wider than the page though it is broken, such as a matrix, is moved inside a frame of its own
    kind = "wide displayed" if is_displayed else "wide"
    stop = Markup("") if is_broken else Markup(' tabindex="0"')
    return Markup('<span class="{}"{}>{}</span>').format(kind, stop, found)


def _pieces(root: Element) -> list[Element]:
    """A formula cut before the signs of relation and sum that are in no bracket: browsers break no formula."""
    row = root[0] if len(root) == 1 and root[0].tag == "mrow" else root
    pieces, depth = [Element("math")], 0
    for child in row:
        sign = html.unescape(child.text or "") if child.tag == "mo" else ""
        depth += (sign in _OPENING) - (sign in _CLOSING)
        if sign in _BREAKABLE and depth <= 0 and len(pieces[-1]):
            child.set("form", "infix")  # at the head of a row it would be set as a sign
            pieces.append(Element("math"))
        pieces[-1].append(child)
    return pieces


def _inked(formula: str) -> int:
    """About how many signs stand beside one another."""
    return len(re.sub(r"\\(?:[A-Za-z]+|.)|[\s{}^_&]", "", formula)) + len(re.findall(r"\\[A-Za-z]{3,}", formula))


def _depth(text: str) -> int:
    depth = most = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        most = max(most, depth)
    return most


def _clean(element: Element, depth: int) -> Markup | None:
    """The element rebuilt; none if it holds what is not known, or a command that the converter passed on unread."""
    if depth > 4 * _MOST_DEPTH or element.tag not in _ELEMENTS:
        return None
    said = html.unescape(element.text or "").strip("\n")
    if said.startswith("\\"):
        return None
    if not any(child.tag == "mtable" for child in element):  # brackets grow around tables; elsewhere if TeX says so
        for child in element:
            if child.tag == "mo" and html.unescape(child.text or "") in _BRACKETS:
                child.attrib.setdefault("stretchy", "false")
    children = [_clean(child, depth + 1) for child in element]
    known = [child for child in children if child is not None]
    if len(known) < len(children):
        return None
    content = escape(said) + Markup("").join(known)
    if element.tag == "math":
        return Markup("<mrow>{}</mrow>").format(content)
    attributes = [
        Markup(' {}="{}"').format(name, value)
        for name, value in sorted(element.attrib.items())
        if name in _ATTRIBUTES and _VALUE.fullmatch(value)
    ]
    return Markup("<{}{}>{}</{}>").format(element.tag, Markup("").join(attributes), content, element.tag)
