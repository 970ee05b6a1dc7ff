r"""An answer as a text: cleaned of what says nothing about its value, and taken apart outside brackets.

Words keep their marks, so that letters inside `\text{}` are words and those outside variables; `latex` makes it LaTeX
again. Everything is linear in the text, but for nesting, which is bounded.
"""

from __future__ import annotations

import re

MOST_NESTED = 6

# Where \text{...} began and ended: letters inside are words, outside they are variables.
START, END = "\ue000", "\ue001"
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–—﹣-", "-"), **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\t\n\r\f\v", " "),
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
        "∞": r"\infty ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ", "π": r"\pi ", "²": "^2", "³": "^3", "º": "°",
        "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "∅": r"\emptyset ", "≈": "=",
        "，": ",", "。": ".", "（": "(", "）": ")", START: "", END: "", "\u200b": "", "\ufeff": "",
    }
)  # fmt: skip
_WORDS = re.compile(
    r"\\(?:text(?:rm|bf|it|sf|tt|up|normal)?|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname\*?|boldsymbol|bm|emph)"
    r"\s*+\{([^{}]*+)\}"
)
_DEGREE = re.compile(r"(?:\{\s*+\})?+\^\s*+(?:\{\s*+\\circ\s*+\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])|\\textdegree")
_NOISE = re.compile(
    r"(?P<keep>\\\\(?:\[[^\]]{0,8}\])?+|\\[{}])"
    r"|(?P<gone>\\!|\\[()\[\]]|\$|\\(?:left|right)(?![A-Za-z])(?:\s*+\.)?+|\\[bB]igg?[lrm]?(?![A-Za-z])"
    r"|\\(?:display|text|script)style(?![A-Za-z])|\*\*)"
    r"|(?P<space>\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\\[hv]space\*?\{[^{}]{0,20}\}|\\(?:thin|med|thick)space(?![A-Za-z]))"
)
_SAME_COMMAND = {
    r"\leq": r"\le", r"\leqslant": r"\le", r"\geq": r"\ge", r"\geqslant": r"\ge", r"\neq": r"\ne", r"\lt": "<",
    r"\gt": ">", r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\lbrace": r"\{", r"\rbrace": r"\}",
    r"\lor": " or ", r"\vee": " or ", r"\approx": "=", r"\varnothing": r"\emptyset", r"\land": " and ",
    r"\euro": "€", r"\pounds": "£", r"\ldots": r"\dots", r"\cdots": r"\dots",
}  # fmt: skip
_UNIT_RATIO = re.compile(rf"\\[dt]?frac\s*+\{{\s*+{START}([^{END}]*+){END}\s*+\}}\{{\s*+{START}([^{END}]*+){END}")
_COMMAND = re.compile(r"\\[A-Za-z]++")
_SEPARATOR = r"(?:\\,|\\;|\\ |\{,\}(?:\\!)?|\\!,|,\\!|~| )"
_THOUSANDS = re.compile(rf"(?<![0-9.,A-Za-z])[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}}(?![0-9]))++")
_COMMA_THOUSANDS = re.compile(r"(?<![0-9.,A-Za-z])[0-9]{1,3}(?:,[0-9]{3}(?![0-9]))++")
_LARGE = re.compile(rf"(?<=[0-9])\s*+({START}?)\s*+\b(thousand|million|billion|trillion)\b")
_ROOT = re.compile(
    r"(?:√|(?<![A-Za-z\\])sqrt(?![A-Za-z]))\s*+(?:([0-9]++(?:\.[0-9]++)?+|[A-Za-z](?![A-Za-z]))|\(([^()]*+)\)|(?=\{))"
)
_CHOOSE = re.compile(r"\{([^{}\\]*+)\\choose(?![A-Za-z])([^{}\\]*+)\}")
_BASE_IN_WORDS = re.compile(
    rf"(?<=[0-9])_\s*+\{{?\s*+{START}\s*+(two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen)\s*+{END}\s*+\}}?"
)
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twelve": 12,
    "sixteen": 16,
}  # fmt: skip
_REPEATED = re.compile(
    r"(?<![0-9])([0-9]*+\.[0-9]{0,6}?)([0-9]{1,6}?)\2{2,40}[0-9]{0,5}\s?(?:\\dots(?![A-Za-z])|\.\.\.)"
)
_DOTTED = re.compile(
    r"(?<=[0-9.])\\dot\s*+\{?([0-9])\}?([0-9]{0,40}+)\\dot\s*+\{?([0-9])\}?"
    r"|(?<=[0-9.])\\(?:bar|dot)\s*+(?:\{([0-9]{1,40}+)\}|([0-9]))"
)
_RATIO_IN_WORDS = re.compile(rf"(?<=[0-9])\s*+{START}\s*+to\s*+{END}\s*+(?=[0-9])")
_ANY = re.compile(rf"\A\s*+{START}\s*+(?:for\s++)?(?:all|any|every|each)\s*+{END}\s*+(?=[A-Za-z\\])")
_ZEROS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PREFIX = re.compile(r"(?:the\s++)?(?:(?:final|correct)\s++)?(?:answer|result|value)(?:\s++is\s*+:?|\s*+:)\s*+", re.I)
_MARKED_PREFIX = re.compile(rf"{START}\s*+{_PREFIX.pattern}{END}", re.I)
_WRAPPER = re.compile(r"\\(?:boxed|fbox|mathbb|mathcal|ensuremath|underline)\s*+(?=\{)")
_BRACKET = re.compile(r"\\?[{(\[]|\\?[})\]]")
OR = rf"\s(?:or|and)\s|{START}\s*+(?:or|and|,\s*+or|,\s*+and)\s*+{END}"


