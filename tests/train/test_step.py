"""What a trace token's loss counts, and the learning rate of each step."""

from __future__ import annotations

import pytest
import torch

from dail.train.config import TrainConfig
from dail.train.step import has_kls, learning_rate, token_weights
from tests.train.test_data import example

TRACES = [example(5, 4), example(5, 10), example(5, 6)]


def weights(reduction: str, size: int = 4) -> torch.Tensor:
    config = TrainConfig.model_validate({"reduction": reduction, "batch_size": size})
    return token_weights(TRACES[:2], TRACES, config, mean=8.0)


def test_the_paper_s_sum_weighs_every_token_alike_in_all_batches():
    assert torch.equal(weights("trace_sum"), torch.full((14,), 1 / (4 * 8), dtype=torch.float64))


def test_the_mean_over_a_trace_gives_every_trace_one_weight():
    found = weights("trace_mean")
    assert found[:4].tolist() == [1 / 16] * 4 and found[4:].tolist() == [1 / 40] * 10


def test_the_mean_over_tokens_counts_those_of_all_ranks():
    assert torch.equal(weights("token_mean"), torch.full((14,), 1 / 20, dtype=torch.float64))


@pytest.mark.parametrize(
    ("every", "total", "wanted"),
    [
        (10, 25, [1, 10, 20, 25]),
        (10, 5, [1, 5]),
        (1, 4, [1, 2, 3, 4]),
        (3, 9, [1, 3, 6, 9]),
        (7, 1, [1]),
    ],
)
def test_the_first_every_nth_and_the_last_step_have_the_two_kls(every: int, total: int, wanted: list[int]):
    config = TrainConfig(kl_every=every)
    assert [step + 1 for step in range(total) if has_kls(config, step, total)] == wanted


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("linear", 0.05, 0.0), ("cosine", 0.05, 0.0), ("constant", 0.1, 0.1)]
)
def test_learning_rate_rises_over_the_warm_up_then_follows_its_schedule(schedule: str, middle: float, end: float):
    config = TrainConfig.model_validate({"lr": 0.1, "warmup_steps": 5, "schedule": schedule})
    rates = [learning_rate(config, step, 25) for step in range(26)]
    assert rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert rates[5] == pytest.approx(0.1) and rates[15] == pytest.approx(middle) and rates[25] == pytest.approx(end)
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_the_cosine_stays_higher_at_first_than_the_line():
    line, cosine = (TrainConfig.model_validate({"schedule": name, "warmup_steps": 0}) for name in ("linear", "cosine"))
    assert learning_rate(cosine, 2, 10) > learning_rate(line, 2, 10)
    assert learning_rate(cosine, 8, 10) < learning_rate(line, 8, 10)


def test_a_run_shorter_than_its_warm_up_only_rises():
    assert learning_rate(TrainConfig(warmup_steps=0), 0, 1) == 2e-4
    assert learning_rate(TrainConfig(warmup_steps=5), 1, 3) == pytest.approx(0.8e-4)
