"""Refuses options out of their range before torch is imported, by the checks that their class's constructor makes.

Those checks are read from its source and run alone: an `if` or `for` of `__init__` that raises and reads nothing but
options. So each range is stated once, and is refused early in the constructor's own words.
"""

import ast
import builtins
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from cl_lightning.commands.signatures import constructors, converted, parameters
from cl_lightning.common.errors import ConfigError

#: What a check may name besides options.
KNOWN = {"ConfigError": ConfigError, "math": math} | vars(builtins)
#: Value of an option that only running the constructor shows.
UNKNOWN = object()


def check_ranges(path: str, given: Mapping[str, Any]) -> None:
    """Raise the ConfigError that the constructor of a class, `module.Class`, raises for these options.

    Checks that read more than numbers, listed texts and plain defaults are left to the constructor.
    """
    kinds = parameters(path) or {}
    values = {name: _value(kinds.get(name), value) for name, value in given.items()}
    for made, call in constructors(path):
        values = _with_defaults(made, values if call is None else _passed(call, made, values))
        for check in _checks(made, [name for name, value in values.items() if value is not UNKNOWN]):
            with suppress(TypeError):  # a value of another type, which the parser refuses
                exec(compile(ast.Module([check], []), path, "exec"), {**KNOWN, **values})


def _value(annotation: ast.expr | None, value: Any) -> Any:
    if annotation is None:
        return UNKNOWN
    return converted(annotation, value) if isinstance(value, str | int | float) else value


def _with_defaults(made: ast.FunctionDef, given: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults of options that are not given."""
    last = zip(reversed(made.args.args), reversed(made.args.defaults), strict=False)
    named = zip(made.args.kwonlyargs, made.args.kw_defaults, strict=True)
    return {a.arg: _plain(default) for a, default in (*last, *named) if default is not None} | dict(given)


def _passed(call: ast.Call, made: ast.FunctionDef, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a call gives to the constructor `made`, where `values` are the caller's options."""
    named = [(a.arg, value) for a, value in zip(made.args.args[1:], call.args, strict=False)]
    named += [(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg is not None]
    own = {name: values.get(v.id, UNKNOWN) if isinstance(v, ast.Name) else _plain(v) for name, v in named}
    hands_on = any(keyword.arg is None for keyword in call.keywords)
    return {**(values if hands_on else {}), **own}


def _plain(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def _checks(made: ast.FunctionDef, options: Iterable[str]) -> Iterator[ast.stmt]:
    """Yield the statements of a constructor that may raise and read nothing but `options`."""
    for node in made.body:
        if isinstance(node, ast.If | ast.For) and any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
            names = [inner for inner in ast.walk(node) if isinstance(inner, ast.Name)]
            loop = {name.id for name in names if isinstance(name.ctx, ast.Store)}
            if {name.id for name in names} <= {*options, *KNOWN, *loop}:
                yield node
