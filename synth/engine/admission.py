"""Who may enter the engine's next step. One ledger for all strategies that share an engine.

A row is admitted only when a row is free, the next step can prefill what is not cached of its prompt beside all
running rows, and the KV cache can hold it at full length. So the scheduler never splits a prefill, never preempts, and
the two rows of a pair, admitted together, stay in step for life. Prompts that no step can prefill whole are prefilled
into the prefix cache first (`dail.synth.rollout.scheduler`).
"""

from __future__ import annotations

from dail.synth.core.errors import ItemError
from dail.synth.engine.base import Limits, SequenceKey


class Admission:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: dict[SequenceKey, tuple[int, int]] = {}  # rows, KV tokens
        self._rows = 0
        self._kv_tokens = 0
        self._prefill = 0

    def begin_step(self) -> None:
        """What the last step could not prefill goes before everything new."""
        self._prefill = max(0, self._rows + self._prefill - self._limits.step_tokens)

    def check(self, prompts: list[int]) -> int:
        """How many tokens a trace after these prompts may have. Raises ItemError if there is no room for one.

        Args:
            prompts: lengths of the contexts that will be decoded side by side.
        """
        limits = self._limits
        room = limits.model_tokens - max(prompts)
        if room < 1:
            raise ItemError(
                "context_length_exceeded",
                f"the prompt needs {max(prompts)} tokens and the trace at least 1; "
                f"the model holds {limits.model_tokens}; shorten the solution or use a longer-context model",
            )
        prefill = self._prefill_of(prompts, cached=limits.caches_prompts)
        if len(prompts) > 1 and prefill > limits.step_tokens:
            raise ItemError(
                "step_tokens_exceeded",
                f"the prompts need {prefill} tokens in one step, less what the engine caches of them; it processes "
                f"{limits.step_tokens}; set engine.step_tokens={prefill} or more",
            )
        fits = limits.kv_tokens // len(prompts) // limits.kv_block * limits.kv_block
        if self._blocks(prompts, 1) > limits.kv_tokens:
            raise ItemError(
                "kv_cache_exceeded",
                f"the prompts need {self._blocks(prompts, 1)} tokens of KV cache; the engine has "
                f"{limits.kv_tokens}; set engine.kv_cache_gib higher",
            )
        return min(room, fits - max(prompts))

    def is_long(self, prompts: list[int]) -> bool:
        """Whether a step might never have room to prefill these whole beside the running rows."""
        return sum(prompts) + self._limits.rows > self._limits.step_tokens

    def take(
        self, key: SequenceKey, prompts: list[int], max_tokens: int, cached: bool = False, split: bool = False
    ) -> bool:
        """Reserves room for these sequences under one key; False if they must wait.

        Args:
            cached: the prompts lie in the prefix cache, but for their last, unfinished blocks.
            split: the prefill may take several steps.
        """
        limits = self._limits
        kv_tokens = self._blocks(prompts, max_tokens)
        prefill = self._prefill_of(prompts, cached)
        step_is_full = self._rows + self._prefill + prefill > limits.step_tokens and not split
        if step_is_full or self._rows + len(prompts) > limits.rows or self._kv_tokens + kv_tokens > limits.kv_tokens:
            return False
        self._held[key] = (len(prompts), kv_tokens)
        self._rows += len(prompts)
        self._kv_tokens += kv_tokens
        self._prefill += prefill
        return True

    def release(self, key: SequenceKey) -> None:
        rows, kv_tokens = self._held.pop(key)
        self._rows -= rows
        self._kv_tokens -= kv_tokens

    def _prefill_of(self, prompts: list[int], cached: bool) -> int:
        """Tokens at the most that one step must prefill. A prompt's last, unfinished block is never cached."""
        return sum(min(prompt, self._limits.kv_block) if cached else prompt for prompt in prompts)

    def _blocks(self, prompts: list[int], max_tokens: int) -> int:
        block = self._limits.kv_block
        return sum(-(-(prompt + max_tokens) // block) * block for prompt in prompts)
