"""The mixed-policy rollout's rule as pure arithmetic (paper §2.1). No clock, no disk, no engine, no state.

    t ~ student(. | x, r)                  the student's proposal
    keep t   if privileged(t | x, s, r) >= tau
    else     draw from privileged(. | x, s, r)

With several proposals a position (`synthesis.proposals`, 5 in the authors' code) the first line is tried again, each
time anew, until a proposal is kept. `synthesis.proposer` may turn the two roles round: here they are the proposer and
the verifier.

Reading the logits is what costs, so each role's are read few times: one softmax serves all draws, the verdict and the
log-probability. Axes: P pairs or rows, V vocabulary, K candidates, N proposals, S suppressed tokens, B blocks of W
tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dail.synth.core.errors import ExtensionError
from dail.synth.core.extensions import FAULTS
from dail.synth.schema.synthesis import ACCEPTANCE, RULES, Acceptance

_BLOCK = 128  # divides most vocabularies, so that they need no padding
_AHEAD = 2**32  # positions from one proposal's random numbers to the next one's: more than any trace has
_NOWHERE = 2**62  # in a table of token ids: none
_kinds = list(RULES)  # by number in `Rule`; rules brought along follow as this process meets them


class OwnRule(Protocol):
    """A rule that somebody brought along, for `synthesis.acceptance=FILE.py:NAME`. It sees the whole distribution, so
    strategy lockstep draws by it; lazy and draft_verify refuse it, which see a part.

    A token of code is accepted if it is as likely as the average token is here, however flat the distribution:

        def typical(logprob_PV, token_PK, tau_P1):
            entropy_P1 = -(logprob_PV.exp() * logprob_PV.clamp(min=-1e4)).sum(-1, keepdim=True)  # 0 * -inf is no number
            return logprob_PV.gather(-1, token_PK) >= tau_P1.log() - entropy_P1

    A pure function of tensors: no number of its own (`.item()` would make the host wait in every step), and what it
    says of one row may not depend on the others.

    Args:
        logprob_PV: the natural log-probabilities of the verifier, who is the privileged student unless
            `proposer=privileged`, float32, at temperature 1, or at the row's with `probability_space=tempered` (-inf
            but for the likeliest token at temperature 0). A suppressed token has -inf, and the others what the model
            gives them; tempered, they add up to 1 without it.
        token_PK: K proposals in each of P rows.
        tau_P1: the row's tau.

    Returns:
        Whether each is accepted, bool [P, K].
    """

    def __call__(self, logprob_PV: Tensor, token_PK: Tensor, tau_P1: Tensor) -> Tensor: ...


def kind_number(kind: str) -> int:
    """The number of a rule's kind in this process. Raises ExtensionError if it is no rule."""
    if kind not in _kinds:
        _try_out(kind)
        _kinds.append(kind)
    return _kinds.index(kind)


def kind_of(number: int) -> str:
    return _kinds[number]


def _try_out(kind: str) -> None:
    """Calls an own rule once, since in an engine its error would cost the engine. Raises ExtensionError."""
    rule: OwnRule = ACCEPTANCE.load(kind)
    logprob_PV, token_PK = torch.zeros(2, 5).log_softmax(-1), torch.zeros(2, 3, dtype=torch.long)
    try:
        given = rule(logprob_PV, token_PK, torch.full((2, 1), 0.5))
    except FAULTS as error:
        raise ExtensionError(f"acceptance rule {kind} failed on a trial: {type(error).__name__}: {error}") from error
    if not isinstance(given, Tensor) or given.dtype != torch.bool or given.shape != token_PK.shape:
        got = f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise ExtensionError(
            f"acceptance rule {kind} gave {got} for 3 proposals in each of 2 rows; wanted torch.bool [2, 3]"
        )


