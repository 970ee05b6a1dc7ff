"""Traces in a terminal: a table of many, and one with its writers in colour, or in brackets where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from dail.synth.view.traces import TraceSummary, TraceView, inked

_STYLES = {"privileged": "bold black on yellow", "unknown": "dim", "student": ""}
_MARKS = "⟦", "⟧"
LEGEND = "black on yellow, or ⟦…⟧ without colours: by the privileged student; dim: it is not known by whom"


def table(summaries: Iterable[TraceSummary]) -> Table:
    found = Table(box=None, pad_edge=False)
    for name in ("item", "sample", "tokens", "student", "ended", "answer", "cites"):
        found.add_column(name, justify="left" if name in ("item", "ended", "answer") else "right", overflow="fold")
    for one in summaries:
        ended = one.error.code if one.error else "cut" if one.truncated else one.finish_reason
        share = "" if one.student_share is None else f"{one.student_share:.0%}"
        verdict = {"correct": "right", "no_answer": "", None: ""}.get(one.verdict, one.verdict)
        cells = (one.item_id, str(one.sample), str(one.tokens), share, ended, verdict or "", str(one.cites or ""))
        found.add_row(*(Text(inked(cell)) for cell in cells))
    return found


def coloured(texts: Sequence[str], student_prob: Sequence[float | None], in_colour: bool) -> Text:
    """The tokens of a trace by their writers; neighbours of one writer are one stretch."""
    text = Text()
    for writer, stretch in _stretches(texts, student_prob):
        shown = inked(stretch)
        marked = writer == "privileged" and not in_colour
        text.append(shown.join(_MARKS) if marked else shown, _STYLES[writer] if in_colour else "")
    return text


def disagreements(view: TraceView, most: int = 10) -> list[str]:
    """The first tokens that the student did not write, or that replaced a proposal: what the two gave them."""
    places = [
        place
        for place, share in enumerate(view.student_prob)
        if place in view.rejected or (share is not None and share < 0.5)
    ]
    lines = []
    for place in places[:most]:
        student, privileged = _said(view.student_logprob[place]), _said(view.privileged_logprob[place])
        instead = f" for {_quoted(view.rejected[place])}" if place in view.rejected else ""
        lines.append(
            f"{place + 1:6}  {_quoted(view.texts[place])}{instead}, student {student}, privileged {privileged}"
        )
    return lines


def _stretches(texts: Sequence[str], student: Sequence[float | None]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for text, share in zip(texts, student, strict=True):
        writer = "unknown" if share is None else "student" if share >= 0.5 else "privileged"
        if found and found[-1][0] == writer:
            text = found.pop()[1] + text
        found.append((writer, text))
    return found


def _quoted(text: str) -> str:
    return "“" + inked(text).replace("\n", "↵").replace("\t", "→") + "”"


def _said(logprob: float | None) -> str:
    return "unknown" if logprob is None else f"{logprob:.3g}".replace("-", "−")
