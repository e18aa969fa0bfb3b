"""Writes views of a run: run folders below it with other scores and without adapters. Imports no torch.

`<run>/rescored/<scheme>` holds new scores of the stored predictions, `<run>/evaluated` new predictions of the stored
adapters. Reports and comparisons read a view like any run; the run itself is never changed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import ConfigError, StateError, nearest
from cl_lightning.common.files import to_csv, to_json, to_jsonl
from cl_lightning.common.paths import below
from cl_lightning.data.base import Benchmark, data_root
from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.metrics.registry import PROMPTED, metric, official_name
from cl_lightning.metrics.scored import Row, Scored, score_predictions
from cl_lightning.sequence.folder import (
    CONFIG,
    ZERO_SHOT,
    RunFolder,
    columns,
    prediction_file,
    read_checked,
    read_predictions,
    read_record,
)
from cl_lightning.sequence.stored import build, read_config

Cells = Mapping[tuple[str, str], Scored]


def predictions(path: Path, record: dict[str, Any]) -> Iterator[tuple[str, str, list[Row]]]:
    """Yield (after, task, rows) for every stored prediction file, ZERO_SHOT first. Raises StateError if damaged."""
    for after in (ZERO_SHOT, *record["order"]):
        for task in columns(record):
            name = prediction_file(after, task)
            if name in record["files"]:
                yield after, task, read_predictions(path, record, name)


def rescore(path: Path, scheme: str, root: str | None = None, *, allow: Sequence[str] = ()) -> Path:
    """Score a run's stored predictions again; write the scores to `rescored/<scheme>` and return that path.

    Args:
        path: a run folder, or a view.
        scheme: "own" (each task's own metric), "official" (its official evaluator's), a metric for all tasks, or
            comma-separated TASK=METRIC pairs (other tasks keep theirs).
        root: folder of the data, if it has moved; only metrics that read prompts need it.
        allow: benchmark classes of your own that the run's configuration may name.

    Raises:
        StateError: no run folder, a damaged one, one without predictions, one whose data differs from that at `root`,
            or one whose benchmark is neither a class of this project nor allowed.
        ConfigError: unknown task or metric, or no official evaluator.
        DataError: the metric does not suit the answers.
    """
    record = read_record(path)
    config = read_config(path, record)
    benchmark = partial(build, Benchmark, config["data"].get("benchmark"), "data.benchmark", path / CONFIG, allow)
    metrics = _metrics(scheme, record, benchmark)
    others = benchmark().official_also if scheme == "official" else {}
    prompts: dict[str, dict[str, str]] = {}
    cells: dict[tuple[str, str], Scored] = {}
    for after, task, rows in predictions(path, record):
        name = metrics[task]
        if name in PROMPTED and task not in prompts:
            prompts[task] = _prompts(benchmark(), data_root(root or config["data"].get("root")), task, rows)
        texts = [prompts[task][row["id"]] if name in PROMPTED else "" for row in rows]
        also = [new for old in rows[0].get("also", ()) for new in others.get(old, (old,))] if others else ()
        cells[after, task] = score_predictions(name, rows, texts, also)
    if not cells:
        raise StateError(f"{path}: holds no predictions to score")
    return write_view(path, record, below(path, f"rescored/{scheme}"), f"re-scored: {scheme}", metrics, cells)


def write_view(
    run: Path, record: dict[str, Any], to: Path, what: str, metrics: Mapping[str, str], cells: Cells
) -> Path:
    """Write scores of a run as a run folder at `to`, replacing an earlier view there; return `to`.

    `cells`: (after, task) -> scores, with or without those of ZERO_SHOT. `what` describes the view. All of the record
    but the scores is copied.
    """
    order, done, tasks = record["order"], record["done"], columns(record)

    def row(after: str) -> list[float | None]:
        return [cells[after, task].score if (after, task) in cells else None for task in tasks]

    R, start = [row(after) for after in order[:done]], row(ZERO_SHOT)
    zero_shot = None if all(score is None for score in start) else start
    intervals: dict[str, dict[str, Any]] = {}
    further: dict[str, dict[str, Any]] = {}
    for (after, task), scored in cells.items():
        intervals.setdefault(after, {})[task] = scored.interval
        if scored.further:
            further.setdefault(after, {})[task] = scored.further
    found = {
        **record["metrics"],
        **PROTOCOLS[record["protocol"]].summary(R, zero_shot),
        "metric_of_task": dict(metrics),
        "zero_shot": zero_shot,
        "intervals": intervals,
        "further": further,
    }
    if metrics != record["metrics"]["metric_of_task"]:
        # The baselines were scored by other metrics.
        found |= {"majority": None, "copy_prompt": None, "baseline_intervals": {}}
    new = {**record, "R": R, "zero_shot": zero_shot, "metrics": found, "view": what, "tables": {}}
    folder = RunFolder(to)
    folder.open(record["identity"], fresh=True, begin={**new, "R": [], "zero_shot": None, "done": 0})
    try:
        folder.write(CONFIG, read_checked(run, record, CONFIG))
        for (after, task), scored in cells.items():
            folder.write(prediction_file(after, task), to_jsonl(scored.rows))
        folder.commit(new)
        rows = [[name, *scores] for name, scores in zip(order, R, strict=False)]
        matrix = to_csv([f"after ({record['data']}; {what})", *tasks], rows)
        folder.export({"matrix.csv": matrix, "metrics.json": to_json(found)})
    finally:
        folder.close()
    return to


def _metrics(scheme: str, record: dict[str, Any], benchmark: Callable[[], Benchmark]) -> dict[str, str]:
    """Return the metric of each task under `scheme`."""
    own: dict[str, str] = {task: record["metrics"]["metric_of_task"][task] for task in columns(record)}
    if scheme == "own":
        return own
    if scheme == "official":
        evaluator = benchmark().evaluator
        chosen = {task: official_name(name, evaluator) for task, name in own.items()}
    elif "=" in scheme:
        pairs = [pair.partition("=") for pair in scheme.split(",")]
        for task, _, _ in pairs:
            if task not in own:
                raise ConfigError(f"{scheme}: the run has no task {task!r}; {nearest(task, own)}")
        chosen = {**own, **{task: name for task, _, name in pairs}}
    else:
        chosen = dict.fromkeys(own, scheme)
    for name in chosen.values():
        metric(name)
    return chosen


def _prompts(benchmark: Benchmark, root: Path | None, task: str, rows: Sequence[Row]) -> dict[str, str]:
    """Read a task's test prompts by id. Raises StateError if their answers differ from those that the run stored."""
    examples = {e.id: e for e in benchmark.load(root, task).test}
    for row in rows:
        example = examples.get(row["id"])
        if example is None or (list(example.references) or example.answer) != row["reference"]:
            raise StateError(f"{row['id']}: not in the data as the run had it; give the folder with --root")
    return {name: example.prompt for name, example in examples.items()}
