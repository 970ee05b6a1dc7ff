"""Which predictions of a trace count: ids by hand, losses against the definition written out in float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dail.synth.core.errors import UsageError
from dail.synth.method.turns import ends_of_turns
from dail.synth.schema.models import identify
from dail.train.config import TrainConfig
from dail.train.data import Example, joined_traces, load_examples, pack, pad, student_input
from dail.train.loop import compute_references, run
from dail.train.model import Roles, load_roles, read_limits
from dail.train.packing import choose_packing
from dail.train.positions import Positions, read_positions
from dail.train.references import ReferenceCache, fill, made_with
from dail.train.step import GradientStep, token_weights
from tests.conftest import DEMO_MODEL, Told
from tests.train.conftest import MakeManifest, trace_row, write_manifest

CPU = torch.device("cpu")
SETTINGS = TrainConfig(dtype="float32", lora_rank=4, epochs=1)
OFFICIAL = {"skip_first": 2, "end_token": "drop", "after_last": True}
EOS = 1  # of the tiny model


def settings(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate(SETTINGS.model_dump() | changes)


def loaded(model: Path, manifest: Path, config: TrainConfig):
    positions = read_positions(model, config)
    return load_examples(manifest, identify(model), read_limits(model), positions=positions, longest=config.longest)


def manifest_of(model: Path, root: Path, *traces: tuple[int, ...]) -> Path:
    nothing = dict.fromkeys(("student_prob", "rejected_ids", "student_logprob", "privileged_logprob"), (None,))
    rows = [
        trace_row(
            f"{i:032x}", identify(model), i, trace_ids=ids, **{name: one * len(ids) for name, one in nothing.items()}
        )
        for i, ids in enumerate(traces)
    ]
    return write_manifest(root / "shards", identify(model), rows)


@pytest.mark.parametrize(
    ("changes", "trace", "wanted"),
    [
        ({}, (7, 8, 9, EOS), [3, 4, 5, 6]),
        ({"skip_first": 2}, (7, 8, 9, EOS), [5, 6]),
        ({"end_token": "drop"}, (7, 8, 9, EOS), [3, 4, 5]),
        ({"end_token": "drop"}, (7, 8, 9), [3, 4, 5]),  # cut by its length
        ({"end_token": "drop"}, (EOS, 8, 9), [3, 4, 5]),  # an end that ends nothing
        ({"after_last": True}, (7, 8, 9), [3, 4, 5, 6]),
        (OFFICIAL, (7, 8, 9, EOS), [5, 6]),
        (OFFICIAL, (7, 8, EOS), [5]),
        (OFFICIAL, (7, EOS), [4]),
    ],
)
@pytest.mark.parametrize("join", [pad, pack])
def test_the_positions_are_those_that_the_settings_name(
    tiny_model: Path, tmp_path: Path, changes: dict[str, object], trace: tuple[int, ...], wanted: list[int], join
):
    """By hand, for a prompt of four tokens: position 3 predicts the trace's first one."""
    (example,) = loaded(tiny_model, manifest_of(tiny_model, tmp_path, trace), settings(**changes)).examples
    prompt = (20, 21, 22, 23)
    batch = join([prompt, prompt], [example.trace_ids] * 2, CPU, [example.positions] * 2)
    width = len(prompt) + len(example.trace_ids)
    assert batch.lengths == (width, width)
    rows, columns = batch.ids_BT.shape
    of_token = torch.arange(rows * columns).reshape(rows, columns, 1)
    assert batch.trace_positions(of_token)[:, 0].tolist() == [*wanted, *(width + place for place in wanted)]
    assert example.num_positions == len(wanted)
    if not example.after_last:
        given = [*prompt, *example.trace_ids]
        assert joined_traces([example], CPU).tolist() == [given[place + 1] for place in wanted]


TRACES = ((7, 8, 9, 10, EOS), (11, 12, 13, 14, 15, 16, 17, 18), (30, 31, 32, EOS), (40, EOS))