@dataclass(frozen=True)
class Sampling:
    """How P rows draw. The flags say what matters at all, so that nobody has to ask the device.

    `suppressed_PS`: tokens that are never drawn, as `token_table` writes them; none where no row has any.
    """

    temperature_P: Tensor
    top_p_P: Tensor
    top_k_P: Tensor
    is_heated: bool  # some temperature is not 1
    is_cut: bool  # some row leaves the unlikely tokens out
    suppressed_PS: Tensor | None = None

    @classmethod
    def of(
        cls,
        settings: Sequence[tuple[float, float, int]],
        device: torch.device,
        suppressed: Sequence[Collection[int]] = (),
    ) -> Sampling:
        """`settings`: temperature (0 is greedy), top-p (1: all), top-k (0: all) of each row; `suppressed`: the tokens
        that it never draws."""
        temperature, top_p, top_k = zip(*settings, strict=True) if settings else ((), (), ())
        return cls(
            torch.tensor(temperature, device=device, dtype=torch.float32),
            torch.tensor(top_p, device=device, dtype=torch.float32),
            torch.tensor(top_k, device=device, dtype=torch.long),
            is_heated=any(value != 1 for value in temperature),
            is_cut=any(value != 1 for value in top_p) or any(top_k),
            suppressed_PS=torch.from_numpy(token_table(suppressed)).to(device) if any(suppressed) else None,
        )


def token_table(tokens: Sequence[Collection[int]]) -> np.ndarray:
    """Token ids of P rows side by side, int64 [P, S]; shorter rows are filled up with a number that is no token's."""
    table_PS = np.full((len(tokens), max(map(len, tokens), default=0)), _NOWHERE, np.int64)
    for row_S, ids in zip(table_PS, tokens, strict=True):
        row_S[: len(ids)] = sorted(ids)
    return table_PS


@dataclass(frozen=True)
class Rule:
    """When a proposal is accepted, for P rows; see `Acceptance`.

    `kinds` are those that some row has; `proposals_P`: how many a row may make at one position, one if left out;
    `greedy_P`: whether it proposes its likeliest tokens in their order, none where no row does.
    """

    kind_P: Tensor
    tau_P: Tensor
    k_P: Tensor
    tempered_P: Tensor
    kinds: frozenset[str]
    proposals_P: Tensor | None = None
    greedy_P: Tensor | None = None

    @classmethod
    def of(cls, rules: Sequence[Acceptance | None], device: torch.device, proposals: Sequence[int] = ()) -> Rule:
        """None: nothing is ever accepted."""
        kinds = [rule.kind if rule else None for rule in rules]
        return cls(
            torch.tensor([kind_number(kind) if kind else -1 for kind in kinds], device=device, dtype=torch.long),
            torch.tensor([rule.tau if rule else 0.0 for rule in rules], device=device, dtype=torch.float32),
            torch.tensor([rule.k if rule else 0 for rule in rules], device=device, dtype=torch.long),
            torch.tensor([bool(rule and rule.tempered) for rule in rules], device=device, dtype=torch.bool),
            frozenset(kind for kind in kinds if kind),
            torch.tensor(proposals, device=device, dtype=torch.long) if proposals else None,
        )


class Mixed(NamedTuple):
    """One step of P pairs. `proposal_P` is the first one, whichever was accepted. Log-probabilities are natural logs at
    temperature 1, float32, of the model as it is: nothing suppressed."""

    token_P: Tensor
    accepted_P: Tensor
    proposal_P: Tensor
    proposer_logprob_P: Tensor
    verifier_logprob_P: Tensor


