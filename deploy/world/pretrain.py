"""Makes the world's model out of the demo's: two rounds that teach longer problems, a second task and other habits.

    python deploy/world/pretrain.py --out runs/world/model

Weights start as deploy/demo/model's, which make_model.py there makes from nothing; the tokenizer is learnt anew, as it
must know more labels. README.md beside this file gives the reason of every number below.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import demo_path  # noqa: F401
import torch
from gauge import Gauge
from make_model import Part, Round, make_network, role_prompt, save, train
from tokenizer import make_tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM
from world import random_jumps, random_lock, trace

DEMO_MODEL = Path(__file__).parents[1] / "demo" / "model"
CORPUS_LOCKS, CORPUS_SEED, SEED = 2400, 3_000_001, 100
LONGEST = 18

SKILLS = (
    Part("student", turns=(2, 6), jump_probability=0.0, share=0.12),
    Part("student", turns=(7, LONGEST), jump_probability=0.97, worked=0.3, share=0.16),
    Part("privileged_student", turns=(2, LONGEST), jump_probability=0.5, share=0.30),
    Part("privileged_student", turns=(2, LONGEST), jump_probability=0.5, share=0.06, answer_only=True),
    Part("negative_reference", turns=(2, LONGEST), jump_probability=0.95, share=0.22),
    Part("student", turns=(2, 14), jump_probability=0.97, worked=0.7, share=0.14, kind=Gauge),
)
HABITS = (
    Part("student", turns=(2, 6), jump_probability=0.0, share=0.18),
    Part("student", turns=(7, LONGEST), jump_probability=0.97, worked=0.1, share=0.24),
    Part("privileged_student", turns=(2, LONGEST), jump_probability=0.5, share=0.27),
    Part("privileged_student", turns=(2, LONGEST), jump_probability=0.5, share=0.05, answer_only=True),
    Part("negative_reference", turns=(2, LONGEST), jump_probability=0.95, share=0.14),
    Part("student", turns=(2, 14), jump_probability=0.97, worked=0.35, share=0.12, kind=Gauge),
)
GAUGE = (
    Part("student", turns=(2, 6), jump_probability=0.0, share=0.13),
    Part("student", turns=(7, LONGEST), jump_probability=0.97, worked=0.1, share=0.17),
    Part("privileged_student", turns=(2, LONGEST), jump_probability=0.5, share=0.20),
    Part("privileged_student", turns=(2, LONGEST), jump_probability=0.5, share=0.04, answer_only=True),
    Part("negative_reference", turns=(2, LONGEST), jump_probability=0.95, share=0.11),
    Part("student", turns=(2, 14), jump_probability=0.97, worked=0.35, share=0.35, kind=Gauge),
)
"""The same habits with more of the gauge, whose model worked it and then wrote another number into the box."""

ROUNDS = (Round(300, 1.5e-3, SKILLS), Round(160, 8e-4, HABITS), Round(110, 1e-3, GAUGE))


def tokenizer_corpus() -> Iterator[str]:
    """Prompts and traces of both tasks, long ones among them."""
    rng = random.Random(CORPUS_SEED)
    for number in range(CORPUS_LOCKS):
        part = SKILLS[number % len(SKILLS)]
        lock = random_lock(rng, rng.randint(2, LONGEST), kind=part.kind)
        yield role_prompt(part.role, lock)
        yield trace(lock, random_jumps(rng, lock, 0.5))


def transplanted(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """The demo's weights under another tokenizer: a token starts as the mean of what the demo's makes of its text."""
    network = make_network(tokenizer)
    demo = Qwen3ForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    weights = demo.state_dict()
    rows = _rows(tokenizer, AutoTokenizer.from_pretrained(DEMO_MODEL), demo.model.embed_tokens.weight.detach())
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = rows
    network.load_state_dict(weights)
    return network


def _rows(tokenizer: PreTrainedTokenizerFast, old: PreTrainedTokenizerFast, embeddings_VM: Tensor) -> Tensor:
    named = old.get_vocab()
    rows = []
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        ids = [named[token]] if token in named else old(tokenizer.decode([number]))["input_ids"]
        rows.append(embeddings_VM[ids].mean(dim=0))
    return torch.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--go-on", type=int, default=0, help="rounds that the model in --out has behind it")
    parser.add_argument("--threads", type=int, default=1, help="more threads than free cores make it slower")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    if args.go_on:
        tokenizer = AutoTokenizer.from_pretrained(args.out)
        network = Qwen3ForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    else:
        tokenizer = make_tokenizer(tokenizer_corpus())
        network = transplanted(tokenizer)
    for number, round_ in list(enumerate(ROUNDS))[args.go_on :]:
        train(network, tokenizer, round_, SEED + number)
        save(network, tokenizer, args.out)
        network.to(torch.bfloat16).to(torch.float32)  # what was saved is what goes on and what is measured


if __name__ == "__main__":
    main()
