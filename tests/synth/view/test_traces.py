from __future__ import annotations

from dail.synth.schema.units import Failure
from dail.synth.view.places import cited_places, places_of
from dail.synth.view.traces import FILTERS, TraceSummary, inked, summary_of, viewed
from tests.synth.view.conftest import a_row, placed


def test_a_view_has_an_entry_a_token_and_joined_they_are_the_text():
    row = a_row(["So ", "", "∑", " is 6"], rejected_texts=placed(4, {2: "π"}), rejected_ids=placed(4, {2: 9}))
    view = viewed(row)
    assert "".join(view.texts) == row.trace_text and len(view.student_prob) == len(view.privileged_logprob) == 4
    assert view.rejected == {2: "π"} and view.no_tokens is None


def test_a_shard_without_texts_of_tokens_is_one_text_and_says_why():
    view = viewed(a_row(["a", "b"], token_texts=(), rejected_texts=()))
    assert (view.text, view.texts, view.student_prob) == ("ab", (), ())
    assert "--model" in str(view.no_tokens)


def test_places_count_utf16_units_as_a_browser_does():
    view = viewed(a_row(["𝜋 is 314"], waypoints=("314",)))
    ((start, end),) = view.trace_marks
    assert "𝜋 is 314".encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le") == "314"


def test_the_five_filters_find_what_they_name_and_nothing_else():
    whole = summary_of(a_row(["a"]), "correct")
    such = {
        "failed": TraceSummary(unit_id="u", item_id="i", error=Failure(code="boom", detail="it broke")),
        "cut": summary_of(a_row(["a"], truncated=True)),
        "leaky": summary_of(a_row(["As the reference solution says, it is 3."])),
        "wrong": summary_of(a_row(["a"]), "wrong"),
        "low-student": summary_of(a_row(["a", "b", "c"], student_prob=(0.0, 0.2, 1.0))),
    }
    assert such.keys() == FILTERS.keys()
    for name, applies in FILTERS.items():
        assert [one for one, summary in such.items() if applies(summary)] == [name]
        assert not applies(whole)


def test_disagreements_are_tokens_of_the_privileged_student_and_those_behind_a_refusal():
    row = a_row(list("abcd"), student_prob=(1.0, 0.0, 1.0, None), rejected_ids=(None, None, 7, None))
    assert summary_of(row).disagreements == 2


def test_phrases_are_found_where_they_stand_whatever_the_spacing():
    text = "So.\nAs the  **reference\nsolution** says, n is odd."
    ((start, end),) = cited_places(text, "")
    assert "reference" in text[start:end]
    assert cited_places(text, "As the reference solution says?") == []


def test_a_number_is_no_part_of_another():
    assert places_of("12", "112, 12, 12.5 and 1 2") == [(5, 7), (18, 21)]


def test_what_steers_a_terminal_is_named():
    assert inked("a\x1b[2J\u202e\n\tb") == "a⟨U+001B⟩[2J⟨U+202E⟩\n\tb"
