"""Prompts from a checkout of the authors' shape; its wording here is made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dail.serve.cli import dail
from dail.synth.core.errors import UsageError
from dail.synth.method.authors_prompts import DRAWING, TRAINING, import_prompts
from dail.synth.method.prompts import role_messages
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.synthesis import Synthesis

DRAWN = """
import nowhere  # what is not installed here is no matter: nothing is run
raise SystemExit("this was run")

EXPERT_PROMPT_TEMPLATE = (
    "A made-up preamble.\\n\\n"
    "Task:\\n{problem}\\n\\n"
    "Worked:\\n{solution}\\n\\nNow go.\\n"
)

STUDENT_PROMPT_TEMPLATE = (
    "Task:\\n{problem}\\n\\n" "Now go.\\n"
)
"""
TRAINED = """
import nowhere

def form_cheating_hint(expert_solution):
    def extract(text):
        return f"{text}"

    intermediate_results = extract(expert_solution)
    final_answer = None
    if final_answer:
        intermediate_results = [item for item in intermediate_results]
    hint_str = ', '.join(intermediate_results)
    if final_answer:
        return f"It ends in {final_answer}. On the way: {hint_str}."
    return f"On the way: {hint_str}."

CHEATING_PROMPT_TEMPLATE = (
    "A made-up preamble.\\n\\n"
    "Task:\\n{}\\n\\nTip: {}\\n\\nNow go.\\n"
)

EXPERT_PROMPT_TEMPLATE = (
    "A made-up preamble.\\n\\n"
    "Task:\\n{}\\n\\n"
    "Worked:\\n{}\\n\\nNow go.\\n"
)

