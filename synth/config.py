"""Settings of the worker and of `dail synth`: which engine, how many, and how big."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dail.synth.core.config import AbsolutePath, Config
from dail.synth.core.errors import UsageError
from dail.synth.core.settings import Chosen


class EngineConfig(Config):
    """`[engine]` of a config file. Sizes left out are fitted to model and device (`dail.synth.engine.sizing`)."""

    model: AbsolutePath = Field(description="folder with safetensors, tokenizer and chat template")
    kind: Literal["vllm", "fake"] = Field(
        "vllm", description="vLLM, or the fake one of the tests, which draws from known, made-up distributions"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="type of the weights in the engine"
    )
    model_tokens: int | None = Field(
        None, ge=16, description="longest prompt + trace; the model's own limit if left out"
    )
    rows: int | None = Field(None, ge=2, description="rows decoded in one step")
    step_tokens: int | None = Field(None, ge=64, description="tokens one step may process, prefill included")
    kv_cache_gib: float | None = Field(None, gt=0, description="KV cache; on a GPU, what is left of memory_share")
    memory_share: float | None = Field(None, gt=0, lt=1, description="part of a GPU's memory the engine may take")
    tensor_parallel: int = Field(1, ge=1, description="GPUs one engine spans")


class SynthConfig(Config):
    """`[worker]` of a config file, with the engine that `[engine]` describes."""

    engine: EngineConfig = Field(description="the table [engine]")
    actors: int | None = Field(None, ge=1, description="engine actors; one per GPU of the cluster (or 1) if left out")
    strategy: Literal["auto", "lockstep", "lazy", "draft_verify"] = Field(
        "auto", description="how mixed rollouts are drawn, the traces being the same; auto takes lazy where it is exact"
    )
    student_model: AbsolutePath | None = Field(
        None, description="the student's own weights, if not the engine's; same tokenizer; strategy=draft_verify only"
    )
    student_adapter: AbsolutePath | None = Field(
        None, description="LoRA adapter of the student alone, in PEFT's format: a second round of DAIL"
    )
    privileged_adapter: AbsolutePath | None = Field(
        None,
        description="LoRA adapter of the privileged student, whose weights are the engine's bare ones in the paper: a "
        "round whose references moved on",
    )
    score_student: bool = Field(
        True, description="after a lazy rollout, read the trace once as the student, which says who wrote what"
    )
    restarts: int = Field(3, ge=0, description="engine restarts within 10 minutes before an actor is given up")

    @property
    def student(self) -> Path | None:
        """Folder of whatever the student has of its own."""
        return self.student_adapter or self.student_model

    @property
    def adapters(self) -> list[Path]:
        """Of both roles."""
        return [folder for folder in (self.student_adapter, self.privileged_adapter) if folder]

    @model_validator(mode="after")
    def _check_student(self) -> Self:
        if self.student_model is not None and self.strategy != "draft_verify":
            raise ValueError(
                f"student_model needs two engines, and strategy {self.strategy} has one; set strategy=draft_verify"
            )
        if self.student_model is not None and self.student_adapter is not None:
            raise ValueError("student_model and student_adapter are both set; give the student one of them")
        if self.privileged_adapter is not None and self.strategy == "draft_verify":
            raise ValueError(
                "strategy draft_verify lets the privileged student read what the student proposes, and no engine reads "
                "a prompt with an adapter; leave privileged_adapter out, or set strategy=auto"
            )
        return self


def load_engine(chosen: Chosen, model: Path | None) -> EngineConfig:
    """The table [engine], its model from a flag or a setting. Raises UsageError."""
    chosen = chosen.told("engine", model=model)
    if not chosen.has("engine", "model"):
        raise UsageError("no model is named; give --model FOLDER, or engine.model in --config or --set")
    return chosen.load(EngineConfig, "engine")
