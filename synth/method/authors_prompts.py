"""The authors' prompts from a user's own checkout of their repository, as a folder for `synthesis.prompts`.

    dail prompts import ~/DAIL --out official
    dail synth FILE --set synthesis.prompts=official/ --set synthesis.extractor=official …

Their wording is theirs and not in our tree. Their programs are read as syntax trees and never run: three texts with
places for what is put in, and the function that puts the hint of the negative reference into words.

    data_generation/generate_expert_completions.py    STUDENT_PROMPT_TEMPLATE, EXPERT_PROMPT_TEMPLATE
    train/dail_train.py                               the same two, CHEATING_PROMPT_TEMPLATE, form_cheating_hint
"""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Sequence
from pathlib import Path

from dail.synth.core.config import Frozen
from dail.synth.core.errors import UsageError
from dail.synth.core.files import refused, replace, sha256

REPOSITORY = "https://github.com/ethanm88/DAIL"
KNOWN_COMMIT = "4886f8d"  # whose shape this file knows
DRAWING, TRAINING = Path("data_generation/generate_expert_completions.py"), Path("train/dail_train.py")
_STUDENT, _EXPERT, _CHEATING = "STUDENT_PROMPT_TEMPLATE", "EXPERT_PROMPT_TEMPLATE", "CHEATING_PROMPT_TEMPLATE"
_HINT = "form_cheating_hint"
_SOURCE = "source.json"
_MOST_BYTES = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ANSWER = "{{ answer }}"
_PROBLEM, _SOLUTION = "{{ problem | trim }}", "{{ solution | trim }}"


class Imported(Frozen):
    """What was written, and from which files of which commit; `commit` is none outside a clone."""

    folder: str
    repository: str = REPOSITORY
    commit: str | None
    sources: dict[str, str]
    templates: dict[str, str]


def import_prompts(checkout: Path, out: Path) -> Imported:
    """Writes student.jinja, privileged_student.jinja, negative_reference.jinja and source.json into `out`.

    Raises:
        UsageError: no checkout of theirs, or not of the shape that is known: says what was looked for and where; `out`
            holds other files.
        StorageError: the disk refused.
    """
    drawing, training = _parsed(checkout, DRAWING), _parsed(checkout, TRAINING)
    texts = {
        "student": _template(drawing, DRAWING, _STUDENT, [_PROBLEM]),
        "privileged_student": _template(drawing, DRAWING, _EXPERT, [_PROBLEM, _SOLUTION]),
    }
    for role, name in (("student", _STUDENT), ("privileged_student", _EXPERT)):
        if _template(training, TRAINING, name, [_PROBLEM, _SOLUTION]) != texts[role]:
            raise UsageError(
                f"{name} is worded differently in {DRAWING} and {TRAINING}; wanted one wording to draw and to train "
                "with; make them the same in your checkout"
            )
    texts["negative_reference"] = _template(training, TRAINING, _CHEATING, [_PROBLEM, _hint(training)])
    files = {f"{role}.jinja": text + "\n" for role, text in texts.items()}  # Jinja takes one line break from the end
    imported = Imported(
        folder=str(out),
        commit=_commit(checkout),
        sources={str(path): sha256((checkout / path).read_bytes()) for path in (DRAWING, TRAINING)},
        templates={name: sha256(text.encode()) for name, text in files.items()},
    )
    told = imported.model_dump(mode="json", exclude={"folder"})
    _write(out, {**files, _SOURCE: json.dumps(told, indent=1) + "\n"})
    return imported


def _parsed(checkout: Path, path: Path) -> ast.Module:
    file = checkout / path
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{file} has more than {_MOST_BYTES} bytes; wanted {path} of {REPOSITORY}")
        return ast.parse(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"{checkout} is no checkout of {REPOSITORY}: {file} cannot be read ({error.strerror}); looked for "
            f"{DRAWING} and {TRAINING}; clone it (commit {KNOWN_COMMIT} is known to fit) and give its folder"
        ) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"{file} is not Python that can be read: {error}; restore it as it is in {REPOSITORY}"
        ) from None


def _template(module: ast.Module, path: Path, name: str, values: Sequence[str]) -> str:
    """The Jinja of a text with places in braces, by number, by order or by name."""
    text = _text(_assigned(module, path, name), path, name)
    named = {"0": 0, "1": 1, "problem": 0, "solution": 1, "hint": 1}
    pieces, used = list[str](), list[int]()
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise _not_known(path, f"{name} has a brace that closes nothing ({error})") from None
    for literal, place, spec, conversion in parts:
        pieces.append(_literal(literal))
        if place is None:
            continue
        number = len(used) if place == "" else named.get(place, len(values))
        if number >= len(values) or spec or conversion:
            raise _not_known(path, f"{name} has a place {{{place}}} for something unknown")
        used.append(number)
        pieces.append(values[number])
    wanted = 1 if name == _STUDENT else 2
    if sorted(set(used)) != list(range(wanted)):
        raise _not_known(path, f"{name} has places for {len(set(used))} texts, wanted {wanted}")
    return "".join(pieces)


