"""One HTML file that shows traces anywhere, without a server and without a network.

Its policy allows the scripts and styles that are in it, by their digests, and nothing else: no other script, no
request. Texts are JSON in blocks that no browser runs, and reach the page as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from dail.synth.core.config import TOOL_VERSION
from dail.synth.view.traces import TraceView

MADE_BY = '<meta name="generator" content="dail inspect">'  # a file that says so may be replaced
_SCRIPTS = ("katex.min.js", "viewer.js", "file.js")
_STYLES = ("viewer.css",)


@cache
def static(name: str) -> str:
    return (files("dail.synth.view") / "static" / name).read_text("utf-8")


def as_file(views: Iterable[TraceView], title: str, said: str, num_left_out: int = 0) -> Iterable[str]:
    """The file in pieces, since traces may be long.

    Args:
        said: the line on the run as a whole.
        num_left_out: traces that are not in it.
    """
    policy = (
        f"default-src 'none'; script-src {_digests(_SCRIPTS)}; style-src {_digests(_STYLES)}; base-uri 'none'; "
        "form-action 'none'"
    )
    styles = "".join(f"<style>{static(name)}</style>" for name in _STYLES)
    yield (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MADE_BY}\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n{styles}\n</head>\n<body>\n"
        f'<main id="viewer"></main>\n<footer class="dv-foot">dail {html.escape(TOOL_VERSION)}</footer>\n'
    )
    summaries = []
    for number, view in enumerate(views):
        yield _block(f"trace-{number}", view.model_dump(mode="json"))
        summaries.append(view.summary.model_dump(mode="json"))
    yield _block("traces", {"title": title, "said": said, "left_out": num_left_out, "summaries": summaries})
    yield "".join(f"<script>{static(name)}</script>\n" for name in _SCRIPTS) + "</body>\n</html>\n"


def _digests(names: Iterable[str]) -> str:
    found = (base64.b64encode(hashlib.sha256(static(name).encode()).digest()).decode() for name in names)
    return " ".join(f"'sha256-{one}'" for one in found)


def _block(name: str, value: object) -> str:
    """JSON without the letters by which a browser would end the block."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>\n'
