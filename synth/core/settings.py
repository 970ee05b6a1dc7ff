"""Settings: which there are, by table, and what a config file and `--set` say of them.

A setting has one name everywhere, `table.key`: `synthesis.tau` is `tau` under `[synthesis]` of a file, `--set
synthesis.tau=0.9` on a command line, and `--set tau=0.9` where the verb has one setting of that name.

    >>> chosen = read("train", "qwen3-8b-paper-v1", ["gamma=0.2"])
    >>> config = chosen.load(TrainConfig, "train")
"""

from __future__ import annotations

import datetime as dt
import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module, resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dail.synth.core.config import Config
from dail.synth.core.errors import UsageError, plainly
from dail.synth.core.extensions import Reference

_Table = TypeVar("_Table", bound=Config)


@dataclass(frozen=True)
class Table:
    """`model` is a name, imported on use: rooms above this one have tables too."""

    model: str
    verbs: tuple[str, ...]
    about: str


TABLES = {
    "engine": Table(
        "dail.synth.config:EngineConfig",
        ("worker", "synth", "doctor", "calibrate", "eval", "curate", "loop", "paper"),
        "what draws tokens",
    ),
    "worker": Table(
        "dail.synth.config:SynthConfig",
        ("worker", "synth", "doctor", "calibrate", "loop", "paper"),
        "how many engines, and the student",
    ),
    "synthesis": Table(
        "dail.synth.schema.synthesis:Synthesis",
        ("submit", "synth", "doctor", "waypoints", "calibrate", "loop", "paper"),
        "how traces are drawn, batch by batch",
    ),
    "train": Table("dail.train.config:TrainConfig", ("train", "cache", "loop", "paper"), "how an adapter is trained"),
    "loop": Table("dail.serve.loop:LoopConfig", ("loop",), "rounds of synthesis and training"),
    "eval": Table(
        "dail.train.evals.config:EvalConfig", ("eval", "curate", "paper"), "how completions are drawn and judged"
    ),
    "curate": Table(
        "dail.train.studies.curation_config:CurateConfig", ("curate",), "which problems of a pool are trained on"
    ),
    "calibrate": Table(
        "dail.train.studies.taus:CalibrateConfig", ("calibrate", "paper"), "which values of tau are tried"
    ),
    "grpo": Table("dail.train.grpo_config:GrpoConfig", ("grpo", "paper"), "how GRPO, a baseline, trains by rewards"),
    "gate": Table(
        "dail.train.gate:GateConfig",
        ("train", "eval", "loop", "paper"),
        "which signs of a collapse warn of a run, or stop it",
    ),
}
_SUFFIX = ".toml"
_PRESETS = "dail.configs"
_BOUNDS = {"ge": ">= ", "gt": "> ", "le": "<= ", "lt": "< ", "min_length": "length >= ", "max_length": "length <= "}
_KINDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    dt.date: "date, as 2026-11-26",
}


@dataclass(frozen=True)
class Setting:
    """One setting, as help and `dail settings` show it. `default` is a value of JSON, `choices` are of a Literal."""

    name: str
    sentence: str
    default: Any
    is_required: bool
    kind: str
    choices: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def about(self) -> str:
        """What it takes and what it is if nobody says: `number >= 0, < 1; default 0.1`."""
        default = "" if self.default in (None, [], {}) else f"; default {spelled(self.default)}"
        return f"{self.kind}{'; required' if self.is_required else default}"


def tables_of(verb: str) -> tuple[str, ...]:
    """The tables that a verb uses."""
    return tuple(name for name, table in TABLES.items() if verb in table.verbs)


def settings_of(table: str) -> dict[str, Setting]:
    """The settings of a table, by key."""
    return described(table + ".", model_of(table))


def model_of(table: str) -> type[Config]:
    """What a table is read into; a room above this one may have it."""
    module, _, name = TABLES[table].model.partition(":")
    model: type[Config] = getattr(import_module(module), name)
    return model


def free_on_resume(config: Config) -> frozenset[str]:
    """The settings under which a run that was begun with other values may go on, as their table's file says."""
    return frozenset(getattr(import_module(type(config).__module__), "FREE_ON_RESUME", ()))


def described(prefix: str, model: type[BaseModel]) -> dict[str, Setting]:
    """The fields of a model as settings, without those that are tables of their own (`engine` in the worker's)."""
    return {
        key: _setting(prefix + key, field)
        for key, field in model.model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Config))
    }


