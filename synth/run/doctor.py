"""`dail doctor`: whether a run will work, what it will show the model, and what it will cost, before it is paid for."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections import Counter
from typing import Any

import httpx

from dail.synth.config import SynthConfig
from dail.synth.core.config import TOOL_VERSION, Frozen
from dail.synth.core.errors import EXIT_BATCH_FAILED, EXIT_ERROR, EXIT_OK, EXIT_SOME_FAILED, DailError, ItemError
from dail.synth.core.progress import progress
from dail.synth.data.account import Account
from dail.synth.data.reader import Reading, Source, read_solutions
from dail.synth.engine.sizing import GIB, Device, Sizes, fit, shape_of, this_device
from dail.synth.engine.versions import Choices, check_vllm, outside, versions_here, vllm_here
from dail.synth.method.counts import count_kinds
from dail.synth.method.data_check import DataCheck, check_data, problems_of
from dail.synth.method.prompts import Contexts, Prompts
from dail.synth.run.local import make_batch, tried_out
from dail.synth.run.preview import Forecast, Preview, forecast, run_preview
from dail.synth.run.ray_cluster import ray_cluster
from dail.synth.run.trace_rows import prepare
from dail.synth.schema.adapters import adapter_rank
from dail.synth.schema.chat_templates import DATE
from dail.synth.schema.kinds import ItemKinds
from dail.synth.schema.models import ROLES, ModelIdentity, identify
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Unit

_DASHBOARD_PORT, _PROBE_S = 8265, 2.0
_SHOWN_CHARACTERS, _SHOWN_IDS, _SHOWN_ITEMS = 1500, 24, 5


class Prompt(Frozen):
    """One role's context of the first item that can run: the very ids that will be decoded, and what they say."""

    role: str
    text: str
    token_ids: tuple[int, ...]


class BadItem(Frozen):
    item_id: str
    code: str
    detail: str


class Items(Frozen):
    """`units`: traces that the run will draw. The longest prompt is a role's with most tokens.

    `shortened`: ids of items whose solution loses something because it is too long.
    """

    items: int
    units: int
    kinds: ItemKinds
    shortened: tuple[str, ...]
    bad: tuple[BadItem, ...]
    longest_prompt_tokens: int
    longest_prompt_item: str | None


class Trainer(Frozen):
    """What `dail train` does on this device unless its settings say otherwise. `one_kernel`: attention over joined
    sequences is one call of torch's kernel for sequences of different lengths; else one call each."""

    dtype: str
    one_kernel: bool


class Report(Frozen):
    """What `dail doctor --json` prints. `dangers` make it end with 1, `notes` do not.

    `template_args`: what the chat template can be told, by `thinking` or in `template_args`. `prints_date`: whether it
    renders two days differently.

    `engine`: as vLLM decides it for this device; none for the fake engine, and where no engine can be.
    """

    tool_version: str
    python: str
    versions: dict[str, str]
    device: Device
    model: ModelIdentity
    template_args: tuple[str, ...]
    prints_date: bool
    ends: dict[int, tuple[str, ...]]  # ids of the tokens that end a turn, and who names each
    suppressed: dict[int, str]  # ids and texts of the tokens that no role draws
    reserved: Sizes | None
    engine: Choices | None
    trainer: Trainer
    prompts: tuple[Prompt, ...] = ()
    read: Account | None = None
    items: Items | None = None
    data_check: DataCheck | None = None
    preview: Preview | None = None
    forecast: Forecast | None = None
    notes: tuple[str, ...] = ()
    dangers: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        if self.dangers:
            return EXIT_ERROR
        num_bad = len({bad.item_id for bad in self.items.bad}) if self.items else 0
        if not self.items or not num_bad:
            return EXIT_OK
        return EXIT_SOME_FAILED if num_bad < self.items.items else EXIT_BATCH_FAILED


