"""Checks of a run's options that need no torch: files, sections, classes, options and their ranges, tasks, model names.

The parser of `cl-lightning run` imports torch, which takes seconds. A mistyped name and a number out of range are
refused here at once; the parser comes after this and checks everything else.
"""

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from cl_lightning.commands.ranges import check_ranges
from cl_lightning.commands.signatures import check_value, parameters
from cl_lightning.common.errors import ConfigError, nearest, unknown_option
from cl_lightning.common.paths import check_utf8, in_home
from cl_lightning.common.yaml_files import parse_yaml
from cl_lightning.data.benchmarks.json_files import read_text
from cl_lightning.model.moved_base import BaseMissing
from cl_lightning.model.names import EMBEDDED, PRECISIONS, RANDOM, dtype_fault, precision_fault
from cl_lightning.sequence.slots import slot_package

SECTIONS = ("seed_everything", "trainer", "model", "data", "boundary", "observers", "sequence")
#: Sections, and parts of them, whose options are those of a class.
CLASSES = {
    "trainer": "cl_lightning.commands.task_trainer.TaskTrainer",
    "model": "cl_lightning.model.module.ContinualLM",
    "model.backbone": "cl_lightning.model.backbone.Backbone",
    "data": "cl_lightning.data.task_sequence.TaskSequence",
    "sequence": "cl_lightning.sequence.settings.SequenceSettings",
}
PARSER_OPTIONS = ("config", "help", "print_config")
#: Options that cannot be null.
FILLED = ("trainer", "model", "model.adapter", "data", "data.benchmark", "sequence")
#: Where an option stands that is in no file.
COMMAND_LINE = "the command line"
USAGE = "cl-lightning run NAME [--preset PRESET] [--config FILE] [--option=value]"

#: Loggers of Lightning -> the modules of which they need one, and the package to install.
PACKAGES = {
    "TensorBoardLogger": (("tensorboard", "tensorboardX"), "tensorboard"),
    "MLFlowLogger": (("mlflow",), "mlflow-skinny"),
    "CometLogger": (("comet_ml",), "comet-ml"),
    "LitLogger": (("litlogger",), "litlogger"),
}
#: Databases in which MLflow can keep runs, and the modules that it needs for them beside `mlflow-skinny`.
DATABASES, FOR_DATABASES = ("sqlite", "mysql", "postgresql", "mssql"), ("sqlalchemy", "alembic")


def check(argv: list[str]) -> None:
    """Raise UserError for the first fault in the options of a run."""
    if not argv:
        raise ConfigError(f"nothing to run; use {USAGE}, or --help for all options")
    for word in argv:
        check_utf8(COMMAND_LINE, word)
    given: dict[str, Any] = {}  # the option set last comes last
    for where, option, value in options(argv):
        section = option.split(".", 1)[0].rstrip("+")
        if section not in (*SECTIONS, *PARSER_OPTIONS):
            raise ConfigError(f"{where}: unknown option {option!r}; {nearest(section, SECTIONS)}")
        if option in FILLED and value is None:
            raise ConfigError(f"{where}: {option} is empty; give it a value, or leave it out")
        if option.endswith("+"):
            option = option[:-1]
            earlier, added = given.get(option), value if isinstance(value, list) else [value]
            value = [*earlier, *added] if isinstance(earlier, list) else added
        if given.pop(option, value) != value:  # another class has other options
            given = {other: v for other, v in given.items() if not other.startswith(f"{option}.")}
        given[option] = value
        check_class(option, value)
    owners = dict.fromkeys(_owner(option, given) for option in given)
    for owner, title, kind in filter(None, owners):  # after all names: numbers take an import
        known = parameters(kind) or {}
        own = {name: given[f"{owner}.{name}"] for name in known if f"{owner}.{name}" in given}
        for name, value in own.items():
            check_value(f"{title}.{name}", known[name], value)
        check_ranges(kind, own)
    check_trainer(given)
    _check_loggers(given.get("trainer.logger"), given.get("trainer.logger.tracking_uri"))
    _check_model(given.get("model.backbone.name"))
    if why := dtype_fault(str(given.get("model.backbone.dtype"))):
        raise ConfigError(why)
    _check_tasks(given)


def options(argv: list[str]) -> Iterator[tuple[str, str, Any]]:
    """The options of a command line and of its files: where each is set, its name and its value."""
    words = list(argv)
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        if not word.startswith("-"):
            raise ConfigError(f"unexpected {word!r}; use {USAGE}")
        if not equals and words and not words[0].startswith("--"):
            value = words.pop(0)
        if option in ("--config", "-c") and value:
            found = [leaf for key, node in _read(Path(value)).items() for leaf in _leaves(str(key), node)]
            # In one file, data.order holds whatever comes after it.
            yield from ((value, *leaf) for leaf in sorted(found, key=lambda leaf: leaf[0] == "data.order"))
        elif option.startswith("--"):
            parsed: Any = value
            with suppress(ConfigError):  # a text need not be YAML
                parsed = parse_yaml(value, option)
            yield from ((COMMAND_LINE, *leaf) for leaf in _leaves(option[2:], parsed))


