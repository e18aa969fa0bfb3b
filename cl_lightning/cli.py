"""Composition root: Lightning CLI (jsonargparse, omegaconf), slots, checks, run folder, trainer factory.

The only file that imports `callbacks`. No subcommand: `python -m cl_lightning --config A.yaml --config B.yaml`.
"""

import copy
import hashlib
import json
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import transformers
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

import callbacks as _callbacks  # noqa: F401  (task callbacks become known to class_path by their short names)
from cl_lightning import continuing, report
from cl_lightning.backbone import set_threads
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.errors import ConfigError, nearest
from cl_lightning.module import ContinualLM
from cl_lightning.precheck import config_files
from cl_lightning.sequence import SequenceRun, SequenceSettings
from cl_lightning.state import RunFolder
from cl_lightning.task_callback import TaskCallback

#: Options that change where or how fast a run runs, not what it computes: no part of its identity.
NOT_IDENTITY = ("sequence", "observers", "config")
NOT_IDENTITY_OF = {
    "trainer": ("devices", "strategy", "accelerator", "num_nodes", "logger", "default_root_dir", "profiler"),
    "data": ("root", "eval_batch_size"),
}


class _Parser(LightningArgumentParser):
    """Errors in one line, with the nearest valid names."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConfigError(self._one_line(message)) from None

    def _one_line(self, message: str) -> str:
        if found := re.search(r"unrecognized arguments: --([\w.+-]+)", message):
            options = [o[2:] for a in self._actions for o in a.option_strings if o.startswith("--")]
            name = found[1]
            same = [o for o in options if o.split(".")[0] == name.split(".")[0]]
            return f"unknown option --{name}; {nearest(name, same or options)}"
        if found := re.search(r"[Oo]ption '([\w.]+)' is not accepted", message):
            place = re.search(r'Parser key "([\w.]+)"', message)
            where = f"{place[1]}: " if place else ""
            owner = re.findall(r"class_path '([\w.]+)'", message)
            return f"{where}unknown option {found[1]!r}; {nearest(found[1], _parameters(owner[-1]) if owner else ())}"
        lines = [line.strip(" -") for line in message.splitlines()]
        return " ".join(line for line in lines if line and not line.startswith("Subtypes:"))


def _parameters(class_path: str) -> list[str]:
    import inspect
    from importlib import import_module

    module, _, name = class_path.rpartition(".")
    return [p for p in inspect.signature(getattr(import_module(module), name)).parameters if p != "self"]


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

    def instantiate_trainer(self, **kwargs: Any) -> None:
        return None

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


def run() -> None:
    """Parse sys.argv, check, open the run folder, run or continue the sequence, print the report."""
    _quiet()
    cli = ContinualCLI(
        ContinualLM,
        TaskSequence,
        run=False,
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={"parser_mode": "omegaconf+"},
    )
    module, data, settings = cli.model, cli.datamodule, SequenceSettings(**vars(cli.config_init.sequence))
    boundary, observers = cli.slots("boundary"), cli.slots("observers")
    _check(module, boundary, observers)
    devices = cli.config_init.trainer.devices
    set_threads(devices if isinstance(devices, int) else 1, settings.threads)

    tokenizer = module.backbone.load_tokenizer()
    module.load(tokenizer)
    data.prepare(tokenizer, module.encoder_decoder)
    resolved = cli.resolved()
    experiment = settings.experiment or _experiment(sys.argv[1:])
    parent = continuing.read_parent(settings.continue_from, module, data) if settings.continue_from else None
    facts = {
        "experiment": experiment,
        "data": data.source,
        "base": module.base_hash,
        "fingerprints": {t.spec.name: data.fingerprint([t]) for t in data.tasks},
        "adapter": continuing.adapter_settings(module),
        "continues": parent.record["identity"] if parent else None,
    }
    facts["identity"] = _identity(cli.config, facts)
    folder = RunFolder(Path(settings.run_dir or Path("runs") / experiment / facts["identity"]))
    sequence = SequenceRun(module, data, folder, settings, boundary, observers, cli.task_trainer, facts)
    if _launches_here():
        folder.open(facts["identity"], settings.fresh)
        if parent is not None and not folder.record:
            continuing.adopt(parent, folder, data.order)
        folder.write("config.yaml", resolved.encode())
        print(_first_line(experiment, cli, data), flush=True)
    else:
        folder.attach()
    sequence.run()
    if _launches_here():
        report.show(folder.path)
        folder.close()


def _quiet() -> None:
    """Keep other people's advice out of the way of the run's own lines."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", category=UserWarning, message=".*does not have many workers.*")


def _check(module: ContinualLM, boundary: dict[str, TaskCallback], observers: dict[str, TaskCallback]) -> None:
    """Refuse what cannot run together, before anything is loaded."""
    reasons = list(module.adapter.check(boundary))
    everyone = {**boundary, **observers}
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


def _launches_here() -> bool:
    """Whether this process is rank 0 (known before the process group exists)."""
    return pl.utilities.rank_zero_only.rank == 0


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
    steps = [t.epochs * -(-len(t.train) // data.batch_size) for t in tasks]
    cut = sum(e.cut > 0 for t in tasks for e in t.train)
    return (
        f"{experiment}: DATA = {data.source}; {len(tasks)} tasks, each {_span([len(t.train) for t in tasks])} training "
        f"examples in batches of {data.batch_size} = {_span(steps)} steps, prompts up to {data.max_prompt_tokens} tokens "
        f"({cut} cut in the middle, {sum(t.dropped for t in tasks)} long answers dropped), "
        f"{_span([len(t.test) for t in tasks])} scored prompts per task; lr {cli.model.lr:g}; "
        f"base {cli.model.backbone.name} in {cli.model.backbone.dtype}"
        f"{_held(cli.model)}, seed {data.seed}"
    )


def _held(module: ContinualLM) -> str:
    if module.backbone.load_in_4bit:
        return " 4-bit"
    held = str(module.llm.dtype).removeprefix("torch.")
    return "" if held == module.backbone.dtype else f" values held in {held} (this CPU has no bf16 units)"


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
