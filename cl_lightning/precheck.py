"""What can be known to be wrong before torch is imported: files, sections, class names, tasks, model names.

Seconds matter when a name is mistyped. This reads the configuration files and the command line just far enough;
the real parser comes after it and stays the authority on everything else.
"""

import difflib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from cl_lightning.errors import ConfigError, nearest
from cl_lightning.model_names import EMBEDDED, RANDOM

SECTIONS = ("seed_everything", "trainer", "model", "data", "boundary", "observers", "sequence")
PARSER_OPTIONS = ("config", "help", "print_config")

#: Where class names are expected, by the last part of an option: the package that exports them.
CLASS_OPTIONS = {
    "adapter": "cl_lightning.adapters",
    "initializer": "cl_lightning.initializers",
    "operator": "cl_lightning.gradients",
    "benchmark": "cl_lightning.data",
    "memory": "callbacks",
    "init": "callbacks",
    "subspaces": "callbacks",
    "gates": "callbacks",
}
PACKAGES = sorted(set(CLASS_OPTIONS.values()))


def check(argv: list[str]) -> None:
    """Raise ConfigError for the first thing that is wrong; return silently otherwise."""
    merged: dict[str, Any] = {}
    for path in config_files(argv):
        _merge(merged, _read_yaml(path))
    for option, value, append in _options(argv):
        _check_section(option, "the command line")
        _apply(merged, option, value, append)
    _check_classes(merged)
    _check_trainer(merged.get("trainer") or {})
    _check_model(_flat(merged.get("model"), "backbone").get("name"))
    _check_tasks(_flat(merged, "data"))


def config_files(argv: list[str]) -> list[Path]:
    """The --config files of a command line, in order."""
    files = []
    for i, word in enumerate(argv):
        if word in ("--config", "-c") and i + 1 < len(argv):
            files.append(Path(argv[i + 1]))
        elif word.startswith("--config="):
            files.append(Path(word.split("=", 1)[1]))
    return files


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        there = [p.stem for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(f"no configuration file {path}; {nearest(path.stem, there)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold options by name")
    for section in content:
        _check_section(str(section), str(path))
    return content


def _check_section(option: str, where: str) -> None:
    section = option.split(".", 1)[0].rstrip("+")
    if section not in (*SECTIONS, *PARSER_OPTIONS):
        raise ConfigError(f"{where}: unknown option {option!r}; {nearest(section, SECTIONS)}")


def _options(argv: list[str]) -> Iterator[tuple[str, Any, bool]]:
    """--a.b=value, --a.b value and --a.b+=value as (option, value, append)."""
    i = 0
    while i < len(argv):
        word = argv[i]
        i += 1
        if word == "-c":
            i += 1
        if not word.startswith("--") or word == "--":
            continue
        option, equals, value = word[2:].partition("=")
        if not equals and i < len(argv) and not argv[i].startswith("--"):
            value, i = argv[i], i + 1
        if option != "config":
            try:
                parsed = yaml.safe_load(value)
            except yaml.YAMLError:
                parsed = value
            yield option.rstrip("+"), parsed, option.endswith("+")


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _apply(merged: dict[str, Any], option: str, value: Any, append: bool) -> None:
    *path, last = [part for part in option.split(".") if part != "init_args"]
    node = merged
    for part in path:
        child = node.setdefault("init_args", {}).setdefault(part, {}) if part in (node.get("init_args") or {}) else None
        node = child if isinstance(child, dict) else node.setdefault(part, {})
        if not isinstance(node, dict):
            return
    holder = node["init_args"] if last in (node.get("init_args") or {}) else node
    if append:
        holder[last] = [*(holder.get(last) or []), *(value if isinstance(value, list) else [value])]
    elif last in CLASS_OPTIONS and isinstance(value, str):
        holder[last] = {"class_path": value}
    else:
        holder[last] = value


def _flat(node: Any, key: str) -> dict[str, Any]:
    """A section with its init_args lifted."""
    section = (node or {}).get(key) or {}
    if not isinstance(section, dict):
        return {}
    return {**section, **(section.get("init_args") or {})}


def _check_classes(node: Any, option: str = "") -> None:
    if not isinstance(node, dict):
        return
    name = node.get("class_path")
    if isinstance(name, str):
        _check_class(name, option)
    for key, value in node.items():
        _check_classes(value, key if key != "init_args" else option)


def _check_class(name: str, option: str) -> None:
    package, _, short = name.rpartition(".")
    if package and not (package == "callbacks" or package.startswith(("cl_lightning.", "callbacks."))):
        return  # the user's own class: only importing it can tell
    homes = [CLASS_OPTIONS[option]] if option in CLASS_OPTIONS else PACKAGES
    exports = [n for home in homes for n in import_module(home).EXPORTS]
    if short not in exports:
        raise ConfigError(f"{option or 'class_path'}: no class {name!r}; {nearest(short, exports)}")


def _check_trainer(trainer: dict[str, Any]) -> None:
    if str(trainer.get("precision")) in ("bf16-true", "16-true", "bf16", "16"):
        raise ConfigError(
            f"trainer.precision={trainer['precision']}: would cast adapters, gates and statistics too; keep 32-true "
            "(or bf16-mixed) and choose the base's dtype with model.backbone.dtype=bfloat16"
        )
    if trainer.get("max_epochs") is not None:
        raise ConfigError("trainer.max_epochs: passes are per task; use data.epochs")


def _check_model(name: Any) -> None:
    if name is None or name in (*EMBEDDED, RANDOM):
        return
    path = Path(str(name)).expanduser()
    close = difflib.get_close_matches(str(name).lower(), [*EMBEDDED, RANDOM], n=1, cutoff=0.75)
    local = str(name).startswith((".", "/", "~")) or path.suffix == ".gguf"
    if not path.exists() and (local or close):
        raise ConfigError(f"model.backbone.name: no model {str(name)!r}; {nearest(str(name), [*EMBEDDED, RANDOM])}")


def _check_tasks(data: dict[str, Any]) -> None:
    benchmark = (data.get("benchmark") or {}).get("class_path", "TRACE")
    order = data.get("order")
    if benchmark.rpartition(".")[2] != "TRACE" or not isinstance(order, list):
        return
    from cl_lightning.data.base import data_root
    from cl_lightning.data.trace import TRACE

    root = data_root(data.get("root"))
    if root is not None and not root.is_dir():
        raise ConfigError(f"data.root: {root} is not a folder")
    options = (data.get("benchmark") or {}).get("init_args") or {}
    valid = TRACE(**options).tasks(root)
    for name in order:
        if name not in valid:
            raise ConfigError(f"data.order: unknown task {name!r}; {nearest(str(name), valid)}")
