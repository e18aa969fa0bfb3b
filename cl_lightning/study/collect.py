"""Make the row of a finished cell from its run folder. No torch here."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from cl_lightning.common.errors import StateError
from cl_lightning.common.options import Options, label
from cl_lightning.metrics.scored import CONSTRAINED
from cl_lightning.sequence.folder import columns, prediction_file, read_predictions
from cl_lightning.sequence.verify import read_record
from cl_lightning.study.grid import Cell
from cl_lightning.study.packed import pack_matrix, pack_scores
from cl_lightning.study.rows import Row


def row_of(
    cell: Cell, differing: Options, run: Path, machine: str, commit: str, cpu_seconds: float | None = None
) -> Row:
    """Make the row of a cell.

    Args:
        differing: the options that its method sets.
        run: its run folder.
        cpu_seconds: of its process.

    Raises:
        StateError: the run is damaged or not finished.
    """
    record = read_record(run)
    done, order, tasks = record["done"], record["order"], columns(record)
    if done < len(order):
        raise StateError(f"{run}: {done} of {len(order)} tasks are done")
    plain: list[list[list[float] | None]] = []
    chosen: list[list[list[float] | None]] = []
    for after, scores in zip(order, record["R"], strict=True):
        cells = [
            None if score is None else read_predictions(run, record, prediction_file(after, task))
            for task, score in zip(tasks, scores, strict=True)
        ]
        plain.append([rows and [row["score"] for row in rows] for rows in cells])
        chosen.append([rows and _constrained(rows) for rows in cells])
    costs = [record["costs"][name] for name in order]
    counts = [next(len(row[j]) for row in plain if row[j]) for j in range(len(tasks))]
    surgery, gates = _surgery(record), _gates(record)
    before, after = _ability(record)
    return Row(
        sequence=cell.sequence,
        method=cell.method,
        rate=cell.rate,
        seed=cell.seed,
        definition=cell.definition,
        options=label(differing),
        data=_hash(f"{name} {record['sources'][name]}" for name in tasks),
        base=record["base"][:12],
        commit=commit,
        machine=machine,
        tasks=" ".join(tasks),
        examples=" ".join(map(str, counts)),
        R=pack_matrix(record["R"]),
        constrained=pack_matrix([[each and fmean(each) for each in row] for row in chosen]),
        seconds=round(sum(s for of in costs for s in of["seconds"].values()), 1),
        cpu_seconds=None if cpu_seconds is None else round(cpu_seconds, 1),
        peak_bytes=max(peak for of in costs for peak in of["peak_bytes"].values()),
        stored_bytes=round(fmean(of["stored_bytes"] for of in costs)),
        state_bytes=sum((run / name).stat().st_size for name in record["files"] if _is_last_state(name, done)),
        **surgery,
        **gates,
        ability_before=before,
        ability_after=after,
        scores=pack_scores(plain),
        constrained_scores=pack_scores(chosen),
    )


def _constrained(rows: list[dict[str, Any]]) -> list[float] | None:
    """Scores of the most likely labels; None for a task without a closed label set."""
    return [row["also"][CONSTRAINED] for row in rows] if CONSTRAINED in rows[0].get("also", {}) else None


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _is_last_state(name: str, done: int) -> bool:
    return name.startswith("state/") and name.rpartition(".")[0].endswith(f"-{done}")


def _surgery(record: dict[str, Any]) -> dict[str, float | None]:
    heads = {"conflict": "conflict %", "fired": "fired %", "cosine": "median |cos|"}
    heads["overlap"] = "overlap with LoRA-GA, median"
    return {name: _mean(record, head) for name, head in heads.items()}


def _gates(record: dict[str, Any]) -> dict[str, float | None]:
    heads = {"gate_own": "new gate on its own prompts, mean", "gate_old": "on old prompts, mean"}
    return {name: _mean(record, head) for name, head in heads.items()}


def _mean(record: dict[str, Any], head: str) -> float | None:
    """Mean of a column of the callbacks' tables, over the rows that have a value; None without one."""
    tables = [table for tables in record["tables"].values() for table in tables if head in table["columns"]]
    values = [row[table["columns"].index(head)] for table in tables for row in table["rows"]]
    there = [value for value in values if value is not None]
    return round(fmean(there), 4) if there else None


def _ability(record: dict[str, Any]) -> tuple[float | None, float | None]:
    """Mean general ability of the base and after the last task; None where it was not measured."""
    for tables in record["tables"].values():
        for table in tables:
            if table["columns"][:2] == ["setting", "task"] and "base" in table["columns"]:
                means = [row for row in table["rows"] if row[1] == "mean"]
                at = table["columns"].index("base")
                return fmean(row[at] for row in means), fmean(row[5] for row in means)
    return None, None
