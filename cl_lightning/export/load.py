"""`cl_lightning.load`: the model of a run folder, or of a folder that it was exported to, ready for use."""

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
from cl_lightning.sequence.load import learnt, rebuilt
from cl_lightning.sequence.run_files import RECORD
from cl_lightning.sequence.stored import build, read_config
from cl_lightning.sequence.stored_tensors import restore_branches


@dataclass(frozen=True)
class Stored:
    """What a folder says of a trained model.

    Attributes:
        record: order, done, protocol, base, and files with their checksums, as in a run's record.
        config: options of the sections `model` and `data`.
        file: where the options stand.
        remedy: what to do where a file is damaged.
    """

    record: dict[str, Any]
    config: dict[str, Any]
    file: Path
    remedy: str


def load(
    path: str | Path,
    after: int | str | None = None,
    *,
    allow: Sequence[str] = (),
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    dtype: str | None = None,
) -> LoadedModel:
    """The trained model of a run folder, or of a folder that `cl-lightning export --format=native` wrote.

    The folder may be anyone's: it makes this project's own classes only, its files are compared with their checksums,
    and its `trust_remote_code` counts for nothing.

    Args:
        path: the folder.
        after: the model as it was after so many tasks, 0 being what the first one started from, or after the task of
            this name ("2" is a number where no task is called so). None: after all that are done.
        allow: classes of your own that may be made too, as the configuration names them ("my_package.MyAdapter").
        trust_remote_code: let code that comes with the base model run.
        device: where it runs; None: on an accelerator if there is one, else on the CPU.
        dtype: of the base, as in `model.backbone.dtype`; None: the run's.

    Raises:
        StateError: no such folder, a damaged or foreign one, one that needs classes that were not allowed, or a task
            that is not done.
        ConfigError: the base model is not to be had here, or has code of its own that is not trusted; or no such
            device or dtype.
    """
    folder, where = Path(path), _device(device)
    if isinstance(allow, str):
        raise ConfigError(f"allow: expected a list of class names, got the text {allow!r}")
    stored = _stored(folder)
    if after is None and not stored.record["done"]:
        raise StateError(f"{folder}: no task is finished; after=0 loads the base model")
    tasks = learnt(folder, stored.record, _number(folder, stored.record, after), "after")
    names = [field.name for field in fields(PromptSettings)]
    options = {name: value for name, value in stored.config["data"].items() if name in names}
    prompts = build(PromptSettings, options, "data", stored.file)
    base = stored.record["base"]
    module = rebuilt(stored.config["model"], base, stored.file, allow, trust_remote_code, dtype)
    restore_branches(module.adapter, folder, stored.record, tasks, stored.remedy)
    return LoadedModel(module.eval().to(where), prompts, tasks)


def _device(asked: str | torch.device | None) -> torch.device:
    """Where the model runs. Raises ConfigError for what is no device of this machine."""
    here = torch.accelerator.current_accelerator(check_available=True)
    if asked is None:
        return here or torch.device("cpu")
    try:
        device = torch.device(asked)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device: {asked!r} is not a device that PyTorch knows; try cpu") from None
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


#: What reads a folder, by the file that says what it is.
READERS: dict[str, Callable[[Path], Stored]] = {
    RECORD: _run,
    INDEX: _export,
    "adapter_config.json": _by("peft.AutoPeftModelForCausalLM.from_pretrained"),
    "config.json": _by("transformers.AutoModelForCausalLM.from_pretrained"),
}
