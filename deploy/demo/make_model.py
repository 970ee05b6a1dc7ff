"""Makes the demo model: a Qwen3 of one million weights that knows the lock of world.py, trained from nothing.

    python deploy/demo/make_model.py --out deploy/demo/model

The mixture below builds the situation of the paper. Asked as a student, the model works short problems turn by
turn, but answers long ones in the didactic style of its "textbooks": it jumps three turns at once, which it
cannot compute, and fails. Shown an expert solution it works turn by turn and now and then rationalizes, copying
a jump's result. Shown waypoints it jumps nearly always. So the skill is there and the habit is missing, and
DAIL's traces can teach the habit.

Four rounds, 2,080 steps of 32 examples in float32 (bfloat16 under autocast was slower on every count of threads
tried). The second round is there because looking up a jump's result is too rare in the mixture, the fourth
because a student who never works a long problem has nothing that a reverse KL could lift. About 8,000 tokens
a second on one free core and 13,000 on two; deploy/demo/model/README.md has what came out.
"""

import argparse
import copy
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jinja2
import torch
import torch.nn.functional as F
from tokenizer import CONTEXT_TOKENS, TURN_END, make_tokenizer
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from world import Lock, conclusion, expert_solution, problem, random_jumps, random_lock, trace

from dail.synth.method.waypoints import waypoints
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.models import ROLES, TEMPLATES

Role = Literal["student", "privileged_student", "negative_reference"]

BATCH_EXAMPLES = 32
CORPUS_LOCKS, CORPUS_SEED, REPORT_SEED = 1600, 2_000_001, 2_000_002
TEMPERATURE = 0.6
OLYMPIAD = Path(__file__).with_name("olympiad.jsonl")


@dataclass(frozen=True)
class Part:
    """One part of the mixture: who is asked, how many turns, how often a block is jumped, share of the examples.

    `worked`: this share of its answers has no jump at all. `answer_only`: the expert solution is its conclusion alone.
    """

    role: Role
    turns: tuple[int, int]
    jump_probability: float
    share: float
    worked: float = 0.0
    kind: type[Lock] = Lock
    answer_only: bool = False

    def draw(self, rng: random.Random, lesson: "Lesson") -> tuple[str, str]:
        """What the role is shown of a new problem, and the answer it is to learn."""
        shortest, longest = self.turns[0], min(self.turns[1], lesson.longest)
        lock = random_lock(rng, rng.randint(shortest, longest), lesson.largest_digit, self.kind)
        solution = conclusion(lock) if self.answer_only else expert_solution(lock)
        is_worked = self.worked > 0 and rng.random() < self.worked
        jumps = () if is_worked else random_jumps(rng, lock, self.jump_probability)
        return role_prompt(self.role, lock, solution), trace(lock, jumps)


MIXTURE = (
    Part("student", turns=(2, 6), jump_probability=0.0, share=0.30),
    Part("student", turns=(8, 14), jump_probability=0.97, share=0.10),
    Part("privileged_student", turns=(2, 14), jump_probability=0.2, share=0.38),
    Part("negative_reference", turns=(2, 14), jump_probability=0.85, share=0.22),
)
COPYING = (
    Part("student", turns=(2, 6), jump_probability=0.0, share=0.08),
    Part("student", turns=(8, 14), jump_probability=0.97, share=0.02),
    Part("privileged_student", turns=(2, 14), jump_probability=0.7, share=0.60),
    Part("negative_reference", turns=(2, 14), jump_probability=0.85, share=0.30),
)
"""Looking up a jump's result in the expert solution is too rare in the mixture to be learnt from it alone."""

REACHABLE = (
    Part("student", turns=(2, 6), jump_probability=0.0, share=0.25),
    Part("student", turns=(8, 14), jump_probability=0.9, share=0.25),
    Part("privileged_student", turns=(2, 14), jump_probability=0.2, share=0.32),
    Part("negative_reference", turns=(2, 14), jump_probability=0.85, share=0.18),
)
"""Leaves the student some probability of working a long problem: a reverse KL hardly lifts what has none."""

