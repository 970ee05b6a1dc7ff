"""pass@1 of a model and of an adapter: python deploy/examples/score_adapter.py runs/demo/train/adapter runs/scored"""

import logging
import sys
from pathlib import Path

from dail.synth import EngineConfig
from dail.train.evals import EvalConfig, evaluate

logging.basicConfig(level=logging.INFO)  # what the functions have to say
engine = EngineConfig(model=Path("deploy/demo/model"), dtype="float32")
config = EvalConfig(engine=engine, samples=2, thinking=False)
evaluation = evaluate("deploy/demo/eval_problems.jsonl", out=sys.argv[2], adapter=sys.argv[1], config=config)
for group in evaluation.groups:
    for who, passes in group.passes.items():
        at_1 = passes[0]
        print(f"{group.group}, {who}: {at_1.mean:.0%} ({at_1.low:.0%} to {at_1.high:.0%})")
