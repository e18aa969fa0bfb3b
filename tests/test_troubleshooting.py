"""docs/troubleshooting.md: its messages are the code's, and it has every message of the code."""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache

from cl_lightning.common import errors
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
KINDS = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)}
#: What is called with a message.
RAISERS = KINDS | {"_refuse"}
#: A part of a message that is known only when it is raised.
OPEN = "\0"
#: What functions that write a part of a message begin with.
WRITERS = {"nearest": "valid: ", "resume_advice": "run the same command again"}
#: A message of fewer letters in the code is written elsewhere, and only passed on there.
LETTERS = 8


@cache
def trees() -> dict[str, ast.Module]:
    files = [*(ROOT / "cl_lightning").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in files}


def text(node: ast.expr | None, names: Mapping[str, str]) -> str:
    """The text of an expression, of both sides of a condition, with OPEN for what is not known."""
    match node:
        case ast.JoinedStr():
            return "".join(text(value, names) for value in node.values)
        case ast.FormattedValue():
            return text(node.value, names)
        case ast.Constant(value=str()):
            return node.value
        case ast.BinOp():
            return text(node.left, names) + text(node.right, names)
        case ast.IfExp():
            return text(node.body, names) + text(node.orelse, names)
        case ast.Name():
            return names.get(node.id, OPEN)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return WRITERS.get(name, OPEN)
    return OPEN


def assigned(body: list[ast.stmt] | Iterator[ast.AST], names: Mapping[str, str]) -> dict[str, str]:
    """Names that are given a text, with all that they may be given."""
    found: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = found.get(node.targets[0].id, "") + text(node.value, names)
    return found


@cache
def constants() -> dict[str, str]:
    return {name: value for tree in trees().values() for name, value in assigned(tree.body, {}).items()}


@cache
def raised() -> dict[str, str]:
    """Messages for the user by the place that raises them."""
    found = {}
    for path, tree in trees().items():
        there = constants() | assigned(tree.body, {})
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef) or function.name in RAISERS:
                continue
            names = there | assigned(ast.walk(function), there)
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISERS:
                    found[f"{path}:{node.lineno}"] = "".join(text(argument, names) for argument in node.args)
    return {place: message for place, message in found.items() if len(re.findall(r"[A-Za-z]", message)) >= LETTERS}


@cache
def texts() -> tuple[str, ...]:
    """All strings of the code; what a formatted one is filled with is left out of it."""
    nodes = (node for tree in trees().values() for node in ast.walk(tree))
    return tuple(text(node, {}) for node in nodes if isinstance(node, ast.JoinedStr | ast.Constant))


def parts(message: str) -> list[str]:
    """What a row says of a message: all that stands between `…`."""
    return [part for part in map(str.strip, message.split("…")) if part]


@cache
def rows() -> tuple[str, ...]:
    return tuple(re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.M))


def unknown(message: str) -> list[str]:
    """Parts of a row that no string of the code has."""
    return [part for part in parts(message) if not any(part in each for each in texts())]


def is_there(message: str) -> bool:
    """Whether a row of the page is about this message."""
    return any(all(part in message for part in parts(row)) for row in rows())


def test_messages_of_the_page_are_the_codes() -> None:
    assert len(rows()) > 200
    assert {row: missing for row in rows() if (missing := unknown(row))} == {}


def test_every_message_of_the_code_is_on_the_page() -> None:
    assert len(raised()) > 450
    assert {place: message for place, message in raised().items() if not is_there(message)} == {}


def test_the_control_an_invented_message_is_noticed() -> None:
    assert unknown("the model is tired of …") == ["the model is tired of"]
    assert not is_there("boundary.init: the model is tired of \0 tasks; let it sleep")


def test_the_control_a_row_less_is_noticed() -> None:
    """Most messages have one row alone: kinds do not stand for everything."""
    alone = [row for row in rows() if any(sum(is_row(row, m) for row in rows()) == 1 for m in matched(row))]
    assert len(alone) > 100


def is_row(row: str, message: str) -> bool:
    return all(part in message for part in parts(row))


def matched(row: str) -> list[str]:
    return [message for message in raised().values() if is_row(row, message)]
