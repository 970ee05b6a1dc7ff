"""The benchmarks that `dail eval --benchmark` knows by name: where each lies, what its answers are, how many there are.

    dail eval --benchmark aime-2024 --benchmark aime-2025 --benchmark gpqa-diamond=gpqa/gpqa_diamond.csv …

A benchmark is no more than a name for problems that are read as all others are: a set of the hub, or the file that was
given in its place. Every one of them is judged by the grader `math`; `official` gives the authors' figures.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from dail.synth.core.errors import UsageError
from dail.synth.method.answer_text import clean
from dail.synth.method.answer_values import Quantity, read
from dail.synth.schema.kinds import stated_answer

Shape = Literal["0 to 999", "integer", "letter", "text"]

_AIME_TERMS = "problems of the Mathematical Association of America; the set's card has its terms"
_LETTER = re.compile(r"[A-J]")
_PARTS = 3  # of a path, from its end: a folder further up says nothing of a file


@dataclass(frozen=True)
class Benchmark:
    """One published set of problems.

    Attributes:
        name: as `--benchmark` takes it.
        about: in a few words.
        group: that its problems are reported under, which two editions may share.
        num_problems: that its authors publish.
        answers: what each of them is; another one is refused.
        source: the set of the hub that is read unless a file is given; blank if there is none.
        download: a command that fetches it for machines without a network, and the file or folder it leaves.
        others: further sets that can be given, as `hf:…` or as their files.
        terms: its licence, and what else its authors ask.
        other_edition: another benchmark whose files have the same columns.
        called: an expression that the names of its files have in them, and those of the other edition have not.
    """

    name: str
    about: str
    group: str
    num_problems: int
    answers: Shape
    source: str
    download: tuple[str, str]
    others: tuple[str, ...]
    terms: str
    other_edition: str = ""
    called: str = ""

    @property
    def advice(self) -> str:
        """How to give its file."""
        command, left = self.download
        return (
            f"to bring {self.name} along: where there is a network, `{command}`; then here --benchmark "
            f"{self.name}={left}"
        )

    def fault(self, answer: str) -> str | None:
        """What is wrong with an answer of its problems, in words, or none."""
        if self.answers == "text":
            return None
        wanted = {"0 to 999": "an integer from 0 to 999", "integer": "an integer", "letter": "a letter from A to J"}
        fits = _LETTER.fullmatch(answer.strip()) is not None if self.answers == "letter" else self._is_number(answer)
        return None if fits else f"it is {answer!r:.80}; an answer of {self.name} is {wanted[self.answers]}"

    def _is_number(self, answer: str) -> bool:
        value = read(clean(stated_answer(answer) or ""))
        if not isinstance(value, Quantity) or value.number.denominator != 1:
            return False
        return self.answers == "integer" or 0 <= value.number <= 999


def _hub(name: str, folder: str) -> tuple[str, str]:
    return f"hf download {name} --repo-type dataset --local-dir {folder}", folder


def _imo(file: str) -> tuple[str, str]:
    return f"curl -LO https://raw.githubusercontent.com/google-deepmind/superhuman/main/imobench/{file}", file


BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark(
            "aime-2024",
            "AIME I and II of 2024, reported with 2025 as aime",
            group="aime",
            num_problems=30,
            answers="0 to 999",
            source="hf:emendes3/aime_2024",
            download=_hub("emendes3/aime_2024", "aime_2024"),
            others=("HuggingFaceH4/aime_2024", "math-ai/aime24", "Maxwell-Jia/AIME_2024"),
            terms=_AIME_TERMS,
            other_edition="aime-2025",
            called=r"(?<!\d)(?:20)?24(?!\d)",
        ),
        Benchmark(
            "aime-2025",
            "AIME I and II of 2025, reported with 2024 as aime",
            group="aime",
            num_problems=30,
            answers="0 to 999",
            source="hf:emendes3/aime_2025",
            download=_hub("emendes3/aime_2025", "aime_2025"),
            others=("math-ai/aime25", "MathArena/aime_2025", "yentinglin/aime_2025"),
            terms=_AIME_TERMS,
            other_edition="aime-2024",
            called=r"(?<!\d)(?:20)?25(?!\d)",
        ),
        Benchmark(
            "beyond-aime",
            "BeyondAIME, integers without a bound",
            group="beyond-aime",
            num_problems=100,
            answers="integer",
            source="hf:emendes3/beyond_aime",
            download=_hub("emendes3/beyond_aime", "beyond_aime"),
            others=("ByteDance-Seed/BeyondAIME",),
            terms="CC0 1.0 by the card of ByteDance-Seed/BeyondAIME",
        ),
        Benchmark(
            "imo-answerbench-1",
            "IMO-AnswerBench as first published, answerbench.csv",
            group="imo-answerbench-1",
            num_problems=400,
            answers="text",
            source="hf:emendes3/imo_answer",
            download=_imo("answerbench.csv"),
            others=(),
            terms="CC BY 4.0",
            other_edition="imo-answerbench-2",
            called=r"answerbench(?![-_.]?v?[02-9])|answer[-_.]?v?1(?!\d)",
        ),
        Benchmark(
            "imo-answerbench-2",
            "IMO-AnswerBench of February 2026, answerbench_v2.csv: mended problems and answers",
            group="imo-answerbench-2",
            num_problems=400,
            answers="text",
            source="",
            download=_imo("answerbench_v2.csv"),
            others=(),
            terms="CC BY 4.0",
            other_edition="imo-answerbench-1",
            called=r"answer(?:bench)?[-_.]?v?2(?!\d)",
        ),
        Benchmark(
            "gpqa-diamond",
            "GPQA Diamond, four choices in an order drawn by eval.seed",
            group="gpqa-diamond",
            num_problems=198,
            answers="letter",
            source="hf:Idavidrein/gpqa:gpqa_diamond/train",
            download=(
                "hf download Idavidrein/gpqa gpqa_diamond.csv --repo-type dataset --local-dir gpqa",
                "gpqa/gpqa_diamond.csv",
            ),
            others=(),
            terms="CC BY 4.0; its authors ask that no example of it be published, and report.html shows some",
        ),
    )
}

HELP = (
    "A benchmark by name, from the hub or from FILE: "
    + "; ".join(f"{one.name} ({one.num_problems}: {one.about})" for one in BENCHMARKS.values())
    + ". Repeatable."
)


def benchmark_named(text: str) -> tuple[Benchmark, str]:
    """The benchmark of `NAME` or `NAME=FILE`, and where it is to be read.

    Raises:
        UsageError: there is no such benchmark, or none of its sets is on the hub and no file was given.
    """
    name, sep, given = text.partition("=")
    key = re.sub(r"[\s_]+", "-", name.strip().lower())
    if key not in BENCHMARKS:
        raise UsageError(f"--benchmark {text}: there is no benchmark {name!r}; {_near(key)}")
    found = BENCHMARKS[key]
    if sep and not given.strip():
        raise UsageError(f"--benchmark {text}: no file stands behind the equals sign; {found.advice}")
    if not sep and not found.source:
        raise UsageError(f"--benchmark {text}: it is in no set of the hub that we know; {found.advice}")
    return found, given.strip() or found.source


def _near(key: str) -> str:
    begun = [name for name in BENCHMARKS if key and name.startswith(key)]
    alike = begun or difflib.get_close_matches(key, BENCHMARKS, 1)
    known = f"there are {', '.join(BENCHMARKS)}; a file of problems of your own is for --problems"
    return f"{' or '.join(alike)} was probably meant; {known}" if alike else known


def edition_note(benchmark: Benchmark, name: str) -> str | None:
    """What the name of a file says about its edition, in words: another one, or nothing; none if it is as it should be.

    The file's own name says more than its folders'. Nothing else tells them apart: both have the same columns, and
    which problems were mended is not published.
    """
    if not benchmark.other_edition:
        return None
    other = BENCHMARKS[benchmark.other_edition]
    for part in reversed(re.split(r"[/\\:]", name.lower())[-_PARTS:]):
        if re.search(benchmark.called, part):
            return None
        if re.search(other.called, part):
            return f"it is called as {other.name} is, and was given as {benchmark.name}: look which it is"
    return f"that it is {benchmark.name} and not {other.name} is taken as said"