def _read(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        there = [p.stem for p in path.parent.glob("*.yaml")]
        hint = nearest(path.stem, there) if there else f"no .yaml file in {path.parent.absolute()}"
        raise ConfigError(f"no configuration file {path}; {hint}")
    content = parse_yaml(read_text(path), str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold options by name")
    return content


def _leaves(option: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Split nested options: {class_path: A, init_args: {b: 1}} under x becomes x=A and x.b=1."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{option}.{key}", inner)
    else:
        yield re.sub(r"\.(class_path|init_args)\b", "", option), value


def check_class(option: str, name: Any) -> str | None:
    """Return the path of the class of this project that `option` names; None where it takes none, or names another.

    Raises:
        ConfigError: there is no such class.
    """
    home = slot_package(option) if isinstance(name, str) else None
    if home is None or name.split(".")[0] not in (name, "cl_lightning", "callbacks"):
        return None  # only importing the user's own class shows whether it exists
    classes = {exported: where for exported, where in import_module(home).EXPORTS.items() if exported[0].isupper()}
    short = name.rpartition(".")[2]
    if short not in classes:
        raise ConfigError(f"{option}: no class {name!r}; {nearest(short, classes)}")
    return f"{home}.{classes[short]}.{short}"


def _owner(option: str, given: dict[str, Any]) -> tuple[str, str, str] | None:
    """Return the section or slot that takes an option, its title and its class; None where only an import shows them.

    Raises:
        ConfigError: the class has no such option.
    """
    words = option.split(".")
    for end in range(len(words) - 1, 0, -1):
        owner, name = ".".join(words[:end]), words[end]
        if slot_package(owner) is None and owner not in CLASSES:
            continue
        kind = CLASSES.get(owner) or check_class(owner, given.get(owner))
        known = parameters(kind) if kind and name != "help" else None
        if known is None:
            return None
        title = owner if owner in CLASSES else kind.rpartition(".")[2]
        if name not in known:
            raise ConfigError(unknown_option(f"{title}.{name}", known))
        return owner, title, kind
    return None


def check_trainer(given: dict[str, Any]) -> None:
    """Raise ConfigError for an option of `trainer`, by its whole name, that no run can have."""
    precision = str(given.get("trainer.precision") or PRECISIONS[0])
    if why := precision_fault(precision):
        raise ConfigError(why)
    if given.get("trainer.max_epochs") is not None:
        raise ConfigError("trainer.max_epochs: passes are per task; use data.epochs")
    accumulate = given.get("trainer.accumulate_grad_batches")
    if isinstance(accumulate, int) and accumulate < 1:
        raise ConfigError(f"trainer.accumulate_grad_batches: {accumulate} must be 1 or more")


def _check_loggers(loggers: Any, uri: Any) -> None:
    """Raise ConfigError for a logger of Lightning whose package is not installed. `uri`: of one that is no list."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        made = logger if isinstance(logger, dict) else {"class_path": logger, "init_args": {"tracking_uri": uri}}
        name = str(made.get("class_path")).rpartition(".")[2]
        modules, package = PACKAGES.get(name, ((), ""))
        if modules and not any(map(find_spec, modules)):
            raise ConfigError(f"trainer.logger: {name} needs a package that is not installed: pip install {package}")
        place = (made.get("init_args") or {}).get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")
        kind = str(place).split(":", 1)[0].split("+", 1)[0]
        if name == "MLFlowLogger" and kind in DATABASES and not all(map(find_spec, FOR_DATABASES)):
            raise ConfigError(
                f"trainer.logger: MLFlowLogger needs packages for {kind} that are not installed: pip install "
                f"{' '.join(FOR_DATABASES)}"
            )


def _check_model(name: Any) -> None:
    known, path = [*EMBEDDED, RANDOM], in_home(str(name), "model.backbone.name")
    if name is None or name in known or path.exists():
        return
    local = str(name).startswith((".", "/", "~")) or path.suffix == ".gguf"
    if local or difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.75):
        raise BaseMissing(f"model.backbone.name: no model {str(name)!r}; {nearest(str(name), known)}")


def _check_tasks(given: dict[str, Any]) -> None:
    import cl_lightning.data
    from cl_lightning.data.base import check_order, data_root

    root = given.get("data.root")
    root = data_root(root if isinstance(root, str) else None)
    if root is not None and not root.is_dir():
        raise ConfigError(f"data.root: {root} is not a folder")
    order = given.get("data.order")
    if not isinstance(order, list):
        return
    for option in list(given)[list(given).index("data.order") :]:
        # A published order asked for by name has no effect beside a list of tasks.
        if re.fullmatch(r"data\.benchmark\.(.*\.)?(order|sequence)", option) and isinstance(given[option], str):
            raise ConfigError(f"{option}={given[option]}: data.order lists the tasks already; add --data.order=null")
    benchmark = str(given.get("data.benchmark", "TRACE")).rpartition(".")[2]
    if benchmark not in cl_lightning.data.EXPORTS or any(option.startswith("data.benchmark.") for option in given):
        return  # which tasks there are depends on options that the parser checks
    kind = getattr(cl_lightning.data, benchmark)
    if all(option.default is not option.empty for option in signature(kind).parameters.values()):
        check_order(order, kind().tasks(root))
