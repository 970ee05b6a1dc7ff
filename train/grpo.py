"""GRPO (paper §3.1, App. B.4), the correctness-based baseline, by TRL's trainer with this project's prompts and grader.

    problem ─▶ the student's prompt, token ids as `dail eval` has them ─▶ rollouts ─▶ Grader: 1 or 0 ─▶ TRL ─▶ adapter

No solution is shown. With `hints` it is NuRL-style: a problem that the run before solved in none of its last rollouts
is asked with the waypoints of its solution, for the whole run. NuRL itself (Chen et al., 2025) has the model write the
hint, and gives it to a group of rollouts when all of it fails.

    dail grpo deploy/demo/expert_solutions.jsonl --model deploy/demo/model --out runs/grpo --set batch_size=8
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PrinterCallback, TrainerCallback

from dail.synth.core.config import TOOL_VERSION, fingerprint
from dail.synth.core.errors import IntegrityError, UsageError, few
from dail.synth.core.files import new_folder, replace_text
from dail.synth.data.reader import Reading
from dail.synth.method.grading import GRADERS, Grader
from dail.synth.method.prompts import Prompts
from dail.synth.schema.adapters import ADAPTER_CONFIG, adapter_rank, in_order
from dail.synth.schema.models import ModelIdentity, identify
from dail.synth.schema.synthesis import PROMPTS
from dail.train.checkpoint import ADAPTER_FOLDER, MODEL_FOLDER, held
from dail.train.grpo_asked import ROLLOUTS_FILE, Asked, asked_of, check_room, check_steps, last_rollouts
from dail.train.grpo_config import FREE_ON_RESUME, GrpoConfig
from dail.train.loading import load_base, read_config
from dail.train.merging import copy_others
from dail.train.model import read_limits
from dail.train.record import PROVENANCE_FILE
from dail.train.targets import describe, find_targets

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "TRL currently supports vLLM")  # which is not used unless engine=vllm
    from trl import GRPOConfig, GRPOTrainer

_log = logging.getLogger(__name__)

RUN_FILE, METRICS_FILE = "grpo.json", "metrics.jsonl"


@dataclass(frozen=True)
class Trained:
    """`folder`: adapter/ or model/. Of the `problems` that the steps came to, `solved` had a right one among their last
    rollouts; `hinted` were asked with a hint."""

    folder: Path
    steps: int
    problems: int
    solved: int
    hinted: int


class _Trainer(GRPOTrainer):
    """With prompts that are token ids already: TRL would render and tokenise them once more."""

    def __init__(self, asked: Sequence[Asked], **others: Any) -> None:
        self._ids = {one.problem.id: one.ids for one in asked}
        super().__init__(**others)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self._ids[name]) for name in prompts], None, {}


class _Metrics(TrainerCallback):
    """Each step's figures as a line of metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs and "reward" in logs:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
            _log.info(f"step {state.global_step} of {state.max_steps}: reward {logs['reward']:.3f}")


class _Reward:
    """The grader as TRL calls it. How many rollouts of each problem were right is kept, for a run after this one."""

    __name__ = "correct"

    def __init__(self, grader: Grader, prompts: Prompts, asked: Sequence[Asked], in_thought: bool, path: Path) -> None:
        self._grader, self._prompts, self._in_thought, self._path = grader, prompts, in_thought, path
        self._answers = {one.problem.id: one.problem.answer for one in asked}

    def __call__(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], trainer_state: Any, **_: Any
    ) -> list[float]:
        rewards = list[float]()
        right: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for name, ids in zip(prompts, completion_ids, strict=True):
            text = self._prompts.text([int(token) for token in ids])
            rewards.append(float(self._grader.grade(text, self._answers[name], self._in_thought).correct))
            right[name][0] += int(rewards[-1])
            right[name][1] += 1
        with open(self._path, "a", encoding="utf-8") as file:
            for name, (good, of) in right.items():
                line = {"step": trainer_state.global_step, "problem": name, "right": good, "of": of}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return rewards


