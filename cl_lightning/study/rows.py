"""The file of results: a CSV file with a row for each finished cell, which grows over sittings and machines."""

import csv
import io
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from filelock import FileLock

from cl_lightning.common.errors import DataError, first_three
from cl_lightning.common.files import replace_file, report_disk_errors, to_csv
from cl_lightning.study.grid import Cell
from cl_lightning.study.packed import Scores, unpack_matrix, unpack_scores

Key = tuple[str, float, int, str, str]


@dataclass(frozen=True)
class Row:
    """A finished cell.

    Attributes:
        options: the options of its method that its file sets, in a few words.
        definition: hash of its options, without learning rate and seed.
        data: hash of all examples of its tasks.
        base: hash of the base model.
        commit, machine: the code that it was run with, and the kind of machine.
        tasks, examples: names of the scored tasks, and the number of scored prompts of each, divided by spaces.
        R: scores of generated answers; `constrained`: of the most likely labels, for tasks with closed label sets.
        scores, constrained_scores: the same for single prompts, as `packed.pack_scores` writes them.
        seconds: of all stages; `cpu_seconds`: of the process, on all cores, loading included.
        peak_bytes: highest memory in use; `stored_bytes`: of a task's branch, in the mean; `state_bytes`: of what
            callbacks keep after the last task.
        conflict, fired, cosine, overlap: of surgery, mean over boundaries (percent of matrices, percent, median |cos|,
            overlap with LoRA-GA's subspace).
        gate_own, gate_old: mean of the new gate on its own task's prompts and on earlier ones, mean over tasks.
        ability_before, ability_after: general ability of the base and of the trained model.
    """

    sequence: str
    method: str
    rate: float
    seed: int
    definition: str
    options: str
    data: str
    base: str
    commit: str
    machine: str
    tasks: str
    examples: str
    R: str
    constrained: str
    seconds: float
    cpu_seconds: float | None
    peak_bytes: int
    stored_bytes: int
    state_bytes: int
    conflict: float | None
    fired: float | None
    cosine: float | None
    overlap: float | None
    gate_own: float | None
    gate_old: float | None
    ability_before: float | None
    ability_after: float | None
    scores: str
    constrained_scores: str

    @property
    def key(self) -> Key:
        """The cell, as `Cell.key`."""
        return self.method, self.rate, self.seed, self.sequence, self.definition

    @property
    def identity(self) -> tuple[Key, str, str]:
        """What no two rows share: the cell, its data and its base model."""
        return self.key, self.data, self.base

    @property
    def counts(self) -> list[int]:
        """Scored prompts of each task."""
        return [int(count) for count in self.examples.split()]

    @property
    def matrix(self) -> list[list[float | None]]:
        """R."""
        return unpack_matrix(self.R, len(self.counts))

    @property
    def constrained_matrix(self) -> list[list[float | None]]:
        """R of the most likely labels; of generated answers for tasks without closed label sets."""
        labels = unpack_matrix(self.constrained, len(self.counts))
        return [
            [score if label is None else label for score, label in zip(*rows, strict=True)]
            for rows in zip(self.matrix, labels, strict=True)
        ]

    @property
    def single(self) -> Scores:
        """Scores of single prompts."""
        return unpack_scores(self.scores, self.counts)


COLUMNS = [field.name for field in fields(Row)]
#: Columns that hold whole numbers, and numbers.
WHOLE = ("seed", "peak_bytes", "stored_bytes", "state_bytes")
NUMBERS = tuple(f.name for f in fields(Row) if f.type in (float, float | None))


def read_rows(file: Path) -> list[Row]:
    """Read all rows; [] if there is no file yet.

    Raises:
        DataError: it is not such a file, or a row is damaged or there twice.
    """
    if not file.exists():
        return []
    try:
        lines = list(csv.reader(io.StringIO(file.read_bytes().decode(), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as CSV ({error})") from None
    if not lines or lines[0] != COLUMNS:
        raise DataError(f"{file}: is no file of results (its columns are not {', '.join(COLUMNS[:4])}, ..)")
    rows: dict[tuple[Key, str, str], Row] = {}
    for number, line in enumerate(lines[1:], 2):
        row = _row(line, f"{file}, line {number}")
        if row.identity in rows:
            raise DataError(f"{file}, line {number}: the cell is there twice; remove one line")
        rows[row.identity] = row
    return list(rows.values())


def _row(line: Sequence[str], where: str) -> Row:
    if len(line) != len(COLUMNS):
        raise DataError(f"{where}: {len(line)} cells, expected {len(COLUMNS)}; remove the line")
    cells = dict(zip(COLUMNS, line, strict=True))
    try:
        numbers = {name: float(cells[name]) if cells[name] else None for name in NUMBERS}
        row = Row(**{**cells, **numbers, **{name: int(cells[name]) for name in WHOLE}})
        if row.rate is None or row.seconds is None or len(row.counts) != len(row.tasks.split()):
            raise ValueError("a number is missing")
        _ = row.constrained_matrix, row.single, unpack_scores(row.constrained_scores, row.counts)
    except (ValueError, DataError) as error:
        raise DataError(f"{where}: damaged ({error}); restore or remove the line") from None
    return row


def add_row(file: Path, row: Row) -> None:
    """Add a row, under a lock and as a whole or not at all.

    Raises:
        DataError: the file is damaged, or has a row of this cell.
    """
    with report_disk_errors(file, DataError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):
            rows = read_rows(file)
            if row.identity in {other.identity for other in rows}:
                raise DataError(f"{file}: has a row of {row.sequence} {row.method} lr={row.rate:g} seed={row.seed}")
            replace_file(file, as_csv([*rows, row]), file.with_name(f".{file.name}-{secrets.token_hex(8)}"))


def as_csv(rows: Sequence[Row]) -> bytes:
    """Serialise rows, sorted, so that two sittings merge easily."""
    ordered = sorted(rows, key=lambda row: (row.sequence, row.method, row.rate, row.seed, row.definition))
    return to_csv(COLUMNS, [list(asdict(row).values()) for row in ordered])


def current(rows: Sequence[Row], cells: Sequence[Cell]) -> tuple[list[Row], list[str]]:
    """Select the rows of these cells, on one data set and base model for each sequence.

    Returns:
        The rows, and lines that say which were left out: those of other definitions, and of data or base models that
        fewer rows of the sequence have.
    """
    wanted = {cell.key for cell in cells}
    fitting = [row for row in rows if row.key in wanted]
    notes = []
    if others := len(rows) - len(fitting):
        notes.append(f"{others} {'row' if others == 1 else 'rows'} of another definition left out")
    kept = []
    for sequence in dict.fromkeys(row.sequence for row in fitting):
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in fitting:
            if row.sequence == sequence:
                groups.setdefault((row.data, row.base), []).append(row)
        largest, *rest = sorted(groups.values(), key=len, reverse=True)
        kept += largest
        if rest:
            names = first_three([f"{row.method} lr={row.rate:g} seed={row.seed}" for each in rest for row in each])
            notes.append(f"{sequence}: left out, of other data or another base model: {names}")
    return kept, notes