def mix(proposer_PV: Tensor, verifier_PV: Tensor, sampling: Sampling, rule: Rule, uniform_PU: Tensor) -> Mixed:
    """Draws one token per pair from the two rows of logits.

    Args:
        proposer_PV, verifier_PV: logits of any float type; the arithmetic is in float32. In the paper the student
            proposes and the privileged student verifies.
        uniform_PU: in [0, 1), as `trace_uniforms` gives them: column 0 draws the first proposal, column 1 the
            verifier's own token, and the others, if there are any, the proposals that follow.
    """
    proposer, verifier = _View(proposer_PV, sampling), _View(verifier_PV, sampling)
    proposal_PN = proposer.propose(torch.cat([uniform_PU[:, :1], uniform_PU[:, 2:]], 1), rule)
    accepted_PN = verifier.accepts(proposal_PN, rule)
    if rule.proposals_P is not None:
        accepted_PN &= _counted(rule.proposals_P, proposal_PN.shape[1])
    accepted_P = accepted_PN.any(-1)
    kept_P = _at(proposal_PN, accepted_PN.int().argmax(-1))  # the first one
    token_P = torch.where(accepted_P, kept_P, verifier.draw(uniform_PU[:, 1:2])[:, 0])
    at_P1 = token_P[:, None]
    logprobs = (role.logprobs(at_P1)[:, 0] for role in (proposer, verifier))
    return Mixed(token_P, accepted_P, proposal_PN[:, 0], *logprobs)


def _counted(proposals_P: Tensor, most: int) -> Tensor:
    """Which of so many proposals a row makes, bool [P, most]."""
    return torch.arange(most, device=proposals_P.device) < proposals_P[:, None]


class OwnDraw(NamedTuple):
    """One step of P rows that one role draws by itself, and where the rule needs the proposer's word.

    `best_PK` are the likeliest tokens and `accepted_PK` whether a proposal of them would be accepted.
    `further_PN2`: what the row would propose after `token_P`, with log-probabilities, float64; token -1 where it makes
    no such proposal. Log-probabilities at temperature 1.
    """

    token_P: Tensor
    logprob_P: Tensor
    confident_P: Tensor
    verify_P: Tensor
    best_PK: Tensor
    best_logprob_PK: Tensor
    accepted_PK: Tensor
    further_PN2: Tensor


def draw_own(logits_PV: Tensor, sampling: Sampling, rule: Rule, uniform_PN: Tensor) -> OwnDraw:
    """One role's own draw, exact under a rule by which at most two tokens can be accepted.

    The proposer matters only where a token other than the drawn one would be accepted: if it proposes that token, be it
    with its last proposal, the token replaces the draw; whatever else it proposes, the draw is what the rule gives. So
    the trace is the one that `mix` would draw from the same numbers.

    Args:
        uniform_PN: in [0, 1): column 0 draws the token, the others what the row proposes after it.
    """
    view = _View(logits_PV, sampling)
    drawn_PN = view.propose(uniform_PN, rule)
    token_P = drawn_PN[:, 0]
    best_PK = view.logits_PV.topk(2, dim=-1).indices if rule.kinds else token_P[:, None].expand(-1, 2)
    accepted_PK = view.accepts(best_PK, rule)
    verify_P = (accepted_PK & (best_PK != token_P[:, None])).any(-1)
    logprob_P = view.logprobs(token_P[:, None])[:, 0]
    further_PN2 = torch.stack([drawn_PN.double(), view.logprobs(drawn_PN).double()], -1)[:, 1:]
    if rule.proposals_P is not None:
        made_PN = _counted(rule.proposals_P, drawn_PN.shape[1])[:, 1:]
        further_PN2 = torch.where(made_PN[..., None], further_PN2, -1.0)
    return OwnDraw(
        token_P, logprob_P, accepted_PK.any(-1), verify_P, best_PK, view.logprobs(best_PK), accepted_PK, further_PN2
    )


def draw(logits_PV: Tensor, sampling: Sampling, uniform_P: Tensor) -> Tensor:
    """One token per row by inverting the cumulative distribution; temperature 0 takes the first largest logit.

    One uniform number decides a draw, so a draw depends on nothing but its own row and seed.
    """
    return _View(logits_PV, sampling).draw(uniform_P[:, None])[:, 0]


