"""The rules of the lock and the shipped problem files: made from their seeds, shown as the product shows them."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_model import count_jumps, role_prompt
from make_problems import EXPERT_SEED, LONG_TURNS, eval_rows, expert_rows, random_locks, to_jsonl
from world import Lock, expert_solution, problem, random_jumps, random_lock, trace

from dail.synth.data.reader import load_items
from dail.synth.method.prompts import role_messages
from dail.synth.method.waypoints import waypoints
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.models import ROLES

DEMO = Path(__file__).parents[2] / "deploy" / "demo"
locks = st.builds(random_lock, st.randoms(use_true_random=False), st.integers(1, 14))


def test_a_turn_moves_each_dial_by_itself():
    assert Lock(start="417", turns=("293", "118")).states == ("600", "718")


@given(locks, st.floats(0, 1), st.integers(0))
def test_a_trace_ends_in_the_answer_however_it_jumps(lock, probability, seed):
    jumps = random_jumps(random.Random(seed), lock, probability)
    written = trace(lock, jumps)
    assert final_answer(written) == lock.answer == lock.states[-1]
    assert count_jumps(written) == len(jumps)


@given(locks)
def test_a_full_trace_shows_every_state_and_an_expert_every_third(lock):
    assert [step[-3:] for step in trace(lock, ()).split("\n")[0].split()[1:]] == list(lock.states)
    named = [state for state in expert_solution(lock).split() if state.removesuffix(".").isdigit()]
    assert named == [f"{state}." for state in lock.states[2:-1:3]]


@given(locks)
def test_waypoints_are_the_states_the_expert_names(lock):
    shown = waypoints(expert_solution(lock), "verifiable", lock.answer)
    assert set(shown) == set(lock.states[2:-1:3]) - {lock.answer}


@pytest.mark.parametrize(("name", "rows"), [("expert_solutions", expert_rows), ("eval_problems", eval_rows)])
def test_shipped_problems_are_what_their_seed_makes(name, rows):
    assert (DEMO / f"{name}.jsonl").read_text("utf-8") == to_jsonl(rows())


def test_no_problem_is_in_both_files():
    assert not {row["problem"] for row in expert_rows()} & {row["problem"] for row in eval_rows()}


def test_expert_solutions_are_items_the_product_takes():
    items = load_items(DEMO / "expert_solutions.jsonl")
    assert len(items) == 128
    assert all(final_answer(item.solution_text) == item.answer for item in items)


def test_model_is_trained_on_exactly_what_the_product_shows():
    items = load_items(DEMO / "expert_solutions.jsonl")
    for item, lock in zip(items, random_locks(random.Random(EXPERT_SEED), len(items), LONG_TURNS), strict=True):
        assert item.problem == problem(lock)
        shown = {role: messages[-1].content for role, messages in role_messages(item).items()}
        assert shown == {role: role_prompt(role, lock) for role in ROLES}
