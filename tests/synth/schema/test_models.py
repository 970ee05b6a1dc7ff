"""What identifies a model folder, and folders that cannot be identified."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.schema import models
from dail.synth.schema.models import ROLES, chat_template, identify
from tests.conftest import DEMO_MODEL, demo_lora, safetensors_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model-00001-of-00002.safetensors").write_bytes(safetensors_of(b"weights"))
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors_of(b"more weights"))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def test_equal_files_are_one_model_wherever_they_lie(folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "tiny")
    assert identify(copy) == identify(folder)
    assert identify(copy, "qwen") == identify(folder).model_copy(update={"name": "qwen"})


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("config.json", "revision"),
        ("model-00002-of-00002.safetensors", "revision"),
        ("tokenizer.json", "tokenizer_hash"),
        ("merges.txt", "tokenizer_hash"),
        ("tekken.json", "tokenizer_hash"),
        ("chat_template.jinja", "template_hash"),
        ("tokenizer_config.json", "template_hash"),
        ("special_tokens_map.json", "template_hash"),
        ("additional_chat_templates/rag.jinja", "template_hash"),
    ],
)
def test_a_changed_file_changes_its_own_hash_alone(folder: Path, file: str, field: str):
    before = identify(folder).model_dump()
    (folder / "additional_chat_templates").mkdir()
    (folder / file).write_bytes(safetensors_of(b"changed") if file.endswith("safetensors") else b'{"a": "changed"}')
    after = identify(folder).model_dump()
    assert {name for name in before if before[name] != after[name]} == {field}


def test_a_changed_role_template_changes_the_template_hash(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = identify(folder)
    templates = shutil.copytree(models.TEMPLATES, tmp_path / "templates")
    monkeypatch.setattr(models, "TEMPLATES", templates)
    assert identify(folder) == before
    hashes = {before.template_hash}
    for role in ROLES:
        (templates / f"{role}.jinja").write_text("changed")
        hashes.add(identify(folder).template_hash)
    assert len(hashes) == 1 + len(ROLES)


def test_the_ends_of_turns_count_and_nothing_else_of_how_a_model_would_draw(folder: Path):
    config, known = folder / "generation_config.json", [identify(folder)]
    for ends in ("7", "[7, 8]", "[8]"):
        config.write_text(f'{{"eos_token_id": {ends}, "temperature": 0.6}}')
        known.append(identify(folder))
        config.write_text(f'{{"eos_token_id": {ends}, "temperature": 1.0, "top_p": 0.9}}')
        assert identify(folder) == known[-1]
    assert len({one.template_hash for one in known}) == 4
    assert {one.tokenizer_hash for one in known} == {known[0].tokenizer_hash}
    config.write_text("[")
    with pytest.raises(UsageError, match=r"generation_config.json is not JSON: .*; restore the file"):
        identify(folder)


def test_what_the_template_can_be_told_is_known_and_is_no_identity(folder: Path):
    (folder / "chat_template.jinja").write_text("{{ messages }}{% if thinking %}{{ strftime_now('%d') }}{% endif %}")
    found = identify(folder)
    assert found.template_reads == ("strftime_now", "thinking")
    assert "template_reads" not in found.identity()


def test_files_that_say_nothing_of_the_model_do_not_count(folder: Path):
    before = identify(folder)
    (folder / "README.md").write_text("x")
    assert identify(folder) == before


def test_a_snapshot_of_the_hub_is_known_by_its_commit(folder: Path, tmp_path: Path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = shutil.copytree(folder, tmp_path / "models--x" / "snapshots" / commit)
    link = tmp_path / "link"
    link.symlink_to(snapshot)
    assert (identify(snapshot).revision, identify(link).revision) == (commit, commit)


def test_a_folder_named_like_a_commit_elsewhere_is_hashed(folder: Path, tmp_path: Path):
    assert identify(shutil.copytree(folder, tmp_path / ("a" * 40))).revision.startswith("sha256:")


def test_an_older_chat_template_lies_in_the_tokenizer_config(folder: Path):
    (folder / "chat_template.jinja").rename(folder / "aside")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }} é"}), "utf-8")
    assert chat_template(folder) == "{{ messages }} é"


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("config.json", None, "is no model folder: it has no config.json; give"),
        ("model-*", None, r"has no \*\.safetensors"),
        ("tokenizer.json", None, "has no tokenizer"),
        ("chat_template.jinja", None, "has no chat template; save one as chat_template.jinja"),
        ("chat_template.jinja", b"\xff", "the chat template of .* cannot be read"),
        ("model-00001-of-00002.safetensors", "folder", "00001-of-00002.safetensors cannot be read: Is a directory"),
        ("model-00001-of-00002.safetensors", "dangling link", "safetensors cannot be read: No such file"),
        ("model-00001-of-00002.safetensors", safetensors_of(b"weights")[:-1], "has 74 bytes, and by its own .* 75"),
        ("model-00001-of-00002.safetensors", safetensors_of(b"weights")[:20], "is no safetensors file, or was cut"),
        ("model-00001-of-00002.safetensors", b"", "is no safetensors file, or was cut short"),
    ],
)
def test_a_folder_that_is_no_model_is_the_user_s_error(folder: Path, file: str, content: bytes | str | None, why: str):
    for path in list(folder.glob(file)):
        path.unlink()
    if content == "folder":
        (folder / file).mkdir()
    elif content == "dangling link":  # a hub cache whose blobs were pruned
        (folder / file).symlink_to("nowhere")
    elif isinstance(content, bytes):
        (folder / file).write_bytes(content)
    with pytest.raises(UsageError, match=why):
        identify(folder)


@pytest.mark.parametrize("config", ["{", "[]", '{"chat_template": [{"name": "default"}]}', "{}"])
def test_a_tokenizer_config_without_one_template_is_the_user_s_error(folder: Path, config: str):
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(config)
    with pytest.raises(UsageError, match="chat template"):
        identify(folder)


def test_no_folder_at_all_is_the_user_s_error(tmp_path: Path):
    with pytest.raises(UsageError, match="is no model folder"):
        identify(tmp_path / "nowhere")


@pytest.mark.parametrize("role", ["student", "privileged"])
def test_what_a_role_has_of_its_own_is_part_of_the_identity(tmp_path: Path, role: str):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    (adapter / "adapter_model.safetensors").write_bytes(demo_lora())
    plain, adapted = identify(DEMO_MODEL), identify(DEMO_MODEL, **{role: adapter})
    digest = getattr(adapted, role)
    assert adapted == plain.model_copy(update={role: digest}) and adapted.identity() != plain.identity()
    (adapter / "adapter_model.safetensors").write_bytes(demo_lora()[:-4] + b"\1\0\0\0")
    assert getattr(identify(DEMO_MODEL, **{role: adapter}), role) not in (digest, None)


@pytest.mark.parametrize("role", ["student", "privileged"])
def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path, role: str):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    (adapter / "adapter_model.safetensors").write_bytes(demo_lora())
    with pytest.raises(UsageError, match="was trained on another model than"):
        identify(folder, **{role: adapter})


def test_a_student_with_weights_of_its_own_must_write_the_same_tokens(folder: Path, tmp_path: Path):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "model-00001-of-00002.safetensors").write_bytes(safetensors_of(b"other weights"))
    assert identify(folder, student=other).student == identify(other).revision
    (other / "tokenizer.json").write_text('{"more": "tokens"}')
    with pytest.raises(UsageError, match="must write the same tokens"):
        identify(folder, student=other)