class _View:
    """A role's logits [P, V] in float32, with what is computed from them once and used several times.

    A suppressed token has the logit -inf, so that it has no part in any draw or rank. What is told of the others at
    temperature 1, by `logprobs` and to a rule on raw probabilities, stays what the model gives them beside it.
    """

    def __init__(self, logits_PV: Tensor, sampling: Sampling) -> None:
        self.logits_PV = logits_PV.float()
        suppressed_P = None
        if sampling.suppressed_PS is not None:
            self.logits_PV, suppressed_P = _without(self.logits_PV, sampling.suppressed_PS)
        self._sampling = sampling
        self._greedy_P = sampling.temperature_P == 0
        self._heat_P1 = torch.where(self._greedy_P, 1.0, sampling.temperature_P)[:, None]
        self._peak_P, self._peak_at_P = self.logits_PV.max(-1)
        heated_PV = self.logits_PV / self._heat_P1 if sampling.is_heated else self.logits_PV
        self._probability_PV = heated_PV.softmax(-1)  # at the row's temperature
        if sampling.is_heated:
            self._log_drawn_P = self.logits_PV.logsumexp(-1)  # of the tokens that may be drawn
        else:  # the likeliest token's probability is never too small for a logarithm
            self._log_drawn_P = self._peak_P - _at(self._probability_PV, self._peak_at_P).log()
        self._log_total_P = self._log_drawn_P
        if suppressed_P is not None:
            self._log_total_P = torch.logaddexp(self._log_drawn_P, suppressed_P)

    def draw(self, uniform_PN: Tensor) -> Tensor:
        weights_PV = self._probability_PV
        if self._sampling.is_cut:
            weights_PV = _cut(weights_PV, self._sampling)
        return torch.where(self._greedy_P[:, None], self._peak_at_P[:, None], _pick(weights_PV, uniform_PN))

    def propose(self, uniform_PN: Tensor, rule: Rule) -> Tensor:
        """As `draw`, but the likeliest tokens in their order where a row is greedy: of those that could be drawn, and
        the first one again, which changes nothing, where there are no more."""
        drawn_PN = self.draw(uniform_PN)
        if rule.greedy_P is None:
            return drawn_PN
        left_PV, likeliest = self.logits_PV.clone(), []
        if self._sampling.is_cut:
            left_PV[_cut(self._probability_PV, self._sampling) == 0] = float("-inf")
        for _ in range(drawn_PN.shape[1]):  # not topk, which says nothing of the order of equals
            largest_P, at_P = left_PV.max(-1)
            likeliest.append(torch.where(largest_P == float("-inf"), self._peak_at_P, at_P))
            left_PV.scatter_(-1, at_P[:, None], float("-inf"))
        return torch.where(rule.greedy_P[:, None], torch.stack(likeliest, -1), drawn_PN)

    def logprobs(self, token_PK: Tensor) -> Tensor:
        """At temperature 1, of the model as it is."""
        return self.logits_PV.gather(-1, token_PK) - self._log_total_P[:, None]

    def accepts(self, token_PK: Tensor, rule: Rule) -> Tensor:
        """Whether a proposal of these tokens is accepted, by this role's distribution."""
        accepted_PK = torch.zeros_like(token_PK, dtype=torch.bool)
        built_in = {"absolute": self._absolute, "relative": self._relative, "topk": self._topk}
        for kind in rule.kinds:
            verdict = built_in.get(kind) or partial(self._own, ACCEPTANCE.load(kind))
            is_kind_P1 = rule.kind_P[:, None] == kind_number(kind)
            accepted_PK = torch.where(is_kind_P1, verdict(token_PK, rule), accepted_PK)
        if (suppressed_PS := self._sampling.suppressed_PS) is not None:
            accepted_PK &= ~(token_PK[:, :, None] == suppressed_PS[:, None, :]).any(-1)
        return accepted_PK

    def _absolute(self, token_PK: Tensor, rule: Rule) -> Tensor:
        probability_PK = self._probability_PV.gather(-1, token_PK)
        if self._sampling.is_heated:
            is_peak_PK = (token_PK == self._peak_at_P[:, None]).float()
            tempered_PK = torch.where(self._greedy_P[:, None], is_peak_PK, probability_PK)
            probability_PK = torch.where(rule.tempered_P[:, None], tempered_PK, self.logprobs(token_PK).exp())
        elif self._sampling.suppressed_PS is not None:
            share_P1 = (self._log_drawn_P - self._log_total_P).exp()[:, None]  # exactly 1 where nothing is suppressed
            probability_PK = torch.where(rule.tempered_P[:, None], probability_PK, probability_PK * share_P1)
        return probability_PK >= rule.tau_P[:, None]

    def _relative(self, token_PK: Tensor, rule: Rule) -> Tensor:
        below_PK = self.logits_PV.gather(-1, token_PK) - self._peak_P[:, None]
        tempered_PK = torch.where(self._greedy_P[:, None], (below_PK == 0).float(), (below_PK / self._heat_P1).exp())
        ratio_PK = torch.where(rule.tempered_P[:, None], tempered_PK, below_PK.exp())
        return ratio_PK >= rule.tau_P[:, None]

    def _own(self, own: OwnRule, token_PK: Tensor, rule: Rule) -> Tensor:
        logprob_PV = self.logits_PV - self._log_total_P[:, None]
        if self._sampling.is_heated:
            is_peak_PV = torch.arange(logprob_PV.shape[-1], device=logprob_PV.device) == self._peak_at_P[:, None]
            tempered_PV = torch.where(self._greedy_P[:, None], is_peak_PV.float(), self._probability_PV).log()
            logprob_PV = torch.where(rule.tempered_P[:, None], tempered_PV, logprob_PV)
        elif self._sampling.suppressed_PS is not None:
            tempered_PV = self.logits_PV - self._log_drawn_P[:, None]
            logprob_PV = torch.where(rule.tempered_P[:, None], tempered_PV, logprob_PV)
        return own(logprob_PV, token_PK, rule.tau_P[:, None])

    def _topk(self, token_PK: Tensor, rule: Rule) -> Tensor:
        ranks = [(self.logits_PV >= _at(self.logits_PV, token_P)[:, None]).sum(-1) for token_P in token_PK.T]
        return torch.stack(ranks, -1) <= rule.k_P[:, None]


