"""Measure general ability, on tasks that are not trained, with lm-eval.

Imported only to measure general ability: lm-eval is an optional dependency.
"""

import difflib
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from numbers import Real
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import torch
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from lightning.pytorch.utilities.seed import isolate_rng
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import TaskDict
from transformers import PreTrainedModel

from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError, DataError, nearest
from cl_lightning.evaluation.general.harness import HarnessLM
from cl_lightning.evaluation.general.presets import Entry
from cl_lightning.evaluation.general.scores import Part, Score, score_of

TASK_FILES = Path(__file__).parent / "tasks"
#: Seed of lm-eval's draw of demonstrations, the same at every measurement.
SEED = 1234

logging.getLogger("lm_eval").setLevel(logging.ERROR)
datasets.disable_progress_bars()


def load(entries: Sequence[Entry], data_dir: Path | None) -> dict[Entry, TaskDict]:
    """Load lm-eval's tasks and groups with their data and number of demonstrations.

    Args:
        entries: tasks to load; equal ones are loaded once.
        data_dir: folder of the files that our local tasks read.

    Raises:
        ConfigError, DataError: a task is unknown, its data set is not available, or a file is damaged.
    """
    manager = _manager(entries, data_dir)
    return {entry: _loaded(manager, entry, data_dir) for entry in dict.fromkeys(entries)}


def _manager(entries: Sequence[Entry], data_dir: Path | None) -> TaskManager:
    metadata = {} if data_dir is None else {"data_dir": str(data_dir)}
    ours = TaskManager(include_path=str(TASK_FILES), include_defaults=False, metadata=metadata)
    if all(entry.task in ours.all_subtasks for entry in entries):
        return ours  # indexing lm-eval's own 14,000 tasks takes seconds
    return TaskManager(include_path=str(TASK_FILES), metadata=metadata)


def _loaded(manager: TaskManager, entry: Entry, data_dir: Path | None) -> TaskDict:
    if entry.task not in manager.all_tasks:
        close = difflib.get_close_matches(entry.task, manager.all_tasks, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "`lm-eval ls tasks` lists all"
        raise ConfigError(f"observers.general: lm-eval has no task {entry.task!r}; {hint}")
    if entry.task.startswith("local_") and data_dir is None:
        raise ConfigError(
            f"observers.general: {entry.task} reads JSONL files; name their folder with data_dir (no data.root is set)"
        )
    try:
        with redirect_stderr(io.StringIO()):
            loaded = manager.load([entry.task])
    except (DatasetsError, HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"observers.general: the data of {entry.task} is not available ({first}); without the hub use "
            "observers.general.preset=offline, or tasks of your own files in its data_dir"
        ) from error
    for task in loaded["tasks"].values():
        task.set_config("num_fewshot", entry.shots)
    return loaded


def measure(lm: HarnessLM, loaded: dict[Entry, TaskDict], limit: int | None, chat: bool) -> dict[Entry, Score]:
    """Compute each entry's score with lm-eval, on all ranks. Train mode and random states are restored.

    Uses `lm_eval.evaluate`, since `simple_evaluate` sets global seeds and queries pip and compilers at every call.

    Raises:
        ConfigError: a task does not have the entry's metric, or fewer items than there are ranks.
    """
    return {entry: _score(lm, entry, tasks, limit, chat) for entry, tasks in loaded.items()}


def _score(lm: HarnessLM, entry: Entry, loaded: TaskDict, limit: int | None, chat: bool) -> Score:
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(SEED)
    with _evaluating(lm.llm):
        results = lm_eval.evaluate(
            lm,
            loaded,
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    gathered = None
    if results is not None:
        metrics = {**results["results"], **results.get("groups", {})}[entry.task]
        sizes = {name: count["effective"] for name, count in results["n-samples"].items()}
        gathered = metrics, sum(sizes.values()), _parts(results["samples"], entry, loaded, sizes)
    metrics, items, parts = distributed.gather(gathered)[0]
    if entry.metric not in metrics:
        there = [key for key, value in metrics.items() if isinstance(value, float)]
        raise ConfigError(
            f"observers.general: {entry.task} has no metric {entry.metric!r}; {nearest(entry.metric, there)}"
        )
    return score_of(100.0 * float(metrics[entry.metric]), items, parts)


def _parts(
    samples: dict[str, list[dict[str, Any]]], entry: Entry, loaded: TaskDict, sizes: dict[str, int]
) -> list[Part]:
    """Collect the items' scores by the entry's metric for each task that has it."""
    metric, _, chosen = entry.metric.rpartition(",")
    found: dict[str, list[tuple[int, float]]] = {}
    for name, rows in samples.items():
        scored = [(row["doc_id"], row.get(metric)) for row in rows if row["filter"] == chosen]
        # Corpus metrics (BLEU) have strings in place of item scores.
        if scores := [(item, 100.0 * float(value)) for item, value in scored if isinstance(value, Real)]:
            found[name] = sorted(scores)
    weights = _weights(entry, loaded, {name: sizes[name] for name in found})
    return [Part(name, weights[name], *zip(*scores, strict=True)) for name, scores in found.items()]


def _weights(entry: Entry, loaded: TaskDict, sizes: dict[str, int]) -> dict[str, float]:
    """Return the weight of each task's mean in a group's score: by number of items, or equal."""
    group = loaded["groups"].get(entry.task)
    metric, _, chosen = entry.metric.rpartition(",")
    for way in (group.aggregate_metric_list or []) if group is not None else []:
        if way.metric == metric and chosen in (way.filter_list or [chosen]) and not way.weight_by_size:
            return {name: 1 / len(sizes) for name in sizes}
    return {name: size / sum(sizes.values()) for name, size in sizes.items()}


@contextmanager
def _evaluating(llm: PreTrainedModel) -> Iterator[None]:
    training = llm.training
    llm.eval()
    try:
        # lm-eval shows a progress bar for each task, with no option to disable it.
        with torch.no_grad(), isolate_rng(), redirect_stderr(io.StringIO()):
            yield
    finally:
        llm.train(training)
