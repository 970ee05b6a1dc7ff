"""`dail grpo` on the demo model, by TRL: prompts, rewards, resumption, hints, and the adapter it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="dail grpo needs trl; run: pip install 'dail[rl]'")

from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.method.prompts import Prompts
from dail.synth.schema.models import identify
from dail.train import grpo, grpo_asked
from dail.train.checkpoint import held
from dail.train.evals.lineage import read_adapter
from dail.train.grpo_config import GrpoConfig
from tests.conftest import DEMO_MODEL, Told

LOCK = "A lock with three dials shows 056. It is turned like this: A 775, B 998, C 238. Each turn moves every dial "
LOCK += "forward by its own digit, past 9 to 0. What does the lock show in the end?"
ITEM = {"problem": LOCK, "solution": "After A: 721. After B: 619. The lock shows \\boxed{847}.", "answer": "847"}
# the first is solved now and then, the others never
ITEMS = [{**ITEM, "id": "lock"}] + [{**ITEM, "id": f"wrong-{n}", "answer": f"not {n}"} for n in range(3)]
SMALL = GrpoConfig(
    batch_size=4, rollouts=4, epochs=2, max_tokens=64, thinking=False, microbatch=16, lr=1e-3, checkpoint_every=1,
    temperature=1.5, top_p=1.0, dtype="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("items") / "items.jsonl", ITEMS)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def trained(items: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grpo") / "run"
    done = grpo.run([str(items)], DEMO_MODEL, out, SMALL)
    assert (done.steps, done.problems, done.solved, done.hinted) == (2, 4, 1, 0)
    return out


def test_the_model_is_asked_with_the_ids_of_an_evaluation(items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[list[int]] = []
    inner = grpo.GRPOTrainer._generate_single_turn

    def spied(self: Any, prompt_ids: list[list[int]], *others: Any, **more: Any) -> Any:
        seen.extend(prompt_ids)
        assert self.eos_token_ids == sorted(Prompts(DEMO_MODEL).stop_ids)
        return inner(self, prompt_ids, *others, **more)

    monkeypatch.setattr(grpo.GRPOTrainer, "_generate_single_turn", spied)
    grpo.run([str(items)], DEMO_MODEL, tmp_path / "run", SMALL.model_copy(update={"epochs": 1, "max_tokens": 4}))
    wanted = Prompts(DEMO_MODEL).student_ids(LOCK, SMALL)
    assert len(seen) == 16 and all(ids == wanted for ids in seen)


def test_the_grader_rewards_and_what_was_right_is_kept(trained: Path):
    metrics = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    rollouts = [json.loads(line) for line in (trained / "rollouts-0.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2]
    for step in (0, 1):
        of_step = [line for line in rollouts if line["step"] == step]
        assert sorted(line["problem"] for line in of_step) == sorted(item["id"] for item in ITEMS)
        assert {line["of"] for line in of_step} == {4}
        assert metrics[step]["reward"] == pytest.approx(sum(line["right"] for line in of_step) / 16)
    assert 0 < rollouts[0]["right"] < 4, "without a rollout of each kind there is nothing to learn"
    last = grpo_asked.last_rollouts(trained)
    assert last.keys() == {item["id"] for item in ITEMS} and not any(last[f"wrong-{n}"] for n in range(3))


def test_its_adapter_is_one_that_an_evaluation_takes_and_says_where_it_is_from(trained: Path):
    adapter = read_adapter(trained / "adapter", DEMO_MODEL, identify(DEMO_MODEL))
    assert adapter.rank == 32 and "trained by rewards" in adapter.note
    said = json.loads((trained / "adapter" / "dail.json").read_text())
    assert (said["run"]["method"], said["steps"], said["settings"]["rollouts"]) == ("grpo", 2, 4)
    assert "/" not in json.loads((trained / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    from safetensors.torch import load_file

    weights = load_file(trained / "adapter" / "adapter_model.safetensors")
    assert all("layers" in name for name in weights)
    assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)


def test_a_finished_run_is_not_begun_again_and_another_one_is_refused(items: Path, trained: Path, told: Told):
    before = (trained / "metrics.jsonl").read_bytes()
    assert grpo.run([str(items)], DEMO_MODEL, trained, SMALL.model_copy(update={"checkpoint_every": 9})).steps == 2
    assert (trained / "metrics.jsonl").read_bytes() == before and "is finished" in told()
    with pytest.raises(UsageError, match=r"is another one: lr 0\.001 there, 0\.1 here"):
        grpo.run([str(items)], DEMO_MODEL, trained, SMALL.model_copy(update={"lr": 0.1}))


def test_problems_that_were_not_solved_are_asked_with_a_hint_from_the_adapter_before(
    items: Path, trained: Path, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
):
    # which of them is chance
    monkeypatch.setattr(grpo_asked, "last_rollouts", lambda run: {"lock": 0, "wrong-0": 1, "wrong-1": 2})
    asked: list[Any] = []
    inner = grpo._trainer
    monkeypatch.setattr(grpo, "_trainer", lambda *args: asked.extend(args[3]) or inner(*args))
    hinted = SMALL.model_copy(update={"hints": "waypoints", "epochs": 1})
    done = grpo.run([str(items)], DEMO_MODEL, tmp_path / "nurl", hinted, after=trained)
    assert done.hinted == 1 and "1 get a hint" in told()
    text = Prompts(DEMO_MODEL).tokenizer.decode(asked[0].ids)
    assert "Hint, some results along the way: 721, 619\n" in text and "847" not in text
    assert "Hint" not in Prompts(DEMO_MODEL).tokenizer.decode(asked[1].ids)
    assert json.loads((tmp_path / "nurl" / "grpo.json").read_text())["decisive"]["after"].startswith("sha256:")


@pytest.mark.parametrize(
    ("rows", "changed", "after", "why"),
    [
        (ITEMS[:2], {}, None, "batch_size is 4, and there are 2 problems; lower it, as to 2"),
        (ITEMS, {"microbatch": 5}, None, r"a step has 16 completions .* do not divide"),
        (ITEMS, {"hints": "waypoints"}, None, "name that run, --after FOLDER"),
        (ITEMS, {"hints": "waypoints"}, "nowhere", "is no run of `dail grpo`"),
        (ITEMS, {"grader": "nobody"}, None, "there is no grader 'nobody'"),
        (ITEMS, {"max_tokens": 2040}, None, r"its prompt has 35 tokens, which leaves 2013 of the model's 2048"),
        (ITEMS, {}, "empty", "has no finished adapter; let that run end"),
        (ITEMS, {"template_args": {"mood": 1}}, None, "does not read"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    tmp_path: Path, rows: list[Any], changed: dict[str, Any], after: str | None, why: str, monkeypatch: Any
):
    monkeypatch.setattr(grpo, "load_base", lambda *_: pytest.fail("a model would have been loaded"))
    path = written(tmp_path / "items.jsonl", rows)
    with pytest.raises(UsageError, match=why):
        grpo.run(
            [str(path)], DEMO_MODEL, tmp_path / "out", SMALL.model_copy(update=changed),
            after=tmp_path / after if after else None,
        )  # fmt: skip
    assert not (tmp_path / "out" / "grpo.json").exists()


def test_what_was_solved_is_read_of_all_ranks_and_of_the_last_rollouts_alone(tmp_path: Path):
    def told(*rows: tuple[int, str, int]) -> str:
        return "".join(json.dumps({"step": s, "problem": p, "right": r, "of": 2}) + "\n" for s, p, r in rows)

    (tmp_path / "rollouts-0.jsonl").write_text(
        told((0, "a", 1), (3, "a", 0), (3, "b", 0), (0, "c", 2), (2, "c", 0)) + '{"st'
    )
    (tmp_path / "rollouts-1.jsonl").write_text(told((0, "b", 2), (3, "b", 1), (2, "c", 0), (3, "a", 0)))
    assert grpo_asked.last_rollouts(tmp_path) == {"a": 0, "b": 1, "c": 0}


def test_another_rank_of_the_adapter_before_is_refused(items: Path, trained: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"has rank 32, and grpo\.lora_rank is 8; set 32"):
        grpo.run([str(items)], DEMO_MODEL, tmp_path / "out", SMALL.model_copy(update={"lora_rank": 8}), after=trained)


def test_problems_without_an_answer_and_foreign_or_damaged_folders_are_refused(items: Path, tmp_path: Path):
    bare = written(tmp_path / "bare.jsonl", [{"problem": "Show it.", "solution": "So it is."}])
    with pytest.raises(Exception, match="answer"):
        grpo.run([str(bare)], DEMO_MODEL, tmp_path / "out", SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds something that is no run"):
        grpo.run([str(items)], DEMO_MODEL, tmp_path / "mine", SMALL)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "grpo.json").write_text("{")
    with pytest.raises(IntegrityError, match="is damaged"):
        grpo.run([str(items)], DEMO_MODEL, tmp_path / "damaged", SMALL)


def test_two_runs_cannot_be_at_work_in_one_folder(items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(grpo, "load_base", full)
    with pytest.raises(MemoryError):
        grpo.run([str(items)], DEMO_MODEL, tmp_path / "run", SMALL)
    with held(tmp_path / "run"), pytest.raises(UsageError, match=r"another run .* is at work"):
        grpo.run([str(items)], DEMO_MODEL, tmp_path / "run", SMALL)


def test_a_run_that_died_goes_on_from_its_last_checkpoint(items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, inner = tmp_path / "died", grpo._Reward.__call__

    def dies(self: Any, *given: Any, trainer_state: Any, **more: Any) -> Any:
        if trainer_state.global_step == 1:
            raise MemoryError
        return inner(self, *given, trainer_state=trainer_state, **more)

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(grpo._Reward, "__call__", dies)
        grpo.run([str(items)], DEMO_MODEL, out, SMALL)
    assert not (out / "adapter").exists()
    shutil.copytree(out / "checkpoint-1", out / "checkpoint-9")
    (out / "checkpoint-9" / "trainer_state.json").unlink()  # what a kill leaves of one that is being written
    assert grpo.run([str(items)], DEMO_MODEL, out, SMALL).steps == 2
    steps = [json.loads(line)["step"] for line in (out / "rollouts-0.jsonl").read_text().splitlines()]
    assert steps == [0] * 4 + [1] * 4  # the first step was not taken again


def test_a_whole_model_is_left_as_a_folder_that_reads_as_the_base_does(items: Path, tmp_path: Path):
    full = SMALL.model_copy(update={"tune": "full", "epochs": 1})
    done = grpo.run([str(items)], DEMO_MODEL, tmp_path / "full", full)
    assert done.folder.name == "model" and identify(done.folder).revision != identify(DEMO_MODEL).revision
    assert identify(done.folder).tokenizer_hash == identify(DEMO_MODEL).tokenizer_hash
    assert Prompts(done.folder).student_ids(LOCK, SMALL) == Prompts(DEMO_MODEL).student_ids(LOCK, SMALL)
