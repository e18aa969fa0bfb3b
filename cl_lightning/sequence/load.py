"""Load a finished (or unfinished) run from its folder, for scripts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cl_lightning.common.errors import ConfigError, StateError, nearest
from cl_lightning.common.memory import release_memory
from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.moved_base import base_may_move
from cl_lightning.sequence.folder import CONFIG, read_record
from cl_lightning.sequence.stored import build, read_config
from cl_lightning.sequence.stored_tensors import restore_branches


@dataclass(frozen=True)
class LoadedRun:
    """A run's results and its model.

    Attributes:
        module: the LLM with the branches of the (chosen) finished tasks.
        matrix: R[i][j], score on task j after task i, 0..100; None if not scored.
        record: the contents of sequence.json (order, data, seed, versions, ...).
    """

    module: ContinualLM
    matrix: list[list[float | None]]
    record: dict[str, Any]


def load_run(
    path: str | Path,
    tasks: int | None = None,
    *,
    base: str | Path | None = None,
    allow: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> LoadedRun:
    """Rebuild the model of a run folder from its base and its stored branches.

    The folder is not trusted: only this project's classes are built from its configuration, and its
    `trust_remote_code` is ignored.

    Args:
        path: the run folder.
        tasks: number of tasks after which the model is restored, 0 for the base; None: all finished tasks.
        base: where the base model is now, as in `model.backbone.name`; None: where it was. Its weights must be the
            run's: names, shapes and bytes are compared by a hash.
        allow: further classes that may be built, as named in the configuration ("my_package.MyAdapter").
        trust_remote_code: allow code that comes with the base model to run.

    Raises:
        StateError: the folder is not a run's or is damaged, needs classes that are not allowed, or has fewer finished
            tasks than `tasks`.
        ConfigError: the base model is not available, or has code of its own that is not trusted.
    """
    folder = Path(path)
    record = read_record(folder)
    kept = learnt(folder, record, tasks)
    options = based(read_config(folder, record)["model"], base)
    module = rebuilt(options, record["base"], folder / CONFIG, allow, trust_remote_code)
    restore_branches(module.adapter, folder, record, kept)
    return LoadedRun(module.eval(), record["R"], record)


def learnt(folder: Path, record: dict[str, Any], tasks: int | None, option: str = "tasks") -> list[str]:
    """The tasks whose branches make up the model after so many tasks; None: after all that are done.

    `option`: what the caller calls `tasks`.

    Raises:
        StateError: fewer are done, or the run has one model per task and none was chosen.
    """
    alone = PROTOCOLS[record["protocol"]].alone
    if alone and tasks is None:
        raise StateError(
            f"{folder}: holds one model per task (data.protocol=independent); choose one with {option}=: "
            f"{option}=1 is the first task's, {option}=2 the second's"
        )
    if tasks is not None and not 0 <= tasks <= record["done"]:
        raise StateError(f"{folder}: {option}={tasks} is not in 0..{record['done']}, the number of finished tasks")
    done: list[str] = record["order"][: record["done"] if tasks is None else tasks]
    return done[-1:] if alone else done


def based(options: dict[str, Any], base: str | Path | None) -> dict[str, Any]:
    """Return the options of `model` with the base at `base`; None: where it was."""
    return options if base is None else {**options, "backbone": {**options["backbone"], "name": str(base)}}


def same_base(module: ContinualLM, found: str, base: str, folder: Path) -> None:
    """Raise StateError if the hash that was `found` of the base's weights is not that of the run in `folder`."""
    if found != base:
        raise StateError(
            f"{folder}: was trained on another base model than {module.backbone.name} is now (hash of all weights "
            f"{found}, the run's {base})"
        )


def rebuilt(
    options: dict[str, Any],
    base: str,
    file: Path,
    allow: Sequence[str] = (),
    trust_remote_code: bool = False,
    dtype: str | None = None,
) -> ContinualLM:
    """The base with its adapted layers, no branch in them yet, as the options of `model` say that are stored in `file`.

    Args:
        base: the base's content hash.
        allow, trust_remote_code: as in `load_run`.
        dtype: of the base, as in `model.backbone.dtype`; None: the stored one.

    Raises:
        StateError: the options make no model, or the base is another one now.
        ConfigError: as `load_run`; no such dtype, or that of a 4-bit base is to be changed.
    """
    known = get_args(get_type_hints(Backbone)["dtype"])
    if dtype is not None and dtype not in known:
        raise ConfigError(f"dtype: {dtype!r} is not the name of a dtype for the base; {nearest(str(dtype), known)}")
    module = _loaded(options, file, allow, trust_remote_code)
    backbone = module.backbone
    same_base(module, module.base_hash, base, file.parent)
    if dtype in (None, backbone.dtype):
        return module
    if backbone.load_in_4bit:
        raise ConfigError(f"dtype: the base of {file.parent} is loaded in 4 bits; leave dtype out")
    # The hash above is of the base in its stored dtype, which a cast does not give back.
    del module
    release_memory()
    return _loaded({**options, "backbone": {**options["backbone"], "dtype": dtype}}, file, allow, trust_remote_code)


def _loaded(options: dict[str, Any], file: Path, allow: Sequence[str], trust_remote_code: bool) -> ContinualLM:
    module = build(ContinualLM, options, "model", file, allow, trust_remote_code)
    with base_may_move():
        module.load(module.backbone.load_tokenizer())
    return module
