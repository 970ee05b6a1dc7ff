"""Who may enter the engine's next step. One ledger for all strategies that share an engine.

A row is admitted only when a row is free, the next step can prefill its whole prompt beside all running rows, and
the KV cache can hold it at full length. So the scheduler never splits a prefill, never preempts, and the two rows
of a pair, admitted together, stay in step for life.
"""

from __future__ import annotations

from synth.engine.base import Limits
from synth.schema.base import ItemError


class Admission:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: dict[str, tuple[int, int]] = {}  # name → rows, KV tokens
        self._rows = 0
        self._kv_tokens = 0
        self._prefill = 0

    def begin_step(self) -> None:
        self._prefill = 0

    def check(self, prompts: list[int]) -> int:
        """How many tokens a trace after these prompts may have. Raises ItemError if there is no room for one.

        Args:
            prompts: lengths of the contexts that will be decoded side by side.
        """
        room = self._limits.model_tokens - max(prompts)
        if room < 1:
            raise ItemError(
                "context_length_exceeded",
                f"the prompt needs {max(prompts)} tokens and the trace at least 1; "
                f"the model holds {self._limits.model_tokens}; shorten the solution or use a longer-context model",
            )
        if sum(prompts) > self._limits.step_tokens:
            raise ItemError(
                "step_tokens_exceeded",
                f"the prompts need {sum(prompts)} tokens in one step; the engine processes {self._limits.step_tokens}; "
                f"set engine.step_tokens={sum(prompts)} or more",
            )
        fits = self._limits.kv_tokens // len(prompts) // self._limits.kv_block * self._limits.kv_block
        if self._blocks(prompts, 1) > self._limits.kv_tokens:
            raise ItemError(
                "kv_cache_exceeded",
                f"the prompts need {self._blocks(prompts, 1)} tokens of KV cache; the engine has "
                f"{self._limits.kv_tokens}; set engine.kv_cache_gib higher",
            )
        return min(room, fits - max(prompts))

    def take(self, name: str, prompts: list[int], max_tokens: int) -> bool:
        """Reserves room for these rows under one name; False if they must wait."""
        kv_tokens = self._blocks(prompts, max_tokens)
        if (
            self._rows + len(prompts) > self._limits.rows
            or self._rows + self._prefill + sum(prompts) > self._limits.step_tokens
            or self._kv_tokens + kv_tokens > self._limits.kv_tokens
        ):
            return False
        self._held[name] = (len(prompts), kv_tokens)
        self._rows += len(prompts)
        self._kv_tokens += kv_tokens
        self._prefill += sum(prompts)
        return True

    def release(self, name: str) -> None:
        rows, kv_tokens = self._held.pop(name)
        self._rows -= rows
        self._kv_tokens -= kv_tokens

    def _blocks(self, prompts: list[int], max_tokens: int) -> int:
        block = self._limits.kv_block
        return sum(-(-(prompt + max_tokens) // block) * block for prompt in prompts)
