"""What an adapter is worth: pass@k and a report.

The door for Python; a name is imported when it is used:

    from dail.train.evals import evaluate

    evaluation = evaluate("problems.jsonl", "runs/eval", adapter="runs/train/adapter", model="models/qwen3-8b")
    print(evaluation.groups[0].passes["adapter"][0].mean)

Functions print nothing: what they have to say goes to the loggers under `dail`, how far they are to `on_progress`.
"""

from typing import TYPE_CHECKING

from dail.synth.core.door import opener as _opener

__all__ = ["EvalConfig", "EvalProblem", "Evaluation", "GroupResult", "PassAtK", "evaluate", "named_sources"]

if TYPE_CHECKING:
    from dail.train.evals.config import EvalConfig
    from dail.train.evals.evaluation import evaluate
    from dail.train.evals.problems import EvalProblem, named_sources
    from dail.train.evals.results import Evaluation, GroupResult, PassAtK
else:
    __getattr__ = _opener(
        __name__,
        {
            "EvalConfig": "dail.train.evals.config",
            "EvalProblem": "dail.train.evals.problems",
            "Evaluation": "dail.train.evals.results",
            "GroupResult": "dail.train.evals.results",
            "PassAtK": "dail.train.evals.results",
            "evaluate": "dail.train.evals.evaluation",
            "named_sources": "dail.train.evals.problems",
        },
        extra="train",
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
