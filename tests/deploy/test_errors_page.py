"""deploy/docs/errors.md has a paragraph for every error code (`error_codes.py`), and none for one that is nowhere."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import pytest
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.bodies import WaitingFor
from dail.serve.errors import answer
from dail.serve.metrics import REASONS
from dail.serve.rules.errors import Conflict, Damaged, NotFound, TooMany
from dail.serve.settings import Settings
from dail.synth.core.errors import (
    ApiError,
    DailError,
    EngineDead,
    ExtensionError,
    GateStopped,
    InputError,
    IntegrityError,
    ObjectExists,
    ObjectsAway,
    StorageError,
    StoreAway,
    StoreBusy,
    UsageError,
)
from dail.synth.method.data_check import FindingKind
from dail.synth.schema.units import BLAMELESS
from tests.conftest import ROOT
from tests.deploy.error_codes import Module, called, module_of, modules_of, written

PAGE = ROOT / "deploy" / "docs" / "errors.md"
NO_CODES = {"none", "other"}  # labels of the metrics that name no code


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    return modules_of(ROOT)


def of_the_framework(folder: Path) -> Iterator[tuple[str, str]]:
    settings = Settings(data_dir=folder, models={}, token=None, worker_token=None)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as api:
        for method, path in (("GET", "/nowhere"), ("PUT", "/v1/batches")):
            yield api.request(method, path).json()["code"], f"{method} {path}"


@pytest.fixture(scope="module")
def codes(modules: dict[str, Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every code, with one of the places where it is told."""
    waiting = get_args(WaitingFor.model_fields["reason"].annotation)
    named = [
        *((code, "WaitingFor of serve/bodies.py") for code in waiting),
        *((code, "FindingKind of synth/method/data_check.py") for code in get_args(FindingKind)),
        *((code, "BLAMELESS of synth/schema/units.py") for code in BLAMELESS),
        *((code, "REASONS of serve/metrics.py") for code in set(REASONS) - NO_CODES),
        *of_the_framework(tmp_path_factory.mktemp("api")),
    ]
    return dict(named) | dict(written(modules)) | {one.code: one.place for one in called(modules)}


def paragraphs(page: str) -> dict[str, str]:
    """By heading, what stands below it up to the next heading of any rank."""
    parts = re.split(r"^(#{1,3} .+)\n", page, flags=re.MULTILINE)
    return {head[4:]: text.strip() for head, text in zip(parts[1::2], parts[2::2], strict=True) if head[:4] == "### "}


def differences(codes: dict[str, str], page: str) -> list[str]:
    """What the page lacks, and what it has too much."""
    there = {head.strip("`"): text for head, text in paragraphs(page).items()}
    missing = [f"`{code}` ({place}) has no paragraph" for code, place in codes.items() if not there.get(code)]
    return missing + [f"`{code}` is told nowhere" for code in there if code not in codes]


def test_every_code_has_its_paragraph_and_every_paragraph_its_code(codes: dict[str, str]) -> None:
    assert differences(codes, PAGE.read_text()) == []


def answers(modules: dict[str, Module]) -> Iterator[tuple[str, int, Mapping[str, str]]]:
    """(code, status, headers) of what the API answers."""
    for one in called(modules):
        if one.by in ("Conflict", "Damaged"):
            told = answer({"Conflict": Conflict, "Damaged": Damaged}[one.by](one.code, "words"))
            yield one.code, told.status_code, told.headers
        elif one.by in ("RequestError", "problem") and isinstance(one.call.args[0], ast.Constant):
            headers = {"retry-after": "5"} if any(given.arg == "Retry_After" for given in one.call.keywords) else {}
            yield one.code, int(str(one.call.args[0].value)), headers
    for kind in (NotFound, TooMany, InputError, StorageError, StoreBusy, StoreAway, ObjectsAway, ObjectExists):
        told = answer(kind("words"))
        yield kind.code, told.status_code, told.headers


def test_a_paragraph_says_with_which_status_and_exit_code(modules: dict[str, Module]) -> None:
    there = {head.strip("`"): text for head, text in paragraphs(PAGE.read_text()).items()}
    for code, status, headers in answers(modules):
        assert re.search(rf"\b{status}\b", there[code]), f"{code}: {status}"
        assert ("Retry-After" in there[code]) == ("retry-after" in headers), code
        assert ("x-should-retry" in there[code]) == ("x-should-retry" in headers), code
    for kind in (UsageError, ExtensionError, InputError, IntegrityError, StorageError, StoreBusy, StoreAway, NotFound):
        assert f"xit code {kind.exit_code}" in there[kind.code], kind
    for other in (ObjectsAway, ObjectExists, ApiError, GateStopped, EngineDead, DailError):
        assert f"xit code {other.exit_code}" in there[other.code], other


def test_a_page_without_a_paragraph_or_with_one_too_many_is_refused(codes: dict[str, str]) -> None:
    page = PAGE.read_text()
    blank = re.sub(r"(### `fenced`\n).+?(?=\n### )", r"\1", page, flags=re.DOTALL)
    without = page.replace("### `fenced`", "### `fence`")
    assert differences(codes, blank) == [f"`fenced` ({codes['fenced']}) has no paragraph"]
    assert differences(codes, without) == [f"`fenced` ({codes['fenced']}) has no paragraph", "`fence` is told nowhere"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise ItemError("a_b", "words")', ["a_b"]),
        ('raise ItemError(code="a_b", message="words")', ["a_b"]),
        ('raise ItemError("a" if empty else "b", "words")', ["a", "b"]),
        ('WHY = "a_b"\nraise ItemError(WHY, "words")', ["a_b"]),
        ("def f(error):\n    raise ItemError(error.code, str(error))", []),
        ('class Own(DailError):\n    code = "a_b"', ["a_b"]),
        ('tell({"error": "a_b", "exit_code": 2})', ["a_b"]),
        ('print("a_b", other("a_b", "words"))', []),
    ],
)
def test_what_tells_a_code_is_found(modules: dict[str, Module], source: str, found: list[str]) -> None:
    own = module_of(Path("own.py"), "from dail.synth.core.errors import DailError, ItemError\n" + source)
    home = "dail.synth.core.errors"
    told = [(one.code, one.place) for one in called({home: modules[home], "own": own})] + [*written({"own": own})]
    assert [code for code, place in told if place.startswith("own.py")] == found


def test_a_code_that_a_call_hides_is_refused(modules: dict[str, Module]) -> None:
    home = "dail.synth.core.errors"
    source = f"from {home} import ItemError\ndef f():\n    why = made_up()\n    raise ItemError(why, 'words')"
    with pytest.raises(ValueError, match=r"own\.py:4: why hides a code"):
        list(called({home: modules[home], "own": module_of(Path("own.py"), source)}))
