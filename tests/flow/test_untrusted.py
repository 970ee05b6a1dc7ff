"""Folders from anywhere: no code that lies in a model or an adapter is ever run, and no pickle of theirs is opened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.errors import DailError, UsageError
from dail.synth.method.prompts import Prompts
from dail.synth.run.doctor import examine
from dail.synth.schema.adapters import adapter_rank
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import Synthesis
from dail.train.average import average
from dail.train.evals.lineage import read_adapter
from dail.train.given_adapters import read_given
from dail.train.loading import load_base, read_config
from tests.conftest import DEMO_MODEL

SHORT = Synthesis(max_tokens=16, thinking=False)


class Bomb:
    """What it does when somebody unpickles it."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.canary),)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that must not come to be; the bombs of these tests make it, which is tried here."""
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Bomb(path)))  # noqa: S301
    path.unlink()
    yield path
    assert not path.exists(), "code of a folder was run"
    assert not [name for name in sys.modules if "ambush" in name]


@pytest.fixture
def model(tmp_path: Path, canary: Path) -> Path:
    """The demo model, which says everywhere that code of its own makes its parts."""
    folder = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, folder)
    code = f"open({str(canary)!r}, 'w')\nclass Ambush:\n    pass\n"
    for name in ("ambush.py", "__init__.py", "configuration_ambush.py", "setup.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    for file, kinds in (
        ("config.json", ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")),
        ("tokenizer_config.json", ("AutoTokenizer", "AutoProcessor")),
        ("generation_config.json", ("GenerationConfig",)),
    ):
        path = folder / file
        settings = json.loads(path.read_text()) if path.exists() else {}
        own = {
            kind: ["ambush.Ambush", "ambush.Ambush"] if kind == "AutoTokenizer" else "ambush.Ambush" for kind in kinds
        }
        path.write_text(json.dumps({**settings, "auto_map": own, "custom_generate": "ambush"}))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    return folder


READERS: dict[str, Callable[[Path], object]] = {
    "the API": identify,
    "prompts": lambda folder: Prompts(folder).tokenizer("1 + 1"),
    "the trainer's settings": read_config,
    "the trainer's weights": lambda folder: load_base(folder, "float32"),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_models_own_code_is_not_run(model: Path, reader: str) -> None:
    try:
        READERS[reader](model)  # an architecture that is known is made of the library's code
    except DailError as error:
        assert "code of its own" in str(error)


@pytest.mark.vllm
def test_vllm_does_not_run_it_either(model: Path) -> None:
    report = examine(None, SynthConfig(engine=EngineConfig(model=model)), SHORT, with_preview=False)
    assert report.engine is not None, report.notes  # it has read the configuration


@pytest.mark.parametrize("reader", [READERS["the trainer's settings"], READERS["the trainer's weights"]])
def test_a_model_that_needs_its_own_code_is_refused_by_name(model: Path, reader: Callable[[Path], object]) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "ambush"}))
    with pytest.raises(UsageError, match="code of its own"):
        reader(model)


def test_a_model_of_pickles_is_refused(model: Path) -> None:
    for weights in model.glob("*.safetensors"):
        weights.unlink()
    for reader in (identify, lambda folder: load_base(folder, "float32")):
        with pytest.raises(UsageError, match=r"safetensors|weights"):
            reader(model)


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.mknod('CANARY') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append('x') }}",
    ],
)
def test_a_chat_template_gets_out_of_no_sandbox(model: Path, canary: Path, template: str) -> None:
    (model / "chat_template.jinja").write_text(template.replace("CANARY", str(canary)))
    identify(model)
    with pytest.raises(Exception, match=r"unsafe|undefined|access"):
        Prompts(model).tokenizer.apply_chat_template([{"role": "user", "content": "1"}])


def given(folder: Path, model: Path) -> None:
    assert read_given(folder, model)


ADAPTER_READERS: dict[str, Callable[[Path, Path, Path], object]] = {
    "the API's student": lambda adapter, model, _: identify(model, student=adapter),
    "the API's privileged student": lambda adapter, model, _: identify(model, privileged=adapter),
    "an engine": lambda adapter, *_: adapter_rank(adapter),
    "dail train --init-adapter": lambda adapter, model, _: given(adapter, model),
    "dail eval": lambda adapter, model, _: read_adapter(adapter, model, identify(model)),
    "dail average": lambda adapter, _, out: average(adapter, None, 0.5, out),
}


@pytest.mark.parametrize("reader", ADAPTER_READERS)
def test_an_adapter_without_safetensors_is_refused_and_its_pickle_not_opened(
    reader: str, tmp_path: Path, canary: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    for name in ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin", "optimizer.pt", "training_args.bin"):
        (adapter / name).write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(UsageError, match="safetensors"):
        ADAPTER_READERS[reader](adapter, DEMO_MODEL, tmp_path / "out")
