"""What the paper shows, and the runs it is made of: the files of deploy/paper, read and checked.

direct = runs_named("direct")[0]
direct.own["train"]["gamma"]     0.1
exhibit("table-4").runs          {"verifiable": ("base", "mixed", "privileged-kl", "negative-kl")}
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue

from dail.synth.core.config import Frozen
from dail.synth.core.errors import UsageError
from dail.synth.core.settings import Chosen, checked_tables, did_you_mean, spelled, toml_of
from dail.synth.schema.selection import Keep

Study = Literal["verifiable", "proof"]
JudgedOn = Literal["test", "train", "temperatures", "budgets", "deduplicated"]
BASE = "base"
PRESETS: Mapping[Study, str] = {"verifiable": "qwen2.5-7b-paper-v1", "proof": "qwen3-8b-paper-v1"}
_RUN = "run"  # the table of a run's file that is of no verb
_CONTENTS = "contents.toml"  # the one file of that folder that is no run


class Sheet(Frozen):
    """The table [run] of a run's file: what it is, beside the settings of the other tables, which make it that run."""

    title: str
    trains_on: Literal["nothing", "traces", "rewards"]
    keep: Keep = Field("all", description="traces that are trained on, by the rules of `dail select`")
    after: str | None = Field(None, description="the run that this one goes on from")
    items: Literal["solutions", "deepscaler"] = "solutions"
    adjustable: tuple[str, ...] = Field(
        (), description="those of its settings, table.key, that are the paper's numbers and yield to --config and --set"
    )
    vary: str | None = Field(None, description="a setting, table.key, of which each of `values` makes a run")
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class NamedRun:
    """`own`: the settings, by table, that make it this run, but for those that are `adjustable`; all others are shared
    with the runs beside it."""

    name: str
    sheet: Sheet
    own: Mapping[str, Mapping[str, Any]]

    def settings(self, shared: Chosen) -> Chosen:
        """The shared settings with its own, which win over a file's.

        Raises:
            UsageError: `--set` says otherwise.
        """
        values = {table: dict(given) for table, given in shared.values.items()}
        for table, key in ((table, key) for table, own in self.own.items() for key in own):
            if f"{table}.{key}" in self.sheet.adjustable:
                values[table].setdefault(key, self.own[table][key])
                continue
            values[table][key] = self.own[table][key]
            if f"{table}.{key}" in shared.overridden and shared.values[table][key] != self.own[table][key]:
                raise UsageError(
                    f"{table}.{key}={spelled(self.own[table][key])} makes the run {self.name} what it is, and --set "
                    f"says {spelled(shared.values[table][key])}; leave it out, or train by hand with `dail train`"
                )
        return replace(shared, values=values)


class Number(Frozen):
    """A figure that the paper prints, in per cent."""

    study: Study
    run: str
    group: str
    k: int
    value: float
    budget: int | None = None


class Exhibit(Frozen):
    """A table, a figure, or what an appendix reports. contents.toml says what the fields mean."""

    key: str
    title: str
    section: str
    shows: Literal["judged", "settings", "calibration", "curve", "lengths", "command"]
    studies: tuple[Study, ...] = ()
    runs: dict[Study, tuple[str, ...]] = Field(default_factory=dict)
    judged_on: tuple[JudgedOn, ...] = ()
    benchmarks: tuple[str, ...] = ()
    says: str = ""
    command: str = ""
    numbers: tuple[Number, ...] = ()
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    in_world: str | None = Field(None, description="the group of deploy/world's problems that stands for its")

    @property
    def name(self) -> str:
        """As people say it: Table 4, App. B.3."""
        kind, _, number = self.key.partition("-")
        return f"App. {number[0].upper()}{'.' if number[1:] else ''}{number[1:]}" if kind == "appendix" else (
            f"{kind.capitalize()} {number}"
        )  # fmt: skip

    @property
    def flags(self) -> str:
        """What asks `dail paper` for it."""
        kind, _, number = self.key.partition("-")
        if kind in ("table", "figure"):
            return f"--{kind} {number}"
        return " ".join(f"--run {name}" for name in dict.fromkeys(sum(self.runs.values(), ())) if name != BASE)

    def runs_of(self, study: Study) -> list[NamedRun]:
        """The runs that it is made of, each once."""
        return list({one.name: one for name in self.runs.get(study, ()) for one in runs_named(name)}.values())

    def judged_in(self, study: Study) -> tuple[JudgedOn, ...]:
        """Models that think are judged at budgets of thought alone (§3.3)."""
        if study == "verifiable":
            return self.judged_on
        return tuple(dict.fromkeys("budgets" if one == "test" else one for one in self.judged_on))


@cache
def contents() -> tuple[Exhibit, ...]:
    """Everything, in the paper's order."""
    text = (resources.files("dail.paper") / _CONTENTS).read_text("utf-8")
    return tuple(Exhibit.model_validate(one) for one in tomllib.loads(text)["exhibit"])


def exhibit(key: str) -> Exhibit:
    """Raises UsageError: the paper shows nothing of that name, or nothing that can be asked for."""
    known = {one.key: one for one in contents() if one.shows != "command"}
    if key in known:
        return known[key]
    kind = key.partition("-")[0]
    typed = next((one.command for one in contents() if one.key == key), None)
    if typed is not None:
        raise UsageError(f"{key} is a command of its own: {typed}")
    numbers = ", ".join(name.partition("-")[2] for name in known if name.startswith(kind))
    raise UsageError(f"there is no {key.replace('-', ' ')} to be run; of this kind there are {numbers}")


def _files() -> dict[str, Path]:
    files = sorted(resources.files("dail.paper").iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".toml"): Path(str(file))
        for file in files
        if file.name.endswith(".toml") and file.name != _CONTENTS
    }


@cache
def all_runs() -> Mapping[str, tuple[NamedRun, ...]]:
    """By the name of its file, each run, or each of a sweep's."""
    return {name: tuple(_read(name, path)) for name, path in _files().items()}


def runs_named(name: str) -> tuple[NamedRun, ...]:
    """The run, the runs of a sweep, or one of these. Raises UsageError: there is none of that name."""
    if name in all_runs():
        return all_runs()[name]
    single = {one.name: one for runs in all_runs().values() for one in runs}
    if name not in single:
        raise UsageError(f"there is no run {name}{did_you_mean(name, single)}; the runs are {', '.join(all_runs())}")
    return (single[name],)


def _read(name: str, path: Path) -> Iterable[NamedRun]:
    tables = toml_of(path)
    sheet = Sheet.model_validate(tables.pop(_RUN))
    own = checked_tables(path, tables)
    if sheet.vary is None:
        yield NamedRun(name, sheet, own)
        return
    table, _, key = sheet.vary.partition(".")
    for value in sheet.values:
        varied = {**own, table: {**own.get(table, {}), key: value}}
        titled = sheet.model_copy(update={"title": f"{sheet.title}, {key} {value:g}"})
        yield NamedRun(f"{name}-{value:g}", titled, varied)
