"""Read wandb's offline file: LevelDB log blocks of protobuf records."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK = 7, 2**15
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(run: Path) -> Iterator[Record]:
    """The records of a run folder's only offline run, in order."""
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    data, at, parts = file.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # too little left in this block for a chunk's header
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (FULL, LAST):
            yield Record.FromString(parts)
            parts = b""


def history(run: Path) -> list[dict[str, Any]]:
    """The logged rows."""
    rows = []
    for record in records(run):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows
