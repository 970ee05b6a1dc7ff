"""A leased unit → what the engine is asked; what it answered → the trace row that goes into the shard."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import dataclass

from dail.synth.core.errors import ItemError
from dail.synth.core.files import sha256
from dail.synth.method.prompts import Contexts, Prompts, Told
from dail.synth.method.shortening import halved, without_last_solution
from dail.synth.method.token_texts import rejected_texts, token_texts
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import resolve
from dail.synth.schema.manifest import config_fingerprint
from dail.synth.schema.shards import NamedContext, TraceMessage, TraceRow, encode_shard
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens, count_attributed, count_student
from dail.synth.schema.units import ShardRef, Unit, shard_key, unit_seed

STRAY_MARK = "stray_turn_mark"


@dataclass(frozen=True)
class Prepared:
    """`item`: as it is shown, which is the unit's but for what was `dropped` of a solution that was too long."""

    unit: Unit
    item: ExpertSolution
    dropped: tuple[str, ...]
    contexts: Contexts
    request: RolloutRequest


def prepare(unit: Unit, prompts: Prompts, model_tokens: int) -> Prepared:
    """Renders a unit's three contexts and fits its trace behind the longest of them.

    The negative reference writes nothing, but the trainer reads the trace in its context too.

    Args:
        model_tokens: longest prompt and trace that the engine holds.

    Raises:
        ItemError: no trace fits behind a context, or the tokenizer failed.
        UsageError: the chat template does not read what the settings set; they suppress what is no token of the model.
    """
    asked = unit.synthesis
    item, dropped, contexts = _fitted(unit.item, asked, prompts, model_tokens)
    room = model_tokens - contexts.longest[1]
    synthesis = asked.model_copy(update={"max_tokens": min(room, asked.max_tokens)})
    request = RolloutRequest(
        unit_id=unit.unit_id,
        student_ids=contexts.student_ids,
        privileged_ids=contexts.privileged_ids,
        synthesis=synthesis,
        seed=unit_seed(unit.unit_id),
        stop_ids=prompts.stop_ids,
        suppressed_ids=prompts.suppressed_ids(synthesis),
        prefix=_expert(item, prompts, synthesis.max_tokens) if synthesis.method == "expert" else unit.prefix,
    )
    return Prepared(unit, item, dropped, contexts, request)


def _fitted(
    item: ExpertSolution, asked: Synthesis, prompts: Prompts, model_tokens: int
) -> tuple[ExpertSolution, tuple[str, ...], Contexts]:
    """The item as it is shown, what its solution lost for that, and the contexts.

    Its kind and answer are those of the whole item. Raises ItemError: a prompt is too long, whatever may be dropped.
    """
    most = asked.prompt_tokens or model_tokens - 1  # what is dropped must not depend on what this engine holds
    contexts = prompts.contexts(item, asked)
    dropped: list[str] = []
    while contexts.longest[1] > most and asked.too_long != "fail":
        another = item.dealt if contexts.longest[0] in _shows_another(asked) else None
        shorter = _shorter(another or item, asked)
        if shorter is None:
            break
        item = item.model_copy(update={"dealt": shorter[0]}) if another else shorter[0]
        dropped.insert(0, shorter[1])
        contexts = prompts.contexts(item, asked)
    role, longest = contexts.longest
    limit = min(most, model_tokens - 1)
    if longest > limit:
        allowed = "the trace at least 1" if limit == model_tokens - 1 else f"may have {limit}"
        what = "shorten the solution or use a longer-context model"
        if asked.too_long == "fail":
            what += ", or set too_long=drop_later_solutions and prompt_tokens"
        raise ItemError(
            "context_length_exceeded",
            f"the {role} prompt needs {longest} tokens and {allowed}; the model holds {model_tokens}; {what}",
        )
    return item, tuple(dropped), contexts


def _shows_another(asked: Synthesis) -> set[str]:
    """The contexts that are long by another problem's solution, and get shorter by it alone."""
    return {"other_solution"} | ({"privileged"} if asked.shown == "other_solution" else set())


def _shorter(item: ExpertSolution, asked: Synthesis) -> tuple[ExpertSolution, str] | None:
    """With less of its solution, and what it lost; its kind and answer stay. None: nothing may or can be dropped."""
    if item.privileged is not None:
        return None
    shorter = without_last_solution(item)
    if shorter is None and asked.too_long == "drop_then_halve":
        shorter = halved(item)
    if shorter is None:
        return None
    resolved = resolve(item, asked.lone_box)
    return shorter[0].model_copy(update={"kind": resolved.kind, "answer": resolved.answer}), shorter[1]


def _expert(item: ExpertSolution, prompts: Prompts, room: int) -> Tokens:
    """The expert solution as a trace that is whole already, written by neither role."""
    ids = prompts.solution_ids(item)
    if len(ids) > room:
        raise ItemError(
            "solution_too_long",
            f"the solution has {len(ids)} tokens as a trace, and {room} have room (max_tokens, or what the model's "
            f"context leaves); it is never cut; raise max_tokens or use a longer-context model",
        )
    nothing = [None] * len(ids)
    return Tokens(ids, list(nothing), list(nothing), list(nothing), list(nothing))


