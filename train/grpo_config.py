"""Settings of `dail grpo`. Defaults are the paper's (App. B.4, Table 3); where it is silent the setting says so."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dail.synth.core.extensions import Reference
from dail.synth.schema.rendering import Rendering
from dail.synth.schema.selection import MATH
from dail.synth.schema.synthesis import PAPER

# These change speed, memory or how often something is kept, so a stopped run may go on with other values.
FREE_ON_RESUME = frozenset({"engine", "microbatch", "checkpoint_every", "grade_timeout_s"})


class GrpoConfig(Rendering):
    """`[grpo]` of a config file."""

    lr: float = Field(1e-6, gt=0, le=0.1, description="peak learning rate of AdamW; paper: 1e-6")
    batch_size: int = Field(64, ge=1, le=4096, description="problems of an optimizer step; paper: 64")
    rollouts: int = Field(32, ge=2, le=256, description="completions that are drawn of each and compared; paper: 32")
    temperature: float = Field(0.6, gt=0, le=2, description="of the draws; paper: 0.6")
    top_p: float = Field(0.95, gt=0, le=1, description="draws take the likeliest tokens that have this; paper: 0.95")
    epochs: int = Field(
        15,
        ge=1,
        le=1000,
        description="passes over the problems; paper: 15 on e1-verifiable, 15 more with hints, 1 on DeepScaleR",
    )
    max_tokens: int = Field(4096, ge=1, description="a longer completion is cut; the paper is silent")
    hints: Literal["none", "waypoints"] = Field(
        "none",
        description="what a problem is asked with that the run before (--after) solved in none of its last rollouts: "
        "nothing; or the waypoints of its expert solution, without the answer",
    )
    prompts: Reference = Field(
        PAPER, description="whose student template asks: the paper's, or a FOLDER as of synthesis.prompts"
    )
    grader: Reference = Field(
        MATH, description="who rewards, 1 for right and 0 for wrong: math, official, or your own, as for eval.grader"
    )
    grade_timeout_s: float = Field(
        5.0, gt=0, le=86_400, description="seconds for one completion; one that takes longer is not rewarded"
    )
    tune: Literal["lora", "full"] = Field(
        "lora", description="what is trained: an adapter, or every weight; the paper is silent"
    )
    lora_rank: int = Field(32, ge=1, le=512, description="rank of the adapter; the paper is silent")
    lora_alpha: int = Field(32, ge=1, le=4096, description="the adapter counts lora_alpha / lora_rank times")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="type of frozen weights; auto is bfloat16 on a GPU, float32 without"
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="what draws: transformers, a step's rollouts at once; or vLLM beside the trainer"
    )
    microbatch: int = Field(
        4, ge=1, description="completions of a forward pass; less takes less memory; divides batch_size times rollouts"
    )
    checkpoint_every: int = Field(1, ge=1, description="steps between checkpoints, behind which a kill loses all")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the draws, the order and the adapter's first weights")