def _setting(name: str, field: FieldInfo) -> Setting:
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(default, Path):
        default = str(default)
    kind, choices = _kind(field.annotation)
    bounds = [
        sign + _number(getattr(bound, key))
        for bound in field.metadata
        for key, sign in _BOUNDS.items()
        if getattr(bound, key, None) is not None
    ]
    return Setting(
        name=name,
        sentence=field.description or "",
        default=list(default) if isinstance(default, tuple) else default,
        is_required=field.is_required(),
        kind=(", " if "list" in kind else " ").join([kind, ", ".join(bounds)]) if bounds else kind,
        choices=choices,
    )


def _kind(annotation: Any) -> tuple[str, tuple[str, ...]]:
    """A type in words, and the words it admits if it is made of words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation == Reference:
        return "FILE.py:NAME|MODULE:NAME|NAME", ()
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return "|".join(inner), inner
    if origin in (Union, UnionType):
        kinds = [_kind(one) for one in inner if one is not NoneType]
        return " or ".join(kind for kind, _ in kinds), tuple(word for _, words in kinds for word in words)
    if origin is tuple:
        kind, words = _kind(inner[0])
        return f"list of {kind}", words
    if origin is dict:
        each = "value" if inner[1] is JsonValue else _kind(inner[1])[0]
        return f"names with a {each} each, as JSON", ()
    return _KINDS.get(annotation, "text"), ("true", "false") if annotation is bool else ()


def _number(bound: float) -> str:
    return f"2^{bound.bit_length() - 1}" if isinstance(bound, int) and bound > 2**40 else str(bound)


def spelled(value: Any) -> str:
    """A default in TOML, which a config file and `--set` take.

    >>> spelled(["tensorboard"]), spelled(False), spelled(0.0002)
    ('["tensorboard"]', 'false', '0.0002')
    """
    if isinstance(value, list):
        return f"[{', '.join(map(spelled, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{spelled(key)} = {spelled(one)}' for key, one in value.items())} }}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def as_toml(table: str, values: Mapping[str, Any]) -> str:
    """A table of a config file with these values."""
    lines = [f"{key} = {spelled(value)}" for key, value in values.items() if value is not None]
    return "\n".join([f"[{table}]", *lines, ""])


def presets() -> dict[str, Path]:
    """The named runs that are installed with dail: what `--config NAME` takes."""
    folder = resources.files(_PRESETS)
    return {
        file.name.removesuffix(_SUFFIX): Path(str(file))
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(_SUFFIX)
    }


@dataclass(frozen=True)
class Chosen:
    """What one call of a verb says: values by table, of the file, `--set` and flags. The file is checked whole.

    `overridden`: the settings that `--set` names, in full.
    """

    file: Path | None
    in_file: frozenset[str]
    on_command_line: frozenset[str]
    values: Mapping[str, Mapping[str, Any]]
    overridden: frozenset[str] = frozenset()

    def told(self, table: str, **flags: Any) -> Chosen:
        """With the flags of a verb, which win; one that is None was not given."""
        given = {key: value for key, value in flags.items() if value is not None}
        if not given:
            return self
        values = {**self.values, table: {**self.values.get(table, {}), **given}}
        return replace(self, values=values, on_command_line=self.on_command_line | {table})

    def has(self, table: str, key: str) -> bool:
        return key in self.values.get(table, {})

    def load(self, model: type[_Table], table: str, **inner: Config) -> _Table:
        """The table as its model. `inner` are tables that the model holds. Raises UsageError."""
        try:
            return model.model_validate({**self.values.get(table, {}), **inner})
        except ValidationError as error:
            sources = [f"{self.file} [{table}]"] if table in self.in_file else []
            if table in self.on_command_line or not sources:
                sources.append("the command line")
            raise UsageError(f"{' and '.join(sources)}: {_faults(table, _listed(error))}") from None


def read(verb: str, config: str | Path | None = None, overrides: Sequence[str] = ()) -> Chosen:
    """What `--config` and `--set` say to a verb.

    Raises:
        UsageError: no such file or preset; a table or setting that is not there, anywhere in the file; a value out of
            its bounds; a setting that the verb does not use.
    """
    file = None if config is None else find(config)
    tables = {} if file is None else _tables_in(file)
    values = {table: dict(tables.get(table, {})) for table in tables_of(verb)}
    changed = set[tuple[str, str]]()
    for override in overrides:
        name, sep, text = override.partition("=")
        if not sep:
            raise UsageError(f"--set {override!r} has no '='; write KEY=VALUE, for example synthesis.tau=0.8")
        table, key = full_name(verb, name)
        values[table][key] = _value(text)
        changed.add((table, key))
    on_command_line = frozenset(table for table, _ in changed)
    return Chosen(file, frozenset(tables), on_command_line, values, frozenset(map(".".join, changed)))


def find(config: str | Path) -> Path:
    """The file of a preset's name or of a path; a name without `.toml` is a preset's first."""
    name, named = str(config), presets()
    if name in named:
        return named[name]
    path = Path(config).expanduser()
    if not path.exists():
        meant = did_you_mean(Path(name).name.removesuffix(_SUFFIX), named)
        raise UsageError(f"config {name} is no file and no preset{meant}; the presets are {', '.join(named)}")
    return path


def full_name(verb: str, name: str) -> tuple[str, str]:
    """Table and key of a setting that `--set` names, in full or in short. Raises UsageError: the verb has none."""
    table, dot, key = name.partition(".")
    if not dot:
        table, key = _only_table(verb, name), name
    elif table not in TABLES or key not in settings_of(table):
        raise UsageError(f"--set {name}: {_unknown(name, tables_of(verb))}")
    if verb not in TABLES[table].verbs:
        users = " or ".join(f"`dail {user}`" for user in TABLES[table].verbs)
        raise UsageError(
            f"--set {name}: {table}.{key} is of the table [{table}] ({TABLES[table].about}), which `dail {verb}` does "
            f"not use; give it to {users}"
        )
    return table, key


def _only_table(verb: str, key: str) -> str:
    """The one table, of those the verb uses and then of all, that has a setting of this short name."""
    uses = tables_of(verb)
    for tables in (uses, TABLES):
        having = [table for table in tables if key in settings_of(table)]
        if len(having) > 1 and tables is uses:
            raise UsageError(f"--set {key} is of several tables; write {' or '.join(f'{t}.{key}' for t in having)}")
        if having:
            return having[0]
    raise UsageError(f"--set {key}: {_unknown(key, uses)}")


def _unknown(name: str, tables: Iterable[str]) -> str:
    """That there is no such setting, and what may be meant: one spelled like it, or whose sentence has the words."""
    known = [setting for table in tables for setting in settings_of(table).values()]
    asked = name.rpartition(".")[2]
    keys = {one.key: one.name for one in known}
    meant = [keys[key] for key in difflib.get_close_matches(asked, keys, n=1 if asked in keys else 2)]
    words = asked.replace("_", " ")
    if not meant and len(words) > 3:
        meant = [one.name for one in known if words in one.sentence][:1]
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    return f"there is no setting {name!r}{hint}; `dail settings` lists all"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing if no name is like it."""
    close = difflib.get_close_matches(name, list(names), n=2)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _tables_in(file: Path) -> dict[str, dict[str, Any]]:
    return checked_tables(file, toml_of(file))


