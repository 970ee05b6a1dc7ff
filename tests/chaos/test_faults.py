"""Tests that tests/README.md and tests/bench/RESULTS.md name are there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import ROOT

_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("document", ["tests/README.md", "tests/bench/RESULTS.md"])
def test_every_test_that_is_named_is_there(document):
    named = _TEST.findall((ROOT / document).read_text("utf-8"))
    assert len(named) > 5
    for file, name in named:
        body = ast.parse((ROOT / file).read_text("utf-8")).body
        assert name in {node.name for node in body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"
