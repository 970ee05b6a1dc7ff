"""The world in which the paper's claims can fail: its second task, its problems, its measure, its tables."""

import json
import random
from pathlib import Path
from string import ascii_uppercase

import experiment
import figures
import numpy as np
import pytest
import torch
from as_paper import RUNS, as_results
from gauge import Gauge
from hypothesis import given
from hypothesis import strategies as st
from jumps import jumps as marked
from leaning import of_one, starts
from make_model import count_jumps
from make_problems import to_jsonl
from make_sets import CANDIDATES, HOTTER, JUDGED, judged_rows, locks, solution_rows
from picture import GAMMAS, SHOWN
from pretrain import ROUNDS
from transformers import AutoModelForCausalLM, AutoTokenizer
from world import Lock, conclusion, expert_solution, problem, random_jumps, random_lock, trace

from dail.serve.paper.contents import contents
from dail.serve.paper.results import ours_says
from dail.synth.data.reader import load_items
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.controls import CONTROLS
from dail.train import TrainConfig
from dail.train.evals import EvalProblem

MODEL = Path(__file__).parents[2] / "deploy" / "world" / "model"
PROBLEM = EvalProblem(id="lock", problem="A lock.", answer="055")

tasks = st.builds(
    random_lock,
    st.randoms(use_true_random=False),
    st.integers(2, 18),
    kind=st.sampled_from([Lock, Gauge]),
)


def test_a_gauge_is_told_in_its_own_words():
    gauge = Gauge(start="417", turns=("293", "118"))
    assert gauge.states == ("600", "718") and conclusion(gauge) == "The gauge reads \\boxed{718}."
    assert "lock" not in problem(gauge) and problem(gauge).startswith("The three hands of a gauge point at 417.")


@given(tasks, st.floats(0, 1), st.integers(0))
def test_a_trace_ends_in_the_answer_and_its_jumps_are_counted(task, probability, seed):
    jumps = random_jumps(random.Random(seed), task, probability)
    written = trace(task, jumps)
    assert final_answer(written) == final_answer(expert_solution(task)) == task.answer
    assert count_jumps(written) == len(jumps)
    assert [written[begin:end].split("=")[0] for begin, end in marked(written, PROBLEM)] == [
        ascii_uppercase[3 * block : min(3 * block + 3, len(task.turns))] for block in sorted(jumps)
    ]


@given(tasks, st.integers(0))
def test_the_measure_finds_every_beginning_of_a_block(task, seed):
    jumps = random_jumps(random.Random(seed), task, 0.5)
    written = trace(task, jumps)
    found = list(starts(task, written, jumps))
    assert len(found) == task.num_blocks
    for start in found:
        chosen, other = (start.jump, start.work) if start.is_jumped else (start.work, start.jump)
        assert written.startswith(chosen, start.position) and not written.startswith(other, start.position)


def test_no_problem_is_in_two_groups_and_the_harder_are_longer_than_all_that_is_trained_on():
    shown = [row["problem"] for row in (*solution_rows(CANDIDATES), *judged_rows())]
    assert len(set(shown)) == len(shown)
    assert min(len(lock.turns) for lock in locks(JUDGED["harder"])) > max(len(lock.turns) for lock in locks(CANDIDATES))


@pytest.mark.parametrize("answer_only", [False, True])
def test_solutions_are_items_the_product_takes(tmp_path, answer_only):
    (tmp_path / "items.jsonl").write_text(to_jsonl(solution_rows(CANDIDATES, answer_only)))
    items = load_items(tmp_path / "items.jsonl")
    assert len(items) == CANDIDATES.count
    told = [
        set(item.solution_text.split()) & set(lock.states[:-1])
        for item, lock in zip(items, locks(CANDIDATES), strict=True)
    ]
    assert not any(told) or not answer_only


def test_every_part_of_a_round_adds_up():
    assert all(abs(sum(part.share for part in round_.mixture) - 1) < 1e-9 for round_ in ROUNDS)


def test_every_arm_can_be_trained_and_every_claim_is_of_arms_there_are():
    names = {
        "base",
        *(f"base, temperature {heat:g}" for heat in HOTTER),
        *(arm.name for arm in experiment.ARMS),
    }
    assert len(names) == len(experiment.ARMS) + 4
    for arm in experiment.ARMS:
        assert arm.traces in experiment.TRACES
        TrainConfig(**experiment.TRAINING, **arm.settings)
    assert {name for claim in figures._claims() for name in (claim.better, claim.worse)} <= names
    assert {f"control: {name}" for name in CONTROLS} <= names
    assert {*SHOWN, *GAMMAS.values(), *RUNS.values()} <= names  # a renamed arm would be missing without a word


