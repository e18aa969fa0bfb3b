"""Builds a run's tables for the terminal and the page: scores, sequence metrics, callbacks' tables. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.metrics.bootstrap import Interval, format_interval
from cl_lightning.metrics.matrix import CONVENTIONS
from cl_lightning.results.compact import references
from cl_lightning.results.thinned import UNSCORED, marked
from cl_lightning.sequence.folder import ZERO_SHOT, columns, metric_label

#: Headings of the table of sequence metrics.
SEQUENCE = ("name", "value", "95 % interval", "meaning")


@dataclass(frozen=True)
class Rows:
    """A table. The first cell of each row is its heading; `cell` formats the others."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]


def cell(value: Any) -> str:
    """Format a value: floats with two digits, None as an empty text."""
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _last_row(record: dict[str, Any]) -> list[list[Any]]:
    """Build a row for each task: metric, score when learnt, score now, its interval, points forgotten."""
    metrics, R, order = record["metrics"], record["R"], record["order"][: record["done"]]
    alone = PROTOCOLS[record["protocol"]].alone
    intervals = metrics["intervals"]
    rows: list[list[Any]] = []
    for j, name in enumerate(columns(record) if R else ()):
        learnt = R[order.index(name)][j] if name in order else None
        now = learnt if alone else R[-1][j]
        if now is not None or learnt is not None:
            interval = intervals.get(name if alone else order[-1], {}).get(name)
            forgotten = None if learnt is None or now is None or alone else learnt - now
            rest = [format_interval(interval), forgotten, _over_budget(metrics, name)]
            rows.append([name, metric_label(metrics, name), learnt, UNSCORED if now is None else now, *rest])
    return rows


def _over_budget(metrics: dict[str, Any], task: str) -> str:
    """Count the references that exceed the generation budget, which no prediction can match in full."""
    budget = metrics["budgets"].get(task, {"longer": 0})
    return "{longer} of {answers} over {max_new_tokens} tokens".format(**budget) if budget["longer"] else ""


def _reference_intervals(record: dict[str, Any], key: str) -> list[Any]:
    """Return a reference's intervals by column; [] if it has none."""
    metrics = record["metrics"]
    if key != "zero_shot":
        return metrics["baseline_intervals"].get(key, [])
    found = metrics["intervals"].get(ZERO_SHOT, {})
    return [found.get(task) for task in columns(record)] if found else []


def _further(record: dict[str, Any]) -> list[list[Any]]:
    """Build a row for each further metric of each scored task."""
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


def state_of(record: dict[str, Any]) -> str:
    """Describe the data of a run and, unless it is complete, its progress."""
    order, done = record["order"], record["done"]
    state = record["data"] if done == len(order) else f"{record['data']}, {done} of {len(order)} tasks done"
    return state + (f" ({record['view']})" if "view" in record else "")


def score_tables(record: dict[str, Any], ends: Mapping[str, Interval]) -> list[Rows]:
    """Build the tables of scores: matrix with baselines, last scores, further metrics, sequence metrics; none is empty.

    `ends`: intervals of the sequence metrics, from `metric_intervals`.
    """
    metrics, order = record["metrics"], record["order"]
    values = PROTOCOLS[record["protocol"]].summary(record["R"], record["zero_shot"])
    rows: list[list[Any]] = [[f"after {name}", *row] for name, row in zip(order, marked(record), strict=False)]
    for label, key, scores in references(record):
        rows.append([label, *scores])
        if found := _reference_intervals(record, key):
            rows.append(["  95 % interval", *map(format_interval, found)])
    tasks = columns(record)
    if metrics["trained"] and len(tasks) == len(order):
        rows.append(["trained parameters", *[f"{n:,}" for n in metrics["trained"]]])
    rows.append(["metric", *[metric_label(metrics, n) for n in tasks]])
    tables = [
        Rows(f"{record['experiment']}: scores 0..100", ["", *tasks], rows),
        Rows(
            "each task's last score (95 % bootstrap intervals over the test examples)",
            ["task", "metric", "when learnt", "now", "95 % interval", "forgotten", "long answers"],
            _last_row(record),
        ),
        Rows(
            "further metrics (no part of the matrix)",
            ["task", "metric", "when learnt", "now", "95 % interval"],
            _further(record),
        ),
        Rows(
            "sequence metrics (95 % bootstrap intervals over the test examples)",
            SEQUENCE,
            [
                [name, values[name], format_interval(ends.get(name)), meaning]
                for name, meaning in CONVENTIONS.items()
                if values[name] is not None
            ],
        ),
    ]
    return [each for each in tables if each.rows]


def callback_tables(record: dict[str, Any]) -> list[Rows]:
    """Build the callbacks' tables; none is empty."""
    found = [Rows(t["title"], t["columns"], t["rows"]) for slot in record["tables"].values() for t in slot]
    return [each for each in found if each.rows]
