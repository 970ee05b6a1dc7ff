"""Settings of a training run. Defaults are the paper's (Table 2, App. B.3); where it is silent the setting says so."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from dail.synth.core.config import Config
from dail.synth.core.errors import UsageError
from dail.synth.core.extensions import Reference
from dail.train.comparison import Divergence, TokenWeights, check, parsed
from dail.train.gate import GateConfig
from dail.train.objective import OBJECTIVES, BuiltinObjective

Reduction = Literal["trace_sum", "trace_mean", "token_mean"]
TooLong = Literal["fail", "drop"]
Schedule = Literal["linear", "cosine", "constant"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
# These change speed, memory or rounding, never what is optimised, so a stopped run may go on with other values.
FREE_ON_RESUME = frozenset(
    {
        "rollout_tolerance",
        "microbatch_tokens",
        "token_chunk",
        "checkpoint_every",
        "reference_states",
        "lora",
        "recompute",
        "packing",
        "shard_weights",
        "trackers",
        "kl_every",
        "base_model",
        "gate",
    }
)


class TrainConfig(Config):
    """`[train]` of a config file."""

    objective: BuiltinObjective | Reference = Field(
        "contrastive",
        description="the loss; contrastive is the paper's (§2.2), the others with a name are its ablations (Table 4, "
        "Figure 5); or a function of your own, as dail.train.objective says",
    )
    gamma: float = Field(0.1, ge=0, lt=1, description="weight of the negative term; paper: 0.1")
    references: dict[str, float] = Field(
        default_factory=dict,
        description="contexts behind which the frozen model is compared with the student, each with its weight, as "
        "privileged=1,negative=-0.1 (the paper's); student, privileged, negative, or others that the shards have; by "
        "objective and gamma if left out",
    )
    divergence: Divergence = Field(
        "reverse",
        description="of the student from a reference: KL(student ‖ reference), the paper's; forward: KL(reference ‖ "
        "student); jsd: the generalised Jensen-Shannon divergence",
    )
    jsd_beta: float = Field(
        0.5,
        ge=0.01,
        le=0.99,
        description="of jsd: the reference's share of the mixture; near 0 it is like forward, near 1 like reverse",
    )
    reference_temperature: float = Field(
        1.0, gt=0, le=10, description="the references' logits are divided by it before they are compared; paper: 1"
    )
    student_temperature: float = Field(
        1.0, gt=0, le=10, description="the student's logits are divided by it before they are compared; paper: 1"
    )
    token_weights: TokenWeights = Field(
        "none",
        description="what makes some tokens of a trace count more, 1 on its mean: the entropy of the first positive "
        "reference, its disagreement with the base model on the student's prompt (total variation), or the position, "
        "falling to the end; paper: none",
    )
    lr: float = Field(2e-4, gt=0, le=0.1, description="peak learning rate of AdamW; paper: 2e-4")
    warmup_steps: int = Field(5, ge=0, description="steps until the learning rate is at its peak; paper: 5")
    schedule: Schedule = Field(
        "linear", description="of the learning rate after the warm-up; linear and cosine end at 0; the paper is silent"
    )
    reduction: Reduction = Field(
        "trace_sum",
        description="of tokens to one loss; paper: the sum over a trace's tokens, averaged over traces (here divided "
        "by the data set's mean trace length too, a constant); trace_mean gives short traces the weight of long "
        "ones, token_mean every token of a batch the same",
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="of AdamW; paper: 0.01")
    optimizer: Literal["adamw", "paged_adamw_8bit"] = Field(
        "adamw",
        description="what takes the steps; the paper is silent, its authors' code has paged_adamw_8bit, AdamW with "
        "8-bit moments (dail[bnb])",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm; the paper is silent")
    too_long: TooLong = Field(
        "fail",
        description="what to do about a trace that is longer, with one of its contexts, than the model can read: stop, "
        "or leave the trace out and count it",
    )
    tune: Literal["lora", "full"] = Field(
        "lora",
        description="what is trained: an adapter (the paper), or every weight but the head, as float32, of which each "
        "rank holds all, or its part with shard_weights",
    )
    quantise: Literal["none", "nf4"] = Field(
        "none",
        description="frozen weights in 4 bits (QLoRA), for models that the card does not hold otherwise (dail[bnb]); "
        "the references are of these weights then; the paper's are whole",
    )
    longest: int | None = Field(
        None,
        ge=2,
        description="traces that have so many tokens or more with the student's or the privileged student's prompt are "
        "left out; the paper is silent, its authors' code has 2048 for reasoning models and 12288 for others",
    )
    skip_first: int = Field(
        0,
        ge=0,
        description="predictions of so many tokens at a trace's beginning count nothing; the paper is silent, its "
        "authors' code leaves out two of the assistant's content, of which one is the <think> that a prompt has opened",
    )
    end_token: Literal["keep", "drop"] = Field(
        "keep",
        description="whether the token that ends the turn is a part of the trace; the paper is silent, its authors' "
        "code drops it",
    )
    after_last: bool = Field(
        False,
        description="count what is predicted behind a trace's last token too, as the authors' code does; it has no "
        "token that it should have been, so nll and objectives of your own cannot",
    )
    batch_size: int = Field(4, ge=1, le=4096, description="traces per optimizer step; paper: 4")
    epochs: int = Field(
        5, ge=1, le=1000, description="passes over the traces; paper: 5 for Qwen2.5, 3 for reasoning models"
    )
    lora_rank: int = Field(32, ge=1, le=512, description="rank of the adapter; paper: 32")
    lora_alpha: int = Field(32, ge=1, le=4096, description="the adapter counts lora_alpha / lora_rank times; paper: 32")
    lora_targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        min_length=1,
        description='layers with an adapter by the last parts of their names, as ["q_proj", "v_proj"]; all-linear is '
        "all linear ones but the head, routers of experts and what else the engine cannot serve; the paper is silent",
    )
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="part that is dropped of the adapter's input; the paper is silent"
    )
    lora: Literal["lean", "peft"] = Field(
        "lean",
        description="how adapters are computed; peft: PEFT's way, which keeps a float32 copy of every layer's input",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the adapter's first weights and the order of traces")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="type of the frozen weights; auto is bfloat16 on a GPU, float32 without; the adapter is float32",
    )
    rollout_tolerance: float | None = Field(
        None,
        gt=0,
        description="nats by which the base model's logits may be off from the rollout's before a run is refused, as "
        "the shards' log-probabilities tell; by the coarser type of both if left out: 0.01 for float32, 0.1 for "
        "float16, 0.4 for bfloat16, 2 with quantise=nf4",
    )
    microbatch_tokens: int = Field(
        4096, ge=1, description="tokens per forward pass (one trace at least); less takes less memory"
    )
    token_chunk: int = Field(512, ge=1, description="trace tokens whose logits exist at a time; less takes less memory")
    reference_states: Literal["cached", "live"] = Field(
        "cached", description="hidden states of the references, once into files or anew in every step"
    )
    recompute: Literal["auto", "on", "off"] = Field(
        "auto",
        description="compute activations again in the backward pass; auto: if memory would not do otherwise",
    )
    packing: Literal["auto", "on", "off"] = Field(
        "auto",
        description="join sequences without pads; auto: if each is proven to get what it gets alone; on: or refuse",
    )
    shard_weights: bool = Field(
        False,
        description="divide the frozen weights among the ranks (FSDP2), for models that one card does not hold; with "
        "tune=full what is trained, with gradients and moments",
    )
    trackers: tuple[Tracker, ...] = Field(
        ("tensorboard",),
        description="where figures go beside metrics.jsonl; wandb, mlflow and trackio as their own settings say",
    )
    kl_every: int = Field(
        10,
        ge=1,
        description="steps between those whose figures have the KLs to the references, exact over all tokens, which "
        "costs a matrix product more for each but one; the first and the last step have them too",
    )
    base_model: str | None = Field(
        None,
        pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$",
        max_length=200,
        description="what the adapter's card calls the base model, as OWNER/NAME of a hub; if left out, what the hub's "
        "cache says, or the model's name",
    )
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    gate: GateConfig = Field(default_factory=GateConfig, description="the table [gate]")

    @field_validator("lora_targets", mode="before")
    @classmethod
    def _all_or_named(cls, value: object) -> object:
        # validators of this mode run from the last to the first: this one gets what `_listed` made
        if not isinstance(value, tuple) or "all-linear" not in value:
            return value
        if len(value) > 1:
            raise ValueError(f"got {', '.join(value)}, wanted all-linear alone, which has the others in it, or names")
        return "all-linear"

    @field_validator("lora_targets", "trackers", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """`q_proj,v_proj` on a command line is the list of both; a comma too many and a name twice mean nothing."""
        if isinstance(value, str) and value.strip():
            value = [part for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
            return value
        return tuple(dict.fromkeys(part.strip() for part in value))

    @field_validator("references", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return parsed(value)

    @model_validator(mode="after")
    def _can_be_minimised(self) -> Self:
        check(self)
        return self

    @field_validator("objective")
    @classmethod
    def _is_known(cls, objective: str) -> str:
        # a file or module may be on the machine that trains alone, and is looked up when a run begins
        if ":" not in objective and "#" not in objective:
            try:
                OBJECTIVES.pin(objective)
            except UsageError as error:
                raise ValueError(str(error)) from None
        return objective

    @field_validator("gamma", mode="before")
    @classmethod
    def _has_a_minimum(cls, gamma: object) -> object:
        # before the field's own bound, which does not say why
        if isinstance(gamma, int | float) and gamma >= 1:
            raise ValueError(
                f"got {gamma}, wanted less than 1: from 1 on the optimum puts all probability on tokens the "
                "privileged student finds impossible; the paper uses 0.1"
            )
        return gamma
