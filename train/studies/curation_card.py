"""The card of a curated set: what it is, how it came about step by step, and where its problems come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dail.synth.schema.card import UNSAID, facts, front_matter, origins_table
from dail.synth.schema.items import ExpertSolution
from dail.train.studies.curated import TRAIN, VALIDATION, Curated
from dail.train.studies.funnel import Step


def card(curated: Curated, items: Sequence[ExpertSolution]) -> str:
    """README.md, whose block on top names the splits for `load_dataset`."""
    validation = [VALIDATION] if VALIDATION in curated.files else []
    origins = Counter((item.source or UNSAID, item.license or UNSAID) for item in items)
    licences = {licence for _, licence in origins}
    return f"""{front_matter({"default": [TRAIN]}, len(items), licences, validation)}

# {"Problems with expert solutions" if curated.settings.item_kind == "verifiable" else "Problems with expert proofs"}

{_about(curated)} Made by `dail curate` {curated.tool_version}.

```python
from datasets import load_dataset

problems = load_dataset("THIS_FOLDER", split="train")
```

```sh
dail synth THIS_FOLDER/{TRAIN} --model MODEL --out TRACES
```

Each row's `metadata.curation` says which rows of which files it was made of, with their digests and licences, and how
many attempts at it were correct. `flagged.jsonl` lists the pairs of problems that are near, `dropped.jsonl` what was
left out and why; `curated.json` has all counts, settings and digests.

## How they were chosen

{steps_table(curated.steps)}

{facts(_facts(curated))}

## Where they come from

{origins_table(origins)}
"""


def _about(curated: Curated) -> str:
    made = curated.attempts
    if made is None:
        return "Every problem of the pool that the steps below left."
    most = curated.settings.keep_solved_at_most
    solved = "in none" if most == 0 else f"in at most {most}"
    return f"Problems that {made.model.name} solves {solved} of {made.num_attempts} attempts, as a training set."


def steps_table(steps: Sequence[Step]) -> str:
    """A row a step, in Markdown."""
    has_published = any(step.published is not None for step in steps)
    head = ["step", "in", "out", *(["published"] if has_published else []), "left out", "besides"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for step in steps:
        published = [str(step.published if step.published is not None else "")] if has_published else []
        dropped = "; ".join(f"{why}: {count}" for why, count in step.dropped.items())
        cells = [step.step, str(step.num_in), str(step.num_out), *published, dropped, "; ".join(step.told)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines)


def _facts(curated: Curated) -> dict[str, object]:
    found: dict[str, object] = {"near problems are found by": curated.similarity}
    if curated.embedder:
        found["embedder"] = f"{curated.embedder.name}, {curated.embedder.digest}, {curated.embedder.library}"
    for one in curated.against:
        found[f"held against {one.name}"] = f"{one.rows} problems, {one.digest}"
    for one in curated.sources:
        found[f"pool {one.name or 'objects'}"] = f"{one.rows} rows, {one.digest}"
    if curated.attempts:
        made = curated.attempts
        found["attempts by"] = f"{made.model.name}, revision {made.model.revision}"
        shown = {name: made.settings[name] for name in ("temperature", "max_tokens", "grader", "prompts", "seed")}
        found["attempts"] = ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)
    return found
