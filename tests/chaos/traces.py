"""What a run leaves that must not depend on how often it was killed."""

import json
from pathlib import Path
from typing import Any

from cl_lightning.results.page.source import Source
from cl_lightning.sequence.folder import CONFIG
from cl_lightning.sequence.record_file import read_record_file
from cl_lightning.sequence.run_files import split_files
from tests.runs import record

#: Columns of tables that hold measured times, and logged names of the same.
SECONDS = {"seconds", "% of training"}
MEASURED = ("cost/", "cl/", "surgery/", "epoch", "step")


def traces(run: Path) -> dict[str, Any]:
    """The scores, adapters, predictions, states and logs of a run, without measured times."""
    state = record(run)
    files = {name: _content(run / name, state["tables"]) for name in state["files"] if name != CONFIG}
    left_out = {"costs", "tables", "attempts", "files", "large", "world_size"}
    kept = {key: value for key, value in state.items() if key not in left_out}
    tables = {
        (slot, table["title"]): _timeless(table["columns"], table["rows"])
        for slot, each in state["tables"].items()
        for table in each
    }
    _, others = split_files(run, read_record_file(run), lambda _: None)
    return {"record": kept, "files": files, "tables": tables, "log": _log(run), "strangers": others}


def _timeless(columns: list[str], rows: list[list[Any]]) -> list[list[Any]]:
    return [[cell for column, cell in zip(columns, row, strict=True) if column not in SECONDS] for row in rows]


def _content(file: Path, tables: dict[str, list[dict[str, Any]]]) -> Any:
    """The bytes of a file; of the rows of a callback whose table has times, what else they say."""
    slot = file.name.partition("-")[0]
    timed = [table["columns"] for table in tables.get(slot, []) if SECONDS & set(table["columns"])]
    if not timed or file.suffix != ".json" or file.parent.name != "state":
        return file.read_bytes()
    return {key: _timeless(timed[0], rows) for key, rows in json.loads(file.read_bytes()).items()}


def _log(run: Path) -> list[dict[str, float]]:
    """The logged values by step."""
    rows = [
        {key: value for key, value in row.items() if not key.startswith(MEASURED)} | {"at": row["cl/step"]}
        for row in Source(run).log.rows
    ]
    return [row for row in rows if "train/loss" in row or any(key.startswith("probe/") for key in row)]
