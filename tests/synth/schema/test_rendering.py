"""What a chat template is told: refused if it would not read it."""

import datetime as dt

import pytest
from pydantic import ValidationError

from dail.synth.core.errors import UsageError
from dail.synth.schema.rendering import Rendering

DAY = dt.date(2026, 11, 26)


@pytest.mark.parametrize(
    ("settings", "names", "told"),
    [
        ({}, ("enable_thinking",), {}),
        ({"thinking": True}, ("enable_thinking", "thinking"), {"enable_thinking": True}),
        ({"thinking": False}, ("reasoning_effort", "thinking"), {"thinking": False}),
        ({"template_args": {"reasoning_effort": "high"}}, ("reasoning_effort",), {"reasoning_effort": "high"}),
        ({"template_args": {"thinking": "max"}}, ("thinking",), {"thinking": "max"}),
        ({"date": DAY}, ("thinking",), {}),
    ],
)
def test_a_setting_reaches_the_template_under_its_own_name(settings, names, told):
    assert Rendering(**settings).arguments(names) == told


def test_a_date_is_what_the_template_gets_when_it_asks_for_the_day():
    asked = Rendering(date=DAY).arguments(("strftime_now",))["strftime_now"]
    assert asked("%d %b %Y, %H:%M") == "26 Nov 2026, 00:00"


@pytest.mark.parametrize(
    ("settings", "names", "why"),
    [
        (
            {"thinking": True},
            (),
            r"thinking=True is set, but .* has no thinking switch .*; it reads nothing\); leave it",
        ),
        ({"thinking": True}, ("strftime_now", "effort"), "it reads effort"),
        ({"template_args": {"effort": 1}}, ("reasoning_effort",), "sets effort, which .* it reads reasoning_effort"),
        ({"thinking": True, "template_args": {"thinking": True}}, ("thinking",), "thinking is set twice"),
    ],
)
def test_what_a_template_does_not_read_is_refused_with_what_it_reads(settings, names, why):
    with pytest.raises(UsageError, match=why):
        Rendering(**settings).arguments(names)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"messages": []}, "messages is no argument of yours; it is given"),
        ({"add_generation_prompt": False}, "add_generation_prompt is no argument"),
        ({"strftime_now": 1}, "set date"),
        ({"effort": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_what_is_given_anyway_cannot_be_set(args, why):
    with pytest.raises(ValidationError, match=why):
        Rendering(template_args=args)


def test_a_batch_keeps_the_day_only_where_the_template_prints_one():
    assert Rendering().dated(("strftime_now",), DAY).date == DAY
    assert Rendering().dated(("thinking",), DAY).date is None
    own = dt.date(2001, 1, 1)
    assert Rendering(date=own).dated(("strftime_now",), DAY).date == own
