"""How a conversation becomes a prompt: what a model's chat template is told, and what stands behind its text."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Self

from pydantic import Field, JsonValue, field_validator

from dail.synth.core.config import Config, storable
from dail.synth.core.errors import UsageError
from dail.synth.schema.chat_templates import DATE, GIVEN

_THINKING = ("enable_thinking", "thinking")  # as models call the switch; the first that a template reads


class Rendering(Config):
    """What a prompt depends on beside its words (paper App. B.2). Part of the identity of whatever is drawn with it."""

    thinking: bool | None = Field(
        None,
        description="the thinking switch of the chat template, enable_thinking or thinking; none where it has none",
    )
    template_args: dict[str, JsonValue] = Field(
        default_factory=dict,
        description='whatever else the chat template reads, as {reasoning_effort = "high"}; `dail doctor` lists it',
    )
    date: dt.date | None = Field(
        None,
        description="the date that the chat template prints, if it prints one; the day on which a batch or an "
        "evaluation is begun if left out",
    )
    opening: str = Field(
        "",
        max_length=4096,
        description="how the model's reply begins, as a part of the prompt: <think> for a model whose template does "
        "not write it",
    )
    drop_empty_thought: bool = Field(
        False, description="leaves out the empty thought that a chat template writes in front of a reply without one"
    )

    @field_validator("template_args")
    @classmethod
    def _are_storable(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(storable(value).keys() & (GIVEN | {DATE})):
            cure = "set date" if taken == [DATE] else "it is given by what is rendered"
            raise ValueError(f"{taken[0]} is no argument of yours; {cure}")
        return value

    def check(self, names: tuple[str, ...]) -> None:
        """Raises UsageError: these settings set what the template does not read.

        Args:
            names: that it reads, `ModelIdentity.template_reads`.
        """
        known = ", ".join(name for name in names if name != DATE) or "nothing"
        switch = _switch(names)
        if self.thinking is not None and switch is None:
            raise UsageError(
                f"thinking={self.thinking} is set, but this model's chat template has no thinking switch ("
                f"{' or '.join(_THINKING)}; it reads {known}); leave it out"
            )
        if self.thinking is not None and switch in self.template_args:
            raise UsageError(f"{switch} is set twice, by thinking and in template_args; leave one out")
        if unknown := sorted(self.template_args.keys() - set(names)):
            raise UsageError(
                f"template_args sets {unknown[0]}, which this model's chat template does not read; it reads {known}"
            )

    def arguments(self, names: tuple[str, ...]) -> dict[str, JsonValue | Callable[[str], str]]:
        """What the template is called with, beside the conversation. Raises UsageError as `check` does."""
        self.check(names)
        given: dict[str, JsonValue | Callable[[str], str]] = {**self.template_args}
        if self.thinking is not None:
            given[str(_switch(names))] = self.thinking
        if self.date is not None and DATE in names:
            given[DATE] = dt.datetime.combine(self.date, dt.time()).strftime
        return given

    def dated(self, names: tuple[str, ...], today: dt.date) -> Self:
        """With today's date, if the template prints one and none is set: what is begun goes on as of that day."""
        if self.date is None and DATE in names:
            return self.model_copy(update={"date": today})
        return self


def _switch(names: tuple[str, ...]) -> str | None:
    return next((name for name in _THINKING if name in names), None)


def has_thinking_switch(names: tuple[str, ...]) -> bool:
    """Whether a template that reads these names can be told to think or not."""
    return _switch(names) is not None


# What changes nothing is left out of identities, so that names made before there was a setting stay.
WITHOUT_EFFECT: dict[str, JsonValue] = {"template_args": {}, "date": None, "opening": "", "drop_empty_thought": False}
