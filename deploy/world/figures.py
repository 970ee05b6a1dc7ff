"""The experiment's tables and picture: every arm, every claim with its interval, gamma. JSON, Markdown and SVG;
and, once all arms are there that the paper has, the results.json that `dail paper` shows as ours.

    python deploy/world/figures.py runs/world/experiment

Intervals are of 95 %: a bootstrap that draws seeds and problems anew, both with replacement; of a comparison the same
seeds and problems on both sides. With one seed it is over problems alone. A claim holds if its whole interval is above
0, is contradicted if it is below, and is open else.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import demo_path  # noqa: F401
import numpy as np
from as_paper import RUNS, as_results
from make_sets import CANDIDATES, HOTTER, JUDGED, locks
from numpy.typing import NDArray
from picture import GAMMAS, OF_GAMMA, Figures, picture

from dail.serve.paper.results import RESULTS_FILE, write_results
from dail.synth.schema.controls import CONTROLS
from dail.train.evals.passk import pass_at_k

RESAMPLES = 4000
GROUPS = ("train", *JUDGED)
Counts = NDArray[np.int64]  # seeds, problems, samples, and right, jumped blocks, tokens
Values = NDArray[np.float64]  # seeds, problems


class Claim(NamedTuple):
    """That `better` exceeds `worse` in pass@k of a group; none of the paper's is about our groups by name."""

    text: str
    where: str
    better: str
    worse: str
    group: str
    k: int


def _claims() -> Iterable[Claim]:
    dail, nll, kl, negative = "DAIL, direct", "NLL, direct", "privileged KL, direct", "negative KL, direct"
    for k in (1, 8):
        yield Claim("DAIL is better than the base model", "Fig. 2", dail, "base", "harder", k)
        yield Claim("SFT on expert solutions harms", "Fig. 3", "base", "SFT", "harder", k)
        yield Claim("STaR harms", "Fig. 3", "base", "STaR", "harder", k)
        yield Claim("contrastive is better than NLL, direct", "Fig. 5", dail, nll, "harder", k)
        yield Claim("contrastive is better than NLL, mixed", "Fig. 5", "DAIL, mixed", "NLL, mixed", "harder", k)
        yield Claim("contrastive is better than privileged KL", "Tab. 4", dail, kl, "harder", k)
        yield Claim("privileged KL is better than the base model", "Tab. 4", kl, "base", "harder", k)
        yield Claim("negative KL harms", "Tab. 4", "base", negative, "harder", k)
        yield Claim("NLL is better than DAIL on what was trained on", "Fig. 6", nll, dail, "train", k)
        yield Claim("direct is better than mixed, no reasoning model", "Fig. 7", dail, "DAIL, mixed", "harder", k)
        yield Claim("DAIL helps in another domain", "Tab. 1", dail, "base", "other", k)
        yield Claim("gamma 0.1 is better than 0.3", "App. B.3", dail, f"{dail}, gamma 0.3", "harder", k)
        yield Claim("gamma 0.1 is better than 0.5", "App. B.3", dail, f"{dail}, gamma 0.5", "harder", k)
    for heat in HOTTER:
        hot = f"base, temperature {heat:g}"
        yield Claim(f"DAIL is better than the base model at temperature {heat:g}", "Fig. 3", dail, hot, "harder", 8)
    for control in CONTROLS:
        yield Claim(f"DAIL is better than the control {control}", "none", dail, f"control: {control}", "harder", 1)
    for gamma in ("", ", gamma 0.3", ", gamma 0.5"):
        arm = dail + gamma
        yield Claim(
            f"{arm}: references at 0.6 are better than at 1", "none", f"{arm}, references at 0.6", arm, "same", 1
        )
    for gamma in ("0.3", "0.5"):
        yield Claim(f"gamma {gamma} is better than NLL", "none", f"{dail}, gamma {gamma}", nll, "harder", 1)
    yield Claim("DAIL forgets what the base model masters", "none", "base", dail, "easy", 1)
    yield Claim("NLL forgets what the base model masters", "none", "base", nll, "easy", 1)
    yield Claim("SFT forgets what the base model masters", "none", "base", "SFT", "easy", 1)


def read(folder: Path) -> dict[str, dict[str, Counts]]:
    """By arm and group; arms that all seeds have."""
    seeds = [json.loads(path.read_text("utf-8"))["counts"] for path in sorted(folder.glob("seed-*/counts.json"))]
    assert seeds, f"{folder} has no seed that is finished: no seed-*/counts.json"
    arms = [arm for arm in seeds[0] if all(arm in seed for seed in seeds)]
    return {arm: {group: _of_group([seed[arm] for seed in seeds], group) for group in GROUPS} for arm in arms}


def _of_group(seeds: Sequence[Mapping[str, Any]], group: str) -> Counts:
    prefix = "world-" if group == "train" else f"{group}-"
    return np.array([[counts for name, counts in sorted(seed.items()) if name.startswith(prefix)] for seed in seeds])


def passes(counts: Counts, k: int) -> Values:
    """The unbiased estimate of each problem."""
    num_right = counts[..., 0].sum(axis=-1)
    return np.vectorize(lambda right: pass_at_k(counts.shape[2], int(right), k), otypes=[float])(num_right)


def interval(values: Values) -> tuple[float, float, float]:
    """Mean, low, high, in percent."""
    rng, (num_seeds, num_problems) = np.random.default_rng(0), values.shape
    seeds = rng.integers(0, num_seeds, (RESAMPLES, num_seeds))
    problems = rng.integers(0, num_problems, (RESAMPLES, num_problems))
    means = values[seeds[:, :, None], problems[:, None, :]].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return 100 * float(values.mean()), 100 * float(low), 100 * float(high)


