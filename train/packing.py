"""How sequences go through a model together: joined end to end, padded, or not at all; by proof, before step 1.

What another sequence says must not reach a trace. Whether it does is tried out on made-up ids, whatever the data:

- Change one sequence of the probe, and no bit of the others may change.
- Where bits change without a leak (experts multiply whoever comes to them, in other groups), the changed sequence is
  made of NaN instead: arithmetic carries one on to whatever it reaches.
- All of them must be what each is alone, in transformers' own plain attention: on the probe with windows so short that
  it is longer, then on the longest of the real sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dail.synth.core.errors import UsageError
from dail.train.attention import PACKED, PADDED, register
from dail.train.data import Example, pack, pad
from dail.train.distributed import Ranks
from dail.train.model import Roles

_log = logging.getLogger(__name__)

Packing = Literal["auto", "on", "off"]
_ALONE = Ranks()
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2}  # relative, of a token's hidden state
_PROBE_TOKENS = (29, 23, 37)  # of its sequences
_SHORT = 5  # tokens of windows and the like during a probe, so that every sequence is longer
# What says, in configurations and modules, from how many tokens on a model does something else.
_WIDTHS = ("sliding_window", "sliding_window_size", "window_size", "attention_window", "attention_window_size",
           "attention_chunk_size", "floor_scale")  # fmt: skip

Ids = list[int]
Read = Callable[[Sequence[Ids]], list[Tensor]]


@dataclass(frozen=True)
class Way:
    """One of the ways to try, in words, with the attention that transformers is told to use."""

    name: str
    attention: str
    packs: bool = False
    alone: bool = False

    @contextmanager
    def taken(self, roles: Roles) -> Iterator[Roles]:
        """The roles that way, for as long as no other is tried."""
        roles.peft.get_base_model().set_attn_implementation(self.attention)
        if self.attention in (PACKED, PADDED) and roles.decoder.config._attn_implementation != self.attention:
            raise NotImplementedError("transformers cannot tell it which attention to use")
        yield replace(roles, packs=self.packs, alone=self.alone)


_PLAIN = Way("one by one", "eager", alone=True)  # what the others are held against
_WAYS = (
    Way("joined", PACKED, packs=True),
    Way("padded", PADDED),
    Way("padded", "eager"),
    Way("one by one", PADDED, alone=True),
    _PLAIN,
)


def choose_packing(
    roles: Roles, examples: Sequence[Example], packing: Packing = "auto", ranks: Ranks = _ALONE
) -> Roles:
    """The roles with the fastest way that is proven to give each sequence what it gets alone; why no faster is said.

    Args:
        examples: of the run; the longest sequences are read.
        ranks: all of them take the same way.

    Raises:
        UsageError: the model is not causal; packing is `on` and cannot be proven; the weights are divided and every
            sequence has to go alone, for which ranks are never in step.
        torch.OutOfMemoryError: the longest sequences do not fit.
    """
    register()
    with torch.no_grad():
        trial = _Trial.of(roles, examples)
        reasons: dict[str, str] = {}
        for way in _WAYS:
            if way.packs and packing == "off":
                continue
            reason = next(filter(None, ranks.gather(trial.why_not(way))), None)
            if reason is None:
                break
            reasons.setdefault(way.name, reason)
            if way.packs and packing == "on":
                raise UsageError(f"packing=on, but {trial.kind} models cannot be packed: {reason}; set packing=auto")
        roles.peft.get_base_model().set_attn_implementation(way.attention)
    for name, reason in reasons.items():
        if name != way.name:
            _log.info(
                f"sequences are {'read ' if way.alone else ''}{way.name}, which takes longer: in {trial.kind} models "
                f"they cannot be {name} on the {roles.device.type} with torch {torch.__version__} ({reason})"
            )
    if way.alone and ranks.share_weights:
        raise UsageError(
            f"sequences of {trial.kind} models go through one by one, which ranks that divide the weights cannot do in "
            "step; leave shard_weights off"
        )
    return replace(roles, packs=way.packs, alone=way.alone)


@dataclass(frozen=True)
class _Trial:
    """What ways are tried on, and what must come of it."""

    roles: Roles
    probe: list[Ids]
    probe_alone: list[Tensor]
    longest: list[Ids]

    @classmethod
    def of(cls, roles: Roles, examples: Sequence[Example]) -> _Trial:
        vocabulary = min(len(roles.peft.get_base_model().get_input_embeddings().weight), 1000)
        draw = torch.Generator().manual_seed(0)
        context = getattr(roles.peft.config.get_text_config(), "max_position_embeddings", None) or _PROBE_TOKENS[-1]
        lengths = [min(length, context) for length in _PROBE_TOKENS]
        probe = [torch.randint(vocabulary, (length,), generator=draw).tolist() for length in lengths]
        with _PLAIN.taken(roles) as plain, short_windows(roles.peft):
            alone = _read(plain, probe)
            _refuse_looking_ahead(plain, probe, alone)
            return cls(roles, probe, alone, _longest(examples))

    @property
    def kind(self) -> str:
        return self.roles.peft.config.model_type

    def why_not(self, way: Way) -> str | None:
        """What is wrong with it, in words; none if nothing is."""
        if way == _PLAIN:
            return None
        try:
            with way.taken(self.roles) as roles:
                return self._tried(roles)
        except torch.OutOfMemoryError:
            raise
        except Exception as problem:  # whatever a model or a kernel may raise, another way is there
            return f"{type(problem).__name__}: {problem}"

    def _tried(self, roles: Roles) -> str | None:
        limit = _TOLERANCE[self.probe_alone[0].dtype]
        with short_windows(roles.peft):
            found = _read(roles, self.probe)
            if not roles.alone and (leak := self._leak(roles, found, limit)):
                return leak
        if (error := _worst(found, self.probe_alone)) > limit:
            return f"hidden states are off by {error:.2g}"
        if roles.alone:
            return None
        alone = _read(replace(roles, packs=False, alone=True), self.longest)
        if (error := _worst(_read(roles, self.longest), alone)) > limit:
            return f"hidden states of the longest sequences are off by {error:.2g}"
        return None

    def _leak(self, roles: Roles, found: list[Tensor], limit: float) -> str | None:
        """The first and the middle sequence are changed, in turn."""
        for changed in (0, 1):
            probe = [[*ids] for ids in self.probe]
            probe[changed] = [*reversed(probe[changed])]
            now = _read(roles, probe)
            others = [i for i in range(len(probe)) if i != changed]
            if all(torch.equal(found[i], now[i]) for i in others):
                continue
            if (error := _worst([now[i] for i in others], [found[i] for i in others])) > limit:
                return f"one sequence changes another's hidden states by {error:.2g}"
            if roles.packs and (reached := self._poisoned(roles, changed)):
                return reached
        return None

    def _poisoned(self, roles: Roles, which: int) -> str | None:
        begin = sum(map(len, self.probe[:which]))
        part = slice(begin, begin + len(self.probe[which]))

        def poison(module: torch.nn.Module, args: Any, embedded_1TD: Tensor) -> Tensor:
            embedded_1TD = embedded_1TD.clone()
            embedded_1TD[:, part] = torch.nan
            return embedded_1TD

        hook = roles.peft.get_base_model().get_input_embeddings().register_forward_hook(poison)
        try:
            found = _read(roles, self.probe)
        finally:
            hook.remove()
        reached = [i for i in range(len(found)) if i != which and bool(found[i].isnan().any())]
        return "what one sequence says reaches another" if reached else None


def _read(roles: Roles, sequences: Sequence[Ids]) -> list[Tensor]:
    """Hidden states of every token but the last, by sequence [T, D]."""
    join = pack if roles.packs else pad
    batch = join([ids[:1] for ids in sequences], [ids[1:] for ids in sequences], roles.device)
    return list(roles.student(batch).split([len(ids) - 1 for ids in sequences]))


def _refuse_looking_ahead(roles: Roles, sequences: Sequence[Ids], found: Sequence[Tensor]) -> None:
    """A model that reads the token it is asked to predict learns nothing from the loss."""
    changed = _read(roles, [[*ids[:-1], ids[0]] for ids in sequences])
    if (error := _worst(changed, found)) > _TOLERANCE[found[0].dtype]:
        raise UsageError(
            f"{roles.peft.config.model_type} models look ahead: another last token changes hidden states before it by "
            f"{error:.2g}; wanted a causal model (for some, is_decoder=true in config.json); train another one"
        )


def _worst(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest relative error of the middle token, in any quarter of any sequence.

    The middle, because a token whose experts nearly tie may get others by rounding alone; a quarter, because a window
    or a factor may matter from some position on only.
    """
    errors = []
    for ours_TD, theirs_TD in zip(found, wanted, strict=True):
        error_T = (ours_TD - theirs_TD).float().norm(dim=-1) / theirs_TD.float().norm(dim=-1).clamp_min(1e-30)
        errors += [float(part.nanmedian()) if part.isfinite().all() else torch.inf for part in error_T.chunk(4)]
    return max(errors)


def _longest(examples: Sequence[Example]) -> list[Ids]:
    """The two longest sequences of any role, and the shortest before them."""
    contexts = [
        (len(prompt) + len(e.trace_ids), prompt, e.trace_ids)
        for e in examples
        for prompt in (e.student_prompt_ids, e.privileged_prompt_ids, e.negative_prompt_ids)
    ]
    contexts.sort(key=lambda context: context[0])
    return [[*prompt, *trace] for _, prompt, trace in (contexts[0], contexts[-1], contexts[-2])]


@contextmanager
def short_windows(peft: Any, of_less_than: float = torch.inf) -> Iterator[None]:
    """Windows, chunks and the like are shorter than a probe's sequences meanwhile, or those of less than so much."""
    owners = {id(module): module for module in peft.modules()}
    for module in peft.modules():
        for name in ("config", "text_config"):
            if (config := getattr(module, name, None)) is not None:
                owners[id(config)] = config
    changed = []
    try:
        for owner in owners.values():
            for name in _WIDTHS:
                value = vars(owner).get(name)
                if isinstance(value, int | float) and not isinstance(value, bool) and _SHORT < value < of_less_than:
                    changed.append((owner, name, value))
                    setattr(owner, name, _SHORT)
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)
