"""Published data sets by their columns: which of them become an item's fields, which are kept, which are left out.

A preset is taken if a table has all of its `needs`; where several are met, the one that knows most of the columns, and
if that is not one, none. What no part of a preset names is unknown, and refused unless `--keep-rest` puts it into the
metadata.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dail.synth.data.choices import CHOICES, LETTERS, Adjust, asked, lettered, multiple_choice, shuffled
from dail.synth.data.columns import Column

_MODEL_WRITTEN = "written by a model"
_REPEATED = "repeats problem and solution"


@dataclass(frozen=True)
class Preset:
    """One published shape.

    Attributes:
        name: of the set or sets, as it is said.
        needs: columns by which it is recognised.
        fields: by field, its columns as `--map` would name them, several with commas between.
        kept: columns that become metadata under their own names.
        left_out: columns that are not read, each with the reason.
        adjust: makes columns of a row from others, with the seed of what is shuffled; raises ValueError if the row
            cannot be used.
        adjusted: what `adjust` does, as it is said; `{seed}` in it is the seed.
        adds: columns that `adjust` makes and that become metadata.
        ordered: columns whose places count, so that a null in one is a fault and not dropped.
        ignores: why all other columns are left out; blank if they are unknown.
    """

    name: str
    needs: frozenset[str]
    fields: Mapping[str, str]
    kept: frozenset[str] = frozenset()
    left_out: Mapping[str, str] = field(default_factory=dict)
    adjust: Adjust | None = None
    adjusted: str = ""
    adds: frozenset[str] = frozenset()
    ordered: frozenset[str] = frozenset()
    ignores: str = ""

    @cached_property
    def columns(self) -> dict[str, tuple[Column, ...]]:
        """By field, its columns."""
        return {name: tuple(map(Column, paths.split(","))) for name, paths in self.fields.items()}

    def knows(self, column: str) -> bool:
        is_read = any(one.touches(column) for columns in self.columns.values() for one in columns)
        return is_read or column in self.kept or column in self.left_out or column in self.adds


def recognised(columns: Collection[str]) -> list[Preset]:
    """The presets that fit these columns best: one, none, or several that fit them equally."""
    there = set(columns)
    known = {preset.name: (sum(map(preset.knows, there)), len(preset.needs)) for preset in PRESETS}
    met = [preset for preset in PRESETS if preset.needs <= there]
    best = max((known[preset.name] for preset in met), default=None)
    return [preset for preset in met if known[preset.name] == best]


def _columns(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(","))


# --- rows that need more than another name


def _gpqa(row: dict[str, Any], seed: int) -> dict[str, Any]:
    """The four answers as (A) to (D) below the question, in an order that depends on its text and the seed alone."""
    answers = [row.get(name) for name in ("Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3)))]
    if not isinstance(row.get("Question"), str) or any(answer is None for answer in answers):
        raise ValueError("the question or one of its four answers is missing")
    texts = [str(answer).strip() for answer in answers]
    order = shuffled(texts, row["Question"], seed)
    shown = [texts[place] for place in order]
    return {
        **row, "Question": asked(row["Question"], shown), "Correct Answer": LETTERS[order.index(0)], CHOICES: shown,
    }  # fmt: skip


def _harp(row: dict[str, Any], seed: int) -> dict[str, Any]:
    """A problem that makes no sense without its choices gets them, and the letter as its answer."""
    del seed
    choices, letter = row.get("choices"), row.get("answer_choice")
    if row.get("multiple_choice_only") is not True:
        return row
    if isinstance(choices, list):
        choices = dict(zip(LETTERS, map(str, choices), strict=False))
    if not isinstance(choices, dict) or not isinstance(letter, str) or not isinstance(row.get("problem"), str):
        raise ValueError("it is multiple choice only, and choices or answer_choice are missing")
    listed = "\n".join(f"({name}) {text}" for name, text in choices.items())
    return {**row, "problem": f"{row['problem']}\n\n{listed}", "answer": letter}


def _olympiadbench(row: dict[str, Any], seed: int) -> dict[str, Any]:
    """Several parts of one answer are one text; a problem with a picture cannot be shown to a model of text."""
    del seed
    if pictures := [name for name in row if name.startswith("image_") and row[name] is not None]:
        raise ValueError(f"it comes with a picture ({pictures[0]}), which a model of text does not see")
    answer = row.get("final_answer")
    if isinstance(answer, list):
        row = {**row, "final_answer": ", ".join(str(part) for part in answer if part is not None) or None}
    return row


def _of_choices(
    name: str, needs: str, fields: Mapping[str, str], adjust: Adjust, kept: str = "",
    left_out: Mapping[str, str] | None = None,
) -> Preset:  # fmt: skip
    """A set of multiple choice: what its choices stand in becomes their texts, in the order of their letters."""
    shown = frozenset({CHOICES, *(column for column in _columns(needs) if column == "options")})
    return Preset(
        name,
        _columns(needs),
        fields,
        kept=_columns(kept) if kept else frozenset(),
        left_out={**(left_out or {}), **({"options": "shown as choices"} if "options" in shown else {})},
        adjust=adjust,
        adjusted="the choices shown below the question in their own order, counted from 0 where the answer is a place; "
        "the answer is the letter",
        adds=frozenset({CHOICES}),
        ordered=shown,
    )


PRESETS = (
    # emendes3/e1-proof and emendes3/e1-verifiable, the paper's own
    Preset(
        "e1",
        _columns("problem_id, problem, solution"),
        {"id": "problem_id", "problem": "problem", "solution": "solution"},
    ),
    # AI-MO/aimo-validation-aime, HuggingFaceH4/aime_2024, math-ai/aime24
    Preset(
        "aime",
        _columns("id, problem, url"),
        {"id": "id", "problem": "problem", "solution": "solution", "answer": "answer"},
        kept=_columns("url, year"),
    ),
    # di-zhang-fdu/AIME_1983_2024
    Preset(
        "aime-1983-2024",
        _columns("ID, Year, Question, Answer"),
        {"id": "ID", "problem": "Question", "answer": "Answer"},
        kept=_columns("Year, Problem Number, Part"),
    ),
    # Maxwell-Jia/AIME_2024
    Preset(
        "aime-2024",
        _columns("ID, Problem, Solution, Answer"),
        {"id": "ID", "problem": "Problem", "solution": "Solution", "answer": "Answer"},
    ),
    # MathArena/aime_2025 and its sisters
    Preset(
        "matharena",
        _columns("problem_idx, problem, answer"),
        {"id": "problem_idx", "problem": "problem", "answer": "answer"},
        kept=_columns("problem_type"),
    ),
    # AI-MO/NuminaMath-CoT and AI-MO/NuminaMath-TIR
    Preset(
        "numina",
        _columns("problem, solution, messages"),
        {"problem": "problem", "solution": "solution", "source": "source"},
        left_out={"messages": _REPEATED},
    ),
    # AI-MO/NuminaMath-1.5
    Preset(
        "numina-1.5",
        _columns("problem, solution, answer, problem_type, question_type"),
        {"id": "uuid", "problem": "problem", "solution": "solution", "answer": "answer", "source": "source"},
        kept=_columns("problem_type, question_type, problem_is_valid, solution_is_valid, synthetic"),
    ),
    # open-r1/OpenR1-Math-220k
    Preset(
        "open-r1",
        _columns("problem, solution, answer, problem_type, question_type, generations"),
        {"id": "uuid", "problem": "problem", "solution": "solution", "answer": "answer", "source": "source"},
        kept=_columns("problem_type, question_type"),
        left_out={
            "messages": _MODEL_WRITTEN,
            "generations": _MODEL_WRITTEN,
            **dict.fromkeys(
                ("is_reasoning_complete", "finish_reasons", "correctness_count", "correctness_llama",
                 "correctness_math_verify"),
                "about generations",
            ),
        },
    ),
    # zwhe99/DeepMath-103K
    Preset(
        "deepmath",
        _columns("question, final_answer, r1_solution_1"),
        {"problem": "question", "solution": "r1_solution_1", "answer": "final_answer"},
        kept=_columns("difficulty, topic"),
        left_out=dict.fromkeys(
            ("r1_solution_2", "r1_solution_3"),
            "another solution by the same model; --map solution=r1_solution_* takes all",
        ),
    ),
    # Hothan/OlympiadBench
    Preset(
        "olympiadbench",
        _columns("question, solution, final_answer"),
        {"id": "id", "problem": "context,question", "solution": "solution", "answer": "final_answer"},
        kept=_columns(
            "modality, difficulty, is_multiple_answer, unit, answer_type, error, question_type, subfield, subject, "
            "language"
        ),
        left_out=dict.fromkeys((f"image_{number}" for number in range(1, 10)), "pictures; a row with one is refused"),
        adjust=_olympiadbench,
        adjusted="the parts of an answer joined by commas",
    ),
    # HARP (github.com/aadityasingh/HARP)
    Preset(
        "harp",
        _columns("problem, year, contest, number, solution_1"),
        {"id": "year,contest,number", "problem": "problem", "solution": "solution_*", "answer": "answer"},
        kept=_columns("level, subject, choices, answer_choice, multiple_choice_only, num_solutions"),
        adjust=_harp,
        adjusted="choices shown where there is no problem without them",
    ),
    # the MATH set of Hendrycks et al., such as EleutherAI/hendrycks_math
    Preset(
        "math",
        _columns("problem, solution, level, type"),
        {"problem": "problem", "solution": "solution"},
        kept=_columns("level, type"),
    ),
    # HuggingFaceH4/MATH-500
    Preset(
        "math-500",
        _columns("problem, solution, answer, unique_id"),
        {"id": "unique_id", "problem": "problem", "solution": "solution", "answer": "answer"},
        kept=_columns("subject, level"),
    ),
    # KbsdJames/Omni-MATH
    Preset(
        "omni-math",
        _columns("problem, solution, answer, domain, difficulty"),
        {"problem": "problem", "solution": "solution", "answer": "answer", "source": "source"},
        kept=_columns("domain, difficulty"),
    ),
    # GAIR/LIMO
    Preset(
        "limo",
        _columns("question, solution, answer"),
        {"problem": "question", "solution": "solution", "answer": "answer"},
    ),
    # verl's own shape: data sets for its trainers, emendes3/aime_2024 and its sisters
    Preset(
        "verl",
        _columns("prompt, reward_model"),
        {
            "id": "extra_info.index", "problem": "prompt", "solution": "extra_info.solution",
            "answer": "reward_model.ground_truth", "source": "data_source",
        },
        kept=_columns("ability, extra_info"),
        left_out={"agent_name": "of verl's trainer", "raw_prompt": "repeats prompt"},
    ),
    # IMO-AnswerBench, answerbench.csv and answerbench_v2.csv
    Preset(
        "imo-answerbench",
        _columns("Problem ID, Problem, Short Answer, Subcategory"),
        {"id": "Problem ID", "problem": "Problem", "answer": "Short Answer", "source": "Source"},
        kept=_columns("Category, Subcategory, Level"),
    ),
    # IMO-ProofBench, proofbench.csv
    Preset(
        "imo-proofbench",
        _columns("Problem ID, Problem, Solution, Grading guidelines"),
        {
            "id": "Problem ID", "problem": "Problem", "solution": "Solution", "answer": "Short Answer",
            "source": "Source",
        },
        kept=_columns("Grading guidelines, Category, Level"),
    ),
    # Idavidrein/gpqa
    Preset(
        "gpqa",
        _columns("Question, Correct Answer, Incorrect Answer 1, Incorrect Answer 2, Incorrect Answer 3"),
        {"id": "Record ID", "problem": "Question", "solution": "Explanation", "answer": "Correct Answer"},
        kept=_columns("Subdomain, High-level domain"),
        left_out=dict.fromkeys((f"Incorrect Answer {number}" for number in (1, 2, 3)), "shown as choices"),
        adjust=_gpqa,
        adjusted="the choices shown below the question, in an order drawn from its text and seed {seed}; the answer is "
        "the letter",
        adds=frozenset({CHOICES}),
        ignores="of its authors' reviews",
    ),
    # TIGER-Lab/MMLU-Pro
    _of_choices(
        "mmlu-pro",
        "question_id, question, options, answer",
        {"id": "question_id", "problem": "question", "answer": "answer"},
        multiple_choice("question", "options", "answer", also="answer_index"),
        kept="category, src",
        left_out={"cot_content": "a chain of thought for prompts", "answer_index": "held against answer"},
    ),
    # m-a-p/SuperGPQA
    _of_choices(
        "supergpqa",
        "uuid, question, options, answer, answer_letter",
        {"id": "uuid", "problem": "question", "answer": "answer_letter"},
        multiple_choice("question", "options", "answer_letter", also="answer"),
        kept="discipline, field, subfield, difficulty, is_calculation",
        left_out={"answer": "held against answer_letter"},
    ),
    # cais/mmlu, and files of one's own
    _of_choices(
        "choices",
        "question, choices, answer",
        {"problem": "question", "answer": "answer"},
        multiple_choice("question", "choices", "answer"),
        kept="subject",
    ),
    _of_choices(
        "problem and choices",
        "problem, choices, answer",
        {"problem": "problem", "answer": "answer"},
        multiple_choice("problem", "choices", "answer"),
        kept="subject",
    ),
    _of_choices(
        "options",
        "question, options, answer",
        {"problem": "question", "answer": "answer"},
        multiple_choice("question", "options", "answer", also="answer_index"),
        left_out={"answer_index": "held against answer"},
    ),
    # allenai/ai2_arc, tau/commonsense_qa
    _of_choices(
        "arc",
        "question, choices, answerKey",
        {"problem": "question", "answer": "answerKey"},
        multiple_choice("question", "choices", "answerKey"),
        kept="question_concept",
    ),
    # allenai/openbookqa
    _of_choices(
        "openbookqa",
        "question_stem, choices, answerKey",
        {"problem": "question_stem", "answer": "answerKey"},
        multiple_choice("question_stem", "choices", "answerKey"),
        kept="fact1, humanScore, clarity, turkIdAnonymized",
    ),
    # the choices in columns of their own, as in MMLU's tables with a head
    _of_choices(
        "lettered",
        "question, A, B, C, D, answer",
        {"problem": "question", "answer": "answer"},
        lettered("question", "answer"),
        left_out=dict.fromkeys(LETTERS, "shown as choices"),
        kept="subject",
    ),
)  # fmt: skip
