"""Options out of range are refused before torch is imported, by their constructor's own checks and words."""

import ast
import itertools
from collections.abc import Callable
from importlib import import_module
from inspect import isabstract, signature
from typing import Any

import pytest

from cl_lightning.commands import ranges
from cl_lightning.commands.precheck import check
from cl_lightning.commands.ranges import check_ranges
from cl_lightning.commands.signatures import check_value, converted, parameters
from cl_lightning.common.errors import ConfigError
from tests.commands.test_cli import configs
from tests.commands.test_signatures import exported

VALUES = (-1, -0.5, 0, 0.5, 1, 1.5, 2)


def refusal(function: Callable[..., object], *arguments: Any, **options: Any) -> str | None:
    try:
        function(*arguments, **options)
    except ConfigError as error:
        return str(error)
    return None


def numeric(path: str) -> list[str]:
    """A class's options of numbers."""
    found = parameters(path)
    return [o for o, kind in found.items() if kind is not None and {"Literal", "bool"}.isdisjoint(_names(kind))]


def _names(annotation: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}


def made_of_defaults() -> list[str]:
    """The classes that options can name and that need no option."""
    kinds = {path: getattr(import_module(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in exported()}
    needed = {
        path: [p for p in signature(kind).parameters.values() if p.default is p.empty] for path, kind in kinds.items()
    }
    return [
        path
        for path, kind in kinds.items()
        if not isabstract(kind) and all(p.kind is p.VAR_KEYWORD for p in needed[path])
    ]


@pytest.mark.parametrize("path", made_of_defaults())
def test_numbers_are_refused_where_and_as_the_constructor_refuses_them(path: str) -> None:
    module, _, name = path.rpartition(".")
    kind, kinds = getattr(import_module(module), name), parameters(path)
    for option, value in itertools.product(numeric(path), VALUES):
        if refusal(check_value, option, kinds[option], value) is None:
            late = refusal(kind, **{option: converted(kinds[option], value)})
            early = refusal(check_ranges, path, {option: value})
            assert early == late, (option, value)


def test_most_classes_have_ranges() -> None:
    refused = [p for p in made_of_defaults() if any(refusal(check_ranges, p, {o: -1}) for o in numeric(p))]
    assert len(refused) > 20


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.adapter.rank=0", "model.adapter.rank: 0 must be 1 or more"),
        ("--model.adapter={class_path: GainLoRA, init_args: {temperature: 0}}", "model.adapter.temperature: 0.0 must"),
        ("--model.adapter={class_path: OLoRA, init_args: {lambda_norm: -1}}", "model.adapter.lambda_norm: -1.0 "),
        ("--model.lr=-1", "model.lr: -1.0 must be positive"),
        ("--model.lr=-1e-3", "model.lr: -0.001 must be positive"),
        ("--data.batch_size=0", "data.batch_size: 0 must be 1 or more"),
        ("--data.batch_size=true", "data.batch_size: True must be a number"),
        ("--model.betas=[0.9, 2]", "model.betas: expected a factor of 0 to below 1, not '2'"),
        ("--data.epochs=0.5", "data.epochs: expected int or list or 'published', not '0.5'"),
        ("--boundary.init.memory_samples=0", "boundary.init.memory_samples: 0 must be 1 or more"),
        ("--boundary.init.operator={class_path: PCGrad, init_args: {threshold: 0.5, always: true}}", "PCGrad thresh"),
        ("--trainer.max_steps=0", "trainer.max_steps: expected -1, no limit or a count"),
        ("--sequence.threads=0", "sequence.threads: expected a number of threads"),
    ],
)
def test_the_command_refuses_them_before_it_imports(option: str, message: str) -> None:
    refused = refusal(check, [*configs("smoke"), option])
    assert refused is not None
    assert refused.startswith(message)


@pytest.mark.parametrize("option", ["--model.adapter.rank=${data.batch_size}", "--model.adapter.rank=null"])
def test_what_only_the_parser_knows_is_left_to_it(option: str) -> None:
    check([*configs("smoke"), option])


def test_only_checks_of_options_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads or calls anything else is never run."""
    source = (
        "class Made:\n"
        "    def __init__(self, a: int = 1, b: int = a_default()) -> None:\n"
        "        if a < 1:\n            raise ConfigError(f'a {a}')\n"
        "        if other(a):\n            raise ConfigError('other')\n"
        "        if b < 1:\n            raise ConfigError('b')\n"
        "        if self.c:\n            raise ConfigError('c')\n"
    )
    node = ast.parse(source).body[0].body[0]
    monkeypatch.setattr(ranges, "constructors", lambda path: [(node, None)])
    monkeypatch.setattr(ranges, "parameters", lambda path: {"a": node.args.args[1].annotation})
    assert refusal(check_ranges, "callbacks.made.Made", {"a": 2}) is None
    assert refusal(check_ranges, "callbacks.made.Made", {"a": 0}) == "a 0"