def clean(text: str) -> str:
    """Without what says nothing about the value: dollars, spacing, boxes, separators of thousands, a last full stop.

    Words keep their marks, so the result is for this grader alone; `latex` makes it LaTeX again.
    """
    text = text.translate(_SIGNS).replace(r"\$", "¤").replace(r"\%", "%")
    text = _DEGREE.sub("°", text)
    text = re.sub(r"°\s*+([CF])(?![A-Za-z])", r" °\1", text)
    for _ in range(3):
        text = _WORDS.sub(START + r"\1" + END, text)
    text = re.sub(rf"°\s*+{START}\s*+([CF])\s*+{END}", r" °\1", text)
    text = _UNIT_RATIO.sub(rf"{START}\1/\2{END}{{", text).replace("{}", "")
    text = _THOUSANDS.sub(lambda match: re.sub(r"[^0-9]", "", match[0]), text)
    text = re.sub(r"(?<=[0-9])\{,\}(?=[0-9])", ".", text)  # a decimal comma; thousands are joined by now
    text = _NOISE.sub(lambda match: match["keep"] or (" " if match["space"] else ""), text)
    text = _COMMAND.sub(lambda match: _SAME_COMMAND.get(match[0], match[0]), text)
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")
    text = re.sub(r"\\sqrt\s*+([0-9]++)", r"\\sqrt{\1}", text)
    text = _LARGE.sub(lambda match: rf"\cdot 10^{{{_ZEROS[match[2]]}}} {match[1]}", text)
    text = _written_out(text)
    return unwrapped(_joined_thousands(" ".join(text.split())))


def _written_out(text: str) -> str:
    """What is written for readers, as TeX writes it: √2, pi, infinity, 0.333..., 1 to 2, base two."""
    text = _ROOT.sub(lambda root: rf"\sqrt{{{inner}}}" if (inner := root[1] or root[2]) else r"\sqrt", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = re.sub(r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi ", text)
    text = re.sub(rf"(?:{START}\s*+)?(?<![A-Za-z\\])infinity(?![A-Za-z])(?:\s*+{END})?", r"\\infty ", text)
    text = re.sub(r"(?<=[0-9])\s*+\\Omega(?![A-Za-z])", " Ω", text)
    text = _BASE_IN_WORDS.sub(lambda base: f"_{{{_BASES[base[1]]}}}", text)
    text = _DOTTED.sub(lambda match: rf"\overline{{{''.join(filter(None, match.groups()))}}}", text)
    text = _REPEATED.sub(r"\1\\overline{\2}", text)
    text = _ANY.sub("", _RATIO_IN_WORDS.sub(":", text))
    return re.sub(rf"{START}\s*+{END}", "", text)


def _joined_thousands(text: str) -> str:
    """`1,000` outside brackets; inside them a comma stands between items."""
    depth, done, parts = 0, 0, list[str]()
    for match in re.finditer(rf"{_BRACKET.pattern}|{_COMMA_THOUSANDS.pattern}", text):
        if match[0][0].isdigit():
            if depth <= 0:
                parts += [text[done : match.start()], match[0].replace(",", "")]
                done = match.end()
        elif match[0] not in ("{", "}"):
            depth += 1 if match[0][-1] in "([{" else -1
    return "".join([*parts, text[done:]])


def unwrapped(text: str) -> str:
    """Without boxes, needless braces, an introduction and punctuation around the whole."""
    for _ in range(MOST_NESTED):
        before = text
        text = text.strip().rstrip(".,;:").strip()
        text = _PREFIX.sub("", text.lstrip(), count=1) if _PREFIX.match(text) else text
        text = _MARKED_PREFIX.sub("", text, count=1) if text.startswith(START) else text
        inner = _WRAPPER.sub("", text, count=1) if _WRAPPER.match(text) else text
        if encloses(inner, "{", "}"):
            text = inner[1:-1]
        if text.startswith(START) and text.find(END) == len(text) - 1 and _is_formula(text[1:-1]):
            text = text[1:-1]
        if text == before:
            break
    return text


def _is_formula(words: str) -> bool:
    """A number in \\text{} is a number, and so is one with its unit; what has letters alone stays words."""
    return bool(re.search(r"[0-9]", words)) or not re.search(r"[A-Za-z]", _COMMAND.sub("", words))


def encloses(text: str, opening: str, closing: str) -> bool:
    """Whether one pair of brackets holds the whole text."""
    if not (text.startswith(opening) and text.endswith(closing)) or len(text) < len(opening + closing):
        return False
    depth = 0
    for match in _BRACKET.finditer(text):
        depth += 1 if match[0][-1] in "([{" else -1
        if depth == 0:
            return match.end() == len(text)
    return False


def split(text: str, separator: str) -> list[str]:
    """Cut at separators outside brackets."""
    depth, done, parts = 0, 0, list[str]()
    for match in re.finditer(rf"(?P<at>{separator})|(?P<bracket>{_BRACKET.pattern})|\\[A-Za-z]++", text):
        if match["bracket"]:
            depth += 1 if match[0][-1] in "([{" else -1
        elif match["at"] and depth <= 0:
            parts.append(text[done : match.start()])
            done = match.end()
    return [*parts, text[done:]]


def unmarked(text: str) -> str:
    """Without the marks of words."""
    return " ".join(text.replace(START, " ").replace(END, " ").split())


def latex(text: str) -> str:
    """A cleaned text for a parser of LaTeX."""
    text = text.replace(START, r"\text{").replace(END, "}").replace("°", r"^{\circ}")
    return text.replace("¤", r"\$").replace("%", r"\%")
