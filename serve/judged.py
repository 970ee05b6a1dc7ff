"""A batch's traces judged here, by whoever watched it, from its results over HTTP: verdicts and the line about all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dail.synth.core.console import console_wait, say
from dail.synth.core.errors import DailError
from dail.synth.core.http import Client
from dail.synth.method.verdicts import Judgement, judge
from dail.synth.schema.selection import MATH, OFFICIAL

_MOST_BYTES = 32 << 20  # of results that are read: a trace of 16,000 tokens takes one million


def judged(client: Client, batch: dict[str, Any]) -> Judgement | None:
    """Its first traces; none without a manifest. What keeps them from being judged is said, and is no failure."""
    if not batch["manifest"]:
        return None
    grader, num_traces = batch["synthesis"].get("grader", MATH), batch["units"]["committed"]
    if grader not in (MATH, OFFICIAL):  # the API's word does not make this machine run code
        say(f"no verdicts: the batch's grader {grader} is not run here; `dail select` judges by it")
        return None
    try:
        with console_wait(f"judging the first of {num_traces} traces"):
            return judge(rows(client, batch["id"]), num_traces, batch["tokens"]["student_share"], grader)
    except (DailError, ModuleNotFoundError) as error:
        say(f"no verdicts: {error}")
        return None


def rows(client: Client, batch_id: str) -> Iterator[dict[str, Any]]:
    """Of its traces, as many as are read of the results before that is too much."""
    size, rest = 0, b""
    for block in client.download(f"/v1/batches/{batch_id}/results"):
        size += len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            found = json.loads(line)
            if found["status"] == "succeeded":
                yield {**found["trace"], "item_id": found["item_id"], "sample_index": found["sample"]}
        if size > _MOST_BYTES:
            return