def test_before_training_the_shortcut_is_what_the_roles_differ_in():
    """What the world is made for, on a few problems; `leaning.py` measures it on more."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    network = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    rng = random.Random(1)
    each = [of_one(network, tokenizer, random_lock(rng, rng.randint(9, 12)), rng) for _ in range(12)]
    found = {name: np.mean([value for one in each for value in one.get(name, [])]) for name in each[0]}
    assert 0.42 < found["privileged_student: jump"] < 0.58
    assert found["negative_reference: jump"] > found["privileged_student: jump"] + 0.25
    assert found["privileged_student: log p of a jump's digits"] > -0.1, "copied"
    assert found["student: log p of a jump's digits"] < -2, "a guess"
    assert found["student: log p of a sum's digits"] > -0.1, "it has the skill"


def counts(right: list[list[int]]) -> np.ndarray:
    """Two seeds that found the same; right answers of 8 samples by problem."""
    return np.array([[[[int(i < num), 1, 100] for i in range(8)] for num in problems] for problems in right])


def test_a_claim_is_judged_by_its_interval():
    good, bad = counts([[8, 7, 8, 6]] * 2), counts([[0, 1, 0, 2]] * 2)
    claim = figures.Claim("", "", "a", "b", "harder", 1)
    arms = {"a": {"harder": good}, "b": {"harder": bad}}
    (mean, low, high), verdict = figures.judge(claim, arms)
    assert verdict == "holds" and low <= mean <= high and mean == pytest.approx(100 * (29 - 3) / 32)
    assert figures.judge(claim, {"a": arms["b"], "b": arms["a"]})[1] == "contradicted"
    mixed = {"a": {"harder": counts([[8, 0, 8, 0]] * 2)}, "b": {"harder": counts([[0, 8, 8, 0]] * 2)}}
    assert figures.judge(claim, mixed)[1] == "open"


def test_pass_at_k_and_jumps_are_counted_by_hand():
    found = counts([[8, 0], [4, 0]])
    assert figures.passes(found, 1) == pytest.approx(np.array([[1, 0], [0.5, 0]]))
    assert figures.passes(found, 8).tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert figures.jumped(found, [4, 6]) == pytest.approx(20)  # one of 4 and one of 6, in every sample


def test_tables_are_made_of_what_a_run_leaves(tmp_path):
    names = [f"world-{number:03d}" for number in range(3)]
    found = {name: [[1, 1, 90]] * 8 for name in names} | {
        f"{group}-{number:02d}": [[number % 2, 0, 120]] * 8
        for group, one in JUDGED.items()
        for number in range(one.count)
    }
    for seed in (0, 1):
        (tmp_path / f"seed-{seed}").mkdir()
        text = json.dumps({"seed": seed, "counts": {"base": found, "DAIL, direct": found}})
        (tmp_path / f"seed-{seed}" / "counts.json").write_text(text)
    (tmp_path / "trained_on.json").write_text(json.dumps(names))
    text = figures.report(Path(tmp_path))
    assert (
        "Seeds: 2;" in text
        and "| DAIL is better than the base model | Fig. 2 | harder | 1 | 0.0 (0.0 to 0.0) | open |" in text
    )
    assert json.loads((tmp_path / "figures.json").read_text())["base"]["train"]["pass@1"][0] == 100


def test_of_the_world_s_groups_each_exhibit_shows_the_one_that_stands_for_its():
    found = {
        arm: {
            group: {f"pass@{k}": (place + k, 0.0, 100.0) for k in (1, 8)} for place, group in enumerate(figures.GROUPS)
        }
        for arm in (*RUNS.values(), "base, temperature 0.8")
    }
    world = as_results(found, 48, [0.8])
    shown = {one.key: ours_says(one, world) for one in contents()}
    for key, group in {"table-1": "other", "table-4": "harder", "figure-6": "train", "figure-7": "harder"}.items():
        place = figures.GROUPS.index(group)
        assert "pass@1/8 of 48 problems" in shown[key] and f"base {place + 1}.0/{place + 8}.0" in shown[key]
    assert "temperature 0.8" in shown["figure-3"] and "temperature 0.8" not in shown["figure-5"]
