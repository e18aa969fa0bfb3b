"""`cl_lightning.load`: loads the trained model of a run folder or of a native export."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import torch

from cl_lightning.common.errors import ConfigError, StateError, nearest
from cl_lightning.export import native
from cl_lightning.export.loaded import LoadedModel, PromptSettings
from cl_lightning.export.native import INDEX, read_index
from cl_lightning.sequence.folder import CONFIG, REMEDY, read_record
from cl_lightning.sequence.load import based, learnt, rebuilt
from cl_lightning.sequence.run_files import RECORD
from cl_lightning.sequence.stored import build, read_config
from cl_lightning.sequence.stored_tensors import restore_branches


@dataclass(frozen=True)
class Stored:
    """The description of a trained model, read from its folder.

    Attributes:
        record: a run's record, or those of its fields that an export has.
        config: options of the sections `model` and `data`.
        file: the file with the options.
        remedy: what to do if a file is damaged, for messages.
    """

    record: dict[str, Any]
    config: dict[str, Any]
    file: Path
    remedy: str


def load(
    path: str | Path,
    after: int | str | None = None,
    *,
    base: str | Path | None = None,
    allow: Sequence[str] = (),
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    dtype: str | None = None,
) -> LoadedModel:
    """Load the trained model of a run folder, or of a folder written by `cl-lightning export --format=native`.

    The folder need not be trusted: only this project's classes are created, files are compared with their checksums,
    and a `trust_remote_code` in it is ignored.

    Args:
        path: the folder.
        after: number of tasks, or name of the last task, that the model has learnt; 0: the model before the first task.
            "2" is a number unless a task has that name. None: all finished tasks.
        base: where the base model is now, as in `model.backbone.name`; None: where it was. Its weights must be those of
            training: names, shapes and bytes are compared by a hash.
        allow: further classes that may be created, as the configuration names them ("my_package.MyAdapter").
        trust_remote_code: run code that comes with the base model.
        device: device of the model; None: an accelerator if available, else the CPU.
        dtype: dtype of the base, as in `model.backbone.dtype`; None: the run's.

    Raises:
        StateError: the folder is missing, damaged or of another kind, needs classes that are not allowed, or the task
            is not finished.
        ConfigError: the base model is not available or has code that is not trusted, or the device or dtype is not
            available.
    """
    folder, where = Path(path), _device(device)
    if isinstance(allow, str):
        raise ConfigError(f"allow: expected a list of class names, got the text {allow!r}")
    stored = _stored(folder)
    if after is None and not stored.record["done"]:
        raise StateError(f"{folder}: no task is finished; after=0 loads the base model")
    tasks = learnt(folder, stored.record, _number(folder, stored.record, after), "after")
    names = [field.name for field in fields(PromptSettings)]
    written = {name: value for name, value in stored.config["data"].items() if name in names}
    prompts = build(PromptSettings, written, "data", stored.file)
    options = based(stored.config["model"], base)
    module = rebuilt(options, stored.record["base"], stored.file, allow, trust_remote_code, dtype)
    restore_branches(module.adapter, folder, stored.record, tasks, stored.remedy)
    return LoadedModel(module.eval().to(where), prompts, tasks)


def _device(given: str | torch.device | None) -> torch.device:
    """Return the device. Raises ConfigError if this machine does not have it."""
    here = torch.accelerator.current_accelerator(check_available=True)
    if given is None:
        return here or torch.device("cpu")
    try:
        device = torch.device(given)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device: {given!r} is not a device that PyTorch knows; try cpu") from None
    there = {"cpu": 1, **({here.type: torch.accelerator.device_count()} if here else {})}
    if (device.index or 0) >= there.get(device.type, 0):
        raise ConfigError(f"device: {device} is not available on this machine; leave the option out")
    return device


def _stored(folder: Path) -> Stored:
    found = next((read for name, read in READERS.items() if (folder / name).is_file()), None)
    if found is None:
        raise StateError(
            f"{folder}: is not a run folder (no {RECORD}), nor a folder that --format=native exported (no {INDEX})"
        )
    return found(folder)


def _run(folder: Path) -> Stored:
    record = read_record(folder)
    return Stored(record, read_config(folder, record), folder / CONFIG, REMEDY)


def _export(folder: Path) -> Stored:
    record, config = read_index(folder)
    return Stored(record, config, folder / INDEX, native.REMEDY)


def _number(folder: Path, record: dict[str, Any], after: int | str | None) -> int | None:
    """How many tasks are in, of a number or a task's name."""
    if after is None or type(after) is int:
        return after
    if not isinstance(after, str):
        raise ConfigError(f"after: expected a number of tasks or a task's name, got {type(after).__name__}")
    done = record["order"][: record["done"]]
    if after not in done and after.isdecimal():
        return int(after)
    if after not in done:
        raise StateError(
            f"{folder}: no finished task is called {after!r}; {nearest(after, done) if done else 'none is finished'}"
        )
    return done.index(after) + 1


def _by(loader: str) -> Callable[[Path], NoReturn]:
    def refuse(folder: Path) -> NoReturn:
        raise StateError(f"{folder}: is neither a run folder nor a native export; load it with {loader}")

    return refuse


#: The file that identifies a kind of folder -> the function that reads it.
READERS: dict[str, Callable[[Path], Stored]] = {
    RECORD: _run,
    INDEX: _export,
    "adapter_config.json": _by("peft.AutoPeftModelForCausalLM.from_pretrained"),
    "config.json": _by("transformers.AutoModelForCausalLM.from_pretrained"),
}