def examine(
    source: Source | None,
    config: SynthConfig,
    synthesis: Synthesis,
    with_preview: bool,
    reading: Reading | None = None,
    against: Source | None = None,
) -> Report:
    """Looks at machine, model, items and, with a preview, at five traces. All paths must be absolute.

    Args:
        against: problems of an evaluation, which the items are to keep clear of.

    Raises:
        UsageError, InputError: file, model, settings or the installed vLLM cannot be used.
        EngineDead: no engine could be started, or none survived.
    """
    if config.engine.kind == "vllm" and (found_vllm := vllm_here()):
        check_vllm(found_vllm)
    device, identity = (
        this_device(),
        identify(config.engine.model, student=config.student, privileged=config.privileged_adapter),
    )
    synthesis.check(identity.template_reads)
    prompts, synthesis = Prompts(config.engine.model), tried_out(synthesis)
    suppressed = {one: prompts.spelled(one) for one in sorted(prompts.suppressed_ids(synthesis))}
    shape = shape_of(config.engine.model, config.engine.dtype)
    notes, sizes = outside(), None
    try:
        sizes = fit(config.engine, shape, device, _num_engines(config))
    except DailError as error:  # the engines may run elsewhere
        notes.append(f"not on this machine: {error}")
    found: dict[str, Any] = {}
    if source:
        model_tokens = min(config.engine.model_tokens or shape.model_tokens, shape.model_tokens)
        problems = problems_of(against) if against else None
        found = _examine_items(
            source, reading, config, synthesis, identity, prompts, model_tokens, with_preview, problems
        )
        notes += _notes(synthesis, prompts, found)
    prints_date = prompts.prints_date(synthesis)
    notes += _date_notes(synthesis, prints_date)
    engine = None
    try:
        engine = _engine(config, sizes)
    except (DailError, ImportError) as error:  # vLLM may be where the engines run
        notes.append(f"what vLLM will choose cannot be said here: {error}")
    return Report(
        tool_version=TOOL_VERSION,
        python=platform.python_version(),
        versions=versions_here(),
        device=device,
        model=identity,
        template_args=tuple(name for name in prompts.template_reads if name != DATE),
        prints_date=prints_date,
        ends=prompts.ends,
        suppressed=suppressed,
        reserved=sizes,
        engine=engine,
        trainer=_trainer(device),
        notes=tuple(notes),
        dangers=tuple(_dangers()),
        **found,
    )


def _num_engines(config: SynthConfig) -> int:
    """Of a pair."""
    return 2 if config.strategy == "draft_verify" else 1


def _engine(config: SynthConfig, sizes: Sizes | None) -> Choices | None:
    """Asked after the preview: vLLM sets variables of the environment, which Ray's processes would inherit."""
    if config.engine.kind != "vllm" or sizes is None:
        return None
    num_engines = _num_engines(config)
    from dail.synth.engine.vllm import chosen

    rank = max(map(adapter_rank, config.adapters), default=None) if num_engines == 1 else None
    return chosen(sizes.put_into(config.engine, num_engines), rank)


def _trainer(device: Device) -> Trainer:
    """What train/model.py and train/attention.py decide, told here, as synth knows no train; a test compares."""
    is_gpu = device.kind == "cuda"
    return Trainer(dtype="bfloat16" if is_gpu else "float32", one_kernel=is_gpu)


def _examine_items(
    source: Source,
    reading: Reading | None,
    config: SynthConfig,
    synthesis: Synthesis,
    identity: ModelIdentity,
    prompts: Prompts,
    model_tokens: int,
    with_preview: bool,
    against: dict[str, str] | None,
) -> dict[str, Any]:
    """The parts of the report that need expert solutions."""
    read = read_solutions(source, reading)
    batch = make_batch(read.items, synthesis, identity)
    good, bad, first = {}, [], None
    shortened = list[str]()
    longest: tuple[int, str | None] = 0, None
    firsts = {unit.item_id: unit for unit in reversed(batch.units.values())}
    with progress("items", len(firsts)) as bar:
        for number, unit in enumerate(reversed(firsts.values()), 1):
            bar.update(number)
            try:
                prepared = prepare(unit, prompts, model_tokens)
            except ItemError as error:
                bad.append(BadItem(item_id=unit.item_id, code=error.code, detail=str(error)))
                continue
            contexts = prepared.contexts
            first = first or contexts
            if prepared.dropped:
                shortened.append(unit.item_id)
            good[unit.item_id] = unit
            longest = max(longest, (contexts.longest[1], unit.item_id))
    units = [unit for unit in batch.units.values() if unit.item_id in good]
    shown = _preview_of(config, units, prompts) if with_preview and units else None
    return {
        "read": read.account,
        "items": Items(
            items=len(firsts),
            units=len(units),
            kinds=count_kinds([unit.item for unit in firsts.values()], synthesis),
            shortened=tuple(shortened),
            bad=tuple(bad),
            longest_prompt_tokens=longest[0],
            longest_prompt_item=longest[1],
        ),
        "prompts": tuple(
            Prompt(role=role, text=prompts.tokenizer.decode(ids, skip_special_tokens=False), token_ids=tuple(ids))
            for role, ids in (_ids(first) if first else {}).items()
        ),
        "data_check": check_data(read.items, synthesis, against),
        "preview": shown,
        "forecast": forecast(shown, len(units), config.engine.tensor_parallel) if shown else None,
    }


