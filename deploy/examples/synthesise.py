"""Expert solutions to traces: python deploy/examples/synthesise.py runs/example"""

import sys

from dail.synth import Progress, Synthesis, synthesise

item = {
    "problem": "A lock with three dials shows 417. It is turned like this: A 293, B 118, C 846, D 501. Each turn moves "
    "every dial forward by its own digit, past 9 to 0. What does the lock show in the end?",
    "solution": "After C: 554. The lock shows \\boxed{055}.",
    "answer": "055",
}


def show(progress: Progress) -> None:
    print(f"{progress.title}: {progress.done} of {progress.total}")


settings = Synthesis(samples_per_item=2, max_tokens=256, thinking=False)
result = synthesise([item], sys.argv[1], model="deploy/demo/model", synthesis=settings, on_progress=show)
for failed in result.failures:
    print(failed.item_id, failed.failure)
for trace in result.traces():
    print(trace.item_id, trace.sample_index, trace.trace_text)
print(result.manifest)
