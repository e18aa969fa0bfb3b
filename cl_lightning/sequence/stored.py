"""Objects from a run folder's stored configuration: of this project's own classes alone, unless the caller allows more.

A run folder may be anyone's, so its configuration is data: no class that it names is imported but those that this
project exports for slots, and code that comes with a model runs only where the caller says so. No torch here.
"""

import inspect
import json
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import jsonargparse
from jsonargparse import ArgumentError, ArgumentParser

import cl_lightning
from cl_lightning.common.errors import ConfigError, StateError, user_error_in
from cl_lightning.common.yaml_files import parse_yaml
from cl_lightning.sequence.folder import CONFIG, read_checked
from cl_lightning.sequence.slots import PARTS, SLOTS, slot_package

Made = TypeVar("Made")


def read_config(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The stored configuration of a run folder, as data.

    Raises:
        StateError: missing or damaged, or no configuration of a run.
    """
    file = path / CONFIG
    if CONFIG not in record["files"]:
        raise StateError(f"{path}: holds a run that was stopped before it began; run its command again")
    try:
        config = parse_yaml(read_checked(path, record, CONFIG).decode(), str(file))
        json.dumps(config, default=str, skipkeys=True)  # an alias may hold itself
    except (UnicodeDecodeError, RecursionError):
        raise StateError(f"{file}: no text, or nested too deeply") from None
    except ValueError:
        raise StateError(f"{file}: holds an alias of itself") from None
    return check_config(config, file)


def check_config(config: Any, file: Path) -> dict[str, Any]:
    """The configuration read from `file`, if it has the sections and options that everything here relies on.

    Raises:
        StateError: it has not.
    """
    if not isinstance(config, dict):
        raise StateError(f"{file}: holds no options by name")
    for section in ("model", "data"):
        if not isinstance(config.get(section), dict):
            raise StateError(f"{file}: holds no section {section!r}")
    if not isinstance(config["model"].get("backbone"), dict):
        raise StateError(f"{file}: model.backbone holds no options by name")
    if not isinstance(config["model"]["backbone"].get("name"), str):
        raise StateError(f"{file}: model.backbone.name names no model")
    for section in ("trainer", "boundary"):
        if not isinstance(config.get(section) or {}, dict):
            raise StateError(f"{file}: {section} holds no options by name")
    for section, slot in (("model", "adapter"), ("data", "benchmark")):
        if config[section].get(slot, "") is None:
            raise StateError(f"{file}: {section}.{slot} names no class")
    for key in (*config, *config["model"], *config["model"]["backbone"]):
        if "." in str(key):  # the parser would take it for an option further down, behind the checks
            raise StateError(f"{file}: {str(key)!r} is no name of an option")
    return config


def make(
    kind: type[Made], options: Any, option: str, file: Path, allow: Sequence[str] = (), trust_remote_code: bool = False
) -> Made:
    """An object of `kind`, or of one of its subclasses where it is abstract, as stored under `option` in `file`.

    Args:
        allow: classes of the caller's own that may be made, as the configuration names them.
        trust_remote_code: whether code that comes with the model may run; what the configuration says of it is nothing.

    Raises:
        ConfigError: `allow` holds what cannot be imported.
        StateError: a class that is neither this project's nor allowed, or options that do not fit.
    """
    name = option.rpartition(".")[2]
    options = checked({option: options}, file, allow, trust_remote_code)[option]
    parser = ArgumentParser(exit_on_error=False)
    (parser.add_subclass_arguments if inspect.isabstract(kind) else parser.add_class_arguments)(kind, name)
    try:
        with only(allow):
            made = parser.instantiate(parser.parse_object({name: options}))[name]
    except (ArgumentError, TypeError, ValueError) as error:
        if told := user_error_in(error):
            raise told from None
        why = _misfit(str(error)) or f"{option} is not made from what is stored ({shorten(str(error), 200)})"
        raise StateError(f"{file}: {why}") from None
    if not isinstance(made, kind):
        raise StateError(f"{file}: {option} is not made from what is stored (it names none)")
    return made


def checked(config: dict[str, Any], file: Path, allow: Sequence[str], trust_remote_code: bool) -> dict[str, Any]:
    """A copy of the configuration, after every class in it was looked at; remote code as the caller says.

    Raises:
        StateError: it names classes that are neither this project's nor allowed, or kernels from a hub.
    """
    try:
        config = deepcopy(config)
        strangers = sorted({name for name in _classes(config, "") if name not in allow})
    except RecursionError:
        raise StateError(f"{file}: nested too deeply") from None
    if strangers:
        importable = all(map(_may_be_allowed, strangers))
        flags = " ".join(f"--allow {name}" for name in strangers)
        raise StateError(
            f"{file}: names {', '.join(strangers)}, no class of this project for its place"
            + (f"; if you trust that code: {flags} (in Python: allow={strangers})" if importable else "")
        )
    backbone = config.get("model", {}).get("backbone")
    if isinstance(backbone, dict):
        backbone["trust_remote_code"] = trust_remote_code
        if "/" in str(backbone.get("attn_implementation")) and not trust_remote_code:
            raise StateError(
                f"{file}: model.backbone.attn_implementation={backbone['attn_implementation']} is code from a hub; "
                "if you trust it: --trust-remote-code (in Python: trust_remote_code=True)"
            )
    return config


def _may_be_allowed(name: str) -> bool:
    """Whether `name` can be a class of somebody's own, as far as can be told without importing anything."""
    top, *below = name.split(".")
    if not below or not all(part.isidentifier() for part in (top, *below)) or top == cl_lightning.__name__:
        return False
    return top in sys.modules or find_spec(top) is not None


def _misfit(message: str) -> str | None:
    """What does not fit, from jsonargparse's account of it: the option, and its value where it is that."""
    where = ".".join(re.findall(r'Parser key "([\w.]+)"', message) or re.findall(r"Group '([\w.]+)'", message))
    if found := re.search(r"[Oo]ption '([\w.]+)'", message):
        return f"{where} has no option {found[1]!r}"
    if found := re.search(r"(?:Got|Given) value: (.*)", message):
        return f"{where} cannot be {shorten(found[1], 100)}"
    return None


def _classes(node: Any, option: str) -> Iterator[str]:
    """Names of classes at and below `option` that are not those this project exports for their place."""
    if isinstance(node, dict):
        for key, value in node.items():
            if str(key).rpartition(".")[2] == "class_path":
                if str(value) not in own_classes(slot_package(option)):
                    yield str(value)
            else:
                yield from _classes(value, f"{option}.{key}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            yield from _classes(value, f"{option}.")
    elif isinstance(node, str) and (home := slot_package(option)) and node not in own_classes(home):
        yield node


def own_classes(package: str | None) -> Collection[str]:
    """The dotted names of the classes that a package of ours exports; none for None."""
    if package is None:
        return ()
    exports = import_module(package).EXPORTS
    names = {name: module for name, module in exports.items() if name[0].isupper()}
    short = {f"cl_lightning.{name}" for name in names if name in cl_lightning.EXPORTS}
    return {*(f"{package}.{n}" for n in names), *(f"{package}.{m}.{n}" for n, m in names.items()), *short}


@contextmanager
def only(allow: Sequence[str]) -> Iterator[None]:
    """Inside, the parser imports no class that a value names but this project's and those allowed.

    Raises:
        ConfigError: `allow` holds what cannot be imported.
    """
    names = {name for package in SLOTS.values() for name in own_classes(package)} | {*PARTS}
    for name in allow:
        names |= {name, _defined_as(name)}
    settings = jsonargparse._common.parsing_settings  # there is no public way to take a policy back
    before = dict(settings)
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=sorted(names), instantiate_subclass_spec_in_any=False
    )
    try:
        yield
    finally:
        settings.clear()
        settings.update(before)


def _defined_as(name: str) -> str:
    """Where a class that may be imported by `name` is defined."""
    module, _, last = name.rpartition(".")
    try:
        found = getattr(import_module(module), last)
        return f"{found.__module__}.{found.__qualname__}"
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"allow: {name!r} is no class that can be imported ({error})") from None
