"""The model card of an adapter, as hubs and people read it, and what its base model is called."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from dail.synth.core.errors import DailError
from dail.synth.schema.card import Origins, facts, origins, origins_table
from dail.train.comparison import facts_of
from dail.train.record import PROVENANCE_FILE, Provenance, RunRecord

# The sizes that vLLM has buffers for (0.24 to 0.33); it refuses any other --max-lora-rank.
_SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# What an adapter has from its base model, by the names of a card.
_INHERITED = ("license", "license_name", "license_link", "language")
_SNAPSHOT = re.compile(r".*/models--(?P<id>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})")
_HUB_ID = re.compile(r"(?:hf:)?(?P<id>[\w.-]{1,96}/[\w.-]{1,96})")

_ADAPTER_USE = """Use it with `PeftModel.from_pretrained(base, folder)`, or
`vllm serve {served} --lora-modules dail=FOLDER`."""

_log = logging.getLogger(__name__)


def base_model(record: RunRecord) -> tuple[str, str | None]:
    """What others know the base model by, and its revision there: as the user says, else as the hub's cache does, else
    its bare name. Never a path of this machine."""
    snapshot = _SNAPSHOT.fullmatch(record.model_folder.rstrip("/"))
    revision = snapshot["revision"] if snapshot else None
    if record.config.base_model:
        return record.config.base_model, revision
    if snapshot:
        return snapshot["id"].replace("--", "/", 1), revision
    name = Path(record.model.name).name if record.model.name.startswith("/") else record.model.name
    return " ".join(name.split()), None  # a folder's name may hold a line break, and the card's lines may not


def card(provenance: Provenance, record: RunRecord) -> str:
    """Markdown with a block of metadata on top.

    Args:
        record: the run's own, which knows where model and manifest lie; none of it is shown.
    """
    from huggingface_hub import ModelCardData

    name, revision = base_model(record)
    is_model = record.config.tune == "full"
    found = _origins(record)
    known = _HUB_ID.fullmatch(name) is not None or "/" not in name
    head = ModelCardData(
        base_model=name if known else None,
        base_model_relation="finetune" if is_model else "adapter",
        library_name="transformers" if is_model else "peft",
        pipeline_tag="text-generation",
        tags=["dail"] if is_model else ["dail", "lora"],
        datasets=sorted({match["id"] for source, _ in found if (match := _HUB_ID.fullmatch(source))}) or None,
        **_inherited(Path(record.model_folder)),
    )
    served = f"{shlex.quote(name)} --enable-lora --max-lora-rank {served_rank(record.config.lora_rank)}"
    return f"""---
{head.to_yaml()}
---

# {"A model" if is_model else "A LoRA adapter"} trained by Distribution Aligned Imitation Learning

It was trained on reasoning traces grounded in expert solutions (DAIL, arXiv 2602.02405).

{facts(_facts(provenance, name, revision))}

{origins_table(found) if found else "Where the expert solutions come from, and under which licences, is not known."}

{"Every weight but the head was trained; use it as any model." if is_model else _ADAPTER_USE.format(served=served)}
`{PROVENANCE_FILE}` holds every setting and sum.
"""


def served_rank(rank: int) -> int:
    """The smallest --max-lora-rank of vLLM that holds an adapter of this rank."""
    return next(size for size in _SERVED_RANKS if size >= rank)


def _facts(provenance: Provenance, name: str, revision: str | None) -> dict[str, object]:
    run, config = provenance.run, provenance.run.config
    named = config.lora_targets
    targets = "all linear layers that it can be served on" if isinstance(named, str) else ", ".join(named)
    lora = f"rank {config.lora_rank}, alpha {config.lora_alpha}, dropout {config.lora_dropout}, on {targets}"
    return {
        **facts_of(config),
        "base model": f"{name}, revision {revision or run.model.revision}",
        "tokenizer": run.model.tokenizer_hash,
        "traces": f"batch {run.batch_id}, manifest {run.manifest_digest}",
        **({"chosen by": run.selection.told()} if run.selection else {}),
        **({"student of the traces": run.student} if run.student else {}),
        **({"started from the adapter": run.init_adapter.digest} if run.init_adapter else {}),
        **({"adapter of the references": run.reference_adapter.digest} if run.reference_adapter else {}),
        **({"trained": "every weight but the head"} if config.tune == "full" else {"LoRA": lora}),
        **({"frozen weights": f"{config.quantise} (4 bits)"} if config.quantise != "none" else {}),
        **({"optimizer": config.optimizer} if config.optimizer != "adamw" else {}),
        **_left_out(run),
        "steps": f"{provenance.steps} of {config.batch_size} traces, {config.epochs} epochs",
        **({"gate": run.gate.line} if run.gate else {}),
        "made by": f"dail {run.tool_version}, {provenance.finished_at:%Y-%m-%d}",
    }


def _left_out(run: RunRecord) -> dict[str, object]:
    """Which predictions and traces count, where not all do."""
    config = run.config
    facts: dict[str, object] = {}
    if config.skip_first or config.after_last or config.end_token == "drop":
        parts = [f"without those of the first {config.skip_first} trace tokens"] if config.skip_first else []
        parts += ["without the token that ends the turn"] if config.end_token == "drop" else []
        parts += ["with the one behind the last token"] if config.after_last else []
        facts["predictions"] = ", ".join(parts)
    lost = run.dropped_traces + run.filtered_traces + run.empty_traces
    if lost and run.num_traces:
        all_traces = run.num_traces + lost
        facts["traces trained on"] = f"{run.num_traces} of {all_traces} ({run.num_traces / all_traces:.1%})"
    return facts


def _inherited(folder: Path) -> dict[str, Any]:
    """Licence and language, as the base model's own card has them; nothing without a card that can be read."""
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    try:
        if not path.is_file() or not path.read_bytes().startswith(b"---"):  # it has no block of metadata
            return {}
        said = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
        json.dumps(kept := {name: said[name] for name in _INHERITED if said.get(name)})
    except Exception as error:  # of YAML, which anybody wrote; an adapter is not lost for it
        _log.warning(f"the card of the base model, {path}, cannot be read ({error}); the adapter's names no licence")
        return {}
    return kept


def _origins(record: RunRecord) -> Origins:
    """Sources and licences of the traces' expert solutions; nothing if their shards are gone."""
    try:
        return origins(Path(record.manifest), record.manifest_digest)
    except (DailError, OSError) as error:
        _log.warning(f"the adapter's card does not say where the traces come from: {error}")
        return Counter()
