"""Reads the options of classes from their source, without importing it, and refuses what no option of them takes.

The parser of `run` imports torch and takes seconds. What is refused here is refused by the same words there.
"""

import ast
import builtins
import typing
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

#: Option name -> its annotation; None where it takes any text, or only importing its module shows what it takes.
Parameters = dict[str, ast.expr | None]
#: What annotations of numbers and listed texts are made of, besides the types of NUMBERS.
PLAIN = ("int", "float", "bool", "list", "tuple", "typing.Literal", "typing.Optional", "typing.Union")
NUMBERS = "cl_lightning.common.numbers"
#: Packages of this project.
OURS = ("cl_lightning", "callbacks")


def parameters(path: str) -> Parameters | None:
    """Return the options of a class, given as `module.Class`; None where its source does not say."""
    module, _, name = path.rpartition(".")
    found = _find(module, name)
    return None if found is None else _of(*found)


def check_value(option: str, annotation: ast.expr | None, value: Any) -> None:
    """Raise the parser's error for a text or number, or a list of them, that an option of numbers does not take.

    `annotation`: as in `parameters`.
    """
    values = value if isinstance(value, list) else [value]
    if annotation is None or not all(map(_is_readable, values)):
        return
    if not isinstance(value, str) and any(issubclass(kind, str) for kind in _kinds(annotation)):
        return  # on a command line it may be a text: YAML reads 10:00:00:00 as a number
    listed = [node.value for node in ast.walk(annotation) if isinstance(node, ast.Constant)]
    if all(v in listed or isinstance(converted(annotation, v), int | float) for v in values):
        return
    from cl_lightning.commands.option_errors import OptionParser

    kind = eval(compile(ast.Expression(annotation), option, "eval"), _known())
    parser = OptionParser(main=True)
    parser.add_argument(f"--{option}", type=kind)
    parser.parse_args([f"--{option}={value}"])


def _is_readable(value: Any) -> bool:
    """Whether the parser reads a value as it is here: no reference, .nan or .inf, and no `off`, which may be a text."""
    if isinstance(value, str):
        return "${" not in value
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def converted(annotation: ast.expr, value: Any) -> Any:
    """Convert a number, or a text that is written as one, as the parser does; return others as a text.

    Files and command lines read numbers differently (1e3).
    """
    for kind in (kind for kind in _kinds(annotation) if issubclass(kind, int | float)):
        with suppress(ValueError):
            number = kind(float(value))
            if number == float(value):
                return value if isinstance(value, bool) else number
    return str(value)


def _kinds(annotation: ast.expr) -> list[type]:
    """The types that an annotation names."""
    found = (_known()[node.id] for node in ast.walk(annotation) if isinstance(node, ast.Name))
    return [kind for kind in found if isinstance(kind, type)]


def _known() -> dict[str, Any]:
    """What annotations of options may name."""
    from cl_lightning.common import numbers

    return {**vars(builtins), **vars(typing), **vars(numbers)}


@dataclass(frozen=True)
class _Source:
    """The classes of a module by name, what else it assigns, and where its imported names come from."""

    classes: dict[str, ast.ClassDef]
    assigned: dict[str, ast.expr]
    imported: dict[str, str]

    def plain(self, annotation: ast.expr | None) -> ast.expr | None:
        """Return an annotation that is made of numbers and listed texts alone, without other names; None for others."""
        spelt_out = _SpeltOut(self)
        found = annotation and spelt_out.visit(deepcopy(annotation))
        return found if spelt_out.plain else None


class _SpeltOut(ast.NodeTransformer):
    """Replaces names that modules of this project give to choices (`Scope = Literal[..]`) by what they stand for."""

    def __init__(self, source: _Source) -> None:
        self.source, self.plain = source, True

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Replace a name, or note that it is not plain."""
        source, path = self.source, self.source.imported.get(node.id, node.id)
        if node.id not in source.assigned and path in (*PLAIN, f"{NUMBERS}.{node.id}"):
            return node
        home, _, name = path.rpartition(".")
        if home:
            source = _read(home) if home.split(".")[0] in OURS else None
        found = source.plain(source.assigned.get(name)) if source else None
        self.plain = self.plain and found is not None
        return found or node


@cache
def _read(module: str) -> _Source | None:
    top, *inner = module.split(".")
    spec = find_spec(top)  # a submodule's would import its packages
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]).joinpath(*inner)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        return None
    classes, assigned, imported = {}, {}, {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned[node.targets[0].id] = node.value
        elif isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return _Source(classes, assigned, imported)


def _find(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Follow imports to the class that a module calls `name`."""
    source = _read(module)
    if source is None:
        return None
    if name in source.classes:
        return module, source.classes[name]
    home, _, there = source.imported.get(name, "").rpartition(".")
    return _find(home, there) if home else None


def constructors(path: str) -> Iterator[tuple[ast.FunctionDef, ast.Call | None]]:
    """Yield the constructors of a class of this project that call each other, and the call that leads to each."""
    module, _, name = path.rpartition(".")
    found, call = _find(module, name), None
    while found is not None and found[0].split(".")[0] in OURS:
        made = _constructor(found[1])
        if made is not None:
            yield made, call
            call = _call_of_base(made)
            if call is None:
                return
        found = _base(*found)


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _call_of_base(made: ast.FunctionDef) -> ast.Call | None:
    calls = (n for n in ast.walk(made) if isinstance(n, ast.Call))
    return next((n for n in calls if ast.unparse(n.func) == "super().__init__"), None)


def _base(module: str, node: ast.ClassDef) -> tuple[str, ast.ClassDef] | None:
    source = _read(module)
    for base in map(ast.unparse, node.bases):
        first, dot, rest = base.partition(".")
        home, _, name = f"{source.imported.get(first, first)}.{rest}".rpartition(".") if dot else (module, "", base)
        found = _find(home, name)
        if found is not None:
            return found
    return None


def _of(module: str, node: ast.ClassDef) -> Parameters | None:
    plain = _read(module).plain
    made = _constructor(node)
    if made is not None:
        arguments = [*made.args.posonlyargs, *made.args.args, *made.args.kwonlyargs][1:]
        own: Parameters = {argument.arg: plain(argument.annotation) for argument in arguments}
        return own if made.args.kwarg is None else _with_base(module, node, made, own)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        return {n.target.id: plain(n.annotation) for n in fields if "init=False" not in ast.unparse(n).replace(" ", "")}
    return _of_base(module, node) if node.bases else {}


def _of_base(module: str, node: ast.ClassDef) -> Parameters | None:
    found = _base(module, node)
    return None if found is None else _of(*found)


def _with_base(module: str, node: ast.ClassDef, made: ast.FunctionDef, own: Parameters) -> Parameters | None:
    """Add what `**kwargs` hands on to the base class, without what the call gives itself."""
    base, call = _of_base(module, node), _call_of_base(made)
    if base is None or call is None:
        return None
    given = {keyword.arg for keyword in call.keywords} | set(list(base)[: len(call.args)])
    return own | {name: kind for name, kind in base.items() if name not in given and name not in own}