def checked_tables(file: Path, tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every table of a file, each checked by its own model, whichever verb reads the file. Raises UsageError."""
    for table, values in tables.items():
        if table not in TABLES:
            raise UsageError(f"{file}: there is no table {table!r}{_other_table(table)}")
        if not isinstance(values, dict):
            raise UsageError(f"{file}: {table} is a {type(values).__name__}; wanted a table, [{table}]")
        known = settings_of(table)
        for key in values:
            if key not in known:
                alone = f"; [{key}] is a table of its own" if key in TABLES else ""
                raise UsageError(f"{file} [{table}]: {_unknown(key, [table])}{alone}")
        _check(file, table, values)
    return tables


def _other_table(name: str) -> str:
    if uses := tables_of(name):  # a verb's name
        return f"; `dail {name}` reads {', '.join(f'[{table}]' for table in uses)}"
    return f"{did_you_mean(name, TABLES)}; the tables are {', '.join(TABLES)}"


def _check(file: Path, table: str, values: dict[str, Any]) -> None:
    """Refuses values out of bounds. What is missing may come from elsewhere."""
    try:
        model_of(table).model_validate(values)
    except ValidationError as error:
        if wrong := [fault for fault in _listed(error) if fault["type"] != "missing"]:
            raise UsageError(f"{file} [{table}]: {_faults(table, wrong)}") from None


def _listed(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_input=False)


def _faults(table: str, faults: Iterable[ErrorDetails]) -> str:
    """Each fault under the full name of its setting, without the value: it may be a secret."""
    return "; ".join(f"{'.'.join(map(str, (table, *fault['loc'])))}: {plainly(fault)}" for fault in faults)


def toml_of(file: Path) -> dict[str, Any]:
    """What a file says. Raises UsageError: it cannot be read, or is not TOML."""
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"config file {file} cannot be read: {error.strerror}; give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config file {file} is not TOML: {error}") from None
