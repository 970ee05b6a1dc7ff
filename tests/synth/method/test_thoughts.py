"""Where a thought begins and ends, by the marks of several models."""

import pytest

from dail.synth.method.thoughts import MARKS, behind_thought, closing_mark, has_empty_thought, without_empty_thought

TAGS = [(f"<{name}>", f"</{name}>") for name in ("thinking", "Thought", "reasoning", "longcat_think", "mm:think")]
TAGS.append(("<|thinking|>", "<|/thinking|>"))


@pytest.mark.parametrize(("opened", "closed"), [*MARKS, *TAGS])
def test_only_what_follows_a_thought_is_said(opened: str, closed: str):
    assert behind_thought(f"{opened} 3? {closed} 4.") == " 4."
    assert behind_thought(f"{opened} 3?") is None
    assert behind_thought(f"{opened} 3? {closed} 4. {opened} or 5") is None
    assert behind_thought("4.") == "4."


@pytest.mark.parametrize(("opened", "closed"), [*MARKS, *TAGS])
def test_a_completion_of_a_prompt_that_opened_the_thought_begins_inside_it(opened: str, closed: str):
    assert behind_thought("maybe \\boxed{12}? no", True) is None
    assert behind_thought(f"3? {closed} 4.", True) == " 4."
    assert behind_thought(f"3? {closed} 4. {opened} 5 {closed} 6.", True) == " 6."
    assert behind_thought(f"{opened} 3?", True) is None


@pytest.mark.parametrize(("opened", "closed"), [*MARKS, *TAGS])
def test_an_empty_thought_is_left_out_at_the_end_alone(opened: str, closed: str):
    assert without_empty_thought(f"A:\n{opened}\n\n{closed}\n\n") == "A:\n"
    assert without_empty_thought(f"A:\n{opened}{closed}") == "A:\n"
    for kept in (f"A:\n{opened}\n", f"{opened}\n{closed}\nA:", f"A: {opened} hm {closed}"):
        assert without_empty_thought(kept) == kept


@pytest.mark.parametrize(("opened", "closed"), [*MARKS, *TAGS])
def test_a_thought_ends_by_the_mark_of_the_one_that_is_open_else_of_the_template_else_of_the_tokens(
    opened: str, closed: str
):
    assert closing_mark(f"A:\n{opened}\n", "{{ '</think>' }}", ["</think>"]) == closed
    assert closing_mark("A:", f"x {opened} + t + '{closed}' y", []) == closed
    assert closing_mark("A:", f"'{closed}', not </reasoning>", ["</reasoning>"]) == "</reasoning>"
    assert closing_mark("A:", "{{ m.content }}", ["<a>", closed]) == (closed if (opened, closed) in MARKS else None)
    assert closing_mark("A:", "a < b, </a>", []) is None
    assert has_empty_thought(f"A:\n{opened}\n\n{closed}\n") and not has_empty_thought(f"A:\n{opened}\n")


@pytest.mark.parametrize(
    "text", ["I <rethink> it: 4.", "x <think y", "<thinker>", "a < thought > b", "</a>", "[thinking]"]
)
def test_what_is_no_mark_is_said(text: str):
    assert behind_thought(text) == text
