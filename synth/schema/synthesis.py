"""How traces are drawn: the settings that come with expert solutions, and the rule of acceptance in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, field_validator, model_validator

from dail.synth.core.extensions import Extension, Reference, label
from dail.synth.schema.items import StopString, listed
from dail.synth.schema.kinds import LoneBox
from dail.synth.schema.rendering import WITHOUT_EFFECT, Rendering
from dail.synth.schema.selection import BY_VERDICT, GRADERS, MATH, Enough
from dail.synth.schema.texts import fault

Role = Literal["student", "privileged"]
ContextName = Literal["waypoints", "answer_only", "wrong_hint", "reference_only", "other_solution"]
Shown = Literal["solution", "answer", "nothing", "other_solution"]
PAPER = "paper"
COLUMNS = ("privileged", "negative", "student")  # contexts that every trace has, besides synthesis.contexts
RULES = ("absolute", "relative", "topk")
PROMPTS = Extension("set of prompts", "dail.prompts", (PAPER,), files="*.jinja")
EXTRACTORS = (PAPER, "paper-sorted", "official", "rhs")
EXTRACTOR = Extension("waypoint extractor", "dail.extractors", EXTRACTORS)
ACCEPTANCE = Extension("acceptance rule", "dail.acceptance", RULES)
# Raised when a built-in extractor finds other waypoints than before, so that nothing drawn then is taken for the same.
EXTRACTED_BY = 2
# Raised when a further context, or the prompt that shows a part of the solution, is worded anew.
WORDED_BY = 1
_HOW_MANY = {"samples_per_item", "enough", "grader"}  # which samples are drawn; none of them changes for it
_EXTENSIONS = {"prompts": PROMPTS, "extractor": EXTRACTOR, "acceptance": ACCEPTANCE}


def _token(value: object) -> object:
    """Before the two types are tried, whose errors together would say less."""
    if isinstance(value, str) and (why := fault(value)):
        raise ValueError(why)
    is_id = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    if is_id or (isinstance(value, str) and 0 < len(value) <= 256):
        return value
    raise ValueError(f"{value!r:.80} names no token; give its text, up to 256 characters, or its id, from 0 on")


TokenName = Annotated[int | str, BeforeValidator(_token)]


class Synthesis(Rendering):
    """How traces are drawn (paper §2.1, App. B.2). Part of every unit's identity."""

    method: Literal["mixed", "direct", "student", "expert"] = Field(
        "mixed",
        description="mixed-policy rollouts; direct sampling from the privileged student; the student alone; or the "
        "expert solution itself as the trace, for fine-tuning on it (the paper's baseline)",
    )
    prompts: Reference = Field(
        PAPER,
        description="templates of the three roles: the paper's, or your own, a FOLDER with student.jinja, "
        "privileged_student.jinja, negative_reference.jinja; a role without a file keeps the paper's",
    )
    extractor: Reference = Field(
        PAPER,
        description="what finds the waypoints that the negative reference is shown: paper, which reads numbers and "
        "formulas in their order; paper-sorted, the same sorted as text; official, as the authors' code does; rhs, "
        "right-hand sides of equations; or your own, FILE.py:NAME",
    )
    contexts: tuple[ContextName, ...] = Field(
        (),
        description="further contexts that the trainer may take as references, beside student, privileged and "
        "negative: waypoints, the paper's negative reference; answer_only, the answer without them; wrong_hint, "
        "another item's answer as if it were right; reference_only, the solution without the problem; "
        "other_solution, the solution of another problem",
    )
    shown: Shown = Field(
        "solution",
        description="what the privileged student is shown: the solution; the answer alone (STaR's rationalisation); "
        "nothing, so that it sees what the student sees; or the solution of another problem of the batch",
    )
    exposure: float = Field(
        1.0,
        gt=0,
        le=1,
        description="the share of that text that it is shown at most, in characters: its beginning, up to the end of a "
        "sentence or a line",
    )
    waypoints_from: Literal["own", "other"] = Field(
        "own",
        description="whose waypoints the negative reference is told: the solution's, or those of another problem, as "
        "if the lists had been shuffled",
    )
    proof_answers: bool = Field(
        False,
        description="the negative reference is told the answer of a proof too, where the solution has one (the "
        "authors' code; in the paper never)",
    )
    acceptance: Literal["absolute", "relative", "topk"] | Reference = Field(
        "absolute",
        description="a student's token is accepted if the privileged student gives it tau (the paper's rule); tau "
        "times the largest probability; if at most acceptance_k tokens are as likely as it; or by your own rule, "
        "FILE.py:NAME",
    )
    tau: float = Field(
        0.8, gt=0, le=1, description="a student's token is accepted if the privileged student gives it this"
    )
    proposer: Role = Field(
        "student",
        description="who proposes in mixed rollouts, and is held against what the other role gives; the other writes "
        "where nothing is accepted: student is the paper, privileged the authors' other switch",
    )
    proposals: int = Field(
        1,
        ge=1,
        le=64,
        description="how often the proposer proposes at a position: the first proposal that is accepted stands, and if "
        "none is, the other role writes (the paper: 1; the authors' code: 5); of method mixed alone",
    )
    greedy_proposals: bool = Field(
        False,
        description="propose the likeliest tokens in their order, as many as proposals says, instead of drawing them: "
        "the likeliest that is accepted stands, and if none is, the other role draws as ever (the authors' use_greedy)",
    )
    acceptance_k: int = Field(25, ge=1, description="the k of acceptance=topk; no other rule reads it")
    temperature: float = Field(0.6, ge=0, le=2, description="temperature of both draws; 0 is greedy")
    probability_space: Literal["raw", "tempered"] = Field(
        "raw",
        description="what tau is held against: raw, what the model gives a token at temperature 1, whatever is cut off "
        "or suppressed; tempered, its share at this temperature of what is not suppressed",
    )
    top_p: float = Field(1.0, gt=0, le=1, description="both draws take the likeliest tokens that have this together")
    top_k: int = Field(0, ge=0, description="both draws take one of so many likeliest tokens; 0 takes all")
    suppress: tuple[TokenName, ...] = Field(
        (),
        max_length=16,
        description="tokens that no role draws, each the text of one token of the model's or its id: </think>, as the "
        "authors' code, for thoughts that never end; the other probabilities make up the whole, but for "
        "probability_space=raw, which stays what the model gives",
    )
    stop: tuple[StopString, ...] = Field(
        (), max_length=16, description="texts that end a trace, which keeps them; besides the model's own stop tokens"
    )
    samples_per_item: int = Field(1, ge=1, le=256, description="traces per expert solution")
    enough: Enough = Field(
        "all",
        description="when an item has samples enough: all samples_per_item of them; or as soon as it has the trace "
        "that `dail select --keep` would choose by this rule if all were drawn: what would come after it is not drawn",
    )
    grader: Reference = Field(
        MATH,
        description="what is correct, to enough and to `dail select`: math, official, or your own, FILE.py:NAME, as "
        "for eval.grader",
    )
    max_tokens: int = Field(16384, ge=1, le=131072, description="a longer trace is cut; the paper cuts at 256 for LRMs")
    lone_box: LoneBox = Field(
        "answer",
        description="what the last box of a solution is where an item has no answer: its answer, as in the paper's own "
        "data, or nothing, which makes the item a proof",
    )
    too_long: Literal["fail", "drop_later_solutions", "drop_then_halve"] = Field(
        "fail",
        description="a solution that is too long for the prompt fails its item; or loses its later solutions (of a "
        "list, or under the headings Solution 2, …), and then fails or, as the authors', is halved; shards say what "
        "was dropped",
    )
    prompt_tokens: int | None = Field(
        None,
        ge=1,
        description="a longer prompt is too long (the authors' 16,000); if left out, one that leaves no room for a "
        "trace, and nothing may be dropped: what is would depend on what an engine holds",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all draws; another one makes another set of traces")

    @field_validator("contexts")
    @classmethod
    def _are_named_once(cls, names: tuple[ContextName, ...]) -> tuple[ContextName, ...]:
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is named twice; name each context once")
        return names

    _is_a_list = field_validator("suppress", "stop", "contexts", mode="before")(listed)

    @model_validator(mode="after")
    def _says_when_it_drops(self) -> Self:
        if self.too_long != "fail" and self.prompt_tokens is None:
            raise ValueError(
                f"too_long={self.too_long} needs prompt_tokens, so many as a prompt may have (the authors' 16000)"
            )
        return self

    @model_validator(mode="after")
    def _shows_a_part_of_something(self) -> Self:
        if self.shown in ("answer", "nothing") and self.exposure < 1:
            raise ValueError(
                f"exposure={self.exposure} is a share of a solution, and shown={self.shown}; leave one of them out"
            )
        return self

    @property
    def takes_another(self) -> bool:
        """Whether items need another problem's solution or waypoints."""
        return self.shown == "other_solution" or self.waypoints_from == "other" or "other_solution" in self.contexts

    @property
    def verifier(self) -> Role:
        """Whose probability a proposal is held against, and who writes where none is accepted."""
        return "privileged" if self.proposer == "student" else "student"

    def pinned(self) -> Synthesis:
        """With the digests of what was brought along; imports nothing. Raises ExtensionError: not there, changed."""
        kinds = {**_EXTENSIONS, "grader": GRADERS}
        return self.model_copy(update={name: kind.pin(getattr(self, name)) for name, kind in kinds.items()})

    def labels(self) -> dict[str, str]:
        """What outputs say of prompts, extractor and acceptance: NAME#DIGEST where they are pinned."""
        return {name: label(getattr(self, name)) for name in _EXTENSIONS}

    def check_names(self) -> Synthesis:
        """Itself, if it names no file and no module. Raises ValueError."""
        for name, kind in {**_EXTENSIONS, "grader": GRADERS}.items():
            kind.check_name(getattr(self, name))
        return self

    @property
    def stops_by_verdict(self) -> bool:
        """Whether a trace must be judged before it is known whether more are drawn."""
        return self.enough in BY_VERDICT

    def identity(self) -> dict[str, JsonValue]:
        """What shapes a trace. A setting that changes nothing is left out, so that names made without it stay."""
        settings: dict[str, JsonValue] = self.model_dump(mode="json", exclude=_HOW_MANY)
        settings |= self.labels()
        if self.acceptance != "topk":
            del settings["acceptance_k"]
        if self.method != "mixed":
            del settings["proposals"], settings["proposer"], settings["greedy_proposals"]
        if self.method == "expert":
            del settings["suppress"]
        if self.extractor in EXTRACTORS:
            settings["extracted_by"] = EXTRACTED_BY
        if self.contexts or self.exposure < 1:
            settings["worded_by"] = WORDED_BY
        without_effect: dict[str, JsonValue] = {
            **WITHOUT_EFFECT,
            "lone_box": "answer",
            "too_long": "fail",
            "prompt_tokens": None,
            "prompts": PAPER,
            "extractor": PAPER,
            "contexts": [],
            "shown": "solution",
            "exposure": 1.0,
            "waypoints_from": "own",
            "proof_answers": False,
            "acceptance": "absolute",
            "top_p": 1.0,
            "top_k": 0,
            "stop": [],
            "proposer": "student",
            "proposals": 1,
            "greedy_proposals": False,
            "suppress": [],
        }
        return {name: value for name, value in settings.items() if without_effect.get(name, ...) != value}


@dataclass(frozen=True)
class Acceptance:
    """When a proposal t of one role is accepted, by the other one's distribution p: in the paper the student proposes.

        absolute   p(t) >= tau                       the paper's rule (§2.1)
        relative   p(t) >= tau * max p
        topk       at most k tokens have p >= p(t)   as in speculative knowledge distillation; tau plays no part
        else       a reference to a rule that somebody brought along (`dail.synth.method.acceptance.OwnRule`)

    `tempered`: p is taken at the row's temperature, without the suppressed tokens; else at temperature 1, as the model
    gives it. It is never cut by top-p or top-k. A suppressed token is no proposal, and counts for nothing where p is
    compared with others' (max p, and how many have p >= p(t)).
    """

    kind: str
    tau: float
    k: int
    tempered: bool
