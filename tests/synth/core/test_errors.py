"""Errors cross processes: engines and Ray send them as pickles."""

from __future__ import annotations

import pickle

import pytest

from dail.synth.core.errors import ApiError, DailError, InputError, ItemError, UsageError


@pytest.mark.parametrize(
    "error",
    [
        UsageError("no such file"),
        InputError("two faults", [("/items/0", "missing", "it is missing")]),
        ApiError("it was away", 503),
        ItemError("context_length_exceeded", "the prompt is too long", retryable=True),
    ],
)
def test_an_error_comes_out_of_a_pickle_as_it_went_in(error: DailError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copy), str(copy), copy.code, vars(copy)) == (type(error), str(error), error.code, vars(error))
