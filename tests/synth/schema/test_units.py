"""A unit's name: the same for the same content on any machine, another for any other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dail.synth.core.files import Objects
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import shard_key, unit_id, unit_seed

ITEM: dict[str, Any] = {"problem": "1+1?", "solution": "é: \\boxed{2}", "answer": "2", "id": "a", "metadata": {"n": 1}}
MODEL: dict[str, str] = {"name": "m", "revision": "r", "tokenizer_hash": "t", "template_hash": "c"}


def name(item: dict[str, Any], synthesis: dict[str, Any], model: dict[str, str], sample: int = 0) -> str:
    return unit_id(ExpertSolution(**ITEM | item), Synthesis(**synthesis), ModelIdentity(**MODEL | model), sample)


BASE = name({}, {}, {})


def test_the_name_of_a_known_unit_does_not_move():
    assert BASE == "4f875dca9d9099929e22b5ccf2913793"


@pytest.mark.parametrize(
    ("item", "synthesis", "model"),
    [
        ({"id": "b"}, {}, {}),
        ({"metadata": {}}, {}, {}),
        ({"source": "book", "license": "CC0-1.0"}, {}, {}),
        ({}, {"samples_per_item": 8}, {}),
        ({}, {"acceptance_k": 3}, {}),
        ({}, {"proposals": 1, "proposer": "student", "suppress": ()}, {}),
        ({}, {}, {"name": "elsewhere"}),
    ],
)
def test_what_does_not_shape_a_trace_does_not_count(item: Any, synthesis: Any, model: Any):
    assert name(item, synthesis, model) == BASE


@pytest.mark.parametrize(
    ("item", "synthesis", "model", "sample"),
    [
        ({"problem": "1+2?"}, {}, {}, 0),
        ({"problem": ({"role": "user", "content": "1+1?"},)}, {}, {}, 0),
        ({"solution": "2"}, {}, {}, 0),
        ({"answer": None}, {}, {}, 0),
        ({"kind": "proof"}, {}, {}, 0),
        *(({}, {key: value}, {}, 0) for key, value in [("tau", 0.5), ("temperature", 0.0), ("seed", 1)]),
        *(({}, {key: value}, {}, 0) for key, value in [("max_tokens", 9), ("thinking", True), ("method", "direct")]),
        ({}, {"probability_space": "tempered"}, {}, 0),
        *(({}, {key: value}, {}, 0) for key, value in [("acceptance", "relative"), ("top_p", 0.9), ("top_k", 5)]),
        ({}, {"stop": ("QED",)}, {}, 0),
        *(
            ({}, {key: value}, {}, 0)
            for key, value in [
                ("proposals", 5),
                ("proposer", "privileged"),
                ("suppress", ("</think>",)),
                ("suppress", (7,)),
            ]
        ),
        ({}, {}, {"student": "sha256:adapter"}, 0),
        *(({}, {}, {key: "x"}, 0) for key in ("revision", "tokenizer_hash", "template_hash")),
        ({}, {}, {}, 1),
    ],
)
def test_what_shapes_a_trace_makes_another_unit(item: Any, synthesis: Any, model: Any, sample: int):
    assert name(item, synthesis, model, sample) != BASE


@settings(deadline=None)
@given(st.text())
def test_the_seed_of_any_unit_fits_63_bits(unit: str):
    assert 0 <= unit_seed(unit) < 2**63


def test_units_draw_from_different_seeds():
    assert len({unit_seed(name({}, {}, {}, sample)) for sample in range(64)}) == 64


def test_every_shard_has_a_key_of_its_own_that_can_be_stored(tmp_path: Any):
    keys = {shard_key(batch, digest) for batch in ("batch_1", "batch_2") for digest in ("a" * 64, "b" * 64)}
    assert len(keys) == 4
    assert all(Objects(tmp_path).path(key) for key in keys)


@pytest.mark.parametrize(
    ("method", "unread"),
    [("direct", {"proposals": 5, "proposer": "privileged"}), ("expert", {"suppress": (7,), "proposals": 5})],
)
def test_a_setting_that_a_method_does_not_read_does_not_count(method: str, unread: Any):
    assert name({}, {"method": method, **unread}, {}) == name({}, {"method": method}, {})
    assert name({}, {"method": "direct", "suppress": (7,)}, {}) != name({}, {"method": "direct"}, {})