def run(
    files: Sequence[str],
    model: Path,
    out: Path,
    config: GrpoConfig,
    *,
    after: Path | None = None,
    reading: Reading | None = None,
) -> Trained:
    """Trains on the problems of these files; a stopped run goes on from its last checkpoint.

    Args:
        files: problems with answers; with `hints`, expert solutions.
        after: the folder of a run that this one goes on from: its adapter or model, and which problems it solved.

    Raises:
        UsageError: a problem has no answer, fewer problems than a step takes, or another run's folder.
    """
    config = config.model_copy(update={"grader": GRADERS.pin(config.grader), "prompts": PROMPTS.pin(config.prompts)})
    identity, prompts = identify(model), Prompts(model)
    config = config.dated(identity.template_reads, _day_begun(out) or dt.date.today())
    config.check(identity.template_reads)
    asked = asked_of(files, prompts, config, after, (reading or Reading()).writing_to(out))
    check_steps(asked, config, PartialState().num_processes)
    check_room(asked, config, read_limits(model).context_tokens)
    _check_start(config, after)
    record = _record(identity, config, asked, after)
    _claim(out, record)
    folder = out / (MODEL_FOLDER if config.tune == "full" else ADAPTER_FOLDER)
    if folder.is_dir():
        _log.info(f"this run is finished: {folder}")
        return _told(folder, asked, out)
    if config.engine == "vllm":
        _log.info(
            "note: grpo.engine=vllm is TRL's own way, which nobody here has run; TRL 1.16 names vLLM 0.22 to 0.31"
        )
    lock = held(out) if PartialState().is_main_process else nullcontext()
    with lock, Grader(config.grade_timeout_s, config.grader) as grader:
        rollouts = out / ROLLOUTS_FILE.format(PartialState().process_index)
        reward = _Reward(grader, prompts, asked, prompts.is_in_thought(config), rollouts)
        trainer = _trainer(model, out, config, asked, after, prompts, reward)
        trainer.train(resume_from_checkpoint=_last_checkpoint(out))
    if PartialState().is_main_process:
        _save(trainer, model, folder, {**record, "steps": trainer.state.global_step})
    return _told(folder, asked, out)


def _day_begun(out: Path) -> dt.date | None:
    """The date that a run's prompts print, so that it goes on under the same on another day."""
    try:
        said = json.loads((out / RUN_FILE).read_text("utf-8"))["settings"]["date"]
        return dt.date.fromisoformat(said) if said else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or it is damaged, which is said where the folder is claimed


def _last_checkpoint(out: Path) -> str | None:
    """The newest whole one: a kill may have left the next in part, whose last file is missing."""
    whole = {
        int(path.parent.name.rpartition("-")[2]): path.parent for path in out.glob("checkpoint-*/trainer_state.json")
    }
    return str(whole[max(whole)]) if whole else None


def _check_start(config: GrpoConfig, after: Path | None) -> None:
    """What it goes on from is there, and of its own kind."""
    if after is None:
        return
    folder = after / (MODEL_FOLDER if config.tune == "full" else ADAPTER_FOLDER)
    if not folder.is_dir():
        raise UsageError(f"{after} has no finished {folder.name}; let that run end, or set grpo.tune as it was there")
    if config.tune == "lora" and (rank := adapter_rank(folder)) != config.lora_rank:
        raise UsageError(
            f"the adapter in {after} has rank {rank}, and grpo.lora_rank is {config.lora_rank}; set {rank}"
        )


def _record(identity: ModelIdentity, config: GrpoConfig, asked: Sequence[Asked], after: Path | None) -> dict[str, Any]:
    """What the run depends on, and what its folders say of it."""
    start = None if after is None else fingerprint(_json(after / RUN_FILE)["decisive"])
    settings = config.model_dump(mode="json", exclude=set(FREE_ON_RESUME))
    problems = fingerprint([[one.problem.model_dump(mode="json"), one.hint] for one in asked])
    return {
        "format": "dail.grpo/1",
        "run": {"method": "grpo", "model": identity.model_dump(mode="json"), "tool_version": TOOL_VERSION},
        "settings": config.model_dump(mode="json"),
        "problems": len(asked),
        "hinted": sum(one.hint is not None for one in asked),
        "decisive": {**settings, "model": identity.identity(), "problems": problems, "after": start},
    }


def _claim(out: Path, record: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error.strerror}; give another one") from None
    path = out / RUN_FILE
    if path.exists():
        theirs, ours = _json(path)["decisive"], json.loads(json.dumps(record["decisive"]))
        if other := [name for name in ours if theirs.get(name) != ours[name]]:
            said = [f"{name} {json.dumps(theirs.get(name))} there, {json.dumps(ours[name])} here" for name in other]
            raise UsageError(f"the run in {out} is another one: {few(said)}; give the same again, or another --out")
    elif any(one.name != "invalid.jsonl" for one in out.iterdir()):
        raise UsageError(f"{out} holds something that is no run of `dail grpo`; give another --out")
    if PartialState().is_main_process:
        replace_text(path, json.dumps(record, indent=1) + "\n")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
        return {"decisive": dict(found["decisive"])}
    except FileNotFoundError:
        raise UsageError(f"{path.parent} is no run of `dail grpo`: it has no {path.name}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{path} is damaged ({error!r}); choose another folder") from None


