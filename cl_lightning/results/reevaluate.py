"""Evaluates a run's stored adapters again, without training: all of R, also above the diagonal, and the base model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cl_lightning.common.errors import StateError
from cl_lightning.common.memory import release_memory
from cl_lightning.common.paths import below
from cl_lightning.common.terminal import say
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.data.thinning import Thinning
from cl_lightning.evaluation.score_task import score_task
from cl_lightning.metrics.registry import mean_score
from cl_lightning.metrics.scored import Scored
from cl_lightning.results.resampled import START, stored_cells
from cl_lightning.results.rescore import write_view
from cl_lightning.sequence.folder import CONFIG, ZERO_SHOT, RunFolder, columns, read_record
from cl_lightning.sequence.load import load_run
from cl_lightning.sequence.stored import build, read_config


def evaluate(
    path: Path,
    root: str | None = None,
    batch_size: int | None = None,
    *,
    base: str | None = None,
    allow: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Path:
    """Score every task after every finished task and before the first; return the view at `evaluated`.

    The model is rebuilt from the base for each row of R, so that no row depends on another.

    Args:
        path: a run folder with its adapters.
        root: folder of the data, if it has moved.
        batch_size: prompts per generation batch; None: the run's.
        base, allow, trust_remote_code: as in `load_run`.

    Raises:
        StateError: no run folder, a damaged one, or a base model or data other than the run's.
    """
    record = read_record(path)
    names, view = columns(record), below(path, "evaluated")
    RunFolder(view).check(fresh=True)
    options = {**read_config(path, record)["data"], "order": names, "random_order": False, "seed": record["seed"]}
    options["root"] = root or options.get("root")
    data = build(TaskSequence, options, "data", path / CONFIG, allow)
    cells: dict[tuple[str, str], Scored] = {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for done, after in enumerate([ZERO_SHOT, *record["order"][: record["done"]]]):
        module = load_run(path, done, base=base, allow=allow, trust_remote_code=trust_remote_code).module.to(device)
        if not data.evaluated:
            data.prepare(module.tokenizer, module.encoder_decoder)
            _same_data(data, record)
        for task in data.evaluated:
            cells[after, task.spec.name] = score_task(module, task, batch_size or data.eval_batch_size)
        say(f"  {after}: {'  '.join(f'{n} {cells[after, n].score:.1f}' for n in names)}")
        del module
        release_memory()
    metrics = {task.spec.name: task.spec.metric for task in data.evaluated}
    whole = {**record, "metrics": {**record["metrics"], "thinning": vars(Thinning())}}
    return write_view(path, whole, view, "adapters evaluated again", metrics, cells)


def moved(path: Path, view: Path) -> list[tuple[str, str, float, float]]:
    """List (after, task, score in the run, score in the view) of the cells that differ, on the prompts of the run's."""
    run, other = read_record(path), read_record(view)
    names, again = columns(run), stored_cells(view, other)
    found = []
    for (i, j), (ids, scores) in stored_cells(path, run).items():
        new = dict(zip(*again[i, j], strict=True))
        old, now = mean_score(scores), mean_score([new[k] for k in ids])
        if i != START and old != now:
            found.append((run["order"][i], names[j], old, now))
    return found


def _same_data(data: TaskSequence, record: dict[str, Any]) -> None:
    for task in data.evaluated:
        if data.fingerprint([task]) != record["fingerprints"][task.spec.name]:
            raise StateError(f"{task.spec.name}: the data is not what the run had; give its folder with --root")
