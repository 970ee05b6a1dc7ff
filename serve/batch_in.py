"""What people post: a batch of expert solutions and what to make of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
)

from dail.serve.settings import ModelName
from dail.synth.core.config import Frozen, canonical
from dail.synth.core.errors import InputError, InputFault, plainly, pointer
from dail.synth.schema.items import ExpertSolution, Short, check_items
from dail.synth.schema.synthesis import Synthesis

WINDOW_UNITS = {"h": 3600, "m": 60, "s": 1}
_OF_ITEM = re.compile(r"^/items/(\d+)(?=/|$)")
MAX_ITEMS = 10_000
MAX_UNITS = 40_000  # items × samples: what one transaction stores in a second or two
ITEM_BYTES = 2 << 20
METADATA_BYTES = 64 << 10  # of an item
MAX_METADATA = 16  # entries, of a batch


def _few(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > MAX_METADATA:
        raise ValueError(f"metadata has {len(metadata)} entries; at most {MAX_METADATA} are taken")
    return metadata


Metadata = Annotated[dict[Annotated[Short, StringConstraints(max_length=64)], Short], AfterValidator(_few)]

_EXAMPLE_ITEM: dict[str, JsonValue] = {
    "id": "sum-of-odds",
    "problem": "Find the sum of the first 100 odd numbers.",
    "solution": "The sum of the first n odd numbers is n². For n = 100 it is 10000.",
    "answer": "10000",
}


class Skipped(Frozen):
    """An item that cannot be used: where it stood and why, and nothing of its text but a digest."""

    position: int
    item_id: str
    code: str
    pointer: str
    detail: str
    digest: str


class BatchIn(Frozen):
    """A batch of expert solutions and what to make of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "qwen3-8b",
                "items": [_EXAMPLE_ITEM],
                "synthesis": {"tau": 0.8, "samples_per_item": 4, "max_tokens": 16384, "seed": 7},
                "metadata": {"owner": "topology"},
            }
        }
    )

    model: ModelName | None = Field(
        None, description="a name the server has registered; the only one if it has one and none is given"
    )
    items: tuple[ExpertSolution, ...] = Field(description=f"1 to {MAX_ITEMS} expert solutions")
    synthesis: Synthesis = Field(default_factory=Synthesis)
    metadata: Metadata = Field(default_factory=dict, description="yours; kept and given back")
    run_label: Short | None = Field(None, description="the same body under another label is another batch")
    completion_window: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,5}[hms]$")] | None = Field(
        None, description="like 72h; what is not done by then expires, and committed traces are kept; none if left out"
    )
    on_invalid_item: Literal["reject", "skip"] = Field(
        "reject", description="skip: an item that cannot be used becomes a failed item, and the others are taken"
    )
    _positions: tuple[int, ...] = PrivateAttr(())
    _skipped: tuple[Skipped, ...] = PrivateAttr(())

    @property
    def window_s(self) -> float | None:
        window = self.completion_window
        return None if window is None else float(int(window[:-1]) * WINDOW_UNITS[window[-1]])

    @property
    def positions(self) -> tuple[int, ...]:
        """Where each item stood in the body."""
        return self._positions or tuple(range(len(self.items)))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return self._skipped

    def without(self, refused: InputError) -> BatchIn:
        """The batch without the items that were refused. Raises `refused` if it is not to skip, or nothing is left."""
        first = _first_faults(refused) if self.on_invalid_item == "skip" else {}
        kept = [number for number in range(len(self.items)) if number not in first]
        if not first or not kept:
            raise refused
        values = [item.model_dump(mode="json") for item in self.items]
        left = self.model_copy(update={"items": tuple(self.items[number] for number in kept)})
        left._positions = tuple(self.positions[number] for number in kept)
        left._skipped = (*self.skipped, *_skipped(values, self.positions, first, {item.id for item in left.items}))
        return left

    @field_validator("synthesis")
    @classmethod
    def _names_no_file(cls, synthesis: Synthesis) -> Synthesis:
        """What comes over the network may name what is installed, and not say which file is run."""
        return synthesis.check_names()

    @classmethod
    def parse(cls, value: Any) -> BatchIn:
        """Raises InputError with a pointer to every fault, in the items and around them."""
        if not isinstance(value, dict):
            raise InputError("the body is not a batch", [InputFault("", "object_type", "a JSON object is wanted")])
        problems: list[InputFault] = []
        items = value.get("items", ())
        positions: tuple[int, ...] = ()
        skipped: tuple[Skipped, ...] = ()
        more = 0
        try:
            items, positions, skipped = _items(items, value.get("on_invalid_item") == "skip")
        except InputError as error:
            problems += error.problems
            more = error.num_problems - len(problems)
            items = ()
        problems += lax_types(cls, {name: part for name, part in value.items() if name != "items"}, ())
        try:
            batch = cls.model_validate({**value, "items": items} if "items" in value else value)
        except ValidationError as error:
            problems += faults(error)
        else:
            problems += _too_many_units(len(items), batch.synthesis.samples_per_item)
            batch._positions, batch._skipped = positions, skipped
        if problems:
            raise InputError("the batch was refused; nothing was stored", problems, len(problems) + more)
        return batch


