"""Write score matrices and scores of single examples compactly, for cells of a CSV file.

A matrix is written by rows, `80;55,46;77,0,53`; what was not scored is empty. Scores of single examples are written in
the same places: one bit each where all are 0 or 100 (`b` and base64), else one byte each (`f` and base64, in steps of
100/255). Their number is written before them where it is not that of the column's first cell.
"""

import base64
import binascii
import re
from collections.abc import Sequence

from cl_lightning.common.errors import DataError

Matrix = Sequence[Sequence[float | None]]
#: Scores of single examples at the places of a matrix, None where not scored.
Scores = list[list[list[float] | None]]
#: The number of examples where it is written, the kind, and base64.
CELL = re.compile(r"([1-9]\d{0,8})?([bf])(.*)")


def pack_matrix(R: Matrix) -> str:
    """Write a matrix with four decimals at most.

    Example:
        >>> pack_matrix([[80.0, None], [55.0, 46.25]])
        '80;55,46.25'
    """
    rows = (",".join("" if score is None else f"{round(score, 4):g}" for score in row) for row in R)
    return ";".join(row.rstrip(",") for row in rows)


def unpack_matrix(text: str, columns: int) -> list[list[float | None]]:
    """Read the output of `pack_matrix`. Raises DataError if it is malformed or wider than `columns`."""
    try:
        rows = [[float(cell) if cell else None for cell in row.split(",")] for row in text.split(";")]
    except ValueError:
        raise DataError(f"{text!r} is no matrix of scores") from None
    if any(len(row) > columns for row in rows):
        raise DataError(f"{text!r} has more than {columns} columns")
    return [[*row, *[None] * (columns - len(row))] for row in rows]


def pack_scores(scores: Sequence[Sequence[Sequence[float] | None]]) -> str:
    """Write the scores of single examples (0..100)."""
    counts: dict[int, int] = {}
    rows = []
    for row in scores:
        cells = [""] * len(row)
        for j, cell in enumerate(row):
            if cell is not None:
                fewer = len(cell) != counts.setdefault(j, len(cell))
                cells[j] = f"{len(cell) if fewer else ''}{_pack(cell)}"
        rows.append(",".join(cells).rstrip(","))
    return ";".join(rows)


def unpack_scores(text: str, counts: Sequence[int]) -> Scores:
    """Read the output of `pack_scores`; `counts`: examples of a column's first cell. Raises DataError if malformed."""
    rows: Scores = []
    for row in text.split(";"):
        cells = row.split(",")
        if len(cells) > len(counts):
            raise DataError(f"scores of {len(cells)} tasks, expected {len(counts)}")
        cells += [""] * (len(counts) - len(cells))
        rows.append([_unpack(cell, count) if cell else None for cell, count in zip(cells, counts, strict=True)])
    return rows


def _pack(scores: Sequence[float]) -> str:
    if all(score in (0, 100) for score in scores):
        bits = "".join("1" if score else "0" for score in scores)
        data = int(bits, 2).to_bytes((len(bits) + 7) // 8)
        return f"b{base64.b64encode(data).decode()}"
    return f"f{base64.b64encode(bytes(round(2.55 * score) for score in scores)).decode()}"


def _unpack(text: str, count: int) -> list[float]:
    found = CELL.fullmatch(text)
    if found is None:
        raise DataError(f"{text[:20]!r} holds no scores of examples")
    kind, count = found[2], int(found[1] or count)
    try:
        data = base64.b64decode(found[3], validate=True)
    except binascii.Error:
        data = b""
    if kind == "b" and len(data) == (count + 7) // 8:
        bits = f"{int.from_bytes(data):0{count}b}"
        if len(bits) == count:
            return [100.0 * (bit == "1") for bit in bits]
    if kind == "f" and len(data) == count:
        return [byte / 2.55 for byte in data]
    raise DataError(f"{text[:20]!r} does not hold the scores of {count} examples")
