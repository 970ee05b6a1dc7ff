"""What other harnesses say about completions, for `tests.bench.harness`: runs in a process of its own, beside theirs.

Reads [answer, completion, box, is_choice] as JSON on standard input, `box` blank where the completion is more than one
box; writes by grader a verdict each, and pass@k.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

Case = tuple[str, str, str, bool]
NUM_SAMPLES = 128
_CHOICES = ("zinc", "quartz", "argon", "krypton")  # what no completion mentions


def lm_eval_graders() -> dict[str, Callable[[Case], bool | None]]:
    """Those of its tasks, from their files, since the package loads all models that it knows."""
    aime, hendrycks, minerva = (_task(name) for name in ("aime", "hendrycks_math", "minerva_math"))
    gpqa = _gpqa()

    def as_asked(grade: Any, case: Case) -> bool | None:
        """These two look for no box: what stands in it is put into the sentence that their prompts ask for."""
        answer, _, box, _ = case
        doc = {"answer": minerva.normalize_final_answer(answer), "solution": rf"So $\boxed{{{answer}}}$."}
        said = f"Final Answer: The final answer is ${box}$. I hope it is correct."
        return bool(grade(doc, [said])["exact_match"]) if box else None

    def verified(case: Case) -> bool:
        doc = {"answer": case[0], "solution": rf"So $\boxed{{{case[0]}}}$."}
        return bool(minerva.process_results(doc, [case[1]])["math_verify"])

    return {
        "lm_eval aime": lambda case: bool(aime.process_results({"answer": case[0]}, [case[1]])["exact_match"]),
        "lm_eval hendrycks_math": lambda case: as_asked(hendrycks.process_results, case),
        "lm_eval minerva_math": lambda case: as_asked(minerva.process_results, case),
        "lm_eval math_verify": verified,
        "lm_eval gpqa": lambda case: gpqa(case) if case[3] else None,
    }


def _task(name: str) -> Any:
    import lm_eval

    path = Path(lm_eval.__file__).parent / "tasks" / name / "utils.py"
    spec = importlib.util.spec_from_file_location(f"task_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _gpqa() -> Callable[[Case], bool]:
    """The filter `flexible-extract` of gpqa_*_cot_zeroshot, and exact_match without case and punctuation."""
    from lm_eval.filters.extraction import MultiChoiceRegexFilter

    chosen = MultiChoiceRegexFilter(
        regex_pattern=r"(\([A-Z]\))", group_select=-1, ignore_case=True, ignore_punctuation=True
    )

    def grade(case: Case) -> bool:
        (found,) = chosen.apply([[case[1]]], [{"choices": list(_CHOICES)}])
        return str(found[0]).strip("()").lower() == case[0].lower()

    return grade


def lighteval_graders() -> dict[str, Callable[[Case], bool | None]]:
    from lighteval.metrics.metrics import Metrics
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    def grade(metric: Any, gold: str, completion: str, choices: list[str] | None = None) -> bool:
        doc = Doc(query="", choices=choices or [gold], gold_index=(choices or [gold]).index(gold))
        return bool(metric.compute(doc=doc, model_response=ModelResponse(text=[completion])) == 1.0)

    math = Metrics.pass_at_k_math.value.sample_level_fn.compute_score.__self__
    letters = Metrics.gpqa_instruct_metric.value.sample_level_fn
    return {
        "lighteval math": lambda case: None if case[3] else grade(math, f"${case[0]}$", case[1]),
        "lighteval gpqa": lambda case: grade(letters, case[0], case[1], list("ABCD")) if case[3] else None,
    }


def lighteval_passes() -> list[list[float]]:
    """By number of right ones of 128, pass@k of every k from 1 to 128."""
    from lighteval.metrics.metrics_sample import PassAtK

    return [
        [
            float(PassAtK(k=k, n=NUM_SAMPLES).pass_at_k([1] * right + [0] * (NUM_SAMPLES - right)))
            for k in range(1, NUM_SAMPLES + 1)
        ]
        for right in range(NUM_SAMPLES + 1)
    ]


def verdicts(graders: dict[str, Callable[[Case], bool | None]], cases: list[Case]) -> dict[str, list[bool | None]]:
    """None: the grader is not for such an answer."""
    return {name: [_safely(grader, case) for case in cases] for name, grader in graders.items()}


def _safely(grader: Callable[[Case], bool | None], case: Case) -> bool | None:
    try:
        return grader(case)
    except Exception:  # what a grader cannot take counts as wrong in its harness too
        return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def main() -> None:
    cases = [tuple(case) for case in json.load(sys.stdin)]
    which = sys.argv[1]
    with _quiet():
        if which == "lm_eval":
            found = {"verdicts": verdicts(lm_eval_graders(), cases), "version": version("lm_eval")}
        else:
            found = {
                "verdicts": verdicts(lighteval_graders(), cases),
                "passes": lighteval_passes(),
                "version": version("lighteval"),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
