"""A verb that has children is killed, once and twice in a row, at each stage: none of its processes stays.

The demo is killed in test_demo.py too, where it goes on afterwards.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import DEMO_MODEL
from tests.flow.conftest import BIN
from tests.flow.kills import Family

pytestmark = pytest.mark.timeout(900)

INT, TERM, KILL, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP
WAYS = {"twice": (INT, INT), "killed": (KILL,), "once": (INT,), "term": (TERM,), "twice-term": (TERM, TERM),
        "thrice": (INT, INT, INT), "hangup": (HUP,), "both": (TERM, INT)}  # fmt: skip
# when Ray's own head is killed they tell its log for a minute, and end
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def ways(*short: str) -> list[object]:
    return [pytest.param(WAYS[name], id=name, marks=() if name in short else pytest.mark.soak) for name in WAYS]


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.jsonl"
    lines = [{"problem": f"What is {n} + {n}?", "solution": f"It is {2 * n}."} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


FAKE = ("--set", "engine.kind=fake")
# it would draw for an hour
LONG = ("--set", "synthesis.max_tokens=3000", "--set", "synthesis.thinking=false",
        "--set", "synthesis.samples_per_item=64")  # fmt: skip


def check(family: Family, way: tuple[int, ...], least: int, is_soak: bool, codes: tuple[int, ...] = (130,)) -> None:
    code = family.kill(*way)
    assert family.num_seen >= least, "the verb had no children: nothing was tried"
    assert family.left(() if is_soak else AGENTS) == []
    if way[-1] in (KILL, HUP):
        assert code == -way[-1]
    else:
        # a second one may end it while it ends, which to a shell is the same 130 or 143
        assert code in (*codes, 128 + TERM, -TERM, *(-number for number in way[1:])), family.said()[-3000:]
        assert "Traceback (most recent call last)" not in family.said(), family.said()[-3000:]


@pytest.fixture
def is_soak(request: pytest.FixtureRequest) -> bool:
    return request.node.get_closest_marker("soak") is not None


@pytest.mark.parametrize("way", ways())
def test_synth(items: Path, tmp_path: Path, way: tuple[int, ...], is_soak: bool) -> None:
    out = tmp_path / "out"
    family = Family((BIN / "dail", "synth", items, "--out", out, "--model", DEMO_MODEL, *FAKE, *LONG), tmp_path / "log")
    family.wait_until(lambda: any(out.rglob("*.parquet")))
    check(family, way, least=4, is_soak=is_soak)


@pytest.mark.soak
@pytest.mark.parametrize("way", [pytest.param(way, id=name) for name, way in WAYS.items()])
def test_synth_while_ray_starts(items: Path, tmp_path: Path, way: tuple[int, ...], is_soak: bool) -> None:
    family = Family(
        (BIN / "dail", "synth", items, "--out", tmp_path / "out", "--model", DEMO_MODEL, *FAKE, *LONG), tmp_path / "log"
    )
    family.wait_until(lambda: family.num_seen >= 1)
    check(family, way, least=1, is_soak=is_soak)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[str]:
    log = tmp_path / "serve.log"
    serve = (BIN / "dail", "serve", "--port", 0, "--data-dir", tmp_path / "api", "--model", f"demo={DEMO_MODEL}")
    family = Family((*serve, "--json"), log)
    family.wait_until(lambda: '"url"' in family.said())
    url = next(json.loads(line)["url"] for line in family.said().splitlines() if line.startswith("{"))
    yield str(url)
    family.kill(TERM)
    assert family.left() == []


@pytest.mark.parametrize("way", ways("twice"))
def test_worker(api: str, items: Path, tmp_path: Path, way: tuple[int, ...], is_soak: bool) -> None:
    posted = Family(
        (BIN / "dail", "submit", items, "--api", api, "--model", "demo", *LONG, "--json"), tmp_path / "post"
    )
    assert posted.process.wait(120) == 0, posted.said()
    family = Family((BIN / "dail", "worker", "--api", api, "--model", DEMO_MODEL, *FAKE), tmp_path / "log")
    family.wait_until(lambda: any((tmp_path / "api").rglob("*.parquet")))
    check(family, way, least=4, is_soak=is_soak, codes=(0, 130))  # it handed its units back


@pytest.mark.parametrize("way", ways("killed"))
def test_loop(items: Path, tmp_path: Path, way: tuple[int, ...], is_soak: bool) -> None:
    """Its child has children of its own."""
    out = tmp_path / "loop"
    family = Family((BIN / "dail", "loop", items, "--out", out, "--model", DEMO_MODEL, *FAKE, *LONG), tmp_path / "log")
    family.wait_until(lambda: any(out.rglob("*.parquet")))
    check(family, way, least=5, is_soak=is_soak)


STAGES = {
    "api": lambda demo: (demo / "logs" / "serve.log").exists(),
    "engine": lambda demo: (demo / "logs" / "worker.log").exists(),
    "drawing": lambda demo: any(demo.glob("api/objects/shards/**/*.parquet")),
    "training": lambda demo: (demo / "train" / "metrics.jsonl").is_file(),
    "evaluating": lambda demo: (demo / "eval").is_dir(),
}


@pytest.mark.vllm
@pytest.mark.soak
@pytest.mark.parametrize("way", [pytest.param(way, id=name) for name, way in WAYS.items()])
def test_demo_at_each_stage(tmp_path: Path, way: tuple[int, ...], is_soak: bool) -> None:
    """It goes on each time from where it was stopped, so that one folder sees them all."""
    demo = tmp_path / "demo"
    for name, reached in STAGES.items():
        family = Family((BIN / "dail", "demo", "--dir", demo), tmp_path / f"{name}.log")
        # its log may be there before the child that writes it is seen
        family.wait_until(lambda reached=reached, family=family: reached(demo) and family.num_seen, 600)
        check(family, way, least=1, is_soak=is_soak)
