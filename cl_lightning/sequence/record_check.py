"""Validate the contents of sequence.json key by key, so that readers of a record can rely on them."""

from collections.abc import Callable
from math import isfinite
from typing import Any

from cl_lightning.common.paths import name_fault, part_fault
from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.data.thinning import Thinning

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return type(value) is int  # isinstance would accept bool


def _count(value: Any) -> bool:
    return _whole(value) and value >= 1


def _number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _options(value: Any) -> bool:
    return isinstance(value, dict)


def _maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _each(check: Check, length: int | None = None) -> Check:
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(check, value))


def _by_name(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _with(**checks: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(k in value and check(value[k]) for k, check in checks.items())


SCORES = _each(_maybe(_number))
#: Costs of a task: numbers by name, and by stage.
COST = _by_name(lambda value: _number(value) or _by_name(_number)(value))
INTERVAL = _each(_number, length=2)
TABLE = _with(title=_text, columns=_each(_text), rows=_each(_list))
#: A row of a prediction file.
PREDICTION = _with(
    id=_text,
    prediction=_text,
    reference=lambda value: _text(value) or _each(_text)(value),
    score=_number,
)
#: What is saved inside a task, see `sequence.unfinished`.
UNFINISHED = _with(
    task=_whole,
    stage=lambda value: value in ("start", "training", "scoring"),
    step=_whole,
    epoch=_whole,
    batches=_whole,
    checkpoint=_maybe(_text),
    measured_base=lambda value: isinstance(value, bool),
    trained=_maybe(_whole),
    attempts=_whole,
    clock=_by_name(_whole),
    costs=COST,
    cells=_by_name(_by_name(_with(score=_number, interval=INTERVAL, further=_options))),
    files=_by_name(_text),
    large=_by_name(_whole),
)
#: Keys that a record must have, with the check of their values.
KEYS: dict[str, Check] = {
    "identity": _text,
    "order": _each(_text),
    "columns": _each(_text),
    "protocol": _text,
    "done": _whole,
    "R": _each(SCORES),
    "zero_shot": _maybe(SCORES),
    "clock": _by_name(_whole),
    "attempts": _whole,
    "versions": _by_name(_text),
    "metrics": _options,
    "files": _by_name(_text),
    "large": _by_name(_whole),
    "writing": _each(_text),
    "tables": _by_name(_each(TABLE)),
    "unfinished": _maybe(UNFINISHED),
    "experiment": _text,
    "data": _text,
    "benchmark": _text,
    "base": _text,
    "seed": _whole,
    "fingerprints": _by_name(_text),
    "sources": _by_name(_text),
    "adapter": _options,
    "template": _options,
    "continues": _maybe(_text),
}
#: Keys that a record may have.
FURTHER: dict[str, Check] = {
    "name": _maybe(_text),
    "label": _text,
    "costs": _by_name(COST),
    "exports": _by_name(_text),
}
#: The same for its "metrics", besides the sequence metrics.
METRICS: dict[str, Check] = {
    "metric_of_task": _by_name(_text),
    "by_likelihood": _each(_text),
    "trained": _each(_whole),
    "intervals": _by_name(_by_name(INTERVAL)),
    "majority": _maybe(SCORES),
    "copy_prompt": _maybe(SCORES),
    "baseline_intervals": _by_name(_each(_maybe(INTERVAL))),
    "further": _by_name(_by_name(_by_name(_with(score=_number, interval=INTERVAL)))),
    "budgets": _by_name(_with(max_new_tokens=_whole, longer=_whole, answers=_whole)),
}
#: What its "metrics" may have.
FURTHER_METRICS: dict[str, Check] = {
    "thinning": lambda value: _with(every=_count, samples=_maybe(_count))(value) and len(value) == 2
}


def record_fault(record: dict[str, Any]) -> str | None:
    """Return the first fault of a record, or None: missing keys, wrong types, invalid names, wrong sizes of R."""
    if missing := [key for key in KEYS if key not in record]:
        return f"no {', '.join(missing)}"
    known = {**KEYS, **{key: check for key, check in FURTHER.items() if key in record}}
    if wrong := [key for key, check in known.items() if not check(record[key])]:
        return f"{wrong[0]} has the wrong type"
    metrics, order, tasks, done = (record[key] for key in ("metrics", "order", "columns", "done"))
    if lacking := [key for key in METRICS if key not in metrics]:
        return f"metrics lacks {', '.join(lacking)}"
    there = {**METRICS, **{key: check for key, check in FURTHER_METRICS.items() if key in metrics}}
    if wrong := [key for key, check in there.items() if not check(metrics[key])]:
        return f"metrics.{wrong[0]} has the wrong type"
    if record["protocol"] not in PROTOCOLS:
        return f"there is no protocol {record['protocol']!r}"
    inside = record["unfinished"] or {"files": {}, "checkpoint": None, "task": record["done"]}
    for name in (*record["files"], *record["writing"], *inside["files"]):
        if why := name_fault(name):
            return f"the file name {name!r} {why}"
    for name in (*order, *tasks):
        if why := part_fault(name):
            return f"the task name {name!r} {why}"
    for key, named in (("fingerprints", record), ("sources", record), ("metric_of_task", metrics)):
        if lacking := [name for name in tasks if name not in named[key]]:
            return f"{key} lacks {', '.join(lacking)}"
    if not 0 <= done <= len(order):
        return f"done is {done}, order has {len(order)} tasks"
    if inside["task"] != done or inside["checkpoint"] not in (None, *inside["files"]):
        return "unfinished does not go with the finished tasks"
    return _scores_fault(record)


def _scores_fault(record: dict[str, Any]) -> str | None:
    """Return the first fault in the sizes and values of R and of the other scores, or in the filled cells of R."""
    R, done, width = record["R"], record["done"], len(record["columns"])
    protocol, metrics = PROTOCOLS[record["protocol"]], record["metrics"]
    if len(R) != done:
        return f"R has {len(R)} rows, done is {done}"
    if not protocol.together and record["columns"] != record["order"]:
        return "columns are not those of order"
    beside = {"zero_shot": record["zero_shot"], **{key: metrics[key] for key in ("majority", "copy_prompt")}}
    for key, row in {**{f"R, row {i + 1}": row for i, row in enumerate(R)}, **beside}.items():
        if row is not None and len(row) != width:
            return f"{key}: {len(row)} scores for {width} tasks"
        if beyond := [score for score in row or [] if score is not None and not 0 <= score <= 100]:
            return f"{key}: the score {beyond[0]} is outside 0..100"
    thinning = Thinning.of(metrics)
    for i, row in enumerate(R):
        if any(row[j] is None for j in thinning.columns(protocol, i, width)):
            return f"R, row {i + 1}: scores are missing"
    return None