def oracle(model: Path, example: Example, gamma: float) -> list[float]:
    """KL(student ‖ privileged) − gamma · KL(student ‖ negative) after each token, in float64, one by one."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager").eval()

    def log_p(prompt: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            return network(torch.tensor([[*prompt, *example.trace_ids]])).logits[0, len(prompt) - 1 :].log_softmax(-1)

    student, privileged, negative = (
        log_p(prompt)
        for prompt in (example.student_prompt_ids, example.privileged_prompt_ids, example.negative_prompt_ids)
    )
    kl = student.exp() * ((student - privileged) - gamma * (student - negative))
    return kl.sum(-1).tolist()  # one more than the trace has tokens


@pytest.mark.parametrize("packing", ["joined", "padded", "alone"])
@pytest.mark.parametrize("references", ["cached", "live"])
@pytest.mark.parametrize("changes", [{}, OFFICIAL, {"skip_first": 1}, {"after_last": True}])
def test_losses_and_their_sum_are_the_definition_s_however_sequences_are_read(
    tiny_model: Path, tmp_path: Path, packing: str, references: str, changes: dict[str, object]
):
    config = settings(**changes, reduction="trace_mean", token_chunk=3, batch_size=4)
    data = loaded(tiny_model, manifest_of(tiny_model, tmp_path, *TRACES), config)
    assert len(data.examples) == 4
    roles = load_roles(tiny_model, config, CPU)
    roles = choose_packing(roles, data.examples, "auto" if packing == "joined" else "off")
    roles = Roles(**{**vars(roles), "alone": packing == "alone"})
    cache = None
    if references == "cached":
        cache = ReferenceCache(tmp_path / "cache", made_with(identify(tiny_model), roles, config))
        fill(cache, roles, data.examples, config)
    step = GradientStep(roles, config, data.mean_trace_tokens, cache)
    loss_R, _ = step.score(data.examples)
    begin = config.skip_first
    wanted = [
        oracle(tiny_model, e, config.gamma)[min(begin, len(e.trace_ids)) : len(e.trace_ids) + config.after_last]
        for e in data.examples
    ]
    assert loss_R.tolist() == pytest.approx([one for trace in wanted for one in trace], abs=2e-5)
    weight_R = token_weights(data.examples, data.examples, config, data.mean_trace_tokens)
    by_trace = sum(sum(trace) / len(trace) for trace in wanted) / len(wanted)
    assert float(loss_R.detach().double() @ weight_R) == pytest.approx(by_trace, abs=2e-5)


@pytest.mark.parametrize(
    ("reduction", "wanted"),
    [
        ("trace_mean", [1 / 16 / 3] * 3 + [1 / 16 / 7] * 7),
        ("token_mean", [1 / 10] * 10),
        ("trace_sum", [1 / (16 * 5)] * 10),
    ],
)
def test_every_reduction_counts_positions_and_divides_by_the_batch_of_sixteen(reduction: str, wanted: list[float]):
    """The authors' reduction is trace_mean: the mean over a trace's positions, then over the 16 traces."""
    traces = [Example("u", (1,), (2,), (3,), (4,) * length, skip_first=2, after_last=True) for length in (4, 8)]
    config = settings(reduction=reduction, batch_size=16)
    assert token_weights(traces, traces, config, 5.0).tolist() == pytest.approx(wanted)


def test_a_run_says_which_predictions_count_and_how_many_traces_it_left_out(
    tiny_model: Path, tmp_path: Path, told: Told
):
    config = settings(skip_first=3, end_token="drop", longest=40, reduction="trace_mean", batch_size=16)
    manifest = manifest_of(tiny_model, tmp_path, *TRACES, (50,) * 30)
    result = run(tiny_model, manifest, tmp_path / "run", config)
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (said["num_traces"], said["filtered_traces"], said["empty_traces"]) == (2, 1, 2)
    assert "2 of 5 traces are left out, of which no prediction counts: they have at most 3 tokens" in told()
    card = (result.adapter / "README.md").read_text()
    assert "| predictions | without those of the first 3 trace tokens, without the token that ends the turn |" in card
    assert "| traces trained on | 2 of 5 (40.0%) |" in card


@pytest.mark.parametrize(("longest", "stayed"), [(1000, 3), (29, 2), (28, 1)])
def test_traces_that_are_too_long_with_either_prompt_are_left_out_and_the_share_that_stays_is_said(
    tiny_model: Path, tmp_path: Path, told: Told, longest: int, stayed: int
):
    """Of 10, 28 and 29 tokens with the longer of the two prompts; the negative one, which is longest, plays no part."""
    rows = [
        trace_row(
            f"{i:032x}",
            identify(tiny_model),
            student_prompt_ids=(5,) * student,
            privileged_prompt_ids=(6,) * privileged,
            negative_prompt_ids=(7,) * 60,
            trace_ids=(8,) * 8,
            student_prob=(1.0,) * 8,
            **dict.fromkeys(("rejected_ids", "student_logprob", "privileged_logprob"), (None,) * 8),
        )
        for i, (student, privileged) in enumerate([(2, 2), (20, 4), (4, 21)])
    ]
    manifest = write_manifest(tmp_path, identify(tiny_model), rows)
    data = loaded(tiny_model, manifest, settings(longest=longest))
    assert len(data.examples) == stayed and data.num_filtered == 3 - stayed
    assert f"longest={longest}: {stayed} of 3 traces stay ({stayed / 3:.1%})" in told()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"longest": 2}, r"of 4, 4 have 2 tokens or more \(longest\); wanted at least one"),
        ({"skip_first": 100}, r"4 have no prediction that counts \(skip_first=100\)"),
        ({"skip_first": 2, "longest": 17}, r"have 17 tokens or more \(longest\) and 1 have no prediction"),
    ],
)
def test_settings_that_leave_nothing_are_refused_with_what_took_how_many(
    tiny_model: Path, tmp_path: Path, changes: dict[str, object], message: str
):
    with pytest.raises(UsageError, match=message):
        loaded(tiny_model, manifest_of(tiny_model, tmp_path, *TRACES), settings(**changes))


@pytest.mark.parametrize("objective", ["nll", "deploy/examples/own_objective.py:forward_kl"])
def test_what_reads_a_token_at_each_position_cannot_have_the_one_behind_the_trace(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, objective: str
):
    with pytest.raises(UsageError, match=r"after_last=true .*; set after_last=false"):
        run(tiny_model, make_manifest(3), tmp_path / "run", settings(objective=objective, after_last=True))
    run(tiny_model, make_manifest(3), tmp_path / "run", settings(objective=objective, skip_first=2, end_token="drop"))


def test_a_cache_of_other_positions_is_added_to_and_never_read(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path
):
    manifest, folder = make_manifest(3), tmp_path / "cache"
    caches = [
        compute_references(tiny_model, manifest, folder, settings(**one))
        for one in ({}, {"skip_first": 2}, {"after_last": True}, {"skip_first": 2})
    ]
    first, second, third, fourth = (cache.size_bytes for cache in caches)
    assert first < second < third == fourth
    assert {cache.num_traces for cache in caches} == {3}


def test_the_ends_are_all_tokens_that_end_a_turn_of_that_model():
    found = read_positions(DEMO_MODEL, settings(end_token="drop")).ends
    assert found == set(ends_of_turns(DEMO_MODEL, AutoTokenizer.from_pretrained(DEMO_MODEL))) and found
    assert read_positions(DEMO_MODEL, SETTINGS) == Positions()
    end = next(iter(found))
    assert Positions(ends=found).trace((end, end, end)) == (end, end)
    assert student_input([Example("u", (1,), (2,), (3,), (4, 5), skip_first=1)], CPU).spans == ((0, slice(1, 2)),)
