"""What the student is compared with, and how: named references with weights, a divergence, temperatures (paper §2.2).

    references = {privileged = 1.0, negative = -0.1}     the paper's pair, as objective and gamma say it too
    references = {privileged = 0.8, student = 0.2}       interpolation with the base model on the student's own prompt

A reference is the frozen model behind one of the trace's contexts: `student`, `privileged`, `negative`, or another that
the shards have. With p the student's distribution, q_i a reference's and w_i its weight, a token's loss is
sum w_i D(p, q_i). It has a minimum, which finite logits reach, in these cases alone:

    reverse, jsd    if sum w_i > 0. At p_v → 0 their derivative by p_v goes to minus infinity times the sum: a positive
                    one keeps every token possible, another drives all probability onto a single token.
    forward         if no w_i is negative: the loss is a constant less sum r_v log p_v with r = sum w_i q_i, and where
                    a negative reference makes one r_v negative, log p_v → minus infinity takes the loss with it.

Settings only: no torch here. `divergences.py` has the formulas, `loss.py` the kernels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dail.synth.core.extensions import label
from dail.synth.schema.synthesis import COLUMNS
from dail.train.objective import is_own

if TYPE_CHECKING:
    from dail.train.config import TrainConfig

Divergence = Literal["reverse", "forward", "jsd"]
TokenWeights = Literal["none", "entropy", "disagreement", "position"]

PRIVILEGED, NEGATIVE, STUDENT = COLUMNS  # in the order in which references are added up
LEANING = 0.5  # of the positive weights: from there on the optimum leans to what the positive references find unlikely
_ROUNDING = 1e-9  # of all weights: a sum nearer to 0 is 0


@dataclass(frozen=True)
class Comparison:
    """A token's loss: sum over references of weight · D(student, reference), each of logits ÷ temperature.

    Args:
        weights: by name; their order is that of all sums.
        beta: of the generalised Jensen-Shannon divergence, the reference's share of the mixture.
    """

    weights: Mapping[str, float]
    divergence: Divergence = "reverse"
    beta: float = 0.5
    student_temperature: float = 1.0
    reference_temperature: float = 1.0

    @property
    def share(self) -> float:
        """Of all weights together."""
        return sum(self.weights.values())

    @property
    def folds(self) -> bool:
        """Whether a plain head lets the references be folded into one row of logits: `loss.py` says why."""
        return self.divergence == "reverse"


def comparison_of(config: TrainConfig) -> Comparison:
    """As the settings say. Without references for nll; an objective of one's own has the paper's pair, unweighted."""
    return Comparison(
        reference_weights(config),
        config.divergence,
        config.jsd_beta,
        config.student_temperature,
        config.reference_temperature,
    )


def reference_weights(config: TrainConfig) -> dict[str, float]:
    """By name, those of `references`, or what objective and gamma stand for."""
    if config.references:
        return dict(config.references)
    table = {
        "contrastive": {PRIVILEGED: 1.0, NEGATIVE: -config.gamma},
        "privileged_kl": {PRIVILEGED: 1.0},
        "negative_kl": {NEGATIVE: 1.0},
        "nll": {},
    }
    weights = {PRIVILEGED: 1.0, NEGATIVE: 1.0} if is_own(config.objective) else table[config.objective]
    return {name: weight for name, weight in weights.items() if weight}


def emphasis_names(config: TrainConfig) -> tuple[str, ...]:
    """The references whose distributions the token weights are made of: the first positive one, and the base model on
    the student's own prompt where they are held against each other."""
    if config.token_weights not in ("entropy", "disagreement"):
        return ()
    first = next(name for name, weight in reference_weights(config).items() if weight > 0)
    return (first,) if config.token_weights == "entropy" else (first, STUDENT)


def reference_names(config: TrainConfig) -> tuple[str, ...]:
    """The references that must be computed; no other context costs anything."""
    return tuple(dict.fromkeys((*reference_weights(config), *emphasis_names(config))))


def parsed(value: object) -> object:
    """`references` as a command line may spell it: NAME=WEIGHT,NAME=WEIGHT or JSON; anything else as it is.

    >>> parsed("privileged=1, negative=-0.1")
    {'privileged': 1.0, 'negative': -0.1}
    """
    if value in ("cached", "live"):
        raise ValueError(
            f"got {value}, which is a value of reference_states; set reference_states={value}. references are names of "
            "contexts with weights, as privileged=1,negative=-0.1"
        )
    if isinstance(value, str):
        value = _pairs(value)
    if isinstance(value, dict):
        if wrong := [name for name, weight in value.items() if isinstance(weight, bool)]:
            raise ValueError(f"{wrong[0]} has the weight {value[wrong[0]]}; wanted a number, as 1.0")
        known = {name: number for number, name in enumerate(COLUMNS)}
        return dict(sorted(value.items(), key=lambda one: (known.get(one[0], len(known)), str(one[0]))))
    return value


def _pairs(text: str) -> object:
    wanted = "wanted NAME=WEIGHT,NAME=WEIGHT, as privileged=1,negative=-0.1, or the same as JSON"
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            raise ValueError(f"got {text!r}, which is no JSON ({error}); {wanted}") from None
    pairs, parts = [], [part for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"got {text!r}; {wanted}")
    for part in parts:
        name, sep, number = part.partition("=")
        try:
            if not sep:
                raise ValueError
            pairs.append((name.strip(), float(number)))
        except ValueError:
            raise ValueError(f"got {part.strip()!r}; {wanted}") from None
    return _once(pairs)