def _trainer(
    model: Path,
    out: Path,
    config: GrpoConfig,
    asked: Sequence[Asked],
    after: Path | None,
    prompts: Prompts,
    reward: _Reward,
) -> _Trainer:
    on_gpu = torch.cuda.is_available()
    dtype = {"auto": "bfloat16" if on_gpu else "float32"}.get(config.dtype, config.dtype)
    is_full = config.tune == "full"
    start = after / MODEL_FOLDER if after and is_full else model
    base = load_base(start, "float32" if is_full else dtype)
    base.generation_config.eos_token_id = sorted(prompts.stop_ids)  # a rollout ends where a completion does
    learner = base if is_full else _adapted(base, config, after)
    trainer = _Trainer(
        asked,
        model=learner,
        reward_funcs=[reward],
        args=_arguments(config, out, on_gpu),
        train_dataset=Dataset.from_list([{"prompt": one.problem.id} for one in asked]),
        processing_class=prompts.tokenizer,
        callbacks=[_Metrics(out / METRICS_FILE)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _adapted(base: Any, config: GrpoConfig, after: Path | None) -> Any:
    if after is not None:
        started = PeftModel.from_pretrained(base, after / ADAPTER_FOLDER, is_trainable=True)
        # by its folder here: PEFT looks for the bare name that is written there on the hub
        started.peft_config["default"].base_model_name_or_path = base.name_or_path
        return started
    targets = find_targets(base, "all-linear")
    torch.manual_seed(config.seed)
    adapted = get_peft_model(
        base, LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=list(targets.names))
    )
    for line in describe(adapted.get_base_model(), targets):
        _log.info(line)
    return adapted


def _arguments(config: GrpoConfig, out: Path, on_gpu: bool) -> GRPOConfig:
    """What is not named here is as TRL has it: no KL to the model before, advantages by a group's mean and spread."""
    size = config.batch_size * config.rollouts
    return GRPOConfig(
        output_dir=str(out),
        learning_rate=config.lr,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.microbatch,
        gradient_accumulation_steps=size // (config.microbatch * PartialState().num_processes),
        num_generations=config.rollouts,
        generation_batch_size=size,
        max_completion_length=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        loss_type="grpo",
        use_vllm=config.engine == "vllm",
        vllm_mode="colocate",
        seed=config.seed,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
        save_steps=config.checkpoint_every,
        save_total_limit=1,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
    )


def _save(trainer: _Trainer, base: Path, folder: Path, record: dict[str, Any]) -> None:
    learner = trainer.accelerator.unwrap_model(trainer.model)
    with new_folder(folder) as staged:
        if isinstance(learner, PeftModel):
            learner.save_pretrained(staged, save_embedding_layers=False)
            path = staged / ADAPTER_CONFIG  # without the folder of this machine
            config = json.loads(path.read_text("utf-8")) | {"base_model_name_or_path": base.resolve().name}
            path.write_text(json.dumps(in_order(config), indent=2, ensure_ascii=False) + "\n", "utf-8")
            (staged / "README.md").unlink(missing_ok=True)
        else:
            # in the type of the base, whose config.json is copied
            kept = getattr(read_config(base), "dtype", None) or torch.float32
            learner.to(kept).save_pretrained(staged)
            copy_others(base, staged, [*base.glob("*.safetensors"), *base.glob("*.safetensors.index.json")])
        (staged / PROVENANCE_FILE).write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def _told(folder: Path, asked: Sequence[Asked], out: Path) -> Trained:
    metrics = out / METRICS_FILE
    lines = metrics.read_text("utf-8").splitlines() if metrics.is_file() else []
    last = last_rollouts(out)
    solved = sum(right > 0 for right in last.values())
    if not solved:
        _log.warning("no rollout was right: every advantage was 0, and nothing was learned")
    steps = max((json.loads(line)["step"] for line in lines), default=0)
    return Trained(folder, steps, len(last), solved, sum(one.hint is not None for one in asked))
