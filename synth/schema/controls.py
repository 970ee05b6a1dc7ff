"""Control runs, by name: what each takes away of the method, as settings; for synthesis, training and reports.

    dail synth FILE --control shuffled_waypoints …

What a control gains over the base model is no gain of the method: the report shows DAIL beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from dail.synth.core.errors import UsageError
from dail.synth.core.settings import Chosen, spelled
from dail.synth.schema.synthesis import Synthesis


@dataclass(frozen=True)
class Control:
    """`synthesis` and `train` are what it sets in these tables; everything else is as in the run it is a control of."""

    about: str
    synthesis: Mapping[str, JsonValue]
    train: Mapping[str, JsonValue] = field(default_factory=dict)

    def sets(self, table: str) -> Mapping[str, JsonValue]:
        return {"synthesis": self.synthesis, "train": self.train}[table]


CONTROLS: Mapping[str, Control] = {
    "no_solution": Control(
        "no solution is shown: the privileged student sees what the student sees", {"shown": "nothing"}
    ),
    "other_solution": Control("the solution of another problem is shown", {"shown": "other_solution"}),
    "shuffled_waypoints": Control(
        "the negative reference is told another problem's waypoints", {"waypoints_from": "other"}
    ),
    "self": Control(
        "the base model's own samples, fine-tuned on: distilled onto itself",
        {"method": "student"},
        {"objective": "nll"},
    ),
}


def controlled(chosen: Chosen, table: str, name: str | None) -> Chosen:
    """With what the control sets in this table, which wins over a file's; none: as it was.

    Raises:
        UsageError: `--set` says otherwise.
    """
    if name is None:
        return chosen
    sets = CONTROLS[name].sets(table)
    for key, value in sets.items():
        setting = f"{table}.{key}"
        if setting in chosen.overridden and (said := chosen.values[table][key]) != value:
            raise UsageError(
                f"--control {name} sets {setting}={value}, and --set {setting}={said}; leave one of them out"
            )
    return chosen.told(table, **sets)


def told(name: str, table: str) -> str:
    """What a control is and sets, for people.

    >>> told("no_solution", "synthesis")
    'control no_solution (no solution is shown: the privileged student sees what the student sees): shown="nothing"'
    """
    control = CONTROLS[name]
    sets = ", ".join(f"{key}={spelled(value)}" for key, value in control.sets(table).items())
    return f"control {name} ({control.about}): {sets or f'nothing in [{table}]'}"


def check_drawn(name: str, synthesis: Synthesis) -> None:
    """Raises UsageError: these traces were not drawn as this control."""
    for key, value in CONTROLS[name].synthesis.items():
        if (got := getattr(synthesis, key)) != value:
            raise UsageError(
                f"--control {name} is trained on traces of synthesis.{key}={value}, and these have {got}; draw them "
                f"with `dail synth --control {name}`"
            )


def control_of(synthesis: Synthesis, train: Mapping[str, JsonValue] | None = None) -> str | None:
    """The control that a run is, by the settings of its traces and of `[train]`; none: it is no control.

    The student's own samples are a control where they are fine-tuned on, and else another method.
    """
    for name, control in CONTROLS.items():
        was_drawn = all(getattr(synthesis, key) == value for key, value in control.synthesis.items())
        if was_drawn and all((train or {}).get(key) == value for key, value in control.train.items()):
            return name
    return None
