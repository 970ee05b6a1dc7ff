"""DAIL beside its controls, as a table in the terminal and as a page of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from dail.synth.schema.controls import CONTROLS
from dail.train.evals.controls import DAIL, Comparison, findings
from dail.train.evals.evaluation import write_whole
from dail.train.evals.report import page_environment, page_policy, page_style, percent, points


def controls_table(comparison: Comparison) -> Any:
    """For rich."""
    from rich.table import Table
    from rich.text import Text

    title = f"{comparison.num_problems} problems, {comparison.samples} completions each: pass@1 in %"
    table = Table(title=Text(title), title_justify="left")
    for name in ("run", "base", "adapter", "adapter − base", "part of DAIL's gain"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for one in (comparison.dail, *comparison.controls):
        gain = f"{points(one.gain)}\n[dim]{points(one.gain_low)} to {points(one.gain_high)}[/dim]"
        table.add_row(
            Text(one.name),
            percent(one.base),
            percent(one.adapter),
            gain,
            one.part if one is not comparison.dail else "",
        )
    return table


def write_page(comparison: Comparison, out: Path) -> None:
    """Raises StorageError: the disk refused."""
    style = page_style()
    text = page_environment().get_template("controls.html.jinja").render(
        comparison=comparison,
        findings=findings(comparison),
        about={DAIL: "the method as it is"} | {name: control.about for name, control in CONTROLS.items()},
        style=Markup(style),
        policy=page_policy(style),
    )  # fmt: skip
    write_whole(out, text)