def jumped(counts: Counts, blocks: Sequence[int]) -> float:
    """Share of blocks that were jumped, in percent."""
    return 100 * float(counts[..., 1].sum() / (np.array(blocks).sum() * counts.shape[0] * counts.shape[2]))


def num_blocks(group: str, trained_on: Sequence[str]) -> list[int]:
    """Of the problems of a group; there are as many in each."""
    if group != "train":
        return [lock.num_blocks for lock in locks(JUDGED[group]._replace(count=len(trained_on)))]
    numbers = [int(name.removeprefix("world-")) for name in trained_on]
    drawn = locks(CANDIDATES._replace(count=max(numbers) + 1))
    return [drawn[number].num_blocks for number in numbers]


def told(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def arm_table(figures: Figures, measure: Callable[[Mapping[str, Any]], str]) -> str:
    head = f"| arm | {' | '.join(GROUPS)} |\n|{'---|' * (len(GROUPS) + 1)}\n"
    return head + "".join(
        f"| {arm} | {' | '.join(measure(groups[group]) for group in GROUPS)} |\n" for arm, groups in figures.items()
    )


def judge(claim: Claim, arms: Mapping[str, Mapping[str, Counts]]) -> tuple[tuple[float, float, float], str]:
    better, worse = (passes(arms[arm][claim.group], claim.k) for arm in (claim.better, claim.worse))
    found = interval(better - worse)
    return found, "holds" if found[1] > 0 else "contradicted" if found[2] < 0 else "open"


def claim_table(arms: Mapping[str, Mapping[str, Counts]]) -> str:
    lines = ["| claim | paper | group | pass@ | difference in points | |", "|---|---|---|---|---|---|"]
    for claim in _claims():
        if {claim.better, claim.worse} <= set(arms):
            found, verdict = judge(claim, arms)
            lines.append(f"| {claim.text} | {claim.where} | {claim.group} | {claim.k} | {told(found)} | {verdict} |")
    return "\n".join(lines) + "\n"


def gamma_table(figures: Figures) -> str:
    """What gamma does, with the references at either temperature: pass@1, and the share of blocks jumped on `same`."""
    head = f"| references at | gamma | {' | '.join(OF_GAMMA)} | blocks jumped |"
    lines = [head, f"|{'---|' * (len(OF_GAMMA) + 3)}"]
    for heat, suffix in (("1", ""), ("0.6", ", references at 0.6")):
        for gamma, arm in GAMMAS.items():
            if found := figures.get(arm + suffix):
                cells = " | ".join(told(found[group]["pass@1"]) for group in OF_GAMMA)
                lines.append(f"| {heat} | {gamma:g} | {cells} | {found['same']['blocks jumped']:.1f} |")
    return "\n".join(lines) + "\n"


def length_table(arms: Mapping[str, Mapping[str, Counts]], group: str = "harder") -> str:
    """Right within so many tokens: what a budget of tokens buys."""
    budgets = (60, 80, 100, 120, 140, 160, 256)
    lines = [f"| arm | {' | '.join(map(str, budgets))} |", f"|{'---|' * (len(budgets) + 1)}"]
    for arm, groups in arms.items():
        counts = groups[group]
        shares = [100 * float(((counts[..., 0] == 1) & (counts[..., 2] <= budget)).mean()) for budget in budgets]
        lines.append(f"| {arm} | {' | '.join(f'{share:.1f}' for share in shares)} |")
    return "\n".join(lines) + "\n"


def as_json(arms: Mapping[str, Mapping[str, Counts]], blocks: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    return {
        arm: {
            group: {
                "pass@1": interval(passes(counts, 1)),
                "pass@8": interval(passes(counts, 8)),
                "pass@1 by seed": [100 * float(one) for one in passes(counts, 1).mean(axis=1)],
                "blocks jumped": jumped(counts, blocks[group]),
                "tokens": float(counts[..., 2].mean()),
            }
            for group, counts in groups.items()
        }
        for arm, groups in arms.items()
    }


def report(folder: Path) -> str:
    arms = read(folder)
    num_seeds, num_problems, num_samples, _ = next(iter(arms.values()))["same"].shape
    judged_of = json.loads((folder / "trained_on.json").read_text("utf-8"))[:num_problems]
    blocks = {group: num_blocks(group, judged_of) for group in GROUPS}
    figures = as_json(arms, blocks)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    (folder / "figures.svg").write_text(picture(figures), "utf-8")
    if set(RUNS.values()) <= set(figures):
        write_results(folder / RESULTS_FILE, as_results(figures, num_problems, HOTTER))
    parts = [
        f"Seeds: {num_seeds}; {num_problems} problems a group, {num_samples} samples a problem, temperature 0.6.\n",
        "pass@1 in %:\n",
        arm_table(figures, lambda found: told(found["pass@1"])),
        "pass@8 in %:\n",
        arm_table(figures, lambda found: told(found["pass@8"])),
        "Blocks jumped in %; tokens a completion:\n",
        arm_table(figures, lambda found: f"{found['blocks jumped']:.1f}; {found['tokens']:.0f}"),
        "pass@1 in % over gamma (at 0 the privileged KL alone):\n",
        gamma_table(figures),
        "Right within so many tokens, in % of completions, harder problems:\n",
        length_table(arms),
        "The claims, the paper's and ours:\n",
        claim_table(arms),
    ]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="folder of experiment.py")
    folder = parser.parse_args().experiment
    text = report(folder)
    (folder / "figures.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
