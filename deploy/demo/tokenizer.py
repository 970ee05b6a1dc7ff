"""The demo model's tokenizer: byte-level BPE in which a digit is a token and the prompts' boilerplate costs little.

Any text survives encoding and decoding, since every byte is in the vocabulary. Merges may cross spaces, so that
a sentence of a role template becomes one token; digits and line breaks are never merged with anything else,
because the model is to compute digit by digit.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 1024
CONTEXT_TOKENS = 2048
PAD, TURN_START, TURN_END, THINK, THINK_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"

# ChatML with Qwen3's switch: enable_thinking=False answers for the model with an empty thought.
CHAT_TEMPLATE = r"""
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\n\n</think>\n\n' -}}
{%- endif -%}
{%- endif -%}
""".lstrip()


def make_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learns the merges from the corpus; fewer than VOCAB_SIZE tokens where it has no more pairs to merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[0-9]|\n+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # The names of roles stand alone between a special token and a line break.
    tokenizer.train_from_iterator([*corpus, *["system\n", "user\n", "assistant\n"] * 100], _trainer())
    for token in (PAD, TURN_START, TURN_END):
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    # Not special, as in Qwen3: a thought is text that a reader may want to see.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in (THINK, THINK_END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        model_max_length=CONTEXT_TOKENS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _trainer() -> trainers.BpeTrainer:
    num_added = len((PAD, TURN_START, TURN_END, THINK, THINK_END))
    return trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - num_added,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