def _once(pairs: list[tuple[str, float]]) -> dict[str, float]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} has two weights; give one")
    return dict(pairs)


def check(config: TrainConfig) -> None:
    """Raises ValueError for settings that contradict each other, or under which the loss has no minimum."""
    own, is_default = is_own(config.objective), config.objective == "contrastive"
    if config.references:
        if not is_default:
            raise ValueError(
                f"references are weighed by themselves, and objective={config.objective} says which ones; leave one out"
            )
        if config.gamma != type(config).model_fields["gamma"].default:
            raise ValueError(
                f"gamma={config.gamma} is the weight of the negative reference where references are left out; write "
                f"references=privileged=1,negative={-config.gamma:g}, or leave gamma out"
            )
        check_weights(config.references, config.divergence)
    elif is_default and config.gamma and config.divergence == "forward":
        check_weights(reference_weights(config), "forward")
    if config.jsd_beta != type(config).model_fields["jsd_beta"].default and config.divergence != "jsd":
        raise ValueError(f"jsd_beta={config.jsd_beta} is of divergence=jsd, and divergence={config.divergence}")
    if own or config.objective == "nll":
        _check_without_comparison(config, own)
    if emphasis_names(config) == (STUDENT, STUDENT):
        raise ValueError(
            "token_weights=disagreement is between the base model on the student's own prompt and the first positive "
            "reference, which is that same one here; take another reference or other token_weights"
        )


def _check_without_comparison(config: TrainConfig, own: bool) -> None:
    """Of an objective that compares with no reference, or does it by itself."""
    unused = ["divergence", "reference_temperature", *(["student_temperature"] if own else [])]
    for name in unused:
        if (value := getattr(config, name)) != type(config).model_fields[name].default:
            why = "an objective of your own compares by itself" if own else "nll compares with no reference"
            raise ValueError(f"{name}={value} has no effect: {why}; leave it out")
    if not own and config.token_weights in ("entropy", "disagreement"):
        raise ValueError(
            f"token_weights={config.token_weights} is made of a reference, and nll has none; take position or none"
        )


def check_weights(weights: Mapping[str, float], divergence: Divergence) -> None:
    """Raises ValueError for weights under which the loss has no minimum: see above."""
    shown = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    for name, weight in weights.items():
        if not name.strip() or name != name.strip():
            raise ValueError(f"got a reference named {name!r}; wanted the name of a context, as privileged")
        if not math.isfinite(weight):
            raise ValueError(f"{name} has the weight {weight}; wanted a finite number")
        if weight == 0:
            raise ValueError(f"{name} has the weight 0 and would count nothing; leave it out")
    if all(weight < 0 for weight in weights.values()):
        raise ValueError(
            f"no weight is positive ({shown}), so the objective is unbounded: it rewards distance alone; give one "
            "reference a positive weight, as privileged=1"
        )
    if divergence == "forward" and (away := [name for name, weight in weights.items() if weight < 0]):
        raise ValueError(
            f"divergence=forward with the negative weight of {away[0]} ({shown}) makes the objective unbounded: where "
            f"{away[0]} is likelier than the others, the loss falls for ever as the student's probability goes to 0; "
            "take reverse or jsd, or positive weights (gamma=0)"
        )
    total, size = math.fsum(weights.values()), math.fsum(map(abs, weights.values()))
    if total <= _ROUNDING * size:
        raise ValueError(
            f"the weights make the objective unbounded: their sum is {total:.3g} ({shown}), wanted more than 0; else "
            "the optimum puts all probability on tokens that the positive references find impossible; make negative "
            "weights smaller (the paper's are privileged 1, negative -0.1)"
        )


def leaning(config: TrainConfig) -> str | None:
    """What to warn of: negative weights that weigh much against the positive ones."""
    weights = {} if is_own(config.objective) else reference_weights(config)
    away, to = (sum(abs(w) for w in weights.values() if (w < 0) is sign) for sign in (True, False))
    if away <= LEANING * to:
        return None
    what = f"the negative weights, {away / to:.3g} of the positive ones, are" if config.references else None
    return (
        f"{what or f'gamma {config.gamma} is'} above {LEANING}; from there on the optimum leans to tokens that the "
        "positive references find unlikely; the paper uses 0.1"
    )


def facts_of(config: TrainConfig) -> dict[str, object]:
    """What was minimised, for people; of what came later than objective and gamma only what is not the paper's."""
    facts: dict[str, object] = {"objective": label(config.objective)}
    if config.references:
        facts["references"] = ", ".join(f"{name} {weight:g}" for name, weight in config.references.items())
    else:
        uses_gamma = config.objective == "contrastive" or is_own(config.objective)
        facts["gamma"] = config.gamma if uses_gamma else "not used"
    if config.divergence != "reverse":
        beta = f", beta {config.jsd_beta:g}" if config.divergence == "jsd" else ""
        facts["divergence"] = f"{config.divergence}{beta}"
    temperatures = config.student_temperature, config.reference_temperature
    if temperatures != (1.0, 1.0):
        facts["temperatures"] = "student {:g}, references {:g}".format(*temperatures)
    if config.token_weights != "none":
        facts["token weights"] = config.token_weights
    return facts
