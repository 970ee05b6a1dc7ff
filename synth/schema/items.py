"""Expert solutions: the input of the whole system, as a POST has them and as `dail.synth.data` makes them of files."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
)

from dail.synth.core.config import Frozen, storable
from dail.synth.core.errors import InputError, InputFault, plainly, pointer
from dail.synth.schema.texts import fault, is_blank

PROBLEM_BYTES = 64 * 1024
SOLUTION_BYTES = 512 * 1024
_TOLD = 100  # faults told in full, of a list of items; of further ones, the first of each item
SOLUTION_JOIN = "\n\n"  # several human solutions become one text, as the paper does for AIME (App. B.1)


def clean(text: str) -> str:
    """The text, if it can be kept. ValueError: it says what cannot."""
    if why := fault(text):
        raise ValueError(why)
    return text


def _text(max_bytes: int) -> AfterValidator:
    def check(text: str) -> str:
        clean(text)
        if is_blank(text):
            raise ValueError("the text is blank")
        if len(size := text.encode()) > max_bytes:
            raise ValueError(f"the text has {len(size)} bytes; at most {max_bytes} are taken")
        return text

    return AfterValidator(check)


Problem = Annotated[str, _text(PROBLEM_BYTES)]
Solution = Annotated[str, _text(SOLUTION_BYTES)]
Short = Annotated[str, AfterValidator(clean), StringConstraints(max_length=512)]
StopString = Annotated[str, AfterValidator(clean), StringConstraints(min_length=1, max_length=256)]
ItemId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
Kind = Literal["verifiable", "proof"]


def listed(value: object) -> object:
    """Refuses a lone text where a list of texts is wanted: it would be taken letter by letter."""
    if isinstance(value, str):
        raise ValueError(f"got the text {value!r:.80}; wanted a list of such texts: [{json.dumps(value):.80}]")
    return value


class Message(Frozen):
    role: Literal["system", "user", "assistant"]
    content: Problem


def _conversation(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not messages or messages[-1].role != "user":
        raise ValueError("problem as messages must end with a user message")
    return messages


def _joinable(solutions: tuple[str, ...]) -> tuple[str, ...]:
    if not solutions:
        raise ValueError("solution is an empty list")
    if len(SOLUTION_JOIN.join(solutions).encode()) > SOLUTION_BYTES:
        raise ValueError(f"the joined solutions exceed {SOLUTION_BYTES} bytes")
    return solutions


def _arm(value: Any) -> str:
    """Which of two shapes was meant, so that a fault is told of that one alone."""
    return "list" if isinstance(value, list | tuple) else "text"


Asked = Annotated[
    Annotated[Problem, Tag("text")] | Annotated[tuple[Message, ...], AfterValidator(_conversation), Tag("list")],
    Discriminator(_arm),
]
Solutions = Annotated[
    Annotated[Solution, Tag("text")] | Annotated[tuple[Solution, ...], AfterValidator(_joinable), Tag("list")],
    Discriminator(_arm),
]


class ExpertSolution(Frozen):
    """One item: a problem and how an expert solves it."""

    problem: Asked
    solution: Solutions
    answer: Short | None = None
    id: ItemId | None = None
    kind: Kind | None = None
    waypoints: Annotated[tuple[Short, ...], Field(max_length=4096)] | None = Field(
        None, description="what the negative reference is told, instead of what an extractor finds"
    )
    privileged: Solution | None = Field(
        None, description="what the privileged student is shown, instead of the solution"
    )
    wrong_answer: Short | None = Field(
        None, description="what the context wrong_hint says; another item's answer is dealt if left out"
    )
    dealt: ExpertSolution | None = Field(
        None,
        description="another problem with its solution, whose solution or waypoints are taken where settings ask for "
        "another's; one of the batch is dealt if left out",
    )
    source: Short | None = None
    license: Short | None = None
    metadata: Annotated[dict[str, JsonValue], AfterValidator(storable)] = Field(default_factory=dict)

    @field_validator("wrong_answer")
    @classmethod
    def _says_something(cls, value: str | None) -> str | None:
        if value is not None and is_blank(value):
            raise ValueError("the text is blank")
        return value

    @field_validator("dealt")
    @classmethod
    def _deals_once(cls, value: ExpertSolution | None) -> ExpertSolution | None:
        if value is not None and (value.dealt is not None or value.wrong_answer is not None):
            raise ValueError("what is dealt has dealt or wrong_answer of its own, which nobody would read")
        return value

    @property
    def messages(self) -> tuple[Message, ...]:
        """The problem as a conversation that ends with the user's message."""
        return (Message(role="user", content=self.problem),) if isinstance(self.problem, str) else self.problem

    @property
    def problem_text(self) -> str:
        return self.messages[-1].content

    @property
    def solution_text(self) -> str:
        return self.solution if isinstance(self.solution, str) else SOLUTION_JOIN.join(self.solution)

    @property
    def shown_text(self) -> str:
        """What stands for the solution where a prompt shows it."""
        return self.privileged or self.solution_text


def check_items(values: list[Any]) -> list[ExpertSolution]:
    """Validates a list of JSON objects; ids are given where missing and must be unique.

    Raises:
        InputError: with a pointer like `/items/3/solution` for every fault found.
    """
    items: list[ExpertSolution] = []
    problems: list[InputFault] = []
    num_problems = 0
    seen: dict[str, int] = {}
    given = {value["id"] for value in values if isinstance(value, dict) and isinstance(value.get("id"), str)}
    for number, value in enumerate(values):
        try:
            item = ExpertSolution.model_validate(value)
        except ValidationError as error:
            num_problems += error.error_count()
            most = max(_TOLD - len(problems), 1)  # one of each item: who skips items tells why
            for fault in error.errors(include_url=False, include_input=False)[:most]:
                where = pointer(["items", number, *user_path(fault["loc"])])
                problems.append(InputFault(where, fault["type"], plainly(fault)))
            continue
        name = item.id or _free_id(number, given)
        if name in seen:
            problems.append(
                InputFault(pointer(["items", number, "id"]), "duplicate_id", f"id {name!r} is also item {seen[name]}")
            )
            num_problems += 1
        seen[name] = number
        items.append(item.model_copy(update={"id": name}))
    if not values:
        problems.append(InputFault("/items", "empty_batch", "there is no expert solution in it"))
    if problems:
        shown = "; ".join(f"{where}: {detail}" for where, _, detail in problems[:5])
        num_problems = max(num_problems, len(problems))
        more = f" (and {num_problems - 5} more)" if num_problems > 5 else ""
        raise InputError(f"nothing was taken: {shown}{more}", problems, num_problems)
    return items


def _free_id(number: int, given: set[str]) -> str:
    name = f"item-{number:05d}"
    while name in given:
        name += "_"
    return name


def user_path(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A fault's place in the user's JSON: without the arm of a union and the types of JSON inside metadata."""
    if loc[:1] == ("metadata",):
        return loc[:1]
    if loc[:1] == ("dealt",):
        return ("dealt", *user_path(loc[1:]))
    return (loc[0], *loc[2:]) if loc and loc[0] in ("problem", "solution") else loc


def strict_json(data: bytes | bytearray) -> Any:
    """UTF-8 JSON without NaN, infinities or duplicate keys. Raises ValueError saying where."""

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            seen = set[str]()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"key {twice!r:.80} appears twice")
        return found

    try:
        return json.loads(data.decode("utf-8"), parse_constant=constant, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        if "escape" not in error.msg:
            raise
        raise ValueError(f"{error}: a backslash, as of LaTeX, is written twice in JSON: \\\\sqrt") from None
