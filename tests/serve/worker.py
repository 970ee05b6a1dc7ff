"""A worker without an engine: it speaks the lease API and writes real shards of made-up traces."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dail.synth.core.files import Objects, sha256
from dail.synth.core.objects import open_objects
from dail.synth.schema.manifest import config_fingerprint
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import TraceMessage, TraceRow, encode_shard
from dail.synth.schema.units import Beat, Commit, Fail, Heartbeat, LeaseReply, LeaseRequest, ShardRef, Unit, shard_key


class Beaten:
    """The reply to the beat of one unit, as if it had been asked for alone: 409 where it is fenced."""

    def __init__(self, response: Any) -> None:
        self.status_code, self.text = response.status_code, response.text
        self._found: dict[str, Any] = response.json()
        if self.status_code == 200:
            (self._found,) = self._found["beats"]
            self.status_code = 409 if self._found.pop("fenced") else 200

    def json(self) -> dict[str, Any]:
        return {name: value for name, value in self._found.items() if name not in ("unit_id", "epoch")}


class FakeWorker:
    """`http` is any client with `post(path, json=…)`."""

    def __init__(self, http: Any, model: ModelIdentity, name: str = "w1") -> None:
        self.http, self.model, self.name = http, model, name
        self.objects = Objects(Path())

    def lease(self, count: int = 1) -> list[Unit]:
        request = LeaseRequest(worker=self.name, count=count, model=self.model)
        response = self.http.post("/internal/v1/leases", json=request.model_dump(mode="json"))
        assert response.status_code == 200, response.text
        reply = LeaseReply.model_validate_json(response.content)
        self.objects = open_objects(reply.output_root)
        return list(reply.units)

    def heartbeat(
        self, unit: Unit, tokens: int = 0, attributed_tokens: int = 0, student_tokens: float = 0, **checkpoint: Any
    ) -> Any:
        counts = {"tokens": tokens, "attributed_tokens": attributed_tokens, "student_tokens": student_tokens}
        beat = Beat(unit_id=unit.unit_id, epoch=unit.epoch, **counts, **checkpoint)
        body = Heartbeat(worker=self.name, beats=(beat,))
        response = self.http.post("/internal/v1/leases/heartbeat", json=body.model_dump(mode="json"))
        return Beaten(response)

    def write(self, unit: Unit) -> ShardRef:
        return write_shard(self.objects, unit)

    def commit(self, unit: Unit, shard: ShardRef | None = None, correct: bool | None = None) -> Any:
        shard = shard or self.write(unit)
        return self._post(unit, "commit", Commit(worker=self.name, epoch=unit.epoch, shard=shard, correct=correct))

    def fail(self, unit: Unit, code: str = "boom", retryable: bool = False, detail: str = "it broke") -> Any:
        body = Fail(worker=self.name, epoch=unit.epoch, code=code, detail=detail, retryable=retryable)
        return self._post(unit, "fail", body)

    def run(self) -> int:
        """Commits whatever there is; the number of units."""
        num_done = 0
        while units := self.lease(8):
            for unit in units:
                assert self.commit(unit).status_code == 204
            num_done += len(units)
        return num_done

    def _post(self, unit: Unit, verb: str, body: Any) -> Any:
        return self.http.post(f"/internal/v1/leases/{unit.unit_id}/{verb}", json=body.model_dump(mode="json"))


def write_shard(objects: Objects, unit: Unit) -> ShardRef:
    return write_together(objects, [unit])[0]


def write_together(objects: Objects, units: Sequence[Unit]) -> list[ShardRef]:
    """A row each of four tokens: two by the student, one by the privileged student, one by it is not known whom."""
    data = encode_shard([trace_row(unit) for unit in units])
    key = shard_key(units[0].batch_id, sha256(data))
    objects.put(key, data)
    return [
        ShardRef(
            key=key,
            row=row,
            rows=1,
            size_bytes=len(data),
            sha256=sha256(data),
            unit_id=unit.unit_id,
            item_id=unit.item_id,
            tokens=4,
            attributed_tokens=3,
            student_tokens=2,
        )
        for row, unit in enumerate(units)
    ]


def trace_row(unit: Unit) -> TraceRow:
    settings = unit.synthesis
    return TraceRow(
        unit_id=unit.unit_id,
        batch_id=unit.batch_id,
        item_id=unit.item_id,
        sample_index=unit.sample,
        problem=unit.item.problem_text,
        solution=unit.item.solution_text,
        answer=unit.item.answer,
        answer_found="answer",
        kind="verifiable",
        waypoints=(),
        privileged=None,
        dropped=(),
        source=None,
        license=None,
        metadata="{}",
        student_prompt_ids=(1, 2),
        privileged_prompt_ids=(1, 2, 3),
        negative_prompt_ids=(1,),
        trace_ids=(5, 6, 7, 8),
        student_prob=(1.0, 1.0, 0.0, None),
        rejected_ids=(None,) * 4,
        student_logprob=(-0.1, -0.2, None, -0.3),
        privileged_logprob=(-0.1, -0.1, -0.1, -0.1),
        trace_text="so it is",
        prompt=tuple(TraceMessage(role=message.role, content=message.content) for message in unit.item.messages),
        completion=(TraceMessage(role="assistant", content="so it is"),),
        finish_reason="stop",
        truncated=False,
        method=settings.method,
        strategy="lockstep",
        tau=settings.tau,
        temperature=settings.temperature,
        probability_space=settings.probability_space,
        prompts="paper",
        extractor="paper",
        acceptance="absolute",
        acceptance_k=25,
        top_p=1.0,
        top_k=0,
        stop=(),
        max_tokens=settings.max_tokens,
        thinking=settings.thinking,
        template_args="{}",
        date=None,
        opening="",
        drop_empty_thought=False,
        probe_hash="",
        seed=settings.seed,
        model_name=unit.model.name,
        model_revision=unit.model.revision,
        student_revision=None,
        tokenizer_hash=unit.model.tokenizer_hash,
        template_hash=unit.model.template_hash,
        config_fingerprint=config_fingerprint(unit.model, settings),
        engine=f"fake, lease {unit.epoch}",
        created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    )
