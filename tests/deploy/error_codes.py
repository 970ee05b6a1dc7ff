"""Every error code that the source can tell, with the places: found by reading it.

What has a parameter or a field `code: str` tells codes: `ItemError`, `problem`, `InputFault`, which mypy wants for each
fault. Every call of it must show there which one: a text, the name of a text, or what another such call has told.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Module(NamedTuple):
    """`names`: of what is imported, where it is from; `texts`: constants that are a text."""

    path: str
    tree: ast.Module
    names: dict[str, tuple[str, str]]
    texts: dict[str, str]


class Teller(NamedTuple):
    """What is called with a code: at which place of its arguments, itself aside."""

    module: str
    name: str
    place: int


def module_of(path: Path, text: str) -> Module:
    tree = ast.parse(text)
    names = {
        one.asname or one.name: (node.module, one.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for one in node.names
    }
    texts = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return Module(str(path), tree, names, texts)


def dotted(path: Path) -> str:
    return ".".join(("dail", *path.with_suffix("").parts)).removesuffix(".__init__")


def modules_of(root: Path) -> dict[str, Module]:
    """Of the packages that tell codes, by their names."""
    paths = (path.relative_to(root) for room in ("synth", "serve", "train") for path in (root / room).rglob("*.py"))
    return {dotted(path): module_of(path, (root / path).read_text()) for path in sorted(paths)}


def is_code(name: str, annotation: ast.expr | None) -> bool:
    return name == "code" and isinstance(annotation, ast.Name) and annotation.id == "str"


def tellers(modules: dict[str, Module]) -> Iterator[Teller]:
    for name, module in modules.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
                for place, one in enumerate(fields):
                    if isinstance(one.target, ast.Name) and is_code(one.target.id, one.annotation):
                        yield Teller(name, node.name, place)
                for one in node.body:
                    if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                        yield from (Teller(name, node.name, place) for place in places(one))
            elif isinstance(node, ast.FunctionDef) and node.name != "__init__":
                yield from (Teller(name, node.name, place) for place in places(node))


def places(function: ast.FunctionDef) -> Iterator[int]:
    given = [one for one in function.args.args if one.arg != "self"]
    return (place for place, one in enumerate(given) if is_code(one.arg, one.annotation))


def teller_of(call: ast.Call, where: str, module: Module, known: dict[str, list[Teller]]) -> Teller | None:
    """Whom a call means: what this file defines or imports, or a method by its name."""
    is_name = isinstance(call.func, ast.Name)
    if not is_name and not isinstance(call.func, ast.Attribute):
        return None
    local = call.func.id if is_name else call.func.attr
    home, name = module.names.get(local, (where, local)) if is_name else (where, local)
    meant = [one for one in known.get(name, ()) if one.module == home or not (is_name or name.startswith("_"))]
    return meant[0] if meant else None


def told(value: ast.expr, module: Module, modules: dict[str, Module], function: ast.AST) -> list[str]:
    """The codes that an argument may be; none where it hands on what was told before. ValueError: who knows."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return [value.value]
    if isinstance(value, ast.IfExp):
        return told(value.body, module, modules, function) + told(value.orelse, module, modules, function)
    if isinstance(value, ast.Name):
        home, name = module.names.get(value.id, ("", value.id))
        text = modules[home].texts.get(name) if home in modules else module.texts.get(name)
        if text is not None:
            return [text]
        if value.id not in assigned(function):
            return []  # a parameter, or of a loop
    if isinstance(value, ast.Attribute) and value.attr in ("code", "error_code"):
        return []
    if ast.unparse(value).endswith("['type']") or ast.unparse(value) == "_code_of(status)":
        return []  # one of pydantic's kinds, or the framework's
    raise ValueError(f"{module.path}:{value.lineno}: {ast.unparse(value)} hides a code; write it in the call")


def assigned(function: ast.AST) -> set[str]:
    targets = [target for one in ast.walk(function) if isinstance(one, ast.Assign) for target in one.targets]
    return {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}


def calls(node: ast.AST, function: ast.AST) -> Iterator[tuple[ast.Call, ast.AST]]:
    """Each call, and the innermost function that it is in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, function
        yield from calls(child, child if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function)


class Told(NamedTuple):
    """A code, where it is told, and by which call."""

    code: str
    place: str
    call: ast.Call

    @property
    def by(self) -> str:
        return ast.unparse(self.call.func)


def called(modules: dict[str, Module]) -> Iterator[Told]:
    """Of every call that tells a code."""
    known = defaultdict[str, list[Teller]](list)
    for one in tellers(modules):
        known[one.name].append(one)
    for where, module in modules.items():
        for call, function in calls(module.tree, module.tree):
            teller = teller_of(call, where, module, known)
            given = {one.arg: one.value for one in call.keywords}
            if teller and (value := given.get("code") or dict(enumerate(call.args)).get(teller.place)):
                for code in told(value, module, modules, function):
                    yield Told(code, f"{module.path}:{call.lineno}", call)


def written(modules: dict[str, Module]) -> Iterator[tuple[str, str]]:
    """(code, place) of codes that stand there without a call: of error classes, defaults, what a verb prints."""
    for module in modules.values():
        for node in ast.walk(module.tree):
            for value in standing(node):
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value, f"{module.path}:{node.lineno}"


def standing(node: Any) -> list[ast.expr]:
    if isinstance(node, ast.ClassDef):
        return [one.value for one in node.body if isinstance(one, ast.Assign) and is_named(one.targets[0], "code")]
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
        return [node.value] if node.targets[0].attr == "code" else []
    if isinstance(node, ast.Call) and is_named(node.func, "getattr") and len(node.args) == 3:
        return [node.args[2]] if is_text(node.args[1], "code") else []
    if isinstance(node, ast.Dict):
        return [value for key, value in zip(node.keys, node.values, strict=True) if is_text(key, "error")]
    return []


def is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def is_text(node: ast.expr | None, text: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == text
