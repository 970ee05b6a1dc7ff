"""Fixtures of more than one of synth's rooms."""

from __future__ import annotations

import pytest

from dail.synth.core.config import TOOL_VERSION
from dail.synth.run import unit_source, uploads
from dail.synth.schema.units import WIRE_VERSION, HelloReply


@pytest.fixture
def greeted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No API is asked: what it says to a worker is tested in tests/serve/test_workers.py."""

    async def greet(*_: object) -> HelloReply:
        return HelloReply(wire=WIRE_VERSION, tool_version=TOOL_VERSION, lease_s=60, time=0, output_root="/nowhere")

    async def look(*_: object) -> None:
        return None

    monkeypatch.setattr(unit_source, "greet", greet)
    monkeypatch.setattr(uploads.Uploads, "look", look)
