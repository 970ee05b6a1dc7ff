"""Several ranks, started by torchrun on loopback, make the adapter that one would have made."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dail.synth.core.errors import UsageError
from dail.synth.schema.models import identify
from dail.train import references as module
from dail.train.checkpoint import steps_done
from dail.train.config import TrainConfig
from dail.train.distributed import Ranks, joined
from dail.train.loop import run
from dail.train.record import Given
from tests.conftest import ROOT
from tests.train.conftest import MakeManifest, changed_model, trace_row, write_manifest
from tests.train.test_data import example
from tests.train.test_loop import SETTINGS, lines
from tests.train.test_whole import FULL

pytestmark = pytest.mark.timeout(240)
NOTHING = Given()


def torchrun(
    model: Path, manifest: Path, out: Path, config: TrainConfig, *more: str, given: Given = NOTHING
) -> subprocess.Popen[str]:
    settings = [
        f"--set={name}={json.dumps(value)}"
        for name, value in config.model_dump(mode="json", exclude_none=True, exclude={"gate"}).items()
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *more]
    command += [str(Path(sys.executable).with_name("dail")), "train", "--model", str(model), "--json", *settings]
    command += ["--manifest", str(manifest), "--out", str(out)]
    for name, folder in given._asdict().items():
        command += [f"--{name.replace('_', '-')}", str(folder)] if folder else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def agree(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=0, atol=1e-5) for name in a)


def test_two_ranks_make_the_adapter_of_one(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path):
    """Batches of 4, the last of an epoch of 3: one rank has more to do there."""
    manifest, config = make_manifest(11), SETTINGS.model_copy(update={"lr": 1e-3})
    alone = run(tiny_model, manifest, tmp_path / "alone", config)
    process = torchrun(tiny_model, manifest, tmp_path / "two", config)
    printed, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert len(printed.splitlines()) == 1 and json.loads(printed)["steps"] == 6, "only the first rank prints"
    assert said.count("adapter:") == 1
    assert agree(tmp_path / "alone", tmp_path / "two")
    of_two = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    for ours, theirs in zip(lines(alone), of_two, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"tokens_s"}:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name


@pytest.mark.parametrize("states", ["cached", "live"])
def test_two_ranks_that_divide_the_weights_make_the_adapter_of_one(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, states: str
):
    """Microbatches of one trace, and a last batch of 3: one rank has to go through the layers for the other. With live
    references both start from an adapter, and another is on the references."""
    manifest = make_manifest(7)
    config = SETTINGS.model_copy(update={"lr": 1e-3, "epochs": 1, "microbatch_tokens": 1, "reference_states": states})
    if states == "live":
        config = config.model_copy(update={"divergence": "jsd", "token_weights": "disagreement"})
    else:
        weights = {"privileged": 1.0, "negative": -0.1, "student": 0.5}
        config = config.model_copy(
            update={"references": weights, "reference_temperature": 0.7, "token_weights": "entropy"}
        )
    given = Given()
    if states == "live":
        earlier = [SETTINGS.model_copy(update={"lr": lr, "epochs": 1}) for lr in (1e-2, 2e-2)]
        folders = [tmp_path / "start", tmp_path / "frozen"]
        given = Given(*(run(tiny_model, manifest, *one).adapter for one in zip(folders, earlier, strict=True)))
    run(tiny_model, manifest, tmp_path / "alone", config, given=given)
    divided = config.model_copy(update={"shard_weights": True, "recompute": "on" if states == "live" else "off"})
    process = torchrun(tiny_model, manifest, tmp_path / "two", divided, given=given)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert agree(tmp_path / "alone", tmp_path / "two")


def test_one_rank_has_nobody_to_divide_weights_with(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path):
    with pytest.raises(UsageError, match="there is one; start several with torchrun"):
        run(tiny_model, make_manifest(4), tmp_path / "run", SETTINGS.model_copy(update={"shard_weights": True}))


def test_two_ranks_that_divide_all_that_is_trained_make_the_model_of_one_and_either_goes_on_from_the_other_s_checkpoint(
    tiny_model: Path, tmp_path: Path
):
    """An embedding of its own is trained and divided too; microbatches of one trace, and a last batch of 3. The ranks
    are interrupted behind step 3, and go on from the checkpoint of step 2, as one rank does in a copy of the folder."""
    model = changed_model(tiny_model, tmp_path / "untied", own_head, tie_word_embeddings=False)
    identity = identify(model)
    manifest = write_manifest(tmp_path / "shards", identity, [trace_row(f"{i:032x}", identity, i) for i in range(7)])
    config = FULL.model_copy(update={"microbatch_tokens": 1, "max_grad_norm": 0.05})
    alone = run(model, manifest, tmp_path / "alone", config)
    script = tmp_path / "script.py"
    script.write_text(_INTERRUPTED_AND_RESUMED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command += [str(one) for one in (model, manifest, tmp_path / "two", tmp_path / "copy")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    settings = config.model_copy(update={"shard_weights": True}).model_dump_json()
    done = subprocess.run([*command, settings], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"21,696 weights .* 0\.000323 GiB .* on one rank, and 0\.000162 on each of 2", done.stderr)
    assert run(model, manifest, tmp_path / "copy", config).resumed_at == 2
    wanted = [load_file(file) for file in sorted(alone.adapter.glob("*.safetensors"))]
    for name in ("two", "copy"):
        folder = tmp_path / name / "model"
        assert {path.name for path in folder.iterdir()} == {path.name for path in alone.adapter.iterdir()}
        for theirs, ours in zip(
            wanted, [load_file(file) for file in sorted(folder.glob("*.safetensors"))], strict=True
        ):
            assert ours.keys() == theirs.keys()
            assert all(torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-5) for key in theirs), name
    of_two = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    for ours, theirs in zip(lines(alone), of_two, strict=True):
        assert all(ours[key] == pytest.approx(theirs[key], abs=1e-5) for key in ours.keys() - {"tokens_s"})


def own_head(weights: dict[str, torch.Tensor]) -> None:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()


_INTERRUPTED_AND_RESUMED = """
import logging, shutil, sys
from pathlib import Path
import pytest
from dail.train.config import TrainConfig
from dail.train.distributed import joined
from dail.train.loop import run
from tests.train.test_loop import interrupt_before
logging.basicConfig(level=logging.INFO)
model, manifest, out, copy = map(Path, sys.argv[1:5])
config = TrainConfig.model_validate_json(sys.argv[5])
with joined() as ranks:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_before(patch, 4, KeyboardInterrupt())
        run(model, manifest, out, config, ranks=ranks)
    if ranks.is_first:
        shutil.copytree(out, copy)
    ranks.gather(True)
    assert run(model, manifest, out, config, ranks=ranks).resumed_at == 2