LONGEST = max(part.turns[1] for part in MIXTURE)


class Round(NamedTuple):
    """One pass of the learning rate from its height to nearly nothing."""

    num_steps: int
    learning_rate: float
    mixture: tuple[Part, ...]
    has_lessons: bool = False


ROUNDS = (
    Round(1200, 2e-3, MIXTURE, has_lessons=True),
    Round(400, 1.5e-3, COPYING),
    Round(240, 1e-3, MIXTURE),
    Round(240, 1e-3, REACHABLE),
)

_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
# Compiled once: pre-training renders a hundred thousand prompts.
_ROLE_TEMPLATES = {role: _JINJA.from_string((TEMPLATES / f"{role}.jinja").read_text("utf-8")) for role in ROLES}


class Lesson(NamedTuple):
    """What the examples of a step are limited to."""

    longest: int
    largest_digit: int


class Example(NamedTuple):
    """Token ids of a prompt and of the answer that the model is to give, turn's end included."""

    prompt_ids: list[int]
    answer_ids: list[int]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


def role_prompt(role: Role, lock: Lock, solution: str | None = None) -> str:
    """What a role is shown of this problem, by the templates the product uses; the expert's solution unless given."""
    solution = expert_solution(lock) if solution is None else solution
    return _ROLE_TEMPLATES[role].render(
        problem=problem(lock),
        kind="verifiable",
        solution=solution,
        waypoints=waypoints(solution, "verifiable", lock.answer),
        answer=lock.answer,
    )


def chat_prompt(tokenizer: PreTrainedTokenizerFast, content: str) -> str:
    """The conversation up to where the model is to write, thinking switched off."""
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False, enable_thinking=False
    )


def tokenizer_corpus() -> Iterator[str]:
    """Prompts and traces of the world, then the demo's olympiad problems where they are present."""
    rng = random.Random(CORPUS_SEED)
    for number in range(CORPUS_LOCKS):
        lock = random_lock(rng, rng.randint(2, LONGEST))
        yield role_prompt(MIXTURE[number % len(MIXTURE)].role, lock)
        yield trace(lock, random_jumps(rng, lock, 0.5))
    if OLYMPIAD.exists():
        for line in OLYMPIAD.read_text("utf-8").splitlines():
            yield from (value for value in json.loads(line).values() if isinstance(value, str))


def make_network(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.04,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def draw_examples(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, mixture: Sequence[Part], lesson: Lesson
) -> list[Example]:
    """A batch of the mixture, as far as the lesson allows."""
    before, after = chat_prompt(tokenizer, "CONTENT").split("CONTENT")
    parts = [part for part in mixture if part.turns[0] <= lesson.longest]
    prompts, answers = [], []
    for part in rng.choices(parts, [part.share for part in parts], k=BATCH_EXAMPLES):
        content, answer = part.draw(rng, lesson)
        prompts.append(before + content + after)
        answers.append(answer + TURN_END)
    return [Example(*ids) for ids in zip(_encode(tokenizer, prompts), _encode(tokenizer, answers), strict=True)]


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, padding=False)["input_ids"]


