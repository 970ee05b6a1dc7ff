"""Puts the experiment's figures where people read them, between marks that it finds there.

    python deploy/world/publish.py runs/world/experiment

Every table goes into tests/bench/RESULTS.md, a short one into deploy/docs/results.md, figures and picture beside this
file, and what `dail paper` shows as ours into deploy/paper. Run `figures.py` first.
"""

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import demo_path  # noqa: F401
from figures import told
from picture import SHOWN

from dail.serve.paper.results import RESULTS_FILE

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
_COLUMNS = (("harder", "pass@1"), ("harder", "pass@8"), ("same", "pass@1"), ("other", "pass@1"), ("easy", "pass@1"))


def put_between(text: str, block: str) -> str:
    """What stands between the two marks is replaced. AssertionError: they are not there."""
    marks = re.compile(r"(<!-- deploy/world: begin -->\n).*?(<!-- deploy/world: end -->)", re.DOTALL)
    assert len(marks.findall(text)) == 1, "wanted the marks `deploy/world: begin` and `end` once"
    return marks.sub(lambda found: f"{found[1]}{block.strip()}\n{found[2]}", text)


def short_table(figures: dict[str, Any]) -> str:
    head = " | ".join(f"{group}, {measure}" for group, measure in _COLUMNS)
    lines = [f"| arm | {head} | harder, blocks jumped |", f"|{'---|' * (len(_COLUMNS) + 2)}"]
    for arm in SHOWN:
        cells = [told(figures[arm][group][measure]) for group, measure in _COLUMNS]
        lines.append(f"| {arm} | {' | '.join(cells)} | {figures[arm]['harder']['blocks jumped']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="folder of experiment.py and figures.py")
    folder = parser.parse_args().experiment
    for name in ("figures.json", "figures.svg"):
        shutil.copy(folder / name, HERE / name)
    shutil.copy(folder / RESULTS_FILE, ROOT / "deploy" / "paper" / "ours.json")
    figures = json.loads((folder / "figures.json").read_text("utf-8"))
    whole = (folder / "figures.md").read_text("utf-8")
    for path, block in (
        (ROOT / "tests/bench/RESULTS.md", whole),
        (ROOT / "deploy/docs/results.md", short_table(figures)),
    ):
        path.write_text(put_between(path.read_text("utf-8"), block), "utf-8")


if __name__ == "__main__":
    main()
