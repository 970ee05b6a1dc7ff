"""Protocols of evaluation by name: what the paper says, and what its authors' code does, as settings.

    dail eval --protocol official --thinking …

What is set otherwise stays so, and is said: then it is no longer the protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from pydantic import BaseModel, JsonValue

from dail.synth.core.errors import UsageError
from dail.synth.core.settings import Chosen

ProtocolName = Literal["paper", "official"]

_BUDGETS = (512, 1024, 2048, 4096)
# Of both: nothing else shapes or cuts what is drawn.
_PLAIN: dict[str, JsonValue] = {"temperatures": [], "top_k": 0, "stop": [], "max_tokens": None}
_BOX = "\n\nFinal answer: \\boxed{"  # our words; the authors' own half sentence is theirs


@dataclass(frozen=True)
class Protocol:
    """`eval` and `engine` are what it sets in these tables; of `eval`, some only where the model thinks or does not."""

    about: str
    eval: Mapping[str, JsonValue]
    thinking: Mapping[str, JsonValue]
    not_thinking: Mapping[str, JsonValue]
    engine: Mapping[str, JsonValue] = field(default_factory=dict)

    def of_eval(self, said: Mapping[str, Any]) -> dict[str, JsonValue]:
        """What it sets in `[eval]`, of which this is said already. A model thinks if it is told to, or has budgets:
        some open a thought without being told."""
        thinks = said.get("thinking") or said.get("budgets")
        return {**self.eval, **(self.thinking if thinks else self.not_thinking)}


PROTOCOLS: Mapping[ProtocolName, Protocol] = {
    "paper": Protocol(
        "section 3 of the paper",
        {"samples": 128, "temperature": 0.6, "top_p": 1.0, "presence_penalty": 0.0, "grader": "math", **_PLAIN},
        thinking={"budgets": list(_BUDGETS), "answer_tokens": 2048, "announce": ""},
        not_thinking={"budgets": [], "announce": ""},
    ),
    "official": Protocol(
        "the authors' code at commit 4886f8d, as we read it, with a half sentence of our own",
        {"samples": 128, "temperature": 0.6, "top_p": 0.95, "presence_penalty": 1.5, "grader": "official",
         "answer_tokens": 100, "announce": _BOX, **_PLAIN},
        thinking={"budgets": list(_BUDGETS)},
        not_thinking={"budgets": []},
        engine={"model_tokens": 8000},
    ),
}  # fmt: skip


def protocolled(chosen: Chosen, name: ProtocolName | None, flags: Mapping[str, Any]) -> Chosen:
    """With the flags of `[eval]`, and what `--protocol` sets: it wins over a file's, and not over a flag or `--set`."""
    chosen = chosen.told("eval", **flags)
    if name is None:
        return chosen
    taken = chosen.overridden | {f"eval.{key}" for key, value in flags.items() if value is not None}
    protocol = PROTOCOLS[name]
    sets = {"eval": {**protocol.of_eval(chosen.values.get("eval", {})), "protocol": name}, "engine": protocol.engine}
    for table, values in sets.items():
        free = {key: one for key, one in values.items() if f"{table}.{key}" not in taken}
        left_out = {key for key, one in free.items() if one is None}
        of_table = {key: one for key, one in chosen.values.get(table, {}).items() if key not in left_out}
        chosen = replace(chosen, values={**chosen.values, table: of_table}).told(table, **free)
    return chosen


def filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `[eval]` with what their protocol sets and they do not say, the engine's model_tokens too."""
    if given["protocol"] not in get_args(ProtocolName):
        return dict(given)  # refused by its type
    protocol = PROTOCOLS[given["protocol"]]
    values = {**protocol.of_eval(given), **given}
    engine = values.get("engine")
    if isinstance(engine, BaseModel) and getattr(engine, "model_tokens", 0) is None:
        values["engine"] = engine.model_copy(update=dict(protocol.engine))
    return values


def departures(name: ProtocolName, config: BaseModel) -> dict[str, tuple[JsonValue, JsonValue]]:
    """By setting, what the protocol says and what is set instead; nothing: this is the protocol.

    Args:
        config: an EvalConfig.
    """
    settings = config.model_dump(mode="json")
    protocol = PROTOCOLS[name]
    wanted = {f"eval.{key}": value for key, value in protocol.of_eval(settings).items()}
    wanted |= {f"engine.{key}": value for key, value in protocol.engine.items()}
    got = {f"eval.{key}": value for key, value in settings.items()}
    got |= {f"engine.{key}": value for key, value in settings["engine"].items()}
    return {key: (value, got[key]) for key, value in wanted.items() if got[key] != value}


def told(name: ProtocolName, config: BaseModel) -> str:
    """What a protocol is and sets, and what departs from it, for people.

    >>> told("paper", EvalConfig(engine=EngineConfig(model=Path("m")), protocol="paper", samples=8))
    'protocol paper (section 3 of the paper): samples=128, temperature=0.6, …; no longer it: eval.samples=8'
    """
    settings = config.model_dump(mode="json")
    protocol = PROTOCOLS[name]
    values = {key: value for key, value in protocol.of_eval(settings).items() if value not in (None, [])}
    sets = ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
    sets += "".join(f", engine.{key}={value}" for key, value in protocol.engine.items())
    others = ", ".join(f"{key}={json.dumps(got)}" for key, (_, got) in departures(name, config).items())
    return f"protocol {name} ({protocol.about}): {sets}" + (f"; no longer it: {others}" if others else "")


def check_thinking(name: ProtocolName, thinks: bool, is_told: bool, has_switch: bool, opens_thought: bool) -> None:
    """Raises UsageError: a protocol ends thoughts at budgets, and nobody says whether this model is to think.

    Args:
        thinks: there are budgets.
        is_told: eval.thinking says which.
        has_switch: the chat template reads it.
        opens_thought: prompts end inside a thought.
    """
    if has_switch and not is_told and not thinks:
        raise UsageError(
            f"protocol {name} ends thoughts at budgets and leaves other completions alone, and this model thinks or "
            "not, as it is told; say --thinking or --no-thinking"
        )
    if opens_thought and not thinks:
        raise UsageError(
            f"protocol {name} ends thoughts at budgets, and this model's prompts open a thought without a switch that "
            f"says so; add --set eval.budgets={','.join(map(str, _BUDGETS))}"
        )
