"""Load a finished (or unfinished) run from its folder, for scripts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import StateError
from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.model.module import ContinualLM
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
    path: str | Path, tasks: int | None = None, *, allow: Sequence[str] = (), trust_remote_code: bool = False
) -> LoadedRun:
    """Rebuild the model of a run folder from its base and its stored branches.

    The folder is not trusted: only this project's classes are built from its configuration, and its
    `trust_remote_code` is ignored.

    Args:
        path: the run folder.
        tasks: number of tasks after which the model is restored, 0 for the base; None: all finished tasks.
        allow: further classes that may be built, as named in the configuration ("my_package.MyAdapter").
        trust_remote_code: allow code that comes with the base model to run.

    Raises:
        StateError: the folder is not a run's or is damaged, needs classes that are not allowed, or has fewer finished
            tasks than `tasks`.
        ConfigError: the base model is not available, or has code of its own that is not trusted.
    """
    folder = Path(path)
    record = read_record(folder)
    alone = PROTOCOLS[record["protocol"]].alone
    if alone and tasks is None:
        raise StateError(
            f"{folder}: holds one model per task (data.protocol=independent); choose one with tasks=: "
            "tasks=1 is the first task's, tasks=2 the second's"
        )
    if tasks is not None and not 0 <= tasks <= record["done"]:
        raise StateError(f"{folder}: tasks={tasks} is not in 0..{record['done']}, the number of finished tasks")
    options, file = read_config(folder, record)["model"], folder / CONFIG
    module = build(ContinualLM, options, "model", file, allow, trust_remote_code)
    module.load(module.backbone.load_tokenizer())
    if module.base_hash != record["base"]:
        raise StateError(f"{folder}: was trained on another base model than {module.backbone.name} is now")
    done = record["order"][: record["done"] if tasks is None else tasks]
    kept = done[-1:] if alone else done
    restore_branches(module.adapter, folder, record, kept)
    return LoadedRun(module.eval(), record["R"], record)
