"""`dail loop` for real: two rounds of the demo, with engines, trainer, and references that moved on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dail.synth.schema.adapters import adapter_digest
from dail.synth.schema.manifest import read_manifest, read_rows
from tests.conftest import DEMO_MODEL, ROOT
from tests.flow.conftest import dail

SETTINGS = ("max_tokens=24", "epochs=1", "loop.reference=mean", "loop.items_per_round=2", "loop.mean_decay=0.5")


def test_two_rounds_whose_references_follow(tmp_path: Path):
    lines = (ROOT / "deploy" / "demo" / "expert_solutions.jsonl").read_text("utf-8").splitlines()[:4]
    (items := tmp_path / "four.jsonl").write_text("\n".join(lines), "utf-8")
    out = tmp_path / "rounds"
    first = looped(items, out, 1)
    second = looped(items, out, 2)
    assert second["rounds"][:1] == first["rounds"]
    adapter = Path(first["adapter"])
    drawn = read_manifest(Path(second["rounds"][1]["manifest"])).model
    assert drawn.student == adapter_digest(adapter)
    assert drawn.privileged == adapter_digest(out / "round-0001" / "mean") not in (None, drawn.student)
    run = json.loads((out / "round-0002" / "train" / "run.json").read_text())
    assert run["init_adapter"]["digest"] == drawn.student
    assert run["reference_adapter"]["digest"] == drawn.privileged
    (bare, later) = ({row.privileged_revision for row in read_rows(one["manifest"])} for one in second["rounds"])
    assert (bare, later) == ({None}, {drawn.privileged})


def looped(items: Path, out: Path, rounds: int) -> Any:
    words = [word for one in (*SETTINGS, f"loop.rounds={rounds}") for word in ("--set", one)]
    done = dail("loop", items, "--model", DEMO_MODEL, "--out", out, "--config", "cpu-tiny", "--json", *words)
    assert done.returncode == 0, done.stderr
    if rounds == 2:
        assert "round 1 of 2: done before" in done.stderr
        # the trainer gives the rollout's numbers again, with the mean on its references
        assert "as privileged student nats" in done.stderr
    return json.loads(done.stdout)