def _preview_of(config: SynthConfig, units: list[Unit], prompts: Prompts) -> Preview:
    with ray_cluster():
        return run_preview(config, units, prompts)


def _ids(contexts: Contexts) -> dict[str, list[int]]:
    roles = contexts.student_ids, contexts.privileged_ids, contexts.negative_ids
    return {**dict(zip(ROLES, roles, strict=True)), **contexts.further}


def _notes(synthesis: Synthesis, prompts: Prompts, found: dict[str, Any]) -> list[str]:
    """What is no fault and may still not be meant."""
    notes = []
    if prompts.has_thinking_switch and synthesis.thinking is None:
        notes.append("the chat template has a thinking switch and thinking is not set: the template's default is taken")
    bos = prompts.tokenizer.bos_token_id
    if bos is not None and any(prompt.token_ids[:2] == (bos, bos) for prompt in found["prompts"]):
        notes.append(
            f"the prompts begin with two beginning-of-sequence tokens ({bos}): the chat template adds a second"
        )
    shown: Preview | None = found["preview"]
    if shown:
        reasons = Counter(trace.finish_reason for trace in shown.traces)
        if reasons["length"] and synthesis.max_tokens > 1024:  # short cuts are meant, as the paper's 256 tokens
            notes.append(f"{reasons['length']} of {len(shown.traces)} traces were cut at max_tokens")
        notes += [f"item {item_id} has no trace in the preview: {why}" for item_id, why in shown.failed.items()]
    return notes


def _date_notes(synthesis: Synthesis, prints_date: bool) -> list[str]:
    if synthesis.date is not None or not prints_date:
        return []
    return [
        "the chat template prints the date, so that prompts of another day are other prompts: a batch keeps the day on "
        f"which it is made; set date={dt.date.today()} for traces that can be drawn again"
    ]


