"""Composition root: Lightning CLI (jsonargparse, omegaconf), slots, checks, run folder, trainer factory.

The only file that imports `callbacks`. No subcommand: `python -m cl_lightning --config A.yaml --config B.yaml`.
"""

import copy
import difflib
import hashlib
import json
import logging
import re
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import transformers
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from callbacks.replay_buffer import ReplayBuffer
from cl_lightning import continuing, distributed, report, standing, stopping
from cl_lightning.arithmetic import loaded_stays
from cl_lightning.backbone import set_threads
from cl_lightning.data.sampler import memory_per_step
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.errors import ConfigError, nearest, user_error_in
from cl_lightning.generation_settings import told
from cl_lightning.module import ContinualLM
from cl_lightning.paths import below, name_fault, part_fault
from cl_lightning.precheck import SLOTS, USAGE, config_files
from cl_lightning.sequence import SequenceRun, SequenceSettings
from cl_lightning.state import CONFIG, RunFolder, disk_errors_told
from cl_lightning.task_callback import TaskCallback
from cl_lightning.terminal import say

#: Options that change where or how fast a run runs, not what it computes: no part of its identity.
NOT_IDENTITY = ("sequence", "observers", "config")
NOT_IDENTITY_OF = {
    "trainer": ("devices", "strategy", "accelerator", "num_nodes", "logger", "default_root_dir", "profiler"),
    "data": ("root", "eval_batch_size", "skip_missing"),  # the source says what was left out
}

#: How the first line of a run says what is trained.
PROTOCOLS = {
    "sequential": "{} tasks, each",
    "joint": "joint training on {} tasks together,",
    "independent": "{} tasks, each from the base model,",
}

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
        """The resolved configuration as YAML."""
        return self.parser.dump(self.config, skip_none=False)

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


def run() -> None:
    """Parse sys.argv, check, open the run folder, run or continue the sequence, print the report."""
    quiet()
    cli = make_cli()
    module, data, settings = cli.model, cli.datamodule, SequenceSettings(**vars(cli.config_init.sequence))
    boundary, observers = cli.slots("boundary"), cli.slots("observers")
    _check(module, data, boundary, observers)
    experiment = settings.experiment or _experiment(sys.argv[1:])
    run_dir = _run_dir(settings, experiment)
    devices = cli.config_init.trainer.devices
    set_threads(devices if isinstance(devices, int) else 1, settings.threads)

    tokenizer = module.backbone.load_tokenizer()
    module.load(tokenizer)
    data.prepare(tokenizer, module.encoder_decoder)
    resolved = cli.resolved()
    if settings.continue_from and data.protocol != "sequential":
        raise ConfigError(f"sequence.continue_from: nothing goes on under data.protocol={data.protocol}")
    parent = continuing.read_parent(settings.continue_from, module, data) if settings.continue_from else None
    facts = {
        "experiment": experiment,
        "data": data.source,
        "benchmark": data.benchmark.describe(data.root),
        "base": module.base_hash,
        "fingerprints": {t.spec.name: data.fingerprint([t]) for t in data.evaluated},
        "sources": {t.spec.name: t.whole for t in data.evaluated},
        "adapter": continuing.adapter_settings(module),
        "template": data.template,
        "continues": parent.record["identity"] if parent else None,
    }
    facts["identity"] = _identity(cli.config, facts)
    folder = RunFolder(run_dir or below(Path("runs"), f"{experiment}/{facts['identity']}"))
    sequence = SequenceRun(module, data, folder, settings, boundary, observers, cli.task_trainer, facts)
    sequence.check()
    if _launches_here():
        folder.open(facts["identity"], settings.fresh, sequence.record())
        # Once there is a configuration it stays; what may differ now is no part of the identity.
        if CONFIG not in folder.files and parent is not None:
            continuing.adopt(parent, folder, facts, data.order, resolved.encode())
        elif CONFIG not in folder.files:
            folder.write(CONFIG, resolved.encode())
            folder.commit(folder.record)
        for line in (_first_line(experiment, cli, data), *module.adapter.remarks):
            say(line)
        _tell_standing(folder, data.order)
    else:
        folder.attach()
    with loaded_stays(), disk_errors_told(folder.path):  # what loggers and callbacks write, too
        sequence.run()
    if _launches_here():
        report.show(folder.path)
        folder.close()


