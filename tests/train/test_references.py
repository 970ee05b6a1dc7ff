"""The cache of the references: it holds what they would give, and is used where it may be and refused elsewhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dail.synth.core.errors import IntegrityError, StorageError, UsageError
from dail.synth.schema.models import identify
from dail.train import references as module
from dail.train.commands import cache as cache_verb
from dail.train.commands import train
from dail.train.comparison import Comparison
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, load_examples, reference_input
from dail.train.loop import compute_references, run
from dail.train.loss import Reference, reference_of
from dail.train.model import Roles, load_roles
from dail.train.references import INDEX_FILE, MadeWith, ReferenceCache, fill, made_with, size_bytes
from dail.train.step import GradientStep
from tests.conftest import Told
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest
from tests.train.test_loop import SETTINGS, lines, weights
from tests.train.test_model import CPU, stir

CONFIG = TrainConfig(dtype="float32", microbatch_tokens=150)
PAIR = ("privileged", "negative")


def held(
    cache: ReferenceCache, examples: Sequence[Example], roles: Roles, names: Sequence[str] = PAIR
) -> list[Reference]:
    return [*cache.of(examples, names, roles, 1.0, 512).values()]


@pytest.fixture
def roles(tiny_model: Path) -> Roles:
    return load_roles(tiny_model, CONFIG, CPU)


@pytest.fixture
def examples(make_manifest: MakeManifest, tiny_model: Path) -> tuple[Example, ...]:
    return load_examples(make_manifest(12), identify(tiny_model), ModelLimits(CONTEXT, VOCABULARY)).examples


@pytest.fixture
def identity(tiny_model: Path, roles: Roles) -> MadeWith:
    return made_with(identify(tiny_model), roles, CONFIG)


@pytest.fixture
def filled(
    tmp_path: Path, roles: Roles, examples: tuple[Example, ...], identity: MadeWith
) -> Callable[[], ReferenceCache]:
    """Opens the cache, complete."""

    def open_it() -> ReferenceCache:
        cache = ReferenceCache(tmp_path / "cache", identity)
        fill(cache, roles, examples, CONFIG)
        return cache

    return open_it


def test_it_holds_what_the_references_give(filled, roles: Roles, examples: tuple[Example, ...]):
    cache = filled()
    for example in examples:
        both = roles.reference(reference_input([example], PAIR, CPU))
        for got, hidden in zip(held(cache, [example], roles), both.chunk(2), strict=True):
            wanted = reference_of(hidden, roles.head.matrix_VD, 512)
            assert torch.allclose(got.hidden_RD, wanted.hidden_RD, rtol=0, atol=1e-5)
            assert torch.allclose(got.lse_R, wanted.lse_R, rtol=0, atol=1e-5)


@pytest.mark.parametrize("objective", ["contrastive", "privileged_kl", "negative_kl"])
def test_cached_and_live_losses_and_gradients_agree(
    filled, roles: Roles, examples: tuple[Example, ...], objective: str
):
    stir(roles)
    config = CONFIG.model_copy(update={"objective": objective})
    found = []
    for cache in (filled(), None):
        loss_R, figures = GradientStep(roles, config, 1.0, cache).score(examples[:4])
        loss_R.sum().backward()
        found.append(
            (loss_R, figures["floor"], {n: w.grad.clone() for n, w in roles.adapter().items() if w.grad is not None})
        )
        roles.peft.zero_grad()
    (loss, floor, gradient), (live_loss, live_floor, live_gradient) = found
    assert torch.allclose(loss, live_loss, rtol=0, atol=1e-5)
    assert torch.allclose(floor, live_floor, rtol=0, atol=1e-5)
    for name in gradient:
        assert torch.allclose(gradient[name], live_gradient[name], rtol=1e-4, atol=1e-5), name


def test_a_trained_adapter_leaves_them_as_they_were(filled, tmp_path: Path, roles: Roles, examples, identity: MadeWith):
    before = held(filled(), examples, roles)
    stir(roles)
    again = ReferenceCache(tmp_path / "again", identity)
    fill(again, roles, examples, CONFIG)
    for old, new in zip(before, held(again, examples, roles), strict=True):
        assert torch.equal(old.hidden_RD, new.hidden_RD) and torch.equal(old.lse_R, new.lse_R)


def test_floors_are_computed_once_for_each_trace(filled, roles: Roles, examples, monkeypatch: pytest.MonkeyPatch):
    cache, weights = filled(), Comparison({"privileged": 1.0, "negative": -0.1})
    first = cache.floors(examples[:3], roles, weights, 512)
    monkeypatch.setattr(module, "floors", None)
    parts = first.split([len(example.trace_ids) for example in examples[:3]])
    assert torch.equal(cache.floors(examples[2::-1], roles, weights, 512), torch.cat(parts[::-1]))
    assert (first < 0).all()


def test_a_filled_cache_is_used_again_and_only_new_traces_are_computed(
    filled, tmp_path: Path, roles: Roles, examples, identity: MadeWith, monkeypatch: pytest.MonkeyPatch
):
    filled()
    more = replace(examples[0], trace_ids=(5, 6, 7), unit_id="new")
    same_but_named = replace(examples[1], unit_id="other", student_prompt_ids=(9, 9))
    cache = ReferenceCache(tmp_path / "cache", identity)
    assert {one.trace_ids for one in cache.missing([*examples, more, same_but_named], PAIR)} == {more.trace_ids}
    assert len(cache.missing([*examples, more, same_but_named], PAIR)) == 2
    monkeypatch.setattr(module, "_compute", None)
    fill(cache, roles, examples, CONFIG)


def test_a_stopped_pass_goes_on_and_gives_the_same_bits(
    filled, tmp_path: Path, roles: Roles, examples, identity: MadeWith, monkeypatch: pytest.MonkeyPatch
):
    unbroken = filled()
    monkeypatch.setattr(module, "PART_BYTES", 1)  # a part for every pass
    real, count = module._compute, iter(range(100))

    def stop_at_the_third(*arguments: object) -> object:
        if next(count) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "_compute", stop_at_the_third)
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        fill(ReferenceCache(folder, identity), roles, examples, CONFIG)
    resumed = ReferenceCache(folder, identity)
    assert 0 < len(resumed.missing(examples, PAIR)) < 2 * len(examples)
    fill(resumed, roles, examples, CONFIG)
    for one, other in zip(held(unbroken, examples, roles), held(resumed, examples, roles), strict=True):
        assert torch.equal(one.hidden_RD, other.hidden_RD) and torch.equal(one.lse_R, other.lse_R)


@pytest.mark.parametrize("field", ["model_revision", "tokenizer", "template", "dtype", "attention"])
def test_a_cache_of_something_else_is_refused_naming_it(filled, tmp_path: Path, identity: MadeWith, field: str):
    filled()
    with pytest.raises(UsageError, match=f"{field} .* there, other here"):
        ReferenceCache(tmp_path / "cache", identity.model_copy(update={field: "other"}))


def test_a_damaged_part_is_refused(filled, tmp_path: Path, identity: MadeWith):
    filled()
    part = tmp_path / "cache" / "part-00000.safetensors"
    data = bytearray(part.read_bytes())
    data[-5] ^= 1
    part.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"part-00000\.safetensors is not what references\.json says"):
        ReferenceCache(tmp_path / "cache", identity)
    part.unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        ReferenceCache(tmp_path / "cache", identity)


def test_a_cache_that_another_user_keeps_to_himself_is_not_called_damaged(
    filled, tmp_path: Path, identity: MadeWith, monkeypatch: pytest.MonkeyPatch
):
    filled()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(module, "file_sha256", refuse)
        patch.setattr(module.os, "access", lambda *_: False)  # root may read everything
        with pytest.raises(StorageError, match=r"may not be read by this user; whoever made it can share it \(chmod"):
            ReferenceCache(tmp_path / "cache", identity)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StorageError, match=r"references.json may not be read by this user"):
        ReferenceCache(tmp_path / "cache", identity)


def test_an_index_that_is_none_is_refused(tmp_path: Path, identity: MadeWith):
    (tmp_path / INDEX_FILE).write_text("{}")
    with pytest.raises(UsageError, match="is no index of references"):
        ReferenceCache(tmp_path, identity)


def test_a_disk_that_is_too_small_is_seen_before_anything_is_computed(
    tmp_path: Path, roles: Roles, examples, identity: MadeWith, monkeypatch: pytest.MonkeyPatch
):
    wanted = sum(size_bytes(example.readings[name], roles) for example in examples for name in PAIR)
    assert wanted == sum(2 * len(example.trace_ids) * (32 * 4 + 4) for example in examples)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": wanted - 1}))
    with pytest.raises(StorageError, match=r"need .* GiB .* --set reference_states=live"):
        fill(ReferenceCache(tmp_path / "cache", identity), roles, examples, CONFIG)
    assert not (tmp_path / "cache").exists()


def test_keys_depend_on_ids_alone(examples: tuple[Example, ...]):
    keys = {example.readings[name].key for example in examples for name in PAIR}
    assert len(keys) == 2 * len(examples)
    changed = replace(examples[0], negative_prompt_ids=(1,), unit_id="other").readings
    assert changed["negative"].key not in keys and changed["privileged"].key in keys


def test_runs_with_and_without_the_cache_end_alike(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path):
    manifest, shared = make_manifest(10), tmp_path / "shared"
    runs = [
        run(tiny_model, manifest, tmp_path / name, SETTINGS.model_copy(update=changes), shared)
        for name, changes in (("cached", {}), ("again", {}), ("live", {"reference_states": "live"}))
    ]
    cached, again, live = map(weights, runs)
    assert all(torch.equal(cached[name], again[name]) for name in cached)
    assert all(torch.allclose(cached[name], live[name], rtol=0, atol=2e-4) for name in cached)
    assert lines(runs[0])[0]["loss"] == pytest.approx(lines(runs[2])[0]["loss"], abs=1e-5)
    assert not (tmp_path / "cached" / "references").exists() and (shared / INDEX_FILE).exists()


def test_another_gamma_uses_the_same_cache(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest = make_manifest(10)
    run(tiny_model, manifest, tmp_path / "one", SETTINGS, tmp_path / "shared")
    monkeypatch.setattr(module, "_compute", None)
    changed = SETTINGS.model_copy(update={"gamma": 0.3})
    assert run(tiny_model, manifest, tmp_path / "other", changed, tmp_path / "shared").steps == 6


def test_the_command_line_names_a_shared_cache(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path):
    arguments = ["--model", tiny_model, "--manifest", make_manifest(4), "--out", tmp_path / "run"]
    arguments += ["--references", tmp_path / "shared", "--set", "epochs=1", "--set", "lora_rank=4", "--json"]
    done = CliRunner().invoke(train, [str(argument) for argument in arguments], catch_exceptions=False)
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 1
    assert (tmp_path / "shared" / INDEX_FILE).exists()


def test_the_cache_verb_fills_it_and_a_run_then_computes_nothing(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest, folder = make_manifest(4), tmp_path / "shared"
    arguments = [
        "--model",
        tiny_model,
        "--manifest",
        manifest,
        "--references",
        folder,
        "--set",
        "dtype=float32",
        "--json",
    ]
    done = CliRunner().invoke(cache_verb, [str(argument) for argument in arguments], catch_exceptions=False)
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["traces"] == 4 and printed["size_bytes"] == sum(
        f.stat().st_size for f in folder.glob("*.safetensors")
    )
    monkeypatch.setattr(module, "_compute", None)
    run(tiny_model, manifest, tmp_path / "run", SETTINGS.model_copy(update={"epochs": 1}), folder)


def test_settings_that_use_no_references_have_none_to_keep(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path
):
    with pytest.raises(UsageError, match=r"with objective=nll, reference_states=cached .* no references are kept"):
        compute_references(tiny_model, make_manifest(2), tmp_path / "r", TrainConfig(objective="nll"))


def test_a_second_run_waits_for_the_one_that_fills_and_takes_what_it_left(
    tmp_path: Path, roles: Roles, examples, identity: MadeWith, told: Told
):
    folder, found = tmp_path / "cache", []
    first, second = ReferenceCache(folder, identity), ReferenceCache(folder, identity)

    def wait() -> None:
        fill(second, roles, examples, CONFIG)
        found.append(len(second.missing(examples, PAIR)))

    waiting = threading.Thread(target=wait)
    with first.filling():
        waiting.start()
        while "another run fills" not in (said := told()):
            assert waiting.is_alive(), said
            time.sleep(0.01)
        module._fill(first, roles, first.missing(examples, PAIR), CONFIG)
    waiting.join()
    assert found == [0] and len(list(folder.glob("part-*"))) == 1


THREE = {"privileged": 1.0, "negative": -0.2, "student": 0.3}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"references": THREE, "reference_temperature": 0.6, "student_temperature": 0.6}, tuple(THREE)),
        ({"references": THREE, "reference_temperature": 0.6, "student_temperature": 1.5}, tuple(THREE)),
        ({"references": {"privileged": 1.0, "student": 0.5}, "divergence": "forward"}, ("privileged", "student")),
        ({"references": THREE, "divergence": "jsd", "jsd_beta": 0.3, "reference_temperature": 2.0}, tuple(THREE)),
        ({"objective": "negative_kl"}, ("negative",)),
    ],
)
def test_any_references_are_the_same_cached_and_live_and_only_they_are_computed(
    tmp_path: Path, roles: Roles, examples, identity: MadeWith, settings: dict[str, object], names: tuple[str, ...]
):
    stir(roles)
    config = CONFIG.model_copy(update=settings)
    cache = ReferenceCache(tmp_path / "few", identity)
    fill(cache, roles, examples, config)
    assert len(cache._part_of) == len(examples) * len(names) and cache.num_traces == len(examples)
    found = []
    for one in (cache, None):
        loss_R, figures = GradientStep(roles, config, 1.0, one).score(examples[:5])
        loss_R.sum().backward()
        slopes = [weight.grad.clone() for weight in roles.adapter().values() if weight.grad is not None]
        found.append((figures, slopes))
        roles.peft.zero_grad()
    (figures, slopes), (live_figures, live_slopes) = found
    assert figures.keys() == live_figures.keys() >= {f"kl_{name}" for name in names}
    for name in figures:
        assert torch.allclose(figures[name], live_figures[name], rtol=1e-4, atol=2e-5), name
    for one, other in zip(slopes, live_slopes, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=5e-5)


def test_another_reference_or_temperature_uses_what_there_is(
    filled, tmp_path: Path, roles: Roles, examples, identity: MadeWith, monkeypatch: pytest.MonkeyPatch
):
    filled()
    cache, computed, real = ReferenceCache(tmp_path / "cache", identity), [], module._compute
    monkeypatch.setattr(module, "_compute", lambda group, *given: computed.extend(group) or real(group, *given))
    warm = CONFIG.model_copy(update={"reference_temperature": 0.6, "gamma": 0.0, "divergence": "jsd"})
    fill(cache, roles, examples, warm)
    assert not computed
    fill(cache, roles, examples, CONFIG.model_copy(update={"references": THREE}))
    assert {one.context_ids for one in computed} == {example.student_prompt_ids for example in examples}
    assert len(computed) == len(examples)


def test_log_sum_exps_at_a_temperature_are_computed_once_for_each_trace(
    filled, roles: Roles, examples, monkeypatch: pytest.MonkeyPatch
):
    cache = filled()
    cold = cache.of(examples[:3], PAIR, roles, 0.6, 512)
    for one in cold.values():
        assert torch.allclose(one.lse_R, (one.hidden_RD @ roles.head.matrix_VD.t() / 0.6).logsumexp(-1), atol=1e-4)
    assert not torch.allclose(cold["privileged"].lse_R, held(cache, examples[:3], roles)[0].lse_R, atol=0.1)
    monkeypatch.setattr(module, "reference_of", None)
    again = cache.of(examples[:3], PAIR, roles, 0.6, 512)
    assert all(torch.equal(again[name].lse_R, cold[name].lse_R) for name in PAIR)
