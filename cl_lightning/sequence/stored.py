"""Build objects from a run folder's stored configuration, of this project's classes and those the caller allows.

A run folder is not trusted: of the classes that its configuration names, only those that this project exports for slots
are imported, and code that comes with a model runs only if the caller allows it. No torch here.
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
    """Read the stored configuration of a run folder as plain data.

    Raises:
        StateError: it is missing or damaged, or is not the configuration of a run.
    """
    file = path / CONFIG
    if CONFIG not in record["files"]:
        raise StateError(f"{path}: holds a run that was stopped before it began; run its command again")
    try:
        config = parse_yaml(read_checked(path, record, CONFIG).decode(), str(file))
        json.dumps(config, default=str, skipkeys=True)  # an alias may contain itself
    except (UnicodeDecodeError, RecursionError):
        raise StateError(f"{file}: is not text, or is nested too deeply") from None
    except ValueError:
        raise StateError(f"{file}: has an alias that contains itself") from None
    return check_config(config, file)


def check_config(config: Any, file: Path) -> dict[str, Any]:
    """Return the configuration read from `file`, if it has the sections and options that loading needs.

    Raises:
        StateError: it does not.
    """
    if not isinstance(config, dict):
        raise StateError(f"{file}: is not a mapping")
    for section in ("model", "data"):
        if not isinstance(config.get(section), dict):
            raise StateError(f"{file}: has no section {section!r}")
    if not isinstance(config["model"].get("backbone"), dict):
        raise StateError(f"{file}: model.backbone is not a mapping")
    if not isinstance(config["model"]["backbone"].get("name"), str):
        raise StateError(f"{file}: model.backbone.name is not a string")
    for section in ("trainer", "boundary"):
        if not isinstance(config.get(section) or {}, dict):
            raise StateError(f"{file}: {section} is not a mapping")
    for section, slot in (("model", "adapter"), ("data", "benchmark")):
        if config[section].get(slot, "") is None:
            raise StateError(f"{file}: {section}.{slot} names no class")
    for key in (*config, *config["model"], *config["model"]["backbone"]):
        if "." in str(key):  # the parser would resolve it to a nested option, bypassing the checks
            raise StateError(f"{file}: {str(key)!r} is not a valid option name")
    return config


def build(
    kind: type[Made], options: Any, option: str, file: Path, allow: Sequence[str] = (), trust_remote_code: bool = False
) -> Made:
    """Build an object of `kind`, or of a subclass if it is abstract, from the stored `option` of `file`.

    Args:
        allow: further classes that may be built, as named in the configuration.
        trust_remote_code: whether code that comes with the model may run; the configuration's value is ignored.

    Raises:
        ConfigError: a class of `allow` cannot be imported.
        StateError: a class is neither this project's nor allowed, or the options do not fit.
    """
    name = option.rpartition(".")[2]
    if "${" in json.dumps(options, default=str):
        raise StateError(
            f"{file}: {option} holds ${{...}}, which only the run's own command fills in from the environment; write "
            "what it stands for into a copy of the configuration, and train with that"
        )
    options = checked({option: options}, file, allow, trust_remote_code)[option]
    parser = ArgumentParser(exit_on_error=False)
    (parser.add_subclass_arguments if inspect.isabstract(kind) else parser.add_class_arguments)(kind, name)
    try:
        with restricted_imports(allow):
            made = parser.instantiate(parser.parse_object({name: options}))[name]
    except (ArgumentError, TypeError, ValueError) as error:
        if user_error := user_error_in(error):
            raise user_error from None
        why = _misfit(str(error)) or f"{option} cannot be built from the stored options ({shorten(str(error), 200)})"
        raise StateError(f"{file}: {why}") from None
    if not isinstance(made, kind):
        raise StateError(f"{file}: {option} names no class")
    return made


def checked(config: dict[str, Any], file: Path, allow: Sequence[str], trust_remote_code: bool) -> dict[str, Any]:
    """Check every class of a configuration, and return a copy with the caller's `trust_remote_code`.

    Raises:
        StateError: it names classes that are neither this project's nor allowed, or kernels from a hub.
    """
    try:
        config = deepcopy(config)
        strangers = sorted({name for name in _classes(config, "") if name not in allow})
    except RecursionError:
        raise StateError(f"{file}: is nested too deeply") from None
    if strangers:
        importable = all(map(_may_be_allowed, strangers))
        flags = " ".join(f"--allow {name}" for name in strangers)
        raise StateError(
            f"{file}: names {', '.join(strangers)}, not a class of this project for that option"
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
    """Return whether `name` may be a user's class, as far as is known without importing anything."""
    top, *below = name.split(".")
    if not below or not all(part.isidentifier() for part in (top, *below)) or top == cl_lightning.__name__:
        return False
    return top in sys.modules or find_spec(top) is not None


def _misfit(message: str) -> str | None:
    """Extract the option that does not fit, and its value if that is wrong, from jsonargparse's message."""
    where = ".".join(re.findall(r'Parser key "([\w.]+)"', message) or re.findall(r"Group '([\w.]+)'", message))
    if found := re.search(r"[Oo]ption '([\w.]+)'", message):
        return f"{where} has no option {found[1]!r}"
    # The second form is that of numbers: no number at all, or one outside its range.
    if found := re.search(
        r"(?:Got|Given) value: (.*)|Not of type \w+: (?:.*: '(.*)'$|(\S+) does not conform)", message
    ):
        return f"{where} cannot be {shorten(next(filter(None, found.groups())), 100)}"
    return None


def _classes(node: Any, option: str) -> Iterator[str]:
    """Yield the names of classes at and below `option` that this project does not export for their slot."""
    if isinstance(node, dict):
        for key, value in node.items():
            if str(key).rpartition(".")[2] == "class_path":
                if str(value) not in exported_classes(slot_package(option)):
                    yield str(value)
            else:
                yield from _classes(value, f"{option}.{key}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            yield from _classes(value, f"{option}.")
    elif isinstance(node, str) and (home := slot_package(option)) and node not in exported_classes(home):
        yield node


def exported_classes(package: str | None) -> Collection[str]:
    """Return the dotted names of the classes that a package of this project exports; none for None."""
    if package is None:
        return ()
    exports = import_module(package).EXPORTS
    names = {name: module for name, module in exports.items() if name[0].isupper()}
    short = {f"cl_lightning.{name}" for name in names if name in cl_lightning.EXPORTS}
    return {*(f"{package}.{n}" for n in names), *(f"{package}.{m}.{n}" for n, m in names.items()), *short}


@contextmanager
def restricted_imports(allow: Sequence[str]) -> Iterator[None]:
    """Inside, the parser imports only this project's classes and those in `allow`.

    Raises:
        ConfigError: a class of `allow` cannot be imported.
    """
    names = {name for package in SLOTS.values() for name in exported_classes(package)} | {*PARTS}
    names |= {f"cl_lightning.{last}" for part in PARTS if (last := part.rpartition(".")[2]) in cl_lightning.EXPORTS}
    for name in allow:
        names |= {name, _defined_as(name)}
    settings = jsonargparse._common.parsing_settings  # there is no public way to restore a policy
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
    """Return the dotted name under which the class `name` is defined."""
    module, _, last = name.rpartition(".")
    try:
        found = getattr(import_module(module), last)
        return f"{found.__module__}.{found.__qualname__}"
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"allow: {name!r} is not an importable class ({error})") from None
