"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.bucket import BUCKET, S3, Breaking
from tests.bucket import s3_server as start_s3

if TYPE_CHECKING:
    from dail.synth.method.prompts import Prompts
    from dail.synth.schema.models import ModelIdentity

# Before any test imports vllm or transformers: in-process engine, never a download.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a model this small gains nothing from a second, spinning thread
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parent.parent
DEMO_MODEL = ROOT / "deploy" / "demo" / "model"
EXPERT_SOLUTIONS = ROOT / "deploy" / "demo" / "expert_solutions.jsonl"
OLYMPIAD = ROOT / "deploy" / "demo" / "olympiad.jsonl"


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    """Of the demo's model."""
    from dail.synth.method.prompts import Prompts  # here, since it takes a while and most tests need none

    return Prompts(DEMO_MODEL)


@pytest.fixture(scope="session")
def model() -> ModelIdentity:
    """The demo's, unless a room has another."""
    from dail.synth.schema.models import identify

    return identify(DEMO_MODEL)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A real S3-compatible server, as the environment tells of it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def s3_place(s3: S3) -> str:
    """The URL of an empty place in its bucket."""
    return f"s3://{BUCKET}/{secrets.token_hex(6)}"


@pytest.fixture
def way(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Breaking]:
    """The way to it, on which a test lets things go wrong."""
    with Breaking(s3.url) as way:
        monkeypatch.setenv("AWS_ENDPOINT_URL", way.url)
        yield way


@pytest.fixture(autouse=True)
def no_log_is_left() -> Iterator[None]:
    """A verb that ran in this process leaves a log on a standard error that has ended with its test."""
    yield
    root = logging.getLogger()
    root.handlers[:] = [one for one in root.handlers if type(one) is not logging.StreamHandler]
    logging.getLogger("dail").setLevel(logging.NOTSET)


Told = Callable[[], str]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """What the library has logged since it was last asked."""
    caplog.set_level(logging.INFO, "dail")

    def since() -> str:
        messages = "\n".join(caplog.messages)
        caplog.clear()
        return messages

    return since


def install_package(folder: Path, name: str, entry_points: str) -> None:
    """What pip leaves of a package beside its files, which are in `folder` already."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def safetensors_of(data: bytes) -> bytes:
    """A file of the safetensors format that holds these bytes as its one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def zeros(**shapes: tuple[int, ...]) -> bytes:
    """A file of the safetensors format with tensors of zeros in float32, by name."""
    entries, place = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes(place)


def demo_lora(rank: int = 4, layers: int = 4) -> bytes:
    """The weights of an adapter of the demo model that changes nothing."""
    shapes = {}
    for layer in range(layers):
        module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        shapes |= {f"{module}.lora_A.weight": (rank, 128), f"{module}.lora_B.weight": (128, rank)}
    return zeros(**shapes)


@pytest.fixture(scope="session")
def demo_engine() -> Iterator[Any]:
    """One real vLLM engine on the demo model in float32, shared by all tests of this process: 20 s to start."""
    yield from _engine(None)


@pytest.fixture(scope="session")
def student_engine() -> Iterator[Any]:
    """The second engine of strategy draft_verify, in the same process."""
    yield from _engine(None)


@pytest.fixture(scope="session")
def adapter_engine() -> Iterator[Any]:
    """One that takes adapters, which makes each step slower and, on a CPU, the reading of prompts impossible."""
    yield from _engine(32)


def _engine(max_rank: int | None) -> Iterator[Any]:
    from dail.synth.config import EngineConfig
    from dail.synth.engine.vllm import VllmEngine

    config = EngineConfig(model=DEMO_MODEL, dtype="float32", rows=64, step_tokens=8192, kv_cache_gib=0.5)
    engine = VllmEngine(config, max_rank, mixes_adapters=max_rank is not None)
    yield engine
    engine.close()