def train(
    network: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    round_: Round,
    seed: int = 0,
) -> list[float]:
    """Trains in place; returns the mean loss per answer token of each step."""
    num_steps, learning_rate, mixture, has_lessons = round_
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    longest = max(part.turns[1] for part in mixture)
    losses: list[float] = []
    started = time.monotonic()
    network.train()
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * learning_rate_factor(step, num_steps)
        examples = draw_examples(tokenizer, rng, mixture, lesson(step / num_steps if has_lessons else 1.0, longest))
        losses.append(accumulate_gradients(network, examples))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            recent = sum(losses[-100:]) / 100
            print(f"step {step + 1} of {num_steps}: loss {recent:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return losses


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Fifty steps of warm-up, then half a cosine down to 3 %."""
    return min(1.0, (step + 1) / 50) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / num_steps)))


def lesson(progress: float, longest: int) -> Lesson:
    """Small digits first, then all digits, then longer problems.

    Modulo ten, a sum says nothing about one of its digits alone, so gradients find no way in while all digits are
    equally likely. If a turn is by 0 or 1 the state alone nearly gives the result, and the rest follows.
    """
    digits, length = min(1.0, progress / 0.25), min(1.0, max(0.0, (progress - 0.25) / 0.25))
    return Lesson(longest=4 + int((longest - 4) * length), largest_digit=1 + int(8 * digits))


def accumulate_gradients(network: Qwen3ForCausalLM, examples: Sequence[Example]) -> float:
    """Adds the gradient of the mean loss; the shorter and the longer half apart, which saves padding."""
    ordered = sorted(examples, key=lambda example: example.num_tokens)
    num_answer_tokens = sum(len(example.answer_ids) for example in ordered)
    total = 0.0
    for half in (ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]):
        loss = summed_loss(network, half) / num_answer_tokens
        loss.backward()
        total += loss.item()
    return total


def summed_loss(network: Qwen3ForCausalLM, examples: Sequence[Example]) -> Tensor:
    """Cross entropy summed over the answers' tokens. Only these pass through the output layer. B examples, T tokens."""
    ids_BT = torch.zeros(len(examples), max(example.num_tokens for example in examples), dtype=torch.long)
    predicts_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids_BT[row, : example.num_tokens] = torch.tensor(example.prompt_ids + example.answer_ids)
        predicts_BT[row, len(example.prompt_ids) - 1 : example.num_tokens - 1] = True
    # Padding is on the right and attention is causal, so no attention mask is needed.
    hidden = network.model(ids_BT, use_cache=False).last_hidden_state[predicts_BT]
    return F.cross_entropy(network.lm_head(hidden), ids_BT.roll(-1, dims=1)[predicts_BT], reduction="sum")


@torch.no_grad()
def sample_answers(network: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> list[str]:
    """One sampled answer per prompt, at the paper's temperature."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
    ids_BT = network.generate(**inputs, max_new_tokens=192, do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0)
    return tokenizer.batch_decode(ids_BT[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def measure(
    network: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, role: Role, turns: tuple[int, int], count: int = 128
) -> tuple[float, float]:
    """Share of right answers, and share of blocks that were jumped, on fresh problems."""
    rng = random.Random(REPORT_SEED)
    locks = [random_lock(rng, rng.randint(*turns)) for _ in range(count)]
    network.eval()
    answers = sample_answers(network, tokenizer, [chat_prompt(tokenizer, role_prompt(role, lock)) for lock in locks])
    num_right = sum(final_answer(answer) == lock.answer for answer, lock in zip(answers, locks, strict=True))
    return num_right / count, sum(map(count_jumps, answers)) / sum(lock.num_blocks for lock in locks)


def count_jumps(answer: str) -> int:
    """Results that were stated without a sum: `ABC=554` has no plus."""
    return sum("=" in step and "+" not in step for step in answer.split())


def save(network: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights in bfloat16, tokenizer, chat template and generation config, as transformers and vLLM load them."""
    copy.deepcopy(network).to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    # Transformers 5 leaves its own name for the class there, which earlier versions do not know.
    _edit_json(out / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    GenerationConfig(
        do_sample=True,
        temperature=TEMPERATURE,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(out)


def _edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--go-on", type=int, default=0, help="rounds that the model in --out has behind it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="more threads than free cores make it slower")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer(tokenizer_corpus())
    network = make_network(tokenizer)
    if args.go_on:
        tokenizer = AutoTokenizer.from_pretrained(args.out)
        network = Qwen3ForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    for number, round_ in list(enumerate(ROUNDS))[args.go_on :]:
        train(network, tokenizer, round_, args.seed + number)
        save(network, tokenizer, args.out)
        network.to(torch.bfloat16).to(torch.float32)  # what was saved is what goes on and what is measured
    for role in ROLES:
        for turns in ((2, 6), (9, 12)):
            right, jumped = measure(network, tokenizer, role, turns)
            print(f"{role}, {turns[0]} to {turns[1]} turns: right {right:.2f}, blocks jumped {jumped:.2f}", flush=True)


if __name__ == "__main__":
    main()