def _dangers() -> list[str]:
    """A Ray dashboard that takes jobs from anybody lets anybody run code."""
    dashboard = _dashboard(os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", ""))
    try:
        reply = httpx.get(f"{dashboard}/api/jobs/", timeout=_PROBE_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):  # nobody is there
        return []
    if reply.status_code != 200:
        return []
    return [
        f"Ray's dashboard at {dashboard} lists jobs to whoever asks, so anybody who reaches it can run code there; "
        f"start the cluster with RAY_AUTH_MODE=token"
    ]


def _dashboard(address: str) -> str:
    """
    >>> _dashboard(""), _dashboard("auto"), _dashboard("head:6379")
    ('http://127.0.0.1:8265', 'http://127.0.0.1:8265', 'http://head:8265')
    >>> _dashboard("ray://[::1]:10001"), _dashboard("https://head:8443/")
    ('http://[::1]:8265', 'https://head:8443')
    """
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    return f"http://{address.removeprefix('ray://').rpartition(':')[0] or '127.0.0.1'}:{_DASHBOARD_PORT}"


def describe(report: Report) -> str:
    """The report for people; texts and ids shortened, which `--json` gives whole."""
    parts = [_machine(report), _choices(report), _roles(report), _items(report), _data(report), _preview(report)]
    parts += [f"note: {note}" for note in report.notes]
    parts += [f"DANGER: {danger}" for danger in report.dangers]
    return "\n\n".join(part for part in parts if part)


def _machine(report: Report) -> str:
    model, held = report.model, report.reserved
    lines = [
        f"dail {report.tool_version}, Python {report.python}, {report.device.name}: "
        f"{_size(report.device.free_bytes)} of {_size(report.device.total_bytes)} free",
        f"model {model.name}: revision {model.revision[:24]}, tokenizer {model.tokenizer_hash[:24]}, "
        f"templates {model.template_hash[:24]}",
        f"  the chat template reads {', '.join(report.template_args) or 'no arguments'}"
        f"{' and prints the date' if report.prints_date else ''}; a turn ends with "
        + ", ".join(f"{token} ({', '.join(places)})" for token, places in report.ends.items()),
    ]
    if report.suppressed:
        lines.append("  never drawn: " + ", ".join(f"{token} ({text!r})" for token, text in report.suppressed.items()))
    if held:
        lines.append(
            f"an engine here: weights {_size(held.weights_bytes)}, KV cache {_size(held.kv_bytes)} for "
            f"{held.kv_tokens:,} tokens, {_size(held.set_aside_bytes)} set aside; {held.rows} rows, "
            f"{held.step_tokens:,} tokens a step, traces up to {held.model_tokens:,} tokens with their prompt"
        )
    return "\n".join(lines)


def _choices(report: Report) -> str:
    """Which code will run: what explains a difference in speed or in the last digits between two machines."""
    lines = [", ".join(f"{name} {version}" for name, version in report.versions.items())]
    if engine := report.engine:
        graphs = "eager" if engine.graphs == "NONE" else f"CUDA graphs {engine.graphs}"
        ahead = "scheduling ahead" if engine.schedules_ahead else "not scheduling ahead"
        lines.append(
            f"the engine: vLLM's {engine.runner} model runner, attention {engine.attention}, {engine.dtype}, {graphs}, "
            f"{ahead}"
        )
    calls = "in one call of torch's varlen kernel" if report.trainer.one_kernel else "one after the other"
    lines.append(
        f"the trainer, with dtype=auto: {report.trainer.dtype}, attention over joined sequences {calls}; padded "
        f"instead if a try at its start shows a difference"
    )
    return "\n".join(lines)


def _roles(report: Report) -> str:
    return "\n\n".join(
        f"── {prompt.role.replace('_', ' ')}: {len(prompt.token_ids)} tokens\n{_shortened(prompt.text)}\n"
        f"   ids {_shortened_ids(prompt.token_ids)}"
        for prompt in report.prompts
    )


def _items(report: Report) -> str:
    items = report.items
    if items is None:
        return "no file was named: give expert solutions to see prompts, bad items and a forecast"
    lines = [
        f"{items.items} items, {len(items.bad)} of them cannot run; {items.units} traces to draw; "
        f"longest prompt {items.longest_prompt_tokens:,} tokens (item {items.longest_prompt_item})",
        f"  {items.kinds.told()}"
        + (f"; too long, so that a part of the solution is dropped: {len(items.shortened)}" if items.shortened else ""),
    ]
    lines += [f"  item {bad.item_id}: {bad.code}: {bad.detail}" for bad in items.bad[:_SHOWN_ITEMS]]
    if len(items.bad) > _SHOWN_ITEMS:
        lines.append(f"  and {len(items.bad) - _SHOWN_ITEMS} more; --json lists all")
    return "\n".join(lines)


def _data(report: Report) -> str:
    """Of each kind of finding the first few."""
    if report.data_check is None:
        return ""
    lines = [f"data check: {report.data_check.told()}"]
    for kind, ids in report.data_check.ids().items():
        found = [one for one in report.data_check.findings if one.kind == kind]
        lines += [f"  item {one.item_id}: {one.detail}" for one in found[:_SHOWN_ITEMS]]
        if len(found) > _SHOWN_ITEMS:
            lines.append(f"  and {len(found) - _SHOWN_ITEMS} more like these, in {len(ids)} items; --json lists all")
    return "\n".join(lines)


def _preview(report: Report) -> str:
    shown, cost = report.preview, report.forecast
    if shown is None:
        return ""
    lines = [
        f"preview: {shown.num_engines} × {shown.engine}, started in {shown.start_s:.0f} s, drew for "
        f"{shown.draw_s:.0f} s; {shown.rows} rows, {shown.kv_tokens:,} tokens of KV cache"
    ]
    for trace in shown.traces:
        share = "" if trace.student_share is None else f", {trace.student_share:.2f} by the student"
        lines.append(f"  item {trace.item_id}: {trace.tokens:,} tokens{share}, ended by {trace.finish_reason}")
    if cost:
        between = f" ({cost.tokens_low:,} to {cost.tokens_high:,})" if cost.tokens_low is not None else ""
        unit = "GPU-hours" if report.device.kind == "cuda" else "engine-hours"
        lines.append(
            f"forecast of {cost.units} traces: {cost.tokens:,} tokens{between} at {cost.tokens_per_s:,.0f} tokens/s: "
            f"{cost.hours:.2g} hours, {cost.engine_hours:.2g} {unit}, {_size(cost.disk_bytes)} of shards"
        )
    return "\n".join(lines)


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    half = _SHOWN_CHARACTERS // 2
    return f"{text[:half]}\n   [… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"


def _shortened_ids(ids: tuple[int, ...]) -> str:
    if len(ids) <= 2 * _SHOWN_IDS:
        return " ".join(map(str, ids))
    return f"{' '.join(map(str, ids[:_SHOWN_IDS]))} … {' '.join(map(str, ids[-_SHOWN_IDS:]))}"


def _size(size: int) -> str:
    """Bytes, for people."""
    return f"{size / GIB:.3g} GiB" if size >= GIB else f"{size / 2**20:.3g} MiB"