"""


def test_a_lost_rank_is_started_again_and_the_run_ends_the_same(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path
):
    manifest, config = make_manifest(10), SETTINGS.model_copy(update={"epochs": 30, "lr": 1e-3})
    run(tiny_model, manifest, tmp_path / "alone", config)
    process = torchrun(tiny_model, manifest, tmp_path / "two", config, "--max-restarts", "1")
    metrics = tmp_path / "two" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 10):
        time.sleep(0.02)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert said.count("loading the weights") == 2, "nobody was started again"
    assert agree(tmp_path / "alone", tmp_path / "two")


@pytest.mark.parametrize(("number", "everybody"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_ranks_that_are_told_to_stop_keep_the_step_they_are_at(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, number: int, everybody: bool
):
    """A scheduler tells torchrun, which tells the ranks; Ctrl-C in a terminal reaches all, and torchrun tells again."""
    manifest = make_manifest(10)
    config = SETTINGS.model_copy(update={"epochs": 40, "lr": 1e-3, "checkpoint_every": 1000})
    process = torchrun(tiny_model, manifest, tmp_path / "two", config)
    metrics = tmp_path / "two" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 5):
        time.sleep(0.01)
    if everybody:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=200)
    assert process.returncode != 0
    kept = steps_done(tmp_path / "two")
    assert kept >= 5 and f"stopped behind step {kept} of 120, which is saved" in said, said
    assert run(tiny_model, manifest, tmp_path / "two", config).resumed_at == kept


def test_no_thread_of_the_ranks_connection_outlives_it(tmp_path: Path):
    """One that lets go of a tensor while Python ends takes the process down, and torchrun calls the run failed."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, torch\n"
        "from dail.train.distributed import joined\n"
        "def threads(): return [p.read_text() for p in pathlib.Path('/proc/self/task').glob('*/comm')]\n"
        "with joined() as ranks:\n"
        "    ranks.gather(1)\n"
        "    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])\n"
        "    during = sum('gloo' in name for name in threads())\n"
        "if os.environ['RANK'] == '0': print(during, sum('gloo' in name for name in threads()))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    during, after = map(int, done.stdout.split())
    assert during > 0 and after == 0, done.stderr


def test_more_ranks_than_traces_in_a_batch_are_refused(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path):
    with pytest.raises(UsageError, match=r"8 ranks share batches of 4 .* set batch_size=8"):
        run(tiny_model, make_manifest(4), tmp_path / "run", SETTINGS, ranks=Ranks(7, 8))


def test_shares_are_disjoint_complete_and_alike():
    batch = [example(length, 10) for length in (5, 50, 7, 40, 6, 60, 8)]
    shares = [Ranks(rank, 3).share(batch) for rank in range(3)]
    assert sorted(id(one) for share in shares for one in share) == sorted(map(id, batch))
    tokens = [sum(one.student_tokens for one in share) for share in shares]
    assert max(tokens) < 2 * min(tokens)
    assert Ranks().share(batch) == batch


def test_one_rank_joins_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: pytest.fail("joined a group"))
    with joined() as ranks:
        assert ranks == Ranks()
        assert ranks.gather("x") == ["x"]


def test_parts_of_the_cache_are_shared_among_ranks(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What two ranks computed is whole, and read by one."""
    manifest, config = make_manifest(11), SETTINGS.model_copy(update={"epochs": 1, "microbatch_tokens": 100})
    process = torchrun(tiny_model, manifest, tmp_path / "two", config)
    assert process.communicate(timeout=200) and process.returncode == 0
    monkeypatch.setattr(module, "_compute", None)
    run(tiny_model, manifest, tmp_path / "one", config, tmp_path / "two" / "references")