STUDENT_PROMPT_TEMPLATE = "Task:\\n{}\\n\\nNow go.\\n"
"""
ITEM = ExpertSolution(problem=" 1 + 2?\n", solution="As 1 + 2 = 3, it is \\boxed{3}.\n", answer="3")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return written(tmp_path / "DAIL")


def written(folder: Path, drawn: str = DRAWN, trained: str = TRAINED) -> Path:
    for path, text in ((DRAWING, drawn), (TRAINING, trained)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
    return folder


def said(folder: Path, item: ExpertSolution = ITEM, **settings: Any) -> dict[str, str]:
    asked = Synthesis(prompts=f"{folder}/", extractor="official", **settings)
    return {role: messages[-1].content for role, messages in role_messages(item, asked).items()}


def test_the_three_prompts_are_what_their_programs_would_write(checkout: Path, tmp_path: Path):
    import_prompts(checkout, tmp_path / "out")
    task, go = "Task:\n1 + 2?\n\n", "Now go.\n"
    assert said(tmp_path / "out") == {
        "student": task + go,
        "privileged_student": f"A made-up preamble.\n\n{task}Worked:\nAs 1 + 2 = 3, it is \\boxed{{3}}.\n\n{go}",
        "negative_reference": f"A made-up preamble.\n\n{task}Tip: It ends in 3. On the way: 1, 2.\n\n{go}",
    }


def test_a_proof_s_hint_has_its_answer_where_that_is_set(checkout: Path, tmp_path: Path):
    import_prompts(checkout, tmp_path / "out")
    proof = ITEM.model_copy(update={"kind": "proof"})
    assert "Tip: On the way: 1, 2.\n" in said(tmp_path / "out", proof)["negative_reference"]
    told = said(tmp_path / "out", proof, proof_answers=True)
    assert "Tip: It ends in 3. On the way: 1, 2.\n" in told["negative_reference"]


@pytest.mark.parametrize(
    "text",
    [
        "{{a}} {{",
        "\\boxed{{{problem}}}",
        "{{{{ x }}}} {{% if %}} {{# c #}}",
        '"quoted" \\\\frac{{1}}{{2}} ½ {{',
        "}}}} {{",
    ],
)
def test_braces_come_through_as_str_format_writes_them(tmp_path: Path, text: str):
    template = text if "problem" in text else text + "{problem}"
    student = f"STUDENT_PROMPT_TEMPLATE = {template!r}\n"
    cut = "STUDENT_PROMPT_TEMPLATE = "
    drawn = DRAWN[: DRAWN.index(cut)] + student
    trained = TRAINED[: TRAINED.index(cut)] + student.replace("{problem}", "{}")
    import_prompts(written(tmp_path / "DAIL", drawn, trained), tmp_path / "out")
    assert said(tmp_path / "out")["student"] == template.format(problem="1 + 2?")


def test_where_they_come_from_is_written_beside_them(checkout: Path, tmp_path: Path):
    commit = "ab" * 20
    (checkout / ".git" / "refs" / "heads").mkdir(parents=True)
    (checkout / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    assert import_prompts(checkout, tmp_path / "a").commit is None
    (checkout / ".git" / "packed-refs").write_text(f"# pack-refs\n{commit} refs/heads/main\n^{'cd' * 20}\n")
    assert import_prompts(checkout, tmp_path / "b").commit == commit
    (checkout / ".git" / "refs" / "heads" / "main").write_text("ef" * 20 + "\n")
    assert import_prompts(checkout, tmp_path / "c").commit == "ef" * 20
    (checkout / ".git" / "HEAD").write_text(commit)
    imported = import_prompts(checkout, tmp_path / "d")
    source = json.loads((tmp_path / "d" / "source.json").read_text())
    assert source == imported.model_dump(mode="json", exclude={"folder"})
    assert source["commit"] == commit and source["sources"].keys() == {str(DRAWING), str(TRAINING)}
    assert str(tmp_path) not in json.dumps(source)


def test_again_is_the_same_and_other_files_are_never_replaced(checkout: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert import_prompts(checkout, out) == import_prompts(checkout, out)
    (out / "student.jinja").write_text("{{ problem }} mine")
    with pytest.raises(UsageError, match=r"out/student\.jinja is there already"):
        import_prompts(checkout, out)
    assert (out / "student.jinja").read_text() == "{{ problem }} mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt is there already"):
        import_prompts(checkout, other)
    assert [one.name for one in other.iterdir()] == ["notes.txt"]


def without(text: str, old: str, new: str = "") -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d, t: (without(d, "EXPERT_PROMPT", "OTHER_PROMPT"), t), r"EXPERT_PROMPT_TEMPLATE is set 0 times"),
        (lambda d, t: (d + "\nSTUDENT_PROMPT_TEMPLATE = 'x'\n", t), "STUDENT_PROMPT_TEMPLATE is set 2 times"),
        (lambda d, t: (without(d, '"Now go.\\n"', "open('x').read()"), t), "is not Python that can be read|not a text"),
        (lambda d, t: (d, without(t, '"Task:\\n{}\\n\\nNow go.\\n"', "make()")), "is not a text as it stands"),
        (lambda d, t: (without(d, "{solution}", "{context}"), t), r"a place \{context\} for something unknown"),
        (lambda d, t: (without(d, "{solution}", "{solution!r}"), t), "for something unknown"),
        (lambda d, t: (without(d, "{solution}", f"{{{'9' * 5000}}}"), t), "for something unknown"),
        (lambda d, t: (without(d, "{solution}", "none"), t), "places for 1 texts, wanted 2"),
        (lambda d, t: (without(d, "{solution}", "{solution"), t), "a brace that closes nothing"),
        (lambda d, t: (d, without(t, "Worked", "Shown")), "is worded differently in"),
        (lambda d, t: (d, without(t, "form_cheating_hint", "hint")), "0 functions form_cheating_hint"),
        (lambda d, t: (d, without(t, "    return f\"On", "    return 5\n    return f\"On")), "returns no two texts"),
        (lambda d, t: (d, without(t, "On the way: {hint_str}.", "{other}")), "tells other, which is no answer"),
        (lambda d, t: (d, without(t, "{hint_str}", "{hint_str:>9}")), "tells more than names"),
        (lambda d, t: (d, without(t, "On the way: {hint_str}.", "Nothing.")), "does not tell results once"),
        (lambda d, t: ("def (", t), "is not Python that can be read"),
        (lambda d, t: ("\0", t), "is not Python that can be read"),
    ],
)  # fmt: skip
def test_a_checkout_of_another_shape_is_refused_with_what_was_looked_for(
    tmp_path: Path, change: Callable[[str, str], tuple[str, str]], why: str
):
    folder = written(tmp_path / "DAIL", *change(DRAWN, TRAINED))
    with pytest.raises(UsageError, match=why):
        import_prompts(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, Path.touch], ids=["nothing", "empty", "file"])
def test_no_checkout_is_told_where_it_was_looked_for(tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path / "there")
    with pytest.raises(
        UsageError, match=r"there is no checkout of https://github\.com/ethanm88/DAIL: .*train/dail_train\.py"
    ):
        import_prompts(tmp_path / "there", tmp_path / "out")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(dail, ["prompts", "import", *map(str, arguments)])


def test_the_verb_writes_and_says_how_to_take_them(checkout: Path, tmp_path: Path):
    result = run(checkout, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["folder"] == str(tmp_path / "out")
    assert f"--set synthesis.prompts={tmp_path}/out" in result.stderr
    wrong = run(tmp_path, "--out", tmp_path / "no", "--json").exception
    assert isinstance(wrong, UsageError) and wrong.facts()["exit_code"] == 2
