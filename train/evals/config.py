"""Settings of `dail eval`: how completions are drawn and judged."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from dail.synth.config import EngineConfig
from dail.synth.core.extensions import Reference
from dail.synth.method.grading import MATH
from dail.synth.schema.rendering import Rendering
from dail.synth.schema.synthesis import PAPER
from dail.train.gate import GateConfig


class EvalConfig(Rendering):
    """`[eval]` of a config file, with the engine that `[engine]` describes."""

    engine: EngineConfig = Field(description="the table [engine]")
    samples: int = Field(32, ge=1, le=4096, description="completions per problem; the paper draws 128")
    temperature: float = Field(0.6, ge=0, le=2, description="temperature of the draws; 0 is greedy")
    temperatures: tuple[Annotated[float, Field(ge=0, le=2)], ...] = Field(
        (), description="several, side by side, instead of eval.temperature"
    )
    budgets: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="tokens after which a thought is ended, several side by side; none: it ends by itself"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="a longer completion is cut; what the model's context leaves if left out"
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
    marks: Reference | None = Field(
        None,
        description="who finds shortcuts, which are counted beside pass@k and marked in the report: your own function, "
        "FILE.py:NAME, MODULE:NAME, or an entry point of dail.marks",
    )
    gate: GateConfig = Field(default_factory=GateConfig, description="the table [gate]")

    @field_validator("temperatures", "budgets")
    @classmethod
    def _are_different(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if twice := [value for place, value in enumerate(values) if value in values[:place]]:
            raise ValueError(f"{twice[0]:g} is there twice; each would be drawn and shown twice; leave one out")
        return values

    @property
    def drawn_at(self) -> tuple[float, ...]:
        """The temperatures, also where it is one."""
        return self.temperatures or (self.temperature,)
