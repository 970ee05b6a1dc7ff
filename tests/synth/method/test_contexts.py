"""Further contexts by name, and what the privileged student is shown, as the demo model reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from dail.synth.core.errors import ExtensionError, InputError, ItemError
from dail.synth.core.files import sha256
from dail.synth.method.dealing import dealt
from dail.synth.method.prompts import Prompts, role_messages, role_templates
from dail.synth.rollout.base import Rollout
from dail.synth.run.local import make_batch
from dail.synth.run.trace_rows import prepare, trace_row
from dail.synth.schema.items import ExpertSolution, Message
from dail.synth.schema.models import TEMPLATES, ModelIdentity
from dail.synth.schema.shards import TraceRow, decode_shard, encode_shard
from dail.synth.schema.synthesis import WORDED_BY, ContextName, Synthesis
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import unit_id

MODEL = ModelIdentity(name="m", revision="r", tokenizer_hash="t", template_hash="c")
ALL = Synthesis(contexts=get_args(ContextName), max_tokens=8)
ITEMS = [
    ExpertSolution(
        id="sum", problem="Find 2 + 3 + 4.", solution="First 2 + 3 = 5. Then 5 + 4 = \\boxed{9}.", answer="9"
    ),
    ExpertSolution(id="product", problem="Find 6 times 7.", solution="6 times 7 is 21 doubled. So 42.", answer="42"),
]


def said(synthesis: Synthesis, item: ExpertSolution | None = None) -> dict[str, str]:
    item = item or dealt(ITEMS, synthesis)[0]
    return {name: messages[-1].content for name, messages in role_messages(item, synthesis).items()}


def row(prompts: Prompts, synthesis: Synthesis) -> TraceRow:
    unit = next(iter(make_batch(ITEMS, synthesis.model_copy(update={"max_tokens": 8}), MODEL).units.values()))
    prepared = prepare(unit, prompts, 1024)
    tokens = Tokens([5, 6], [1.0] * 2, [None] * 2, [None] * 2, [None] * 2)
    made = trace_row(prepared, Rollout(unit.unit_id, tokens, "length", "lockstep"), prompts, "fake")
    assert decode_shard(encode_shard([made]), "s") == [made]
    return made


def test_each_context_shows_what_its_name_says():
    text = said(ALL)
    assert text["waypoints"] == text["negative_reference"] and "along the way: 2, 3, 5, 4" in text["waypoints"]
    assert "The final answer: 9" in text["answer_only"] and "along the way" not in text["answer_only"]
    assert text["wrong_hint"] == text["answer_only"].replace("answer: 9", "answer: 42")
    assert "First 2 + 3 = 5" in text["reference_only"] and "Find 2 + 3 + 4" not in text["reference_only"]
    assert text["other_solution"] == text["privileged_student"].replace(ITEMS[0].solution_text, ITEMS[1].solution_text)
    assert all("Find 2 + 3 + 4." in text[name] for name in text if name != "reference_only")


def test_a_row_has_them_by_name_with_what_was_dealt(prompts: Prompts):
    made = row(prompts, ALL)
    assert [one.name for one in made.contexts] == list(ALL.contexts)
    assert made.contexts[0].ids == made.negative_prompt_ids
    for one in made.contexts:
        assert role_messages(dealt(ITEMS, ALL)[0], ALL)[one.name][-1].content in prompts.tokenizer.decode(one.ids)
    assert (made.other_item, made.other_solution, made.wrong_answer) == ("product", ITEMS[1].solution_text, "42")
    assert (made.shown, made.shown_share, made.privileged) == ("solution", 1.0, None)


def test_without_settings_a_row_is_as_it_was(prompts: Prompts):
    made = row(prompts, Synthesis())
    assert (made.contexts, made.other_item, made.other_solution, made.wrong_answer) == ((), None, None, None)
    assert (made.shown, made.shown_share, made.waypoints_from, made.privileged) == ("solution", 1.0, "own", None)


def test_earlier_messages_are_of_the_problem_but_a_system_message_is_not():
    roles = ("system", "user", "assistant", "user")
    chat = tuple(Message(role=role, content=f"Part {n} of it.") for n, role in enumerate(roles))
    item = ExpertSolution(problem=chat, solution="It is 4.", answer="4")
    told = role_messages(item, Synthesis(contexts=("reference_only", "answer_only")))
    assert [one.role for one in told["reference_only"]] == ["system", "user"]
    assert [one.role for one in told["answer_only"]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("synthesis", "shown", "privileged"),
    [
        (Synthesis(shown="nothing"), 0.0, ""),
        (Synthesis(shown="other_solution"), 1.0, ITEMS[1].solution_text),
        (Synthesis(exposure=0.5), 16 / 40, "First 2 + 3 = 5."),
        (Synthesis(shown="other_solution", exposure=0.8), 24 / len(ITEMS[1].solution_text), "6 times 7 is 21 doubled."),
    ],
)
def test_what_the_privileged_student_is_shown_is_in_the_row(
    prompts: Prompts, synthesis: Synthesis, shown: float, privileged: str
):
    made = row(prompts, synthesis)
    assert (made.shown, made.privileged) == (synthesis.shown, privileged)
    assert made.shown_share == pytest.approx(shown)
    seen = prompts.tokenizer.decode(made.privileged_prompt_ids)
    assert privileged in seen and (ITEMS[0].solution_text in seen) is False
    assert ("the beginning of a correct solution" in seen) is (synthesis.exposure < 1)
    assert (made.privileged_prompt_ids == made.student_prompt_ids) is (synthesis.shown == "nothing")
    assert made.negative_prompt_ids == row(prompts, Synthesis()).negative_prompt_ids


def test_the_answer_alone_is_shown_in_the_words_of_the_context_of_that_name(prompts: Prompts):
    made = row(prompts, Synthesis(shown="answer", contexts=("answer_only",)))
    assert (made.shown, made.shown_share, made.privileged) == ("answer", 1.0, "9")
    assert made.privileged_prompt_ids == made.contexts[0].ids
    seen = prompts.tokenizer.decode(made.privileged_prompt_ids)
    assert "The final answer: 9" in seen and "along the way" not in seen and "First 2" not in seen
    assert made.negative_prompt_ids == row(prompts, Synthesis()).negative_prompt_ids


def test_the_answer_of_a_proof_cannot_be_shown():
    proof = ITEMS[0].model_copy(update={"kind": "proof"})
    with pytest.raises(InputError, match="shown=answer shows the answer, and this item is a proof"):
        dealt([proof], Synthesis(shown="answer"))
    with pytest.raises(InputError, match="this item has none; leave out the item, or what shows it"):
        dealt([ExpertSolution(problem="p", solution="s")], Synthesis(shown="answer"))
    with pytest.raises(ItemError, match="this item has none to be shown"):
        role_messages(proof, Synthesis(shown="answer"))


def test_shuffled_waypoints_are_another_problem_s_beside_the_own_answer(prompts: Prompts):
    made = row(prompts, Synthesis(waypoints_from="other"))
    assert (made.waypoints, made.answer, made.other_item) == (("6", "7", "21"), "9", "product")
    assert "along the way: 6, 7, 21\n" in prompts.tokenizer.decode(made.negative_prompt_ids)
    assert made.privileged_prompt_ids == row(prompts, Synthesis()).privileged_prompt_ids


def test_a_proof_s_answer_is_told_where_that_is_set():
    proof = ITEMS[0].model_copy(update={"kind": "proof"})
    assert "The final answer: 9" not in said(Synthesis(), proof)["negative_reference"]
    assert "The final answer: 9" in said(Synthesis(proof_answers=True), proof)["negative_reference"]


@pytest.mark.parametrize(
    "changed",
    [
        {"contexts": ("answer_only",)}, {"contexts": ("wrong_hint",)}, {"shown": "nothing"}, {"exposure": 0.5},
        {"shown": "answer"}, {"waypoints_from": "other"}, {"proof_answers": True},
    ],
)  # fmt: skip
def test_each_setting_makes_other_units_and_its_default_makes_the_same(changed: dict[str, Any]):
    plain = Synthesis()
    asked = Synthesis(**changed)
    assert unit_id(ITEMS[0], plain, MODEL, 0) != unit_id(ITEMS[0], asked, MODEL, 0)
    back = {name: getattr(plain, name) for name in changed}
    assert asked.model_copy(update=back).identity() == plain.identity()
    assert not {"contexts", "shown", "exposure", "waypoints_from", "proof_answers"} & plain.identity().keys()


def test_another_solution_dealt_makes_other_units():
    asked = Synthesis(shown="other_solution")
    third = ExpertSolution(id="third", problem="Find 1.", solution="It is 1.", answer="1")
    few, many = dealt(ITEMS, asked), dealt([*ITEMS, third], asked)
    changed = [a.dealt != b.dealt for a, b in zip(few, many, strict=False)]
    assert any(changed)
    for a, b, differs in zip(few, many, changed, strict=False):
        assert (unit_id(a, asked, MODEL, 0) != unit_id(b, asked, MODEL, 0)) is differs


def test_a_folder_may_word_further_contexts_and_a_typing_error_in_its_files_is_named(tmp_path: Path):
    (tmp_path / "wrong_hint.jinja").write_text("{{ problem }} Is it {{ answer }}?")
    (tmp_path / "privileged_student.jinja").write_text("{{ problem }} See: {{ solution }}")
    text = said(ALL.model_copy(update={"prompts": str(tmp_path), "exposure": 0.5}))
    assert text["wrong_hint"] == "Find 2 + 3 + 4. Is it 42?"
    assert text["privileged_student"] == "Find 2 + 3 + 4. See: First 2 + 3 = 5."  # its own words, of a part too
    assert text["other_solution"] == f"Find 2 + 3 + 4. See: {ITEMS[1].solution_text}"
    assert "to a problem that is not shown" in text["reference_only"]
    (tmp_path / "wrong_hnt.jinja").write_text("{{ problem }}")
    with pytest.raises(
        ExtensionError, match=r"have a template 'wrong_hnt'; the roles are .*, and further contexts .*wrong_hint"
    ):
        role_templates(f"{tmp_path}/")


def test_a_further_context_may_show_no_more_than_the_others(tmp_path: Path):
    (tmp_path / "wrong_hint.jinja").write_text("{{ wrong_answer }}")
    with pytest.raises(ExtensionError, match="the template of wrong_hint shows wrong_answer; it may show answer, kind"):
        role_templates(str(tmp_path))


def test_the_longest_of_all_contexts_must_fit(prompts: Prompts):
    asked, long = Synthesis(contexts=("other_solution",)), ITEMS[1].model_copy(update={"solution": "It is so. " * 30})
    item = dealt([ITEMS[0], long], asked)[0]
    contexts = prompts.contexts(item, asked)
    unit = next(iter(make_batch([ITEMS[0], long], asked, MODEL).units.values()))
    with pytest.raises(ItemError, match="the other_solution prompt needs"):
        prepare(unit, prompts, contexts.longest[1])
    assert (
        len(prepare(unit, prompts, contexts.longest[1] + 1).contexts.further["other_solution"]) == contexts.longest[1]
    )


def test_a_dealt_solution_that_is_too_long_loses_its_later_ones(prompts: Prompts):
    long = ExpertSolution(id="long", problem="Q?", solution=("It is 1.", "Or so: " + "it is one " * 60), answer="1")
    asked = Synthesis(shown="other_solution", too_long="drop_later_solutions", prompt_tokens=200)
    units = make_batch([ITEMS[0], long], asked, MODEL).units.values()
    unit = next(unit for unit in units if unit.item_id == "sum")
    prepared = prepare(unit, prompts, 1024)
    assert prepared.item.dealt and prepared.item.dealt.solution_text == "It is 1."
    assert prepared.dropped == (long.solution[1],) and prepared.item.solution == ITEMS[0].solution


def test_what_was_never_dealt_is_an_error_of_the_item():
    for asked in (
        Synthesis(contexts=("wrong_hint",)),
        Synthesis(shown="other_solution"),
        Synthesis(waypoints_from="other"),
    ):
        with pytest.raises(ItemError) as error:
            role_messages(ITEMS[0], asked)
        assert error.value.code == "nothing_dealt"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"contexts": ["wrong_hint", "wrong_hint"]}, "wrong_hint is named twice"),
        ({"contexts": "wrong_hint"}, r"got the text 'wrong_hint'; wanted a list"),
        ({"contexts": ["student"]}, "Input should be 'waypoints'"),
        ({"shown": "nothing", "exposure": 0.5}, "is a share of a solution, and shown=nothing"),
        ({"shown": "answer", "exposure": 0.5}, "is a share of a solution, and shown=answer"),
        ({"exposure": 0}, "greater than 0"),
        ({"exposure": 1.1}, "less than or equal to 1"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], why: str):
    with pytest.raises(ValidationError, match=why):
        Synthesis(**settings)


def test_other_words_of_ours_take_another_number():
    """A prompt that is worded anew is another prompt: raise WORDED_BY, and put the digest here."""
    texts = b"\0".join(
        (TEMPLATES / f"{name}.jinja").read_bytes() for name in ("privileged_beginning", "reference_only")
    )
    assert (WORDED_BY, sha256(texts)[:16]) == (1, "f5b7c5c962cd3df1")