def _without(logits_PV: Tensor, suppressed_PS: Tensor) -> tuple[Tensor, Tensor]:
    """The logits with -inf at each row's suppressed tokens, and the log of what these weigh together, [P]."""
    width = logits_PV.shape[-1]
    is_token_PS, at_PS = suppressed_PS < width, suppressed_PS.clamp(max=width - 1)
    weight_PS = torch.where(is_token_PS, logits_PV.gather(-1, at_PS), -torch.inf)
    # the smallest wins, as what is no token of this vocabulary shares a place with its last one
    lowered_PS = torch.where(is_token_PS, -torch.inf, torch.inf)
    return logits_PV.scatter_reduce(-1, at_PS, lowered_PS, "amin"), weight_PS.logsumexp(-1)


def _cut(probability_PV: Tensor, sampling: Sampling) -> Tensor:
    """Leaves the top-k likeliest tokens, and of these the fewest that have top-p of what is left; the rest weighs 0."""
    sorted_PV, order_PV = probability_PV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(sorted_PV.shape[-1], device=sorted_PV.device)
    kept_PV = (rank_V < sampling.top_k_P[:, None]) | (sampling.top_k_P[:, None] == 0)
    sorted_PV = sorted_PV * kept_PV
    before_PV = sorted_PV.cumsum(-1, dtype=torch.float64) - sorted_PV
    # top-p 1 keeps all, also where rounding makes the sum of a tail larger than the whole
    limit_P1 = torch.where(sampling.top_p_P < 1, sampling.top_p_P, torch.inf)[:, None] * sorted_PV.sum(-1, keepdim=True)
    return torch.zeros_like(sorted_PV).scatter_(-1, order_PV, sorted_PV * (before_PV < limit_P1))


