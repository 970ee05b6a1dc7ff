"""The API's own errors."""

from __future__ import annotations

import pickle

from dail.serve.errors import RequestError
from dail.serve.rules.errors import Conflict


def test_errors_of_the_api_can_be_pickled():
    refused = pickle.loads(pickle.dumps(RequestError(401, "unauthorized", "no token", Retry_After="5")))  # noqa: S301
    assert (str(refused), refused.status, refused.headers) == ("no token", 401, {"Retry-After": "5"})
    conflict = pickle.loads(pickle.dumps(Conflict("not_finalized", "it goes on")))  # noqa: S301
    assert (str(conflict), conflict.code) == ("it goes on", "not_finalized")
