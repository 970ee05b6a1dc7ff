"""How many files and bytes many finished traces become, and what writing and reading them costs.

    python -m tests.bench.shards [--units 10000] [--tokens 100 4000]

A worker's own writer and the trainer's own reader, on made-up traces: random token ids and log-probabilities, as little
alike as real ones. All finish at once, so that number and bytes close the files and not the ten seconds. One JSON line
for each length; longer traces are fewer, so that all lengths have as many tokens (`--units` is of the shortest).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dail.synth.core.files import Objects
from dail.synth.run.shard_writer import Ended, ShardWriter
from dail.synth.schema.models import identify
from dail.synth.schema.shard_reader import ShardReader, by_file
from dail.synth.schema.shards import TraceMessage, TraceRow
from tests.conftest import DEMO_MODEL
from tests.serve.worker import trace_row
from tests.synth.run.test_worker import units

_VOCABULARY = 150_000
_TEXTS = 3_000  # characters of a problem's solution


def rows(count: int, tokens: int) -> Iterator[TraceRow]:
    (unit,) = units(identify(DEMO_MODEL), 1)
    template, chance = trace_row(unit), random.Random(0)
    for number in range(count):
        ids = tuple(chance.randrange(_VOCABULARY) for _ in range(tokens))
        logprobs = tuple(-chance.expovariate(2.0) for _ in range(tokens))
        texts = tuple(f"{one:x} " for one in ids)
        rejected = tuple(None if chance.random() < 0.94 else one for one in ids)
        yield template.model_copy(
            update={
                "unit_id": f"{number:032x}",
                "item_id": f"i{number}",
                "solution": "".join(chance.choices("abcdefghijklmnopqrstuvwxyz ", k=_TEXTS)),
                "trace_ids": ids,
                "student_prob": tuple(float(chance.random() < 0.94) for _ in range(tokens)),
                "rejected_ids": rejected,
                "student_logprob": logprobs,
                "privileged_logprob": tuple(one + chance.gauss(0, 0.1) for one in logprobs),
                "trace_text": "".join(texts),
                "token_texts": texts,
                "rejected_texts": tuple(None if one is None else f"{one:x} " for one in rejected),
                "completion": (TraceMessage(role="assistant", content="".join(texts)),),
            }
        )


async def written(objects: Objects, given: list[TraceRow]) -> list[Ended]:
    committed: list[Ended] = []

    async def put(_: str, key: str, data: bytes) -> None:
        await asyncio.to_thread(objects.put, key, data)

    async def commit(ended: Ended) -> None:
        committed.append(ended)

    writer = ShardWriter(lambda _: True, put, commit)
    running = asyncio.create_task(writer.run())
    for row in given:
        await writer.add(row, None, None)
    running.cancel()
    await writer.end()
    return committed


def measured(count: int, tokens: int) -> dict[str, Any]:
    given = list(rows(count, tokens))
    with tempfile.TemporaryDirectory() as folder:
        objects = Objects(Path(folder))
        began = time.process_time()
        committed = asyncio.run(written(objects, given))
        writing_s = time.process_time() - began
        files = [one.size_bytes for one in objects.listed()]
        began, reader = time.process_time(), ShardReader(objects)
        for ref in by_file(one.ref for one in committed):
            reader.columns(ref, ("trace_ids", "privileged_prompt_ids"))
        reading_s = time.process_time() - began
    assert len(committed) == count
    return {
        "units": count,
        "tokens": tokens,
        "files": len(files),
        "units_a_file": round(count / len(files), 1),
        "bytes_a_unit": round(sum(files) / count),
        "largest_file": max(files),
        "write_ms_a_unit": round(writing_s / count * 1e3, 2),
        "read_ms_a_unit": round(reading_s / count * 1e3, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, nargs="+", default=[100, 4000])
    args = parser.parse_args()
    for tokens in args.tokens:
        print(json.dumps(measured(args.units * min(args.tokens) // tokens, tokens)), flush=True)


if __name__ == "__main__":
    main()