def _pick(weights_PV: Tensor, uniform_PN: Tensor) -> Tensor:
    """The tokens of each row at which the running sum of the weights passes `uniform` of their total.

    Sums are float64, since a float32 running sum over 150,000 tokens loses the tail; they run over blocks first and
    then inside one block, since a running sum over the whole vocabulary costs as much as all else together.
    """
    blocks_PBW = functional.pad(weights_PV, (0, -weights_PV.shape[-1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    ends_PB = blocks_PBW.sum(-1, dtype=torch.float64).cumsum(-1)
    target_PN = _below(uniform_PN.double() * ends_PB[:, -1:], ends_PB[:, -1:])
    block_PN = torch.searchsorted(ends_PB, target_PN, right=True)
    before_PN = torch.where(block_PN > 0, ends_PB.gather(-1, (block_PN - 1).clamp(min=0)), 0.0)
    inside_PNW = blocks_PBW.take_along_dim(block_PN[:, :, None], 1).cumsum(-1, dtype=torch.float64)
    rest_PN = _below(target_PN - before_PN, inside_PNW[..., -1])
    return block_PN * _BLOCK + torch.searchsorted(inside_PNW, rest_PN[..., None], right=True)[..., 0]


def _below(target_PN: Tensor, total_PN: Tensor) -> Tensor:
    """Kept below the total, or rounding could land on a token of probability 0 behind the last one that has any."""
    return target_PN.minimum(total_PN.nextafter(torch.zeros_like(total_PN)))


def _at(values_PV: Tensor, index_P: Tensor) -> Tensor:
    return values_PV.gather(-1, index_P[:, None])[:, 0]


def mixed_distribution(student_V: Tensor, privileged_V: Tensor, accepted_V: Tensor, proposals: int = 1) -> Tensor:
    """The exact distribution of the next trace token, from the probabilities that the two draws have.

    With A the accepted tokens, a the student's mass on them and n proposals,

        P(t) = student(t) [t in A] (1 + r + … + r^(n-1)) + privileged(t) r^n     where r = 1 - a

    since the k-th proposal is reached if k - 1 were not accepted. The student writes t with its first term.
    """
    kept_V = student_V * accepted_V
    refused = 1 - kept_V.sum()
    return kept_V * sum(refused**tried for tried in range(proposals)) + privileged_V * refused**proposals


def uniforms(seed_P: Tensor, place_P: Tensor, draws: int = 2) -> Tensor:
    """Uniform numbers in [0, 1), float64 [P, draws], a pure function of seed and place in the trace, both int64 [P].

    The SplitMix64 generator read at `place * draws + k`: a resumed rollout draws what an unbroken one would have,
    whatever else is in the batch, and on whatever device. Products of int64 wrap as those of unsigned numbers do.
    """
    index_PK = place_P[:, None] * draws + torch.arange(1, draws + 1, device=place_P.device)
    z_PK = seed_P[:, None] + index_PK * _signed(0x9E3779B97F4A7C15)
    z_PK = (z_PK ^ _shifted(z_PK, 30)) * _signed(0xBF58476D1CE4E5B9)
    z_PK = (z_PK ^ _shifted(z_PK, 27)) * _signed(0x94D049BB133111EB)
    z_PK = z_PK ^ _shifted(z_PK, 31)
    return _shifted(z_PK, 11).double() * 2.0**-53


def trace_uniforms(seed_P: Tensor, place_P: Tensor, proposals: int = 1) -> Tensor:
    """The numbers of a place in a trace, float64 [P, 1 + proposals]: column 0 draws the first proposal, column 1 the
    token of whoever verifies, the others the proposals that follow.

    How many proposals there are changes no number, so traces differ only where a further proposal counts.
    """
    ahead_N = torch.arange(proposals, device=place_P.device) * _AHEAD
    place_PN = place_P[:, None] + ahead_N
    uniform_PN2 = uniforms(seed_P[:, None].expand(-1, proposals).flatten(), place_PN.flatten()).unflatten(
        0, (-1, proposals)
    )
    return torch.cat([uniform_PN2[:, 0], uniform_PN2[:, 1:, 0]], 1)


def _signed(number: int) -> int:
    """The int64 with the bits of this uint64."""
    return number - 2**64 if number >= 2**63 else number


def _shifted(number_PK: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in, as a shift of unsigned numbers does it."""
    return (number_PK >> bits) & (2 ** (64 - bits) - 1)
