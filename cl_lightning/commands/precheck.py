"""What can be known to be wrong before torch is imported: files, sections, class names, tasks, model names.

Seconds matter when a name is mistyped. This reads the configuration files and the command line just far enough;
the real parser comes after it and stays the authority on everything else.
"""

import difflib
from collections.abc import Iterator
from copy import deepcopy
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.paths import check_utf8
from cl_lightning.common.yaml_files import parse_yaml
from cl_lightning.model.names import EMBEDDED, RANDOM
from cl_lightning.sequence.slots import slot_package

SECTIONS = ("seed_everything", "trainer", "model", "data", "boundary", "observers", "sequence")
PARSER_OPTIONS = ("config", "help", "print_config")
USAGE = "cl-lightning run NAME [--preset PRESET] [--config FILE.yaml] [--option=value ...]"

PRECISIONS = ("32-true", "bf16-mixed", "64-true", "32", "64")


def check(argv: list[str]) -> None:
    """Raise ConfigError for the first thing that is wrong; return silently otherwise."""
    if not argv:
        raise ConfigError(f"nothing to run; say {USAGE}, or --help for all options")
    for word in argv:
        check_utf8("the command line", word)
    merged: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    sources = []
    for path in config_files(argv):
        sources.append(_read_yaml(path))
        _merge(merged, deepcopy(sources[-1]))
    for option, value, append in _options(argv):
        _check_section(option, "the command line")
        _apply(asked, option, value, append)
        _apply(merged, option, value, append)
    _check_classes(merged)
    _check_trainer(_flat(merged, "trainer"))
    _check_model(_flat(_flat(merged, "model"), "backbone").get("name"))
    _check_order([*sources, asked], _flat(merged, "data").get("order"))
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
        there = [p.stem for p in path.parent.glob("*.yaml")]
        hint = nearest(path.stem, there) if there else f"no .yaml file in {path.parent.absolute()}"
        raise ConfigError(f"no configuration file {path}; {hint}")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
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
        if not word.startswith("-"):
            raise ConfigError(f"unexpected {word!r}; say {USAGE}")
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
    elif slot_package(option) and isinstance(value, str):
        holder[last] = {"class_path": value}
    else:
        holder[last] = value


def _flat(node: dict[str, Any], key: str) -> dict[str, Any]:
    """A section with its init_args lifted; empty where it is none."""
    section = node.get(key)
    if not isinstance(section, dict):
        return {}
    options = section.get("init_args")
    return {**section, **(options if isinstance(options, dict) else {})}


def _check_classes(node: Any, option: str = "") -> None:
    """Class names at and below `option`: {class_path: NAME}, or NAME alone in a slot."""
    if isinstance(node, dict):
        for key, value in node.items():
            _check_classes(value, option if key in ("init_args", "class_path") else f"{option}.{key}".lstrip("."))
    elif isinstance(node, str) and (home := slot_package(option)):
        package, _, short = node.rpartition(".")
        if package and package.split(".")[0] not in ("cl_lightning", "callbacks"):
            return  # the user's own class: only importing it can tell
        classes = [name for name in import_module(home).EXPORTS if name[0].isupper()]
        if short not in classes:
            raise ConfigError(f"{option}: no class {node!r}; {nearest(short, classes)}")


def _check_trainer(trainer: dict[str, Any]) -> None:
    precision = trainer.get("precision")
    if str(precision) in ("bf16-true", "16-true", "bf16", "16"):
        raise ConfigError(
            f"trainer.precision={precision}: would cast adapters, gates and statistics too; keep 32-true "
            "(or bf16-mixed) and choose the base's dtype with model.backbone.dtype=bfloat16"
        )
    if precision is not None and str(precision) not in PRECISIONS:
        raise ConfigError(f"trainer.precision: {precision!r} is not valid; {nearest(str(precision), PRECISIONS)}")
    if trainer.get("max_epochs") is not None:
        raise ConfigError("trainer.max_epochs: passes are per task; use data.epochs")
    accumulate = trainer.get("accumulate_grad_batches")
    if isinstance(accumulate, int) and accumulate < 1:
        raise ConfigError(f"trainer.accumulate_grad_batches: {accumulate} must be 1 or more")


def _check_model(name: Any) -> None:
    if name is None or name in (*EMBEDDED, RANDOM):
        return
    path = Path(str(name)).expanduser()
    close = difflib.get_close_matches(str(name).lower(), [*EMBEDDED, RANDOM], n=1, cutoff=0.75)
    local = str(name).startswith((".", "/", "~")) or path.suffix == ".gguf"
    if not path.exists() and (local or close):
        raise ConfigError(f"model.backbone.name: no model {str(name)!r}; {nearest(str(name), [*EMBEDDED, RANDOM])}")


def _check_order(sources: list[dict[str, Any]], order: Any) -> None:
    """A published order asked for by name later than the list of tasks, which would take its effect away."""
    last = None
    for data in (_flat(source, "data") for source in sources):
        last = None if "order" in data else next(_named_orders(data.get("benchmark")), last)
    if last is not None and isinstance(order, list):
        raise ConfigError(f"data.benchmark.{last}: data.order lists the tasks already; add --data.order=null")


def _named_orders(node: Any) -> Iterator[str]:
    """Published orders in a benchmark's options, or in those of one inside it."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in ("order", "sequence") and isinstance(value, str):
            yield f"{key}={value}"
        yield from _named_orders(value)


def _check_tasks(data: dict[str, Any]) -> None:
    import cl_lightning.data
    from cl_lightning.data.base import check_order, data_root

    root = data_root(data["root"] if isinstance(data.get("root"), str) else None)
    if root is not None and not root.is_dir():
        raise ConfigError(f"data.root: {root} is not a folder")
    order = data.get("order")
    options = _flat(data, "benchmark")
    benchmark = str(options.get("class_path", "TRACE")).rpartition(".")[2]
    if benchmark not in cl_lightning.data.EXPORTS or not isinstance(order, list):
        return
    kind = getattr(cl_lightning.data, benchmark)
    needs = any(option.default is option.empty for option in signature(kind).parameters.values())
    if needs or options.keys() - {"class_path", "init_args"}:
        return  # which tasks there are depends on them: the parser's to say
    valid = kind().tasks(root)
    check_order(order, valid)
