"""Continue a finished sequence: `--sequence.continue_from=RUN --data.order+=TASK` trains only the new task.

The new run folder starts as a copy of the old one's branches, memory, predictions and matrix; the old run is not
changed. The base model, the adapter and the order and data of the old tasks must be the same, which is checked first.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import ConfigError, StateError
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.data.thinning import Thinning
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.folder import CONFIG, RunFolder, read_checked, read_record

#: Entries of a record's metrics that depend on the data only, known before any task is trained.
OF_DATA = ("metric_of_task", "by_likelihood", "majority", "copy_prompt", "baseline_intervals", "budgets")


Options = dict[str, Any]


@dataclass(frozen=True)
class Parent:
    """A finished run: its folder and record."""

    path: Path
    record: dict[str, Any]


def check_apart(parent: str | None, folder: Path) -> None:
    """Check that the run to continue and the new run's folder are separate.

    Raises:
        ConfigError: they are the same, or one contains the other; starting over would delete the run to continue.
    """
    old, new = Path(parent or "").resolve(), folder.resolve()
    if parent and (old.is_relative_to(new) or new.is_relative_to(old)):
        raise ConfigError(
            f"sequence.continue_from: {parent} and the new run's folder {folder} are the same, or one contains "
            "the other; choose another RUN_DIR="
        )


def adapter_settings(module: ContinualLM, start: bytes | None = None) -> dict[str, Any]:
    """Return the settings that must be equal for stored branches to be usable. `start`: the stored LoRA below them."""
    adapter = module.adapter
    under = {} if start is None else {"start": hashlib.sha256(start).hexdigest()}
    return under | {
        "class": type(adapter).__name__,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "rslora": adapter.rslora,
        "layers": list(adapter.layers),
    }


def read_parent(
    path: str, module: ContinualLM, data: TaskSequence, start: bytes | None = None, template: Options | None = None
) -> Parent:
    """Read and check the run to continue.

    Args:
        start: see `adapter_settings`.
        template: `data.template` as a record holds it; None: as it is.

    Raises:
        StateError: the run is not finished, is damaged, or differs in base, adapter, order, data or in what it scored.
    """
    folder = Path(path)
    record = read_record(folder)
    done, order = record["done"], record["order"]
    if done < len(order):
        raise StateError(f"sequence.continue_from: {folder} has {done} of {len(order)} tasks done; finish it first")
    if data.order[:done] != order or len(data.order) == done:
        raise StateError(
            f"sequence.continue_from: data.order must begin with {', '.join(order)} and add at least one task "
            f"(--data.order+=NAME); it is {', '.join(data.order)}"
        )
    if record["base"] != module.base_hash:
        raise StateError(f"sequence.continue_from: {folder} was trained on another base model (or dtype)")
    if record["adapter"] != adapter_settings(module, start):
        raise StateError(
            f"sequence.continue_from: {folder} has another adapter (class, rank, alpha, layers or start_from)"
        )
    if differing := [
        name for name, value in (template or data.template).items() if record["template"].get(name) != value
    ]:
        raise StateError(
            f"sequence.continue_from: {folder} was trained with another data.{', data.'.join(differing)}; use the same"
        )
    if (thinned := Thinning.of(record["metrics"])) != data.thinning:
        raise StateError(
            f"sequence.continue_from: {folder} scored old tasks with data.score_every={thinned.every} and "
            f"data.score_samples_old={'null' if thinned.samples is None else thinned.samples}; use the same"
        )
    for task in data.tasks[:done]:
        if record["fingerprints"][task.spec.name] != data.fingerprint([task]):
            raise StateError(f"sequence.continue_from: {folder} was trained on other data for {task.spec.name}")
        was, now = record["metrics"]["budgets"].get(task.spec.name), task.spec.max_new_tokens
        if was is not None and was["max_new_tokens"] != now:
            raise StateError(
                f"sequence.continue_from: {folder} generated up to {was['max_new_tokens']} tokens for "
                f"{task.spec.name}, now it would be {now}; use the same data.max_new_tokens"
            )
    for name in record["files"]:
        read_checked(folder, record, name)
    return Parent(folder, record)


def adopt(parent: Parent, folder: RunFolder, facts: dict[str, Any], order: list[str], config: bytes) -> None:
    """Copy the parent's state to the new run and commit it; R gets empty columns for the new tasks.

    Must be done before any other rank starts, since they read their state from disk.
    """
    for name in (name for name in parent.record["files"] if name != CONFIG):
        data = read_checked(parent.path, parent.record, name)
        private = not (parent.path / name).stat().st_mode & 0o077
        folder.write(name, data, private)
    folder.write(CONFIG, config)
    new = len(order) - parent.record["done"]
    zero_shot, metrics = parent.record["zero_shot"], folder.record["metrics"]
    folder.commit(
        {
            **parent.record,
            **facts,
            "order": order,
            "columns": order,
            "R": [[*row, *[None] * new] for row in parent.record["R"]],
            "zero_shot": None if zero_shot is None else [*zero_shot, *[None] * new],
            "metrics": {**parent.record["metrics"], **{key: metrics[key] for key in OF_DATA}, "complete": False},
            "attempts": 0,
        }
    )
