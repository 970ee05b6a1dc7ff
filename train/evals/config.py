"""Settings of `dail eval`: how completions are drawn and judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from dail.synth.config import EngineConfig
from dail.synth.core.extensions import Reference
from dail.synth.method.grading import MATH
from dail.synth.schema.items import StopString, clean, listed
from dail.synth.schema.rendering import Rendering
from dail.synth.schema.synthesis import PAPER
from dail.train.evals.protocols import ProtocolName, filled
from dail.train.gate import GateConfig


class EvalConfig(Rendering):
    """`[eval]` of a config file, with the engine that `[engine]` describes."""

    engine: EngineConfig = Field(description="the table [engine]")
    protocol: ProtocolName | None = Field(
        None,
        description="whose evaluation this is, the paper's or the authors' code's: sets what of this table is not "
        "said otherwise",
    )
    samples: int = Field(32, ge=1, le=4096, description="completions per problem; the paper draws 128")
    temperature: float = Field(0.6, ge=0, le=2, description="temperature of the draws; 0 is greedy")
    temperatures: tuple[Annotated[float, Field(ge=0, le=2)], ...] = Field(
        (), description="several, side by side, instead of eval.temperature"
    )
    top_p: float = Field(1.0, gt=0, le=1, description="draws take the likeliest tokens that have this together")
    top_k: int = Field(0, ge=0, description="draws take one of so many likeliest tokens; 0 takes all")
    presence_penalty: float = Field(
        0.0,
        ge=-2,
        le=2,
        description="taken from the logit of every token that was drawn before, as vLLM does: the prompt counts for "
        "nothing, and to an answer behind a thought that was ended the thought is prompt",
    )
    stop: tuple[StopString, ...] = Field(
        (), max_length=16, description="texts that end a completion, which keeps them; besides the model's own tokens"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="a longer completion is cut; what the model's context leaves if left out"
    )
    budgets: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="budget forcing, several side by side: a thought is ended after so many tokens, and an answer is "
        "drawn behind it; none: it ends by itself",
    )
    answer_tokens: int = Field(
        2048, ge=1, description="of the answer behind a budget's thought, or behind eval.announce; a longer one is cut"
    )
    announce: Annotated[str, AfterValidator(clean)] = Field(
        "",
        max_length=4096,
        description="text that announces the answer, drawn behind it: with budgets behind every thought; without, "
        "behind a completion that has no box",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all draws and of the intervals")
    prompts: Reference = Field(
        PAPER, description="whose student template asks: the paper's, or a FOLDER as of synthesis.prompts"
    )
    grader: Reference = Field(
        MATH,
        description="who judges: math (the last box against the answer), official (the same box compared as text, as "
        "the authors' code does), or your own function: FILE.py:NAME, MODULE:NAME, or an entry point of dail.graders",
    )
    grade_timeout_s: float = Field(
        5.0,
        gt=0,
        le=86_400,
        description="seconds for one completion, of the grader's own time, whatever else the machine does; one that "
        "takes it longer is given up, which is counted and warned of",
    )
    actors: int | None = Field(
        None,
        ge=1,
        description="engines on Ray, as worker.actors; left out, one engine in this process, or, with RAY_ADDRESS or "
        "several models, one per GPU of the cluster",
    )
    marks: Reference | None = Field(
        None,
        description="who finds shortcuts, which are counted beside pass@k and marked in the report: your own function, "
        "FILE.py:NAME, MODULE:NAME, or an entry point of dail.marks",
    )
    gate: GateConfig = Field(default_factory=GateConfig, description="the table [gate]")

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        return filled(given) if isinstance(given, Mapping) and given.get("protocol") else given

    @field_validator("temperatures", "budgets", mode="before")
    @classmethod
    def _are_listed(cls, value: object) -> object:
        """`--set eval.budgets=512,1024`, as well as a list."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("temperatures", "budgets")
    @classmethod
    def _are_different(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if twice := [value for place, value in enumerate(values) if value in values[:place]]:
            raise ValueError(f"{twice[0]:g} is there twice; each would be drawn and shown twice; leave one out")
        return values

    _is_a_list = field_validator("stop", mode="before")(listed)

    @model_validator(mode="after")
    def _says_how_a_thought_ends(self) -> Self:
        if self.budgets and self.thinking is False and not self.opening:
            raise ValueError(
                "budgets end a thought, and thinking=false asks for none; leave one of them out (announce alone is for "
                "models that do not think)"
            )
        if self.budgets and self.max_tokens is not None:
            raise ValueError(
                f"budgets say how long a thought may be, and answer_tokens an answer; max_tokens={self.max_tokens} is "
                "for completions without budgets; leave it out"
            )
        return self

    @property
    def cuts(self) -> list[str]:
        """What else than the temperature shapes the draws, for people."""
        named = {"top-p": self.top_p, "top-k": self.top_k, "presence penalty": self.presence_penalty}
        without = {"top-p": 1, "top-k": 0, "presence penalty": 0}
        found = [f"{name} {value:g}" for name, value in named.items() if value != without[name]]
        return [*found, *(f"stop at {text!r}" for text in self.stop)]

    @property
    def drawn_at(self) -> tuple[float, ...]:
        """The temperatures, also where it is one."""
        return self.temperatures or (self.temperature,)
