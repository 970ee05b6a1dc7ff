"""The files for `ray up` and SkyPilot: Ray's own check, and SkyPilot's where it is installed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

CLUSTER = ROOT / "deploy" / "ray" / "cluster.yaml"
TASKS = sorted((ROOT / "deploy" / "skypilot").glob("*.yaml"))
# What SkyPilot makes of a file. It wants other releases than vLLM does, so it has an environment of its own.
READ = """
import sys, yaml, sky
for file in sys.argv[1:]:
    config = yaml.safe_load(open(file))
    envs = [(name, "s3://bucket/x") for name in config["envs"]]
    secrets = [(name, "secret") for name in config.get("secrets", {})]
    task = sky.Task.from_yaml_config(config, env_overrides=envs, secrets_overrides=secrets or None)
    print(task.name, sorted(task.storage_mounts))
"""


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole: dict[str, Any] = prepare_config(config)
    validate_config(whole)
    return whole


def test_ray_takes_its_cluster():
    cluster = prepared(yaml.safe_load(CLUSTER.read_text("utf-8")))
    kinds = cluster["available_node_types"]
    assert (kinds["gpu"]["min_workers"], kinds["gpu"]["max_workers"], kinds["gpu"]["resources"]["GPU"]) == (0, 8, 1)
    assert kinds["head"]["max_workers"] == 0


def test_what_ray_does_not_take_is_found():
    config = yaml.safe_load(CLUSTER.read_text("utf-8"))
    config["docker"]["nonsense"] = "x"
    with pytest.raises(Exception, match="nonsense"):
        prepared(config)


def test_every_part_of_that_ray_wants_the_token():
    cluster = yaml.safe_load(CLUSTER.read_text("utf-8"))
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    begun = [line for line in starts if "ray start" in line]
    assert len(begun) == 2 and all(line.startswith("RAY_AUTH_MODE=token ") for line in begun)
    assert any(path.endswith("/.ray/auth_token") for path in cluster["file_mounts"])
    assert "--dashboard-host=127.0.0.1" in begun[0]


@pytest.mark.parametrize("file", TASKS, ids=[file.stem for file in TASKS])
def test_a_task_asks_for_what_it_uses(file: Path):
    task = yaml.safe_load(file.read_text("utf-8"))
    assert set(task) <= {"name", "resources", "workdir", "envs", "secrets", "file_mounts", "setup", "run"}
    asked = {*task["envs"], *task.get("secrets", {})}
    assert all(value is None for value in {**task["envs"], **task.get("secrets", {})}.values()), "no default"
    used = {name for name in asked if f"${name}" in task["run"] or f"${name}" in str(task["file_mounts"])}
    assert asked - used <= {"DAIL_API", "DAIL_TOKEN"}, "dail reads these itself"
    offered = {line for line in file.read_text("utf-8").splitlines() if line.startswith("#")}
    assert all(f"{name}" in "".join(offered) for name in asked), "the command to paste names them all"
    assert (ROOT / task["setup"]).is_file()


def test_skypilot_takes_every_task(tmp_path: Path):
    python = os.environ.get("SKYPILOT_PYTHON")
    if python is None:
        pytest.skip("SKYPILOT_PYTHON names no Python of an environment with skypilot")
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    done = subprocess.run([python, "-c", READ, *TASKS], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "dail-eval ['/models/model', '/runs']", "dail-synth ['/models/model']",
        "dail-train ['/models/model', '/runs']",
    ]  # fmt: skip
