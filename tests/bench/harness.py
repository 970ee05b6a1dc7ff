r"""Our pass@k and our verdicts beside those of lm-evaluation-harness and lighteval, on the same made completions.

    python -m pip install --no-deps --target site lm_eval==0.4.13 antlr4-python3-runtime==4.11.1 lighteval==0.13.0
    python -m pip install --no-deps --target light latex2sympy2_extended==1.0.6 antlr4-python3-runtime==4.13.2
    python -m tests.bench.harness --lm-eval site --lighteval light:site

Neither is a dependency of ours: each runs in a process of its own, whose PYTHONPATH begins with what is given. What
they need besides, their ImportErrors name; it goes to `site` in the same way. `harness_completions.tsv` has the
completions, each with what is right by reading it. Prints Markdown: how often each grader is right and says what ours
says, and each completion about which one of them is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dail.synth.method.grading import Grader
from dail.synth.schema.boxes import final_answer
from dail.train.evals.passk import pass_at_k

HERE = Path(__file__).parent
COMPLETIONS = HERE / "harness_completions.tsv"
NUM_SAMPLES = 128


class Case(NamedTuple):
    """`right`: by reading. `box`: of a completion that is one box; blank of others."""

    kind: str
    right: bool
    answer: str
    completion: str
    box: str
    is_without_box: bool

    @property
    def is_choice(self) -> bool:
        return self.answer in tuple("ABCD")


def read_cases(path: Path = COMPLETIONS) -> Iterator[Case]:
    kind = ""
    for line in path.read_text("utf-8").split("\n")[1:]:
        if line.startswith("# "):
            kind = line[2:]
        elif line:
            mark, answer, text = line.split("\t")
            box = text[1:] if text.startswith("=") else ""
            completion = rf"So the answer is $\boxed{{{box}}}$." if box else text
            # what is right but in no box is wrong here: the last box is what the paper, and its prompts, ask for
            yield Case(kind, mark == "y", answer, completion, box, mark == "b")


def our_verdicts(cases: Sequence[Case], reference: str) -> list[bool]:
    with Grader(reference=reference) as grader:
        return [grader.grade(case.completion, case.answer).correct for case in cases]


def their(which: str, paths: str, cases: Sequence[Case]) -> dict[str, Any]:
    """Runs `harness_theirs.py` where these paths come first."""
    sent = json.dumps([[case.answer, case.completion, case.box, case.is_choice] for case in cases])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(one).resolve()) for one in paths.split(":"))}
    done = subprocess.run(
        [sys.executable, str(HERE / "harness_theirs.py"), which],
        input=sent, stdout=subprocess.PIPE, env=environment, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def largest_gap(passes: Sequence[Sequence[float]]) -> float:
    """Between their pass@k and ours, over all numbers of right ones of 128 and all k."""
    return max(
        abs(value - pass_at_k(NUM_SAMPLES, right, k))
        for right, row in enumerate(passes)
        for k, value in enumerate(row, 1)
    )


def summary(cases: Sequence[Case], verdicts: Mapping[str, Sequence[bool | None]]) -> Iterator[str]:
    yield "| grader | completions | right by reading | right ones called wrong | wrong ones called right | as `math` |"
    yield "|---|---|---|---|---|---|"
    ours = verdicts["math"]
    for name, said in verdicts.items():
        judged = [(case.right, one, own) for case, one, own in zip(cases, said, ours, strict=True) if one is not None]
        missed = sum(right and not one for right, one, _ in judged)
        false = sum(not right and bool(one) for right, one, _ in judged)
        same = sum(one == own for _, one, own in judged)
        yield f"| {name} | {len(judged)} | {len(judged) - missed - false} | {missed} | {false} | {same} |"


def differences(cases: Sequence[Case], verdicts: Mapping[str, Sequence[bool | None]]) -> Iterator[str]:
    """The completions about which some grader is wrong by reading."""
    names = list(verdicts)
    yield f"| answer | completion | by reading | {' | '.join(name.replace('lm_eval', 'lm') for name in names)} |"
    yield "|---" * (len(names) + 3) + "|"
    for number, case in enumerate(cases):
        said = [verdicts[name][number] for name in names]
        if any(one is not None and one != case.right for one in said):
            right = "right" if case.right else "no box" if case.is_without_box else "wrong"
            cells = ["" if one is None else "✓" if one else "✗" for one in said]
            shown = rf"\boxed{{{case.box}}}" if case.box else case.completion
            yield f"| {_code(case.answer)} | {_code(shown)} | {right} | {' | '.join(cells)} |"


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|').strip()}`" if text.strip() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--lm-eval", required=True, help="folders with lm_eval and what it needs, colons between")
    parser.add_argument("--lighteval", required=True, help="the same of lighteval")
    flags = parser.parse_args()
    cases = list(read_cases())
    harness, light = their("lm_eval", flags.lm_eval, cases), their("lighteval", flags.lighteval, cases)
    verdicts = {
        "math": our_verdicts(cases, "math"),
        "official": our_verdicts(cases, "official"),
        **harness["verdicts"],
        **light["verdicts"],
    }
    boxes = sum(final_answer(case.completion) is not None for case in cases)
    print(
        f"lm_eval {harness['version']}, lighteval {light['version']}; {len(cases)} completions, {boxes} with a box.\n"
    )
    print(f"pass@k of 128, every number of right ones, every k: largest gap {largest_gap(light['passes']):.1e}.\n")
    print("\n".join(summary(cases, verdicts)), "\n")
    print("\n".join(differences(cases, verdicts)))


if __name__ == "__main__":
    main()