def _literal(text: str) -> str:
    """As Jinja writes it, whatever is in it and stands behind it."""
    if not text.endswith("{") and not any(mark in text for mark in ("{{", "{%", "{#")):
        return text
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}"


def _assigned(module: ast.Module, path: Path, name: str) -> ast.expr:
    found = [
        node.value
        for node in module.body
        if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == name for one in node.targets)
    ]
    if len(found) != 1:
        raise _not_known(path, f"{name} is set {len(found)} times at its top level, wanted once")
    return found[0]


def _text(value: ast.expr, path: Path, name: str) -> str:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return _text(value.left, path, name) + _text(value.right, path, name)
    raise _not_known(path, f"{name} is not a text as it stands")


def _hint(module: ast.Module) -> str:
    """The hint in words: of its two returned texts, the one that holds the answer is for items that have one."""
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == _HINT]
    if len(functions) != 1:
        raise _not_known(TRAINING, f"there are {len(functions)} functions {_HINT}, wanted one")
    body = functions[0].body
    returned = [node.value for top in body for node in _own(top) if isinstance(node, ast.Return)]
    joined = _joined(functions[0])
    texts = [_said(value, joined) for value in returned if isinstance(value, ast.JoinedStr)]
    with_answer = [text for text in texts if _ANSWER in text]
    without = [text for text in texts if _ANSWER not in text]
    if len(with_answer) != 1 or len(without) != 1 or len(texts) != len(returned):
        raise _not_known(TRAINING, f"{_HINT} returns no two texts, one with the answer and one without")
    return f"{{% if answer is not none %}}{with_answer[0]}{{% else %}}{without[0]}{{% endif %}}"


def _own(node: ast.AST) -> list[ast.AST]:
    """Without what stands in functions inside."""
    if isinstance(node, ast.FunctionDef):
        return []
    return [node, *(inner for child in ast.iter_child_nodes(node) for inner in _own(child))]


def _joined(function: ast.FunctionDef) -> dict[str, str]:
    """By name, the Jinja of a list of results that is put together with a text between."""
    found = {}
    for node in function.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Attribute(value=ast.Constant(value=str(between)), attr="join")),
            ):
                found[name] = f"{{{{ waypoints | join({json.dumps(between, ensure_ascii=False)}) }}}}"
    return found


def _said(text: ast.JoinedStr, joined: dict[str, str]) -> str:
    pieces, told = list[str](), list[str]()
    for part in text.values:
        match part:
            case ast.Constant(value=str(literal)):
                pieces.append(_literal(literal))
            case ast.FormattedValue(value=ast.Name(id=name), conversion=-1, format_spec=None):
                if name not in joined and "answer" not in name:
                    raise _not_known(TRAINING, f"{_HINT} tells {name}, which is no answer and no list of results")
                pieces.append(joined.get(name, _ANSWER))
                told.append(name)
            case _:
                raise _not_known(TRAINING, f"{_HINT} tells more than names")
    if sum(name in joined for name in told) != 1 or len(told) > 2:
        raise _not_known(TRAINING, f"{_HINT} does not tell results once and one answer at most")
    return "".join(pieces)


def _not_known(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path} is not as it is known: {what}; give a checkout of {REPOSITORY} (commit {KNOWN_COMMIT} fits), or write "
        "the three templates yourself (synth/method/parts-of-your-own.md)"
    )


def _commit(checkout: Path) -> str | None:
    """As git's own files say; git is not run."""
    try:
        head = (checkout / ".git" / "HEAD").read_text("utf-8").strip()
        reference = head.removeprefix("ref: ")
        if reference != head and re.fullmatch(r"refs/[\w./-]+", reference) and ".." not in reference:
            file = checkout / ".git" / reference
            packed = checkout / ".git" / "packed-refs"
            if file.is_file():
                head = file.read_text("utf-8").strip()
            else:
                rows = (
                    line.split() for line in packed.read_text("utf-8").splitlines() if not line.startswith(("#", "^"))
                )
                head = next((row[0] for row in rows if row[1:] == [reference]), "")
    except (OSError, UnicodeDecodeError):
        return None
    return head if _COMMIT.fullmatch(head) else None


def _write(out: Path, files: dict[str, str]) -> None:
    """All of them, or none where other files are in the way."""
    try:
        there = (
            {file.name: file.read_bytes() if file.is_file() else b"" for file in out.iterdir()} if out.exists() else {}
        )
        for name, data in there.items():
            if name not in files or files[name].encode() != data:
                raise UsageError(
                    f"{out / name} is there already and is not what would be written; nothing is replaced: choose "
                    "another --out, or remove it"
                )
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace(out / name, lambda staged, text=text: staged.write_text(text, "utf-8", newline=""))  # type: ignore[misc]
    except OSError as error:
        raise refused(out, error) from error
