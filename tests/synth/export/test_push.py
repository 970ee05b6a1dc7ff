"""`dail push` with the real client, to a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.export.export import export
from dail.synth.export.push import pack
from tests.conftest import safetensors_of
from tests.synth.export.conftest import Draw, Shape, model_folder
from tests.synth.export.hub import Hub, running_hub

TOKEN = "hf_aSecretThatNobodyMaySee"
DAIL = (sys.executable, "-c", "from dail.serve.cli import main; main()")
# a process with fewer files in a commit, so that a small batch takes several
IN_PARTS = (
    sys.executable,
    "-c",
    "import dail.synth.export.push as p; p._AT_ONCE = 2; from dail.serve.cli import main; main()",
)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def traces(draw: Draw, tmp_path: Path) -> Path:
    return draw(Shape(model_folder(tmp_path / "model", "demo"), None))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"r": 8, "base_model_name_or_path": "/home/somebody/models/qwen3-8b"}')
    (folder / "adapter_model.safetensors").write_bytes(safetensors_of(b"weights"))
    (folder / "README.md").write_text('---\nbase_model: "qwen3-8b"\n---\n\n# An adapter\n')
    lineage = {"run": {"model_folder": "/home/somebody/models/qwen3-8b", "manifest_digest": "sha256:1"}, "steps": 3}
    (folder / "dail.json").write_text(json.dumps(lineage))
    return folder


def dail_push(
    hub: Hub, *arguments: object, program: tuple[str, ...] = DAIL, **env: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, **env}
    command = [*program, "push", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr
    return done


def test_traces_go_up_with_their_manifest_and_card_and_are_read_from_there(hub: Hub, traces: Path, tmp_path: Path):
    (traces / "ledger.jsonl").write_text("{}\n")
    (traces / "manifests" / "b" / "settings.json").write_text('{"model": "/home/somebody"}')
    done = dail_push(hub, traces, "--to", "me/traces", "--json")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert (said["kind"], said["repository"], said["files"]) == ("dataset", "me/traces", 4)
    files = hub.files("me/traces")
    shards = {path.relative_to(traces).as_posix() for path in (traces / "shards").rglob("*.parquet")}
    assert set(files) == {"README.md", "manifests/b/v1.json"} | shards
    assert hub.repositories["me/traces"].kind == "dataset" and hub.tokens >= {f"Bearer {TOKEN}"}
    for name, data in files.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(data)
    assert len(load_dataset(str(tmp_path / "copy"), split="train", cache_dir=str(tmp_path / "cache"))) == 2


def test_an_interrupted_push_goes_on_and_shows_its_card_last(hub: Hub, traces: Path):
    hub.fails = 1
    done = dail_push(hub, traces, "--to", "me/traces", program=IN_PARTS)
    assert done.returncode == 1 and "the hub answered 400 for me/traces: it broke" in done.stderr
    sent, uploads = set(hub.files("me/traces")), list(hub.uploads)
    assert sent and "README.md" not in sent and uploads
    hub.fails = None
    assert dail_push(hub, traces, "--to", "me/traces", program=IN_PARTS).returncode == 0
    first, *later = hub.repositories["me/traces"].commits
    assert (
        set(first) == sent and not sent & {name for names in later for name in names} and later[-1][-1] == "README.md"
    )
    assert len(hub.uploads) == len(set(hub.uploads)), "a file went up twice"
    again = dail_push(hub, traces, "--to", "me/traces", "--json")
    assert again.returncode == 0 and len(hub.repositories["me/traces"].commits) == 1 + len(later)


def test_an_export_goes_up_private_and_to_a_branch(hub: Hub, traces: Path, tmp_path: Path):
    export(traces, "trl-sft", tmp_path / "sft")
    done = dail_push(hub, tmp_path / "sft", "--to", "me/sft", "--private", "--revision", "v2")
    assert done.returncode == 0, done.stderr
    assert set(hub.files("me/sft", "v2")) == {"README.md", "export.json", "data/train.parquet"}
    assert hub.files("me/sft") == {} and hub.repositories["me/sft"].private


def test_private_is_not_sent_to_a_repository_that_is_public(hub: Hub, traces: Path, tmp_path: Path):
    export(traces, "trl-sft", tmp_path / "sft")
    assert dail_push(hub, tmp_path / "sft", "--to", "me/sft").returncode == 0
    (tmp_path / "sft" / "export.json").write_text((tmp_path / "sft" / "export.json").read_text() + "\n")
    done = dail_push(hub, tmp_path / "sft", "--to", "me/sft", "--private")
    assert done.returncode == 2 and "public" in done.stderr
    assert len(hub.repositories["me/sft"].commits) == 1


@pytest.mark.parametrize("given", ["adapter", "run"])
def test_an_adapter_goes_up_as_a_model_without_the_folders_of_this_machine(hub: Hub, adapter: Path, given: str):
    if given == "run":
        (adapter.parent / "run.json").write_text("{}")
    done = dail_push(hub, adapter if given == "adapter" else adapter.parent, "--to", "me/adapter")
    assert done.returncode == 0, done.stderr
    files = hub.files("me/adapter")
    assert hub.repositories["me/adapter"].kind == "model"
    assert set(files) == {"README.md", "dail.json", "adapter_config.json", "adapter_model.safetensors"}
    assert json.loads(files["dail.json"])["run"] == {"model_folder": "qwen3-8b", "manifest_digest": "sha256:1"}
    assert not any(b"/home/" in data for data in files.values())


def test_a_token_without_the_right_is_told_what_to_check(hub: Hub, adapter: Path):
    hub.forbids = True
    done = dail_push(hub, adapter, "--to", "me/adapter")
    assert done.returncode == 1 and "403" in done.stderr and "check HF_TOKEN" in done.stderr


def test_without_a_token_or_a_hub_nothing_is_sent(hub: Hub, adapter: Path):
    done = dail_push(hub, adapter, "--to", "me/adapter", HF_TOKEN="")
    assert done.returncode == 2 and "HF_TOKEN is not set" in done.stderr
    done = dail_push(hub, adapter, "--to", "me/adapter", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "HF_HUB_OFFLINE" in done.stderr
    done = dail_push(hub, adapter, "--to", "me/adapter", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and "could not be reached" in done.stderr
    done = dail_push(hub, adapter, "--to", "no/such/name")
    assert done.returncode == 2 and "wanted OWNER/NAME" in done.stderr
    assert hub.repositories == {}


def test_what_is_unfinished_or_damaged_is_refused_before_anything_is_sent(traces: Path, adapter: Path, tmp_path: Path):
    for names, wanted in (
        (["ledger.jsonl"], "no finished batch"),
        (["run.json"], "training run without an adapter yet"),
        (["anything"], "neither a manifest"),
    ):
        folder = tmp_path / f"only {names[0]}"
        folder.mkdir()
        (folder / names[0]).write_text("{}")
        with pytest.raises(UsageError, match=wanted):
            pack(folder)
    (adapter / "dail.json").unlink()
    with pytest.raises(UsageError, match=r"has no dail\.json"):
        pack(adapter)
    shard = next((traces / "shards").rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="damaged"):
        pack(traces)
