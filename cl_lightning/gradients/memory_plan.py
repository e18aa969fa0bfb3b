"""Choice of exact gradients or sketches for a boundary within a memory budget, from shapes alone.

Bytes of one matrix (m, n), k sketch columns, c of them kept, p = PROBES more, l co-range rows (`gradients.sketch`):

    exact        mn                               while streamed and when done
    four passes  2 (m + n) k + mp while streamed, (m + n) c when done,   shared tests n (k + p) per distinct n
    one pass     m (k + p) + ln   while streamed, (m + n) k when done,   and ml per distinct m

All sets of gradients are held at once; the last is still being streamed when the others are done.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cl_lightning.gradients.sketch import PROBES, FourPass

Mode = Literal["exact", "four_pass", "single_pass"]
Shapes = Mapping[str, tuple[int, int]]

#: Smallest oversampling that is tried.
LEAST_OVERSAMPLING = 2


@dataclass(frozen=True)
class Plan:
    """A choice and its memory.

    Attributes:
        mode: exact gradients, or the kind of sketch.
        held: bytes held between batches by all gradient sets, at the peak over the passes.
        kept: bytes of these that remain when all sets are done.
        exact: bytes that exact accumulators would take.
        passes: number of passes over each gradient's batches.
        columns: k, sketch columns (fewer for small matrices); 0 if exact.
        kept_columns: c, columns of a finished sketch: four passes find up to 2k and keep as many as the budget allows.
        rows: l, co-range rows of the single pass; else 0.
        budget: bytes allowed; None: no limit.
    """

    mode: Mode
    held: int
    kept: int
    exact: int
    passes: int
    columns: int = 0
    kept_columns: int = 0
    rows: int = 0
    budget: int | None = None

    def line(self) -> str:
        """Describe the choice in one line."""
        if self.mode == "exact":
            return f"gradients exact: {_mib(self.held)} between batches"
        how = f"{self.passes} passes" if self.passes > 1 else f"1 pass, {self.rows} co-range rows"
        return (
            f"gradients sketched with {self.columns} columns, {how}, {self.kept_columns} kept: "
            f"{_mib(self.held)} between batches "
            f"(exact: {_mib(self.exact)}, budget {_mib(self.budget or self.held)})"
        )


def plan(
    shapes: Shapes,
    rank: int,
    gradients: int,
    oversampling: int = 10,
    budget: int | None = None,
    itemsize: int = 4,
    mode: Literal["auto"] | Mode = "auto",
) -> Plan:
    """Choose exact gradients if they fit the budget, else four-pass sketches, else single-pass ones.

    Args:
        shapes: (m, n) by matrix name.
        rank: r; sketches have k = 2r + oversampling columns.
        gradients: number of sets held together: the new task's and each memory's.
        oversampling: sketch columns beyond 2 rank; the single pass takes fewer if it must.
        budget: bytes between batches; None: exact.
        itemsize: bytes of an accumulated number.
        mode: try only this one.

    Raises:
        ValueError: if nothing fits; states the smallest size.
    """
    exact = gradients * sum(m * n for m, n in shapes.values()) * itemsize
    columns = 2 * rank + oversampling
    least = 2 * rank + LEAST_OVERSAMPLING
    candidates = [Plan("exact", exact, exact, exact, 1, budget=budget)]
    for c in range(2 * columns, columns - 1, -1):
        held, kept = (numbers * itemsize for numbers in _four_pass(shapes, columns, c, gradients))
        candidates.append(Plan("four_pass", held, kept, exact, FourPass.passes, columns, c, budget=budget))
    # Down to the fewest columns and rows that can recover 2r directions.
    for k, rows in [(k, 2 * k + 1) for k in range(columns, least - 1, -1)] + [(least, least + 2)]:
        held, kept = (numbers * itemsize for numbers in _single_pass(shapes, k, rows, gradients))
        candidates.append(Plan("single_pass", held, kept, exact, 1, k, k, rows, budget))
    candidates = [c for c in candidates if mode in ("auto", c.mode)]
    for candidate in candidates:
        if budget is None or candidate.held <= budget:
            return candidate
    smallest = min(candidates, key=lambda c: c.held)
    raise ValueError(
        f"{budget} bytes are too few for any way to hold the gradients of {len(shapes)} matrices; "
        f"{smallest.mode} needs {smallest.held}"
    )


def _four_pass(shapes: Shapes, k: int, kept: int, gradients: int) -> tuple[int, int]:
    """Count the numbers held at the peak and when done."""
    done = sum((m + n) * min(kept, FourPass.streamed_columns(k, (m, n))) for m, n in shapes.values())
    streamed = sum((m + n) * FourPass.streamed_columns(k, (m, n)) + PROBES * m for m, n in shapes.values())
    tests = _range_tests(shapes, k)
    return (gradients - 1) * done + streamed + tests, gradients * done + tests


def _single_pass(shapes: Shapes, k: int, rows: int, gradients: int) -> tuple[int, int]:
    """Count the numbers held at the peak and when done."""
    done = sum((m + n) * min(k, m, n) for m, n in shapes.values())
    streamed = sum(m * (min(k, m, n) + PROBES) + rows * n for m, n in shapes.values())
    tests = _range_tests(shapes, k) + rows * sum({m for m, _ in shapes.values()})
    return (gradients - 1) * done + streamed + tests, gradients * done + tests


def _range_tests(shapes: Shapes, k: int) -> int:
    """Count the numbers in the Gaussian test matrices, which matrices of equal width and columns share."""
    return sum(n * (columns + PROBES) for n, columns in {(n, min(k, m, n)) for m, n in shapes.values()})


def _mib(count: int) -> str:
    return f"{count / 2**20:,.3g} MiB" if count < 2**30 else f"{count / 2**30:,.2f} GiB"