def quiet() -> None:
    """Keep other people's advice out of the way of the run's own lines."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", category=UserWarning, message=".*does not have many workers.*")


def _check(
    module: ContinualLM,
    data: TaskSequence,
    boundary: dict[str, TaskCallback],
    observers: dict[str, TaskCallback],
) -> None:
    """Refuse what cannot run together, before anything is loaded."""
    reasons = list(module.adapter.check(boundary))
    if data.protocol != "sequential":
        reasons += [
            f"boundary.{slot} keeps what earlier tasks were, with data.protocol={data.protocol} there are none; "
            f"use boundary.{slot}=null"
            for slot in boundary
            if slot != "init"
        ]
        if module.adapter.offset == "baked":
            reasons.append(f"model.adapter.offset: baked changes W, data.protocol={data.protocol} needs displacement")
    both = sorted(boundary.keys() & observers.keys())
    reasons += [f"observers.{slot}: boundary has a slot of that name; rename it" for slot in both]
    everyone = {**boundary, **observers}
    reasons += [
        f"the slot name {slot!r} {why}, and files are named by it; rename the slot"
        for slot in everyone
        if (why := part_fault(f"{slot}-1.json"))
    ]
    for slot, callback in everyone.items():
        reasons += callback.check(boundary, module.adapter)
        twins = [s for s, c in everyone.items() if type(c) is type(callback)]
        if len(twins) > 1 and slot == twins[0]:
            reasons.append(f"{type(callback).__name__} sits in two slots ({', '.join(twins)}); keep one")
    if reasons:
        raise ConfigError("; ".join(reasons))


def _experiment(argv: list[str]) -> str:
    files = config_files(argv)
    return files[-1].stem if files else "default"


def _run_dir(settings: SequenceSettings, experiment: str) -> Path | None:
    """The run folder, where it is known before anything is loaded. Refuses one that cannot be the run's."""
    if settings.run_dir is None:
        if why := name_fault(experiment):
            raise ConfigError(
                f"sequence.experiment: the name {experiment!r} {why}, and the run's folder is named by it"
            )
        return None
    if _launches_here():
        RunFolder(Path(settings.run_dir)).check(settings.fresh)
    return Path(settings.run_dir)


def _launches_here() -> bool:
    """Whether this process is rank 0 (known before the process group exists)."""
    return distributed.rank() == 0


def _identity(config: Namespace, facts: dict[str, Any]) -> str:
    """Hash of what the run computes: resolved configuration without paths, logger and devices; data; base."""
    kept = {k: v for k, v in config.as_dict().items() if k not in NOT_IDENTITY}
    for section, names in NOT_IDENTITY_OF.items():
        kept[section] = {k: v for k, v in kept[section].items() if k not in names}
    kept["model"]["backbone"] = {**kept["model"]["backbone"], "name": None}
    named = {k: facts[k] for k in ("data", "base", "fingerprints", "continues")}
    text = json.dumps([kept, named], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _first_line(experiment: str, cli: ContinualCLI, data: TaskSequence) -> str:
    tasks = data.tasks
    memory = cli.slots("boundary").get("memory")
    replayed = memory_per_step(data.batch_size, memory.train_ratio) if isinstance(memory, ReplayBuffer) else 0
    # Nothing to replay in the first task; after it every new example is still seen once per epoch.
    steps = [t.epochs * -(-len(t.train) // (data.batch_size - replayed * (i > 0))) for i, t in enumerate(tasks)]
    cut = sum(e.cut > 0 for t in tasks for e in t.train)
    date = data.template["date"]
    return (
        f"{experiment}: DATA = {data.source}; {PROTOCOLS[data.protocol].format(len(data.columns))} "
        f"{_span([len(t.train) for t in tasks])} training "
        f"examples in batches of {data.batch_size}{f' ({replayed} replayed)' if replayed else ''} = "
        f"{_span(steps)} steps, "
        f"prompts up to {data.max_prompt_tokens} tokens ({cut} cut in the middle, "
        f"{sum(t.dropped for t in tasks)} long answers dropped), "
        f"{_span([len(t.test) for t in data.evaluated])} scored prompts per task; lr {cli.model.lr:g}; "
        f"base {cli.model.backbone.name} in {cli.model.backbone.dtype}"
        f"{_held(cli.model)}, seed {data.seed}{_decoded(cli.model)}"
        f"{f'; the chat template writes the date {date} (data.date)' if date else ''}"
    )


def _tell_standing(folder: RunFolder, order: list[str]) -> None:
    done = folder.record.get("done", 0)
    stopping.saved(standing.saved(folder.path, done, order))
    if told := standing.continuation(done, order):
        say(told)


def _held(module: ContinualLM) -> str:
    if module.backbone.load_in_4bit:
        return " 4-bit"
    held = str(module.llm.dtype).removeprefix("torch.")
    return "" if held == module.backbone.dtype else f" values held in {held} (this CPU has no bf16 units)"


def _decoded(module: ContinualLM) -> str:
    own, kept = module.backbone.own_generation, module.backbone.generation == "model"
    return f"; greedy, {'with' if kept else 'without'} the model's own {told(own)}" if own else ""


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
