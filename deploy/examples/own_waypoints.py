"""Traces of a field without numbers: python deploy/examples/own_waypoints.py runs/law"""

import re
import sys
from pathlib import Path

from dail.synth import Synthesis, synthesise


def provisions(solution: str, kind: str, answer: str | None) -> list[str]:
    """What a lawyer would be tempted to guess from: the provisions that an opinion cites, each once."""
    return list(dict.fromkeys(re.findall(r"(?:§|Art\.) ?\d+\w?", solution)))


if __name__ == "__main__":
    item = {
        "problem": "A buys a bicycle from B; its frame breaks in the first week. Can A ask for a new one?",
        "solution": "By § 437 in connection with § 439: the frame was faulty when it was handed over (§ 477). Yes.",
    }
    settings = Synthesis(
        prompts=str(Path(__file__).parent / "law"),  # a folder of templates, by role
        extractor=f"{__file__}:provisions",
        max_tokens=64,
        thinking=False,
    )
    result = synthesise([item], sys.argv[1], model="deploy/demo/model", synthesis=settings)
    for trace in result.traces():
        print(f"waypoints {', '.join(trace.waypoints)}; by {trace.prompts} and {trace.extractor}")
    print(result.manifest)
