"""A finished batch whose traces say what a test wants them to say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

from dail.synth.core.files import Objects
from dail.synth.run.trace_rows import shard_of
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.manifest import build_manifest, encode_manifest, manifest_key
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import TraceMessage
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Unit, unit_id
from tests.serve.worker import trace_row

MODEL = ModelIdentity(name="m", revision="r" * 40, tokenizer_hash="sha256:t", template_hash="sha256:c")
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CUT = "…"  # ends a text that was cut by its length


def item_of(name: str, answer: str | None = "7") -> ExpertSolution:
    return ExpertSolution(id=name, problem=f"What is {name}?", solution=f"It is {name}.", answer=answer)


def unit_of(item: ExpertSolution, sample: int, synthesis: Synthesis) -> Unit:
    return Unit(
        unit_id=unit_id(item, synthesis, MODEL, sample), batch_id="b", item_id=item.id or "", sample=sample, epoch=1,
        item=item, synthesis=synthesis, model=MODEL,
    )  # fmt: skip


def batch_of(
    root: Path,
    texts: Mapping[str, Sequence[str | None]],
    bare: Sequence[str] = (),
    begun: str = "",
    **synthesis: object,
) -> Path:
    """The manifest of a batch with these traces by item, in the order of their samples; none: that sample failed.

    Args:
        bare: the items without an answer; that of the others is 7.
        begun: what the prompts open of an answer.
    """
    most = max(len(said) for said in texts.values())
    settings = Synthesis.model_validate({"samples_per_item": most, **synthesis})
    shards = []
    for name, said in texts.items():
        item = item_of(name, None if name in bare else "7")
        for sample, text in enumerate(said):
            if text is None:
                continue
            row = trace_row(unit_of(item, sample, settings)).model_copy(
                update={
                    "trace_text": text,
                    "completion": (TraceMessage(role="assistant", content=begun + text),),
                    "truncated": text.endswith(CUT),
                    "trace_ids": (5,) * (4 + len(text)),
                }
            )
            data, shard = shard_of(row)
            Objects(root).put(shard.key, data)
            shards.append(shard)
    manifest = build_manifest("b", 1, MODEL, settings, shards, NOW)
    Objects(root).put(manifest_key("b", 1), encode_manifest(manifest))
    return root / manifest_key("b", 1)