def trace_row(prepared: Prepared, rollout: Rollout, prompts: Prompts, engine: str) -> TraceRow:
    """Everything about one trace. Raises ItemError if there is none: nothing was written, or more than one turn."""
    tokens = rollout.tokens
    if not set(tokens.ids) - prepared.request.stop_ids:
        raise ItemError("empty_trace", "the model ended its turn at once; nothing was written; try another seed")
    if mark := prompts.stray_mark(tokens.ids):
        raise ItemError(
            STRAY_MARK,
            f"the trace holds {mark!r}, which begins or ends a turn: the model wrote on past its own; name the token "
            "that ends its turn in eos_token_id of generation_config.json (`dail doctor` shows those that are known)",
            retryable=True,  # once that is mended
        )
    unit, contexts, item, synthesis = prepared.unit, prepared.contexts, prepared.item, prepared.unit.synthesis
    text, told = prompts.text(tokens.ids), contexts.told
    return TraceRow(
        unit_id=unit.unit_id,
        batch_id=unit.batch_id,
        item_id=unit.item_id,
        sample_index=unit.sample,
        problem=item.problem_text,
        solution=item.solution_text,
        answer=told.answer,
        answer_found=resolve(unit.item, synthesis.lone_box).found,
        kind=told.kind,
        waypoints=tuple(told.waypoints),
        privileged=_shown_instead(told, synthesis, item),
        dropped=prepared.dropped,
        shown=synthesis.shown,
        shown_share=told.share,
        waypoints_from=synthesis.waypoints_from,
        other_item=item.dealt.id if item.dealt else None,
        other_solution=item.dealt.shown_text if item.dealt else None,
        wrong_answer=item.wrong_answer,
        source=item.source,
        license=item.license,
        metadata=json.dumps(item.metadata, sort_keys=True, ensure_ascii=False),
        student_prompt_ids=tuple(contexts.student_ids),
        privileged_prompt_ids=tuple(contexts.privileged_ids),
        negative_prompt_ids=tuple(contexts.negative_ids),
        contexts=tuple(NamedContext(name=name, ids=tuple(ids)) for name, ids in contexts.further.items()),
        trace_ids=tuple(tokens.ids),
        student_prob=tuple(tokens.student_prob),
        rejected_ids=tuple(tokens.rejected),
        student_logprob=tuple(tokens.student_logprob),
        privileged_logprob=tuple(tokens.privileged_logprob),
        trace_text=text,
        token_texts=tuple(token_texts(tokens.ids, prompts.decode)),
        rejected_texts=tuple(rejected_texts(tokens.ids, tokens.rejected, prompts.decode)),
        prompt=tuple(TraceMessage(role=message.role, content=message.content) for message in contexts.student_messages),
        completion=(TraceMessage(role="assistant", content=prompts.completion(tokens.ids, synthesis)),),
        finish_reason=rollout.reason,
        truncated=rollout.reason == "length",
        method=synthesis.method,
        strategy="none" if synthesis.method == "expert" else rollout.strategy,
        **synthesis.labels(),
        tau=synthesis.tau,
        acceptance_k=synthesis.acceptance_k,
        temperature=synthesis.temperature,
        probability_space=synthesis.probability_space,
        top_p=synthesis.top_p,
        top_k=synthesis.top_k,
        proposer=synthesis.proposer,
        proposals=synthesis.proposals,
        greedy_proposals=synthesis.greedy_proposals,
        suppressed_ids=tuple(sorted(prepared.request.suppressed_ids)),
        stop=synthesis.stop,
        max_tokens=synthesis.max_tokens,
        thinking=synthesis.thinking,
        template_args=json.dumps(synthesis.template_args, sort_keys=True, ensure_ascii=False),
        date=None if synthesis.date is None else synthesis.date.isoformat(),
        opening=synthesis.opening,
        drop_empty_thought=synthesis.drop_empty_thought,
        probe_hash=sha256(prompts.probe(synthesis).encode()),
        seed=synthesis.seed,
        model_name=unit.model.name,
        model_revision=unit.model.revision,
        student_revision=unit.model.student,
        privileged_revision=unit.model.privileged,
        tokenizer_hash=unit.model.tokenizer_hash,
        template_hash=unit.model.template_hash,
        config_fingerprint=config_fingerprint(unit.model, synthesis),
        engine=engine,
        created_at=dt.datetime.now(dt.UTC),
    )


def _shown_instead(told: Told, synthesis: Synthesis, item: ExpertSolution) -> str | None:
    """What the privileged student was shown, where that is not the whole solution; of nothing the empty text."""
    is_all = synthesis.shown == "solution" and told.share == 1 and item.privileged is None
    return None if is_all else told.privileged or ""


def shard_of(row: TraceRow) -> tuple[bytes, ShardRef]:
    """The row as a shard of its own: its bytes, and the reference that is committed once they lie safely."""
    data = encode_shard([row])
    (ref,) = located([reference(row)], row.batch_id, data)
    return data, ref


def reference(row: TraceRow, group: int = 0) -> ShardRef:
    """What is committed of a trace, but for the file that it is a row group of: see `located`."""
    return ShardRef(
        key="",
        row=group,
        rows=1,
        size_bytes=1,
        sha256="",
        unit_id=row.unit_id,
        item_id=row.item_id,
        tokens=len(row.trace_ids),
        attributed_tokens=count_attributed(row.student_prob),
        student_tokens=count_student(row.student_prob),
    )


def located(refs: Iterable[ShardRef], batch_id: str, data: bytes) -> list[ShardRef]:
    """The references with the shard that their traces are in."""
    digest = sha256(data)
    file = {"key": shard_key(batch_id, digest), "size_bytes": len(data), "sha256": digest}
    return [ref.model_copy(update=file) for ref in refs]
