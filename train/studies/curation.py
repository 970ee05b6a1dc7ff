"""Which problems of a pool are worth training on (paper App. A): those that a model fails in all of k attempts.

    dail curate aime.csv harp.jsonl --model models/qwen2.5-7b --out runs/e1-verifiable --config e1-verifiable

    from dail.train.studies import CurateConfig, curate
    curated = curate(["aime.csv", "harp.jsonl"], "runs/e1", CurateConfig(years="1985-2023"), model="models/qwen2.5-7b")

The steps: rows are joined to problems; years; answers; similarity with the problems of evaluations; near ones in the
pool; attempts of the model; and of the problems that it solves, the hardest are for validation. All but the attempts is
done anew by a rerun, with what it would take long to compute kept in the folder, so a crash loses nothing else.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dail.synth.config import EngineConfig
from dail.synth.core.errors import InputError, UsageError
from dail.synth.core.progress import OnProgress, told_to
from dail.synth.data.reader import Reading, Source
from dail.synth.method.data_check import Equal, equal_answers, problems_of
from dail.synth.schema.items import SOLUTION_BYTES, SOLUTION_JOIN
from dail.train.evals.config import EvalConfig
from dail.train.studies import attempts as trying
from dail.train.studies.agreement import disagreement
from dail.train.studies.attempts import Attempts
from dail.train.studies.curated import Curated, Flagged, Set, begin, write
from dail.train.studies.curation_config import CurateConfig
from dail.train.studies.embedder import Embedder, find_embedder
from dail.train.studies.funnel import Funnel, listed
from dail.train.studies.pool import Pool, PoolProblem, join, read_pool, short_name
from dail.train.studies.similarity import ByEmbedding, ByWording, Near, Similarity
from dail.train.studies.years import Years

_log = logging.getLogger(__name__)

ATTEMPTS, EMBEDDINGS = "attempts", "embeddings"


def curate(
    pool: Source,
    out: str | Path,
    config: CurateConfig | None = None,
    *,
    model: str | Path | None = None,
    evaluation: EvalConfig | None = None,
    attempts: str | Path | None = None,
    reading: Reading | None = None,
    on_progress: OnProgress | None = None,
) -> Curated:
    """Makes a training set and a validation split of a pool of problems with solutions.

    Blocks; works in a script, a thread and a notebook. Prints nothing: messages go to the loggers under `dail`. A rerun
    reuses the completions that were drawn with the same settings of [eval], whatever else is chosen otherwise.

    Args:
        pool: files, folders or `hf:OWNER/NAME`, or a list of them, or the rows themselves.
        out: folder that receives train.jsonl, validation.jsonl, flagged.jsonl, dropped.jsonl, curated.json and a card;
            `attempts/` in it is the folder of an evaluation.
        config: which problems are taken.
        model: folder of the model that makes the attempts, instead of the one in `evaluation`.
        evaluation: how attempts are drawn and judged; temperature 0.6 and the engine's own sizes if left out.
        attempts: an eval.json, or its folder, whose attempts are taken instead.
        reading: which columns are which fields, and what becomes of rows that cannot be used.
        on_progress: called in the thread that does the work; what it raises ends the curation.

    Raises:
        DailError: of the kind that fits; before an engine is started, unless the attempts are the reason.
    """
    config, out = config or CurateConfig(), Path(out)
    given = None if attempts is None else Path(attempts)
    drawn = _evaluation(config, evaluation, None if model is None else Path(model), given)
    config.check()
    if config.embedder is not None:
        find_embedder(config.embedder)
    with told_to(on_progress):
        run = _Run(config, Funnel(config.published))
        problems = run.read(read_pool(pool, (reading or Reading()).writing_to(out)))
        problems = run.answers(run.years(problems))
        begin(out, config, drawn)
        problems = run.not_similar(problems, out / EMBEDDINGS)
        made = None
        if config.attempts:
            made = (
                trying.attempt(problems, drawn, out / ATTEMPTS)
                if given is None and drawn is not None
                else trying.read_attempts(
                    given or out, problems, config.attempts, None if model is None else Path(model)
                )
            )
        train, validation = run.split(problems, made)
        return write(out, run.found(), train, validation, run.flagged, run.funnel.dropped, made)


def _evaluation(
    config: CurateConfig, evaluation: EvalConfig | None, model: Path | None, given: Path | None
) -> EvalConfig | None:
    """How attempts are drawn; none if none are. Raises UsageError where it is not clear whether they are."""
    if not config.attempts:
        if given is not None:
            raise UsageError(
                f"attempts are given ({given}), and curate.attempts=0 takes none; set it to how many count"
            )
        return None
    if given is not None:
        return None
    if evaluation is None and model is None:
        raise UsageError(
            "no model is named, of which the attempts are; give --model FOLDER, or --attempts with an eval.json of "
            "`dail eval`, or take none with curate.attempts=0 and validation=0"
        )
    if evaluation is None:
        assert model is not None
        evaluation = EvalConfig(engine=EngineConfig(model=model))
    elif model is not None:
        engine = evaluation.engine.model_copy(update={"model": model})
        evaluation = evaluation.model_copy(update={"engine": engine})
    if len(evaluation.drawn_at) * max(1, len(evaluation.budgets)) > 1:
        raise UsageError(
            "attempts are made in one way, and eval.temperatures or eval.budgets name several; set eval.temperature, "
            "and at most one of eval.budgets"
        )
    return evaluation.model_copy(update={"samples": config.attempts})


class _Run:
    """One curation: its steps, in order, and what they found out."""

    def __init__(self, config: CurateConfig, funnel: Funnel) -> None:
        self.config, self.funnel = config, funnel
        self.flagged: list[Flagged] = []
        self._sources: list[Set] = []
        self._against: list[Set] = []
        self._similarity: Similarity | None = None

    def read(self, pool: Pool) -> list[PoolProblem]:
        """The problems, of which a row may be a part."""
        account = pool.account
        invalid = {"rows that cannot be used": account.invalid} if account.invalid else {}
        self.funnel.count("read", account.rows, len(pool.rows), invalid)
        self._sources = [
            Set.of_rows(one.file, [placed for placed in pool.rows if placed.place.file == one.file])
            for one in account.sources
        ]
        joined = join(pool.rows, near=self.config.join == "near")
        texts = {name: problem.text for problem in joined.problems for name in _names(problem)}
        for first, other, share in joined.near:
            near = Near(other, "", first, round(share, 4), "runs of eight words")
            self.flagged.append(Flagged.of_pair("joined", near, texts.get(other, ""), texts.get(first, "")))
        num = len(joined.problems)
        told = listed([pair[1] for pair in joined.near], "rows joined by most of their wording and their answer")
        told += listed(joined.apart, "ids that different problems have in different files, kept apart")
        told += listed([one.id for one in joined.problems if len(one.solutions) > 1], "problems with several solutions")
        further = {"further rows of a problem": len(pool.rows) - num} if len(pool.rows) > num else {}
        self.funnel.count("joined", len(pool.rows), num, further, told)
        return joined.problems

    def years(self, problems: list[PoolProblem]) -> list[PoolProblem]:
        if self.config.years is None:
            return problems
        years, without = Years.parse(self.config.years), [one.id for one in problems if one.year is None]
        if without and (self.config.without_year == "refuse" or len(without) == len(problems)):
            raise InputError(
                f"curate.years={years}: {len(without)} of {len(problems)} problems have no year, neither in a column "
                f"`year` nor in an id such as 2024-I-3 ({', '.join(without[:3])}); name the column with --map "
                "metadata.year=COLUMN, or set without_year=drop or keep"
            )
        why = {one.id: f"not of {years}" for one in problems if one.year is not None and one.year not in years}
        if self.config.without_year == "drop":
            why |= dict.fromkeys(without, "no year")
        found = Counter(one.year_found for one in problems)
        told = [f"years from a column: {found['column']}, from an id: {found['id']}, without one: {found['nowhere']}"]
        return self.funnel.drop("years", problems, why, "set other curate.years", told)

    def answers(self, problems: list[PoolProblem]) -> list[PoolProblem]:
        """Those that have what their kind needs."""
        why = {one.id: "no solution" for one in problems if not one.solutions}
        for one in problems:
            if len(SOLUTION_JOIN.join(one.solutions).encode()) > SOLUTION_BYTES:
                why[one.id] = f"solutions of more than {SOLUTION_BYTES} bytes together"
        told: list[str] = []
        if self.config.item_kind == "verifiable":
            for one in problems:
                if one.row.kind == "proof":
                    why.setdefault(one.id, "said to be a proof")
                elif one.answer is None:
                    why.setdefault(one.id, "neither an answer nor a box")
            checked = [one for one in problems if one.id not in why]
            with ExitStack() as stack:
                conflicts, told = _conflicts(checked, stack.enter_context(equal_answers()))
            why |= self._settled(conflicts)
            told += listed(list(conflicts), "problems whose rows give different answers")
        advice = (
            "a verifiable problem wants a solution, and an answer or a box in it: name the columns with --map, or set "
            "item_kind=proof"
            if self.config.item_kind == "verifiable"
            else "name the column of the solutions with --map solution=COLUMN"
        )
        return self.funnel.drop("answers", problems, why, advice, told)

    def _settled(self, conflicts: Mapping[str, str]) -> dict[str, str]:
        """Why those with a conflict are left out, if they are."""
        if conflicts and self.config.conflicts == "refuse":
            shown = "; ".join(f"{name}: {what}" for name, what in list(conflicts.items())[:5])
            more = f" (and {len(conflicts) - 5} more)" if len(conflicts) > 5 else ""
            raise InputError(
                f"{len(conflicts)} problems have rows whose answers are not the same: {shown}{more}; mend them, or set "
                "curate.conflicts=drop to leave them out, or keep to take the first answer"
            )
        return dict.fromkeys(conflicts, "different answers") if self.config.conflicts == "drop" else {}

    def not_similar(self, problems: list[PoolProblem], kept: Path) -> list[PoolProblem]:
        """Those that no evaluation has, and if settings say so, one of those that are near to each other."""
        sets = {name: problems_of(name) for name in self.config.against}
        self._against = [Set.of_texts(name, texts) for name, texts in sets.items()]
        by = self._similarity = self._compared(kept)
        drops = self.config.repeats == "drop"
        if isinstance(by, ByWording) and (sets or drops):
            _log.warning(f"near problems are found by {by.told}; curate.embedder names one")
        if sets:
            problems = self._without_similar(by, problems, sets)
        texts = {one.id: one.text for one in problems}
        repeats = list(by.repeats(texts))
        self.flagged += [Flagged.of_pair("repeats", near, texts[near.id], texts[near.other]) for near in repeats]
        told = listed(list(dict.fromkeys(near.id for near in repeats)), "problems near to an earlier one of the pool")
        why = dict.fromkeys(_later(repeats), "near to an earlier problem of the pool") if drops else {}
        return self.funnel.drop("repeats", problems, why, "set curate.repeats=keep", told)

    def _without_similar(
        self, by: Similarity, problems: list[PoolProblem], sets: Mapping[str, Mapping[str, str]]
    ) -> list[PoolProblem]:
        texts = {one.id: one.text for one in problems}
        found = [near for name, others in sets.items() for near in by.flagged(texts, short_name(name), others)]
        of = {short_name(name): others for name, others in sets.items()}
        self.flagged += [Flagged.of_pair("similarity", one, texts[one.id], of[one.of][one.other]) for one in found]
        told = [f"by {by.told}", *listed(list(dict.fromkeys(near.id for near in found)), "problems flagged")]
        if isinstance(by, ByEmbedding):
            cut = by.embedder.num_cut(
                [*texts.values(), *(text for others in sets.values() for text in others.values())]
            )
            if cut:
                told.append(f"texts longer than the {by.embedder.ref.max_tokens} tokens that the embedder reads: {cut}")
        why = {near.id: f"near to a problem of {near.of}" for near in reversed(found)}
        return self.funnel.drop(
            "similarity",
            problems,
            why if self.config.similar == "drop" else {},
            "is the pool itself among curate.against? Else set another similarity, or similar=keep",
            told,
        )

    def _compared(self, kept: Path) -> Similarity:
        if self.config.embedder is None:
            return ByWording()
        embedder = Embedder.load(self.config.embedder)
        kept.mkdir(parents=True, exist_ok=True)
        return ByEmbedding(embedder, self.config.similarity, self.config.repeat_similarity, kept)

    def split(self, problems: list[PoolProblem], made: Attempts | None) -> tuple[list[PoolProblem], list[PoolProblem]]:
        """Problems for training, and the next hardest for validation."""
        if made is None:
            return problems, []
        most = self.config.keep_solved_at_most
        solved = [one for one in problems if made.num_correct[one.id] > most]
        reason = f"solved in more than {most} of {made.num_attempts} attempts"
        advice = "take harder problems, fewer attempts, or a higher curate.keep_solved_at_most"
        told = [f"attempts of {made.model.name}{', made before' if made.given else ''}: {made.num_attempts} a problem"]
        train = self.funnel.drop("attempts", problems, dict.fromkeys((one.id for one in solved), reason), advice, told)
        if not self.config.validation:
            return train, []
        solved.sort(key=lambda one: (made.num_correct[one.id], _lot(self.config.split_seed, one.id)))
        validation = solved[: self.config.validation]
        told = []
        if len(validation) < self.config.validation:
            told = [f"wanted: {self.config.validation}"]
            _log.warning(
                f"the validation split has {len(validation)} problems, wanted {self.config.validation}: no more are "
                "left of those that the model solves; take a larger pool, or set curate.validation"
            )
        easier = len(solved) - len(validation)
        self.funnel.count("validation", len(solved), len(validation), {"easier": easier} if easier else {}, told)
        return train, validation

    def found(self) -> dict[str, Any]:
        """Fields of curated.json."""
        by = self._similarity
        assert by is not None, "a step of every curation"
        return {
            "settings": self.config,
            "sources": tuple(self._sources),
            "against": tuple(self._against),
            "similarity": by.told,
            "embedder": by.embedder.ref if isinstance(by, ByEmbedding) else None,
            "steps": tuple(self.funnel.steps),
        }


def _conflicts(problems: Iterable[PoolProblem], equal: Equal) -> tuple[dict[str, str], list[str]]:
    """By problem, two answers that its rows give and that differ; and what else is to be known of the answers."""
    conflicts: dict[str, str] = {}
    undecided, boxes = list[str](), list[str]()
    for one in problems:
        differ = disagreement(one.answers or one.boxes, equal)
        if differ is not None and differ.is_decided:
            conflicts[one.id] = f"{differ.first!r} and {differ.other!r}"
        elif differ is not None:
            undecided.append(one.id)
        if one.answers and any(equal(box, one.answers[0]) is False for box in dict.fromkeys(one.boxes)):
            boxes.append(one.id)
    told = listed(undecided, "problems whose answers could not be compared")
    return conflicts, told + listed(boxes, "problems with a solution whose box contradicts the answer, which stands")


def _later(repeats: Sequence[Near]) -> list[str]:
    """Those that are near to one that is left: of a chain a, b near a, c near b, b alone."""
    gone: dict[str, None] = {}
    for near in repeats:
        if near.other not in gone:
            gone[near.id] = None
    return list(gone)


def _names(problem: PoolProblem) -> set[str]:
    """Under which a message may call it."""
    return {problem.id, *(name for one in problem.origins for name in (one.id, f"{one.file} {one.row}") if name)}


def _lot(seed: int, name: str) -> bytes:
    """By hash, so that neither order nor any library's generator can change it."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
