"""Rows of traces made by hand, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dail.synth.schema.shards import TraceRow
from tests.browser import chromium
from tests.synth.schema.conftest import ROW


def a_row(texts: list[str], **changes: Any) -> TraceRow:
    """A trace of these tokens: the student wrote all, surely, unless `changes` say otherwise."""
    count = len(texts)
    made = {
        "trace_ids": tuple(range(count)),
        "token_texts": tuple(texts),
        "trace_text": "".join(texts),
        "student_prob": (1.0,) * count,
        "student_logprob": (-0.01,) * count,
        "privileged_logprob": (-0.01,) * count,
        "rejected_ids": (None,) * count,
        "rejected_texts": (None,) * count,
    }
    return TraceRow.model_validate({**ROW, **made, **changes})


def placed(count: int, at: dict[int, Any], other: Any = None) -> tuple[Any, ...]:
    return tuple(at.get(place, other) for place in range(count))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found
