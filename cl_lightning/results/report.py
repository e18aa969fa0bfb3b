"""Shows a run folder as tables. Imports no torch, so `cl-lightning report RUN` is fast."""

from pathlib import Path
from typing import Any

from rich.table import Table

from cl_lightning.common.console import console, table
from cl_lightning.common.terminal import say
from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.metrics.bootstrap import format_interval
from cl_lightning.metrics.matrix import CONVENTIONS
from cl_lightning.results.resampled import metric_intervals
from cl_lightning.sequence.folder import ZERO_SHOT, columns, metric_label, read_record


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _last_row(record: dict[str, Any]) -> list[list[Any]]:
    """List per scored task: metric, score when learnt, last score, its interval, forgetting, long answers."""
    metrics, R, order = record["metrics"], record["R"], record["order"][: record["done"]]
    alone = PROTOCOLS[record["protocol"]].alone
    intervals = metrics["intervals"]
    rows: list[list[Any]] = []
    for j, name in enumerate(columns(record) if R else ()):
        learnt = R[order.index(name)][j] if name in order else None
        now = learnt if alone else R[-1][j]
        if now is not None:
            interval = intervals.get(name if alone else order[-1], {}).get(name)
            forgotten = None if learnt is None or alone else learnt - now
            rest = [format_interval(interval), forgotten, _over_budget(metrics, name)]
            rows.append([name, metric_label(metrics, name), learnt, now, *rest])
    return rows


def _over_budget(metrics: dict[str, Any], task: str) -> str:
    """State how many references are longer than the generation budget; "" if none."""
    budget = metrics["budgets"].get(task, {"longer": 0})
    return "{longer} of {answers} over {max_new_tokens} tokens".format(**budget) if budget["longer"] else ""


def _reference_intervals(record: dict[str, Any], key: str) -> list[Any]:
    """Return the interval of each column; [] if there are none."""
    metrics = record["metrics"]
    if key != "zero_shot":
        return metrics["baseline_intervals"].get(key, [])
    found = metrics["intervals"].get(ZERO_SHOT, {})
    return [found.get(task) for task in columns(record)] if found else []


def _further(record: dict[str, Any]) -> list[list[Any]]:
    """List every further metric of every scored task."""
    metrics, order = record["metrics"], record["order"][: record["done"]]
    further = metrics["further"]
    rows: list[list[Any]] = []
    for name in columns(record) if order else ():
        learnt = further.get(name, {}).get(name, {})
        now = learnt if PROTOCOLS[record["protocol"]].alone else further.get(order[-1], {}).get(name, {})
        for metric, value in now.items():
            then = learnt.get(metric, {}).get("score")
            rows.append([name, metric, then, value["score"], format_interval(value["interval"])])
    return rows


def tables(path: Path) -> list[Table]:
    """Build the score matrix with its baselines, the sequence metrics, and the callbacks' own tables.

    Raises:
        StateError: no run folder, or a damaged one.
    """
    record = read_record(path)
    metrics, order, done = record["metrics"], record["order"], record["done"]
    values = PROTOCOLS[record["protocol"]].summary(record["R"], record["zero_shot"])
    rows: list[list[Any]] = [[f"after {name}", *row] for name, row in zip(order, record["R"], strict=False)]
    references = {"zero-shot": "zero_shot", "majority answer": "majority", "copy of the prompt": "copy_prompt"}
    for label, key in references.items():
        scores = record[key] if key == "zero_shot" else metrics[key]
        if scores is not None:
            rows.append([label, *scores])
            if ends := _reference_intervals(record, key):
                rows.append(["  95 % interval", *map(format_interval, ends)])
    tasks = columns(record)
    if metrics["trained"] and len(tasks) == len(order):
        rows.append(["trained parameters", *[f"{n:,}" for n in metrics["trained"]]])
    rows.append(["metric", *[metric_label(metrics, n) for n in tasks]])
    state = record["data"] if done == len(order) else f"{record['data']}, {done} of {len(order)} tasks done"
    state += f" ({record['view']})" if "view" in record else ""
    ends = metric_intervals(path, record)
    found: list[tuple[str, list[str], list[list[Any]]]] = [
        (f"{record['experiment']}: scores 0..100", ["", *tasks], rows),
        (
            "each task's last score (95 % bootstrap intervals over the test examples)",
            ["task", "metric", "when learnt", "now", "95 % interval", "forgotten", "long answers"],
            _last_row(record),
        ),
        (
            "further metrics (no part of the matrix)",
            ["task", "metric", "when learnt", "now", "95 % interval"],
            _further(record),
        ),
        (
            "sequence metrics (95 % bootstrap intervals over the test examples)",
            ["name", "value", "95 % interval", "meaning"],
            [
                [name, values[name], format_interval(ends.get(name)), meaning]
                for name, meaning in CONVENTIONS.items()
                if values[name] is not None
            ],
        ),
    ]
    for slot in record["tables"].values():
        found += [(t["title"], t["columns"], t["rows"]) for t in slot]
    # Each title names the data and the state, because a table may be shown alone.
    return [
        table(f"{title} on {state}", heads, [[_cell(v) for v in row] for row in rows])
        for title, heads, rows in found
        if rows
    ]


def show(path: Path) -> None:
    """Print a run's tables."""
    screen = console(width=150)
    for each in tables(path):
        screen.print(each)
    say(f"run folder: {path}")