def _too_many_units(items: int, samples: int) -> list[InputFault]:
    if items * samples <= MAX_UNITS:
        return []
    detail = (
        f"{items} items × {samples} samples are {items * samples} units; at most {MAX_UNITS} are taken in one batch"
    )
    return [InputFault("/synthesis/samples_per_item", "too_many_units", f"{detail}; post several batches")]


def _items(values: Any, skip: bool) -> tuple[list[ExpertSolution], tuple[int, ...], tuple[Skipped, ...]]:
    """The items, where they stand in the list, and what was left out of it because it cannot be used."""
    if not isinstance(values, list):
        raise InputError("items", [InputFault("/items", "list_type", "a list of expert solutions is wanted")])
    if len(values) > MAX_ITEMS:
        detail = f"{len(values)} items; at most {MAX_ITEMS} are taken in one batch"
        raise InputError("items", [InputFault("/items", "too_many_items", detail)])
    positions = tuple(range(len(values)))
    skipped: tuple[Skipped, ...] = ()
    while True:
        chosen = [values[position] for position in positions]
        try:
            return _small_enough(check_items(chosen)), positions, skipped
        except InputError as error:
            first = _first_faults(error) if skip else {}
            kept = tuple(place for number, place in enumerate(positions) if number not in first)
            if not first or not kept:
                raise
            taken = {value["id"] for value in chosen if isinstance(value, dict) and isinstance(value.get("id"), str)}
            skipped = (*skipped, *_skipped(chosen, positions, first, taken))
            positions = kept


def _small_enough(items: list[ExpertSolution]) -> list[ExpertSolution]:
    """The items. Raises InputError: each goes to workers whole, once for every sample."""
    problems = list[InputFault]()
    for number, item in enumerate(items):
        metadata = len(canonical(item.metadata))
        if metadata > METADATA_BYTES:
            detail = f"{metadata} bytes of JSON; at most {METADATA_BYTES} are taken"
            problems.append(InputFault(f"/items/{number}/metadata", "metadata_too_large", detail))
        elif (size := len(item.model_dump_json().encode())) > ITEM_BYTES:
            problems.append(
                InputFault(f"/items/{number}", "item_too_large", f"{size} bytes; at most {ITEM_BYTES} are taken")
            )
    if problems:
        raise InputError("items", problems)
    return items


def _first_faults(error: InputError) -> dict[int, InputFault]:
    """The first fault of each item, by its number; none if something else is wrong too."""
    first: dict[int, InputFault] = {}
    for fault in error.problems:
        match = _OF_ITEM.match(fault[0])
        if match is None:
            return {}
        first.setdefault(int(match[1]), fault)
    return first


def _skipped(
    values: Sequence[Any], positions: Sequence[int], first: dict[int, InputFault], taken: set[Any]
) -> Iterator[Skipped]:
    for number, (where, code, detail) in first.items():
        place, digest = positions[number], hashlib.sha256(canonical(values[number])).hexdigest()
        name = f"invalid-{place:05d}"
        while name in taken:
            name += "_"
        pointer_there = _OF_ITEM.sub(f"/items/{place}", where)
        yield Skipped(position=place, item_id=name, code=code, pointer=pointer_there, detail=detail, digest=digest)


def lax_types(model: type[BaseModel], value: Any, at: tuple[str, ...]) -> Iterator[InputFault]:
    """What pydantic would take though the OpenAPI page says another type: `true` or "1" for a number, 1 for a flag.

    pydantic's own strict mode would refuse a list for a tuple and 1.0 for an integer too, which JSON Schema takes.
    """
    if not isinstance(value, dict):
        return
    for name, part in value.items():
        kind = model.model_fields[name].annotation if name in model.model_fields else None
        kinds = set(get_args(kind) or (kind,)) - {NoneType}
        nested = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
        if nested is not None:
            yield from lax_types(nested, part, (*at, name))
        elif kinds <= {int, float} and isinstance(part, bool | str):
            yield InputFault(pointer((*at, name)), "number_type", "wanted a number")
        elif kinds == {bool} and isinstance(part, int | float | str) and not isinstance(part, bool):
            yield InputFault(pointer((*at, name)), "bool_type", "wanted true or false")


def faults(error: ValidationError) -> list[InputFault]:
    """Each, without the refused values."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [InputFault(pointer(fault["loc"]) if fault["loc"] else "", fault["type"], plainly(fault)) for fault in found]
