"""`from dail.train import train`: in a running loop and a thread, silent, with its progress told."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from dail.synth import Progress
from dail.train import TrainConfig, train
from tests.conftest import Told
from tests.train.conftest import MakeManifest

CONFIG = TrainConfig(epochs=1, lora_rank=4, dtype="float32", trackers=())


def test_training_in_a_coroutine_and_in_a_thread_says_nothing_and_tells_its_progress(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, capfd: pytest.CaptureFixture[str], told: Told
):
    manifest, seen = make_manifest(10), []

    def state() -> object:
        return os.getcwd(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    async def cell() -> None:
        here = train(tiny_model, manifest, tmp_path / "here", CONFIG, on_progress=seen.append)
        there = await asyncio.to_thread(train, str(tiny_model), str(manifest), str(tmp_path / "there"), CONFIG)
        assert here.steps == there.steps == 3 and there.adapter.is_dir()
        assert here.metrics.read_text().count("\n") == 3

    before = state()
    asyncio.run(cell())
    assert state() == before
    assert capfd.readouterr() == ("", "")
    ended = dict.fromkeys(one.title for one in seen if one.done == one.total)
    assert list(ended) == ["reading traces", "looking at traces", "references", "training"]
    assert isinstance(seen[-1], Progress) and {"loss", "gap"} <= seen[-1].figures.keys()
    assert "loading the weights as float32" in told()
