"""Prompts, waypoint extractor and acceptance rule that a user brings along, from the setting to the shard."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dail.synth import EngineConfig, SynthConfig, Synthesis, synthesise
from dail.synth.core.errors import ExtensionError, ItemError, UsageError
from dail.synth.method.prompts import Prompts, role_messages, role_templates
from dail.synth.method.waypoints import extract
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.pair import Pair, start_pair
from dail.synth.rollout.select import choose
from dail.synth.run.local import tried_out
from dail.synth.run.trace_rows import prepare
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import EXTRACTORS
from dail.synth.schema.units import Unit, unit_id
from tests.conftest import DEMO_MODEL, ROOT

LAW = ROOT / "deploy" / "examples" / "law"
PROVISIONS = f"{ROOT}/deploy/examples/own_waypoints.py:provisions"
RULES = ROOT / "tests" / "synth" / "rollout" / "own_rules.py"
ITEM = ExpertSolution(id="bicycle", problem="Can A ask for a new one?", solution="By § 437 with § 439: yes.")
FAKE = SynthConfig(engine=EngineConfig(model=DEMO_MODEL, kind="fake"))

WriteFile = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    def to(name: str, text: str) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return to


def test_without_anything_of_ones_own_names_are_what_they_were():
    """Units drawn before there were extensions are found again."""
    model = identify(DEMO_MODEL).model_copy(update={"revision": "r", "tokenizer_hash": "t", "template_hash": "p"})
    assert Synthesis().pinned() == Synthesis()
    assert not {"prompts", "extractor", "acceptance"} & Synthesis().identity().keys()
    assert unit_id(ITEM, Synthesis(), model, 0) == UNIT


UNIT = "14df81cdffad2d240c16900f2fd5766b"


def test_each_role_is_shown_what_its_template_says(prompts: Prompts):
    shown = {
        role: messages[-1].content
        for role, messages in role_messages(ITEM, Synthesis(prompts=str(LAW), extractor=PROVISIONS)).items()
    }
    assert "Give a reasoned opinion:" in shown["student"] and "§" not in shown["student"]
    assert ITEM.solution in shown["privileged_student"]
    assert "Provisions that matter: § 437, § 439\n" in shown["negative_reference"]
    contexts = prompts.contexts(ITEM, Synthesis(thinking=False, prompts=str(LAW), extractor=PROVISIONS))
    assert contexts.told.waypoints == ["§ 437", "§ 439"]
    assert "reasoned opinion" in prompts.text(contexts.student_ids)
    assert "reasoned opinion" in prompts.text(prompts.student_ids("Can A?", Synthesis(thinking=False), str(LAW)))


def test_a_role_without_a_template_keeps_the_papers(write: WriteFile):
    folder = Path(write("mine/student.jinja", "{{ problem }} Think.")).parent
    own, paper = role_messages(ITEM, Synthesis(prompts=str(folder))), role_messages(ITEM)
    assert own["student"][-1].content == ITEM.problem + " Think."
    assert own["privileged_student"] == paper["privileged_student"]


def test_prompts_may_be_a_mapping_of_a_module(write: WriteFile):
    file = write("prompts.py", 'SHORT = {"student": "{{ problem }}"}\nLIST = ["{{ problem }}"]\n')
    assert role_messages(ITEM, Synthesis(prompts=f"{file}:SHORT"))["student"][-1].content == ITEM.problem
    with pytest.raises(UsageError, match="are a list; wanted a mapping from role to template"):
        role_templates(f"{file}:LIST")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "pupil.jinja",
            "{{ problem }}",
            "have a template 'pupil'; the roles are student, privileged_student, negative",
        ),
        ("student.jinja", "{{ problem }} {{ solution }}", "of student shows solution; it may show kind, problem"),
        ("student.jinja", "{{ probelm }}", "of student shows probelm; it may show kind, problem"),
        ("negative_reference.jinja", "{% if %}", "of negative_reference is no Jinja template"),
        ("student.txt", "{{ problem }}", r"there is no folder with \*\.jinja files; known are paper"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused_before_anything_runs(
    write: WriteFile, tmp_path: Path, file: str, text: str, message: str
):
    folder = Path(write(f"mine/{file}", text)).parent
    with pytest.raises(UsageError, match=message):
        synthesise([ITEM], tmp_path / "out", FAKE, Synthesis(prompts=str(folder)))
    assert not (tmp_path / "out").exists()


def test_a_template_that_fails_on_one_item_costs_that_item(write: WriteFile):
    folder = Path(write("mine/negative_reference.jinja", "{{ answer.upper() }}")).parent
    with pytest.raises(ItemError, match="template failed: UndefinedError") as failed:
        role_messages(ITEM, Synthesis(prompts=str(folder)))
    assert failed.value.code == "template_failed"


@pytest.mark.parametrize("name", EXTRACTORS)
def test_what_is_built_in_is_no_part_of_anybody_s_own(name: str):
    assert tried_out(Synthesis(extractor=name)).extractor == name


def test_an_extractor_that_fails_on_one_item_costs_that_item(write: WriteFile):
    file = write(
        "mine.py",
        "def broken(solution, kind, answer):\n    return [1 / 0]\n"
        "def numbers(solution, kind, answer):\n    return [437]\n"
        "def leaves(solution, kind, answer):\n    raise SystemExit(0)\n",
    )
    with pytest.raises(ItemError, match="leaves failed: SystemExit: 0"):
        extract(f"{file}:leaves", "x", "proof", None)
    with pytest.raises(ItemError, match="broken failed: ZeroDivisionError: division by zero"):
        extract(f"{file}:broken", "x", "proof", None)
    with pytest.raises(ItemError, match=r"numbers gave \[437\]; wanted a list of texts"):
        extract(f"{file}:numbers", "x", "proof", None)
    with pytest.raises(UsageError, match="is no function"):
        tried_out(Synthesis(extractor="json:__name__"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("no_tensor", "gave bool for 3 proposals in each of 2 rows; wanted torch.bool"),
        ("wrong_shape", r"gave torch.bool \[2\] for 3"),
        ("wrong_type", r"gave torch.float32 \[2, 3\] for 3"),
        ("broken", "failed on a trial: TypeError"),
        ("absent", "has nothing named absent"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_before_an_engine_starts(rule: str, message: str, tmp_path: Path):
    with pytest.raises(UsageError, match=message):
        synthesise([ITEM], tmp_path, FAKE, Synthesis(acceptance=f"{RULES}:{rule}"))


def test_an_own_rule_is_drawn_in_lockstep_and_refused_by_strategies_that_see_less():
    settings = Synthesis(acceptance=f"{RULES}:typical", max_tokens=8)
    request = RolloutRequest("u", [3, 5], [3, 5, 9], settings, seed=1, stop_ids=frozenset([0]))
    assert choose(settings, "auto") == "lockstep"
    for strategy in ("lazy", "draft_verify"):
        pair = Pair(start_pair(FAKE)._entries[0].engine, strategy)
        with pytest.raises(ItemError, match="use strategy=auto or lockstep"):
            pair.add(request)


def test_an_engine_is_not_lost_to_a_rule_that_its_machine_does_not_have():
    pair = start_pair(FAKE)
    settings = Synthesis(acceptance="/nowhere/rules.py:typical#0123456789abcdef", max_tokens=8)
    with pytest.raises(ItemError, match=r"there is no file /nowhere/rules\.py") as failed:
        pair.add(RolloutRequest("u", [3], [5], settings, seed=1, stop_ids=frozenset([0])))
    assert failed.value.code == "extension" and failed.value.retryable and not pair.pending()


def test_shards_and_manifest_say_what_made_them_and_a_change_makes_another_batch(write: WriteFile, tmp_path: Path):
    source = "def cited(solution, kind, answer):\n    return ['§ 437']\n"
    settings = Synthesis(
        prompts=str(LAW), extractor=write("mine.py", source) + ":cited", acceptance=f"{RULES}:typical", max_tokens=8
    )
    first = synthesise([ITEM], tmp_path / "out", FAKE, settings)
    (row,) = first.traces()
    assert row.waypoints == ("§ 437",) and row.strategy == "lockstep"
    assert [one.partition("#")[0] for one in (row.prompts, row.extractor, row.acceptance)] == [
        "law", "cited", "typical"
    ]  # fmt: skip
    assert all(len(one.partition("#")[2]) == 16 for one in (row.prompts, row.extractor, row.acceptance))
    assert synthesise([ITEM], tmp_path / "out", FAKE, settings).batch_id == first.batch_id
    write("mine.py", source.replace("437", "439"))
    second = synthesise([ITEM], tmp_path / "out", FAKE, settings)
    (changed,) = second.traces()
    assert second.batch_id != first.batch_id and changed.waypoints == ("§ 439",)
    assert changed.extractor != row.extractor and changed.config_fingerprint != row.config_fingerprint


def test_a_unit_is_not_rendered_by_another_source_than_it_was_made_for(write: WriteFile, prompts: Prompts):
    file = write("mine.py", "def cited(solution, kind, answer):\n    return ['a']\n")
    settings = Synthesis(extractor=f"{file}:cited", thinking=False).pinned()
    unit = Unit(
        unit_id="u", batch_id="b", item_id="i", sample=0, epoch=1, item=ITEM, synthesis=settings,
        model=identify(DEMO_MODEL),
    )  # fmt: skip
    write("mine.py", "def cited(solution, kind, answer):\n    return ['b']\n")
    with pytest.raises(ExtensionError, match="it changed since this began; restore it, or begin anew") as refused:
        prepare(unit, prompts, 4096)
    assert refused.value.retryable, "another worker may have it"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "acceptance=absolut",
            "there is no acceptance rule 'absolut'; known are absolute, relative, topk; your own is",
        ),
        ("prompts=laws", "there is no set of prompts 'laws'; known are paper; your own is"),
        ("extractor=./mine.py", "there is no waypoint extractor"),
    ],
)
def test_a_wrong_name_on_the_command_line_is_answered_with_the_known_ones(setting: str, message: str, tmp_path: Path):
    items = tmp_path / "items.jsonl"
    items.write_text(ITEM.model_dump_json(exclude_none=True) + "\n")
    call = [
        str(Path(sys.executable).parent / "dail"),
        "synth",
        str(items),
        "--out",
        str(tmp_path),
        "--model",
        str(DEMO_MODEL),
        "--set",
        setting,
    ]
    answer = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 2 and message in answer.stderr, answer.stderr
