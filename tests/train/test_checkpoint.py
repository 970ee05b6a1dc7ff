"""The run's record and its checkpoint: exact, owned by one run, and never half written."""

from __future__ import annotations

import datetime as dt
import resource
import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from dail.synth.core.errors import IntegrityError, StorageError, UsageError
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.train.checkpoint import CHECKPOINT_FILE, claim, find_run, restore, save, steps_done
from dail.train.config import TrainConfig
from dail.train.record import RUN_FILE, RunRecord


def record(**settings: object) -> RunRecord:
    return RunRecord(
        config=TrainConfig.model_validate(settings),
        model=ModelIdentity(name="m", revision="r", tokenizer_hash="t", template_hash="x"),
        model_folder="/models/m",
        manifest="/shards/v1.json",
        manifest_digest="sha256:d",
        batch_id="b",
        synthesis=Synthesis(),
        started_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    )


def trained(seed: int = 0, size: int = 4) -> tuple[dict[str, nn.Parameter], AdamW]:
    """Two weights after three steps of AdamW."""
    torch.manual_seed(seed)
    weights = {name: nn.Parameter(torch.randn(size, 3)) for name in ("a", "b")}
    optimizer = AdamW(weights.values())
    for _ in range(3):
        sum((weight**2).sum() for weight in weights.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights, optimizer


def test_a_checkpoint_brings_back_weights_and_moments_bit_for_bit(tmp_path: Path):
    weights, optimizer = trained()
    save(tmp_path, weights, optimizer, 3, "run-1")
    others, other = trained(seed=1)
    assert restore(tmp_path, others, other, "run-1") == 3
    for name in weights:
        assert torch.equal(weights[name], others[name])
        theirs, ours = other.state[others[name]], optimizer.state[weights[name]]
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) and theirs[key].dtype == ours[key].dtype for key in ours)


def test_the_steps_that_are_done_are_read_without_knowing_the_run(tmp_path: Path):
    assert steps_done(tmp_path) == 0
    save(tmp_path, *trained(), 3, "run-1")
    assert steps_done(tmp_path) == 3
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"no checkpoint")
    assert steps_done(tmp_path) == 0


def test_without_a_checkpoint_a_run_starts_at_step_0(tmp_path: Path):
    assert restore(tmp_path, *trained(), "run-1") == 0


def test_another_run_s_checkpoint_is_refused(tmp_path: Path):
    save(tmp_path, *trained(), 3, "run-1")
    with pytest.raises(UsageError, match="belongs to another run"):
        restore(tmp_path, *trained(), "run-2")


@pytest.mark.parametrize("damage", ["cut", "other tensors"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str):
    save(tmp_path, *trained(size=4 if damage == "cut" else 5), 3, "run-1")
    path = tmp_path / CHECKPOINT_FILE
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match="is damaged"):
        restore(tmp_path, *trained(), "run-1")


def test_a_disk_that_refuses_keeps_the_last_checkpoint(tmp_path: Path):
    weights, optimizer = trained()
    save(tmp_path, weights, optimizer, 3, "run-1")
    before = (tmp_path / CHECKPOINT_FILE).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(StorageError, match="what was there before is kept"):
            save(tmp_path, weights, optimizer, 4, "run-1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_FILE]


def test_a_folder_is_known_again_by_the_run_it_holds(tmp_path: Path):
    assert find_run(tmp_path / "new", record()) is None
    claim(tmp_path / "new", record())
    assert find_run(tmp_path / "new", record()) == record()


def test_where_files_lie_and_how_memory_is_used_do_not_make_another_run():
    moved = record(microbatch_tokens=7, token_chunk=7, checkpoint_every=7).model_copy(
        update={"manifest": "/elsewhere", "model_folder": "/elsewhere", "started_at": dt.datetime.now(dt.UTC)}
    )
    assert moved.fingerprint == record().fingerprint


@pytest.mark.parametrize("settings", [{"gamma": 0.2}, {"seed": 1}, {"epochs": 3}, {"dtype": "bfloat16"}])
def test_a_setting_that_changes_the_adapter_makes_another_run(tmp_path: Path, settings: dict[str, object]):
    claim(tmp_path, record())
    (tmp_path / CHECKPOINT_FILE).touch()
    with pytest.raises(UsageError, match=f"another run .*{next(iter(settings))}"):
        find_run(tmp_path, record(**settings))


def test_other_data_makes_another_run(tmp_path: Path):
    claim(tmp_path, record())
    (tmp_path / "adapter").mkdir()
    with pytest.raises(UsageError, match="manifest digest sha256:d there, sha256:e here"):
        find_run(tmp_path, record().model_copy(update={"manifest_digest": "sha256:e"}))


def test_a_run_that_kept_no_step_gives_way_to_another(tmp_path: Path):
    claim(tmp_path, record())
    assert find_run(tmp_path, record(gamma=0.2)) is None
    claim(tmp_path, record(gamma=0.2))
    assert find_run(tmp_path, record(gamma=0.2)) == record(gamma=0.2)


def test_a_record_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / RUN_FILE).write_text('{"name": "not ours"}')
    with pytest.raises(UsageError, match="is no record of a run"):
        find_run(tmp_path, record())


def test_a_file_in_place_of_the_run_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be a run folder \(Not a directory\)"):
        find_run(tmp_path / "file", record())
    with pytest.raises(StorageError, match="cannot make the run folder"):
        claim(tmp_path / "file" / "run", record())
