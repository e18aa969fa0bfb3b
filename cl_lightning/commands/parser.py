"""The parser of `cl-lightning run`: Lightning CLI (jsonargparse, omegaconf) with named slots for task callbacks."""

import copy
import difflib
import logging
import re
import warnings
from importlib import import_module
from typing import Any, NoReturn

import lightning.pytorch as pl
import transformers
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from cl_lightning.commands.precheck import USAGE
from cl_lightning.common.errors import ConfigError, nearest, user_error_in
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.run import SequenceSettings
from cl_lightning.sequence.slots import SLOTS

#: Of more valid names than these, only the nearest are told.
MANY = 25


class _Parser(LightningArgumentParser):
    """Errors in one line, with the nearest valid names. A class in a slot has a parser of its own."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise user_error_in(ex) or ConfigError(self._one_line(message)) from None

    def _one_line(self, message: str) -> str:
        if found := re.search(r"unrecognized arguments: --([\w.+-]+)", message):
            return self._unknown(found[1])
        if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
            return self._unknown(f"{found[1]}.{found[2]}")
        if found := re.search(r"[Oo]ption '([\w.]+)' is not accepted", message):
            return self._unknown(found[1])
        message = re.sub(r".*Expected a path but .*\n?", "", message)  # any value could have been a file of values
        message = re.sub(r'^Parser key "([\w.+]+)":', lambda key: f"{self._owner()}{key[1]}:", message)
        where = message.split(":", 1)[0]
        if found := re.search(r"Problem with given class_path '([^']*)':\s*(.+)", message):
            return f"{where}: no class {found[1]!r} ({found[2]})"
        if found := re.search(r"(?:Got|Given) value: (.*)", message):
            return f"{where}: {_not_valid(found[1], message)}"
        lines = [line.strip(" -") for line in message.splitlines()]
        return " ".join(line for line in lines if line)

    def _unknown(self, name: str) -> str:
        """An option that is not there: the options beside it, by their last names."""
        group, _, last = name.rpartition(".")
        options = [a.dest for a in self._actions if not a.dest.endswith((".help", "help"))]
        beside = [o.rpartition(".")[2] for o in options if o.rpartition(".")[0] == group]
        close = difflib.get_close_matches(last, beside, n=2) if len(beside) > MANY else []
        hint = f"did you mean {' or '.join(close)}?" if close else nearest(last, beside) if beside else "there are none"
        return f"unknown option {self._owner()}{name}; {hint}"

    def _owner(self) -> str:
        """Which class this parser is of, as "SliceInit."; nothing for the main one."""
        main = any(action.dest == "config" for action in self._actions)
        return "" if main else "".join(f"{group}." for group in list(self.groups or ())[:1])


def _not_valid(value: str, message: str) -> str:
    """Say what was expected instead of `value`, from jsonargparse's account of the types it tried."""
    names, kinds = [], []
    for expected in re.findall(r"Expected an? (.+?)(?:\. Got value.*)?$", message, re.MULTILINE):
        if found := re.fullmatch(r"typing.Literal\[(.*)\]", expected):
            names += [name.strip(" '") for name in found[1].split(",")]
        else:
            kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", expected)
            kinds.append({"NoneType": "null"}.get(kind, "class name" if kind.startswith("dot import path") else kind))
    if not names:
        return f"expected {' or '.join(kinds)}, not {value!r}"
    quote = " (YAML reads a bare off as False: quote it)" if value == "False" and "off" in names else ""
    return f"{value!r} is not valid{quote}; {' or '.join([nearest(value, names), *kinds])}"


class ContinualCLI(LightningCLI):
    """Parses and instantiates; the sequence makes its own Trainer for each task."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = _Parser(**{"dump_header": None, **kwargs})
        parser.add_argument("-c", "--config", action="config", help="a configuration file; later ones win")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        slots = dict[str, TaskCallback | None]
        parser.add_argument("--boundary", type=slots, default={}, help="task-boundary callbacks by slot; null: none")
        parser.add_argument("--observers", type=slots, default={}, help="callbacks that only watch, by name")
        parser.add_class_arguments(SequenceSettings, "sequence")
        parser.link_arguments("seed_everything", "data.seed")

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            if told := user_error_in(error):
                raise told from None
            raise

    def instantiate_trainer(self, **kwargs: Any) -> None:
        """Make none to keep, but see now that the options make one."""
        try:
            self.task_trainer(0, [], [])
        except (MisconfigurationException, TypeError, ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from None

    def slots(self, name: str) -> dict[str, TaskCallback]:
        return {slot: callback for slot, callback in (self.config_init[name] or {}).items() if callback is not None}

    def resolved(self) -> str:
        """The resolved configuration as YAML; `sequence.fresh` is false, or whoever runs it would delete the run."""
        config = self.config.clone()
        config.sequence.fresh = False
        return self.parser.dump(config, skip_none=False)

    def task_trainer(self, task: int, ours: list[Callback], loggers: list[Logger]) -> pl.Trainer:
        """A fresh Trainer. Stock and user callbacks are copied: their state must not cross tasks."""
        options = vars(copy.copy(self.config_init.trainer))
        stock = [copy.deepcopy(c) for c in options.pop("callbacks") or []]
        extra = options.pop("logger")
        extra = extra if isinstance(extra, list) else [extra] if isinstance(extra, Logger) else []
        return pl.Trainer(
            **{**options, "max_epochs": self.datamodule.epochs_per_task[task]},
            callbacks=[*stock, *ours],
            logger=[*loggers, *extra],
        )


def make_cli() -> ContinualCLI:
    """Parse sys.argv and make the parts."""
    for package in map(import_module, SLOTS.values()):
        for name in package.EXPORTS:
            getattr(package, name)  # imported classes are known to class_path by their short names
    return ContinualCLI(
        ContinualLM,
        TaskSequence,
        run=False,
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={
            "parser_mode": "omegaconf+",
            "usage": USAGE,
            "description": "Train an LLM on a sequence of tasks.",
        },
    )


def quiet() -> None:
    """Keep other people's advice out of the way of the run's own lines."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", category=UserWarning, message=".*does not have many workers.*")
