"""Trains with an objective of one's own: python deploy/examples/own_objective.py MANIFEST runs/own_objective"""

import json
import sys

from torch import Tensor

from dail.train import TrainConfig, train


def forward_kl(student_CV: Tensor, privileged_CV: Tensor, negative_CV: Tensor, trace_C: Tensor, gamma: float) -> Tensor:
    """KL(privileged student ‖ student) of each trace token, from logits over the vocabulary."""
    log_q_CV = privileged_CV.log_softmax(-1)
    return (log_q_CV.exp() * (log_q_CV - student_CV.log_softmax(-1))).sum(-1)


if __name__ == "__main__":
    config = TrainConfig(objective=f"{__file__}:forward_kl", epochs=3, lr=1e-3)
    result = train("deploy/demo/model", sys.argv[1], sys.argv[2], config)
    for line in result.metrics.read_text("utf-8").splitlines():
        step = json.loads(line)
        if "kl_privileged" in step:  # the first step, every tenth and the last have it
            print(f"step {step['step']}: forward KL {step['loss']:.4f}, reverse KL {step['kl_privileged']:.4f}")
    print(result.adapter)
