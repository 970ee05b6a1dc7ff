"""Settings of `dail eval`: how completions are drawn and judged."""

from __future__ import annotations

from pydantic import Field

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
    gate: GateConfig = Field(default_factory=GateConfig, description="the table [gate]")
