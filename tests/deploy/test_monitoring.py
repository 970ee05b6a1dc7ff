"""Alerts and board: by the tools that read them, and of metrics that there are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dail.serve.metrics import Metrics as ServersMetrics
from dail.synth.run.metrics import Metrics as WorkersMetrics
from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "monitoring"
BOARD: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"] for rule in group["rules"]
]


def promtool(*arguments: str, folder: Path = FOLDER) -> str:
    """Debian's package `prometheus` has it; .ci/run takes it out of that without a service of it."""
    tool = shutil.which("promtool")
    if tool is None:
        assert not os.environ.get("CI"), "no promtool: the alerts are not tried"
        pytest.skip("no promtool: `apt-get install prometheus`")
    done = subprocess.run([tool, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_alerts_and_configuration_are_by_prometheus():
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "alerts.yaml")
    promtool("check", "config", "--syntax-only", "prometheus.yaml")


def test_every_alert_comes_where_it_must_and_not_where_it_must_not():
    promtool("test", "rules", "alerts_test.yaml")
    cases = [
        case
        for test in yaml.safe_load((FOLDER / "alerts_test.yaml").read_text("utf-8"))["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {rule["alert"] for rule in RULES}


def test_an_alert_that_stays_away_is_found(tmp_path: Path):
    for name in ("alerts.yaml", "alerts_test.yaml"):
        (tmp_path / name).write_text((FOLDER / name).read_text("utf-8").replace("> 0.1", "> 0.9"))
    with pytest.raises(AssertionError, match="DailGpuTimeLost"):
        promtool("test", "rules", "alerts_test.yaml", folder=tmp_path)


def known() -> dict[str, set[str]]:
    """Of each metric of servers and workers, as Prometheus has it, its labels."""
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    servers = ServersMetrics(lambda: pytest.fail("is not read"), lambda: None)
    for registry in (servers.registry, WorkersMetrics().registry):
        for collector in list(registry._collector_to_names):
            names = [name for name in registry._collector_to_names[collector] if not name.endswith("_created")]
            for name in names:
                labels = set(getattr(collector, "_labelnames", ())) | {"job", "instance"}
                found[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return found


def expressions() -> Iterator[tuple[str, str]]:
    yield from ((rule["alert"], rule["expr"]) for rule in RULES)
    for panel in BOARD["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", []))


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_an_expression_is_of_metrics_and_labels_that_there_are(where: str, expression: str):
    metrics = known()
    for name, labels in selectors(promql_parser.parse(expression)):
        assert name in metrics, f"{where}: there is no metric {name}"
        assert labels <= metrics[name], f"{where}: {name} has the labels {sorted(metrics[name])}"


def selectors(node: Any) -> Iterator[tuple[str, set[str]]]:
    """What is asked for of the metrics, with the labels that are compared or gathered by."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, {matcher.name for matcher in node.matchers.matchers if matcher.name != "__name__"}
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from selectors(node.vector_selector)
    elif isinstance(node, promql_parser.AggregateExpr):
        by = set(node.modifier.labels) if node.modifier else set()
        yield from ((name, labels | by) for name, labels in selectors(node.expr))
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument)
    elif isinstance(node, promql_parser.ParenExpr | promql_parser.UnaryExpr | promql_parser.SubqueryExpr):
        yield from selectors(node.expr)


def test_the_board_shows_every_metric_that_there_is():
    shown = {name for _, expression in expressions() for name, _ in selectors(promql_parser.parse(expression))}
    families = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in shown}
    every = {
        name
        for name in known()
        if not name.endswith(("_bucket", "_count", "_sum")) and not name.removesuffix("_total").endswith("_info")
    }
    counters = {name for name in every if f"{name}_total" in every}  # the family of a counter, not a series
    assert every - counters - families == {"dail_shard_commits_total", "dail_unit_duration_seconds", "dail_units_held"}


def test_the_board_is_one_that_grafanas_own_library_reads_whole():
    read = Dashboard.from_json(BOARD)
    back = json.loads(JSONEncoder().encode(read))
    assert _lost(BOARD, back, "board") == []


def _lost(ours: Any, theirs: Any, place: str) -> list[str]:
    """What the library dropped or changed, since it knows no such field."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        gone = [f"{place}.{name}" for name in ours if name not in theirs]
        return gone + [
            one for name in ours if name in theirs for one in _lost(ours[name], theirs[name], f"{place}.{name}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            one
            for number, pair in enumerate(zip(ours, theirs, strict=True))
            for one in _lost(*pair, f"{place}.{number}")
        ]
    return [] if ours == theirs else [place]


def test_no_panel_lies_on_another_and_none_has_anothers_number():
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
