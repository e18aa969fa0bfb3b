"""Report of surgery at a boundary: a row for each matrix, and summary numbers."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cl_lightning.surgery.reconcile import SurgeryRecord

COLUMNS = [
    "matrix", "cosine", "standard_error", "suppressed", "fired", "coefficients", "norm_new", "norm_memory",
    "captured", "energy_2r", "overlap_with_loraga", "cosine_after", "inner_after",
]  # fmt: skip
#: Columns of the table of boundaries; `boundary_row` makes its rows.
BOUNDARY_COLUMNS = [
    "boundary before", "conflict %", "fired %", "by chance %", "median |cos|", "overlap with LoRA-GA, median",
    "lowest", "lowest cos after", "energy in 2r", "captured", "seconds",
]  # fmt: skip


@dataclass(frozen=True)
class MatrixReport:
    """One matrix at one boundary.

    Attributes:
        record: input and result of surgery.
        captured: estimated share of ||G_new||^2 in its sketch; 1 for an exact gradient.
        energy: share of ||G~||^2 in its top 2r singular directions.
        overlap: of the top-2r column spaces of G~ and G_new (plain LoRA-GA's); 1 where surgery did not fire.
        cosine_after, inner_after: cosine and inner product of [G~]_2r with the memory gradient it opposes most; None
            without memory. Truncation may bring back a conflict that surgery removed.
        standard_error: of `record.cosine`, by jackknife over batches; None without reliability test.
    """

    record: SurgeryRecord
    captured: float
    energy: float
    overlap: float
    cosine_after: float | None
    inner_after: float | None
    standard_error: float | None = None

    def row(self, name: str) -> list[Any]:
        r = self.record
        coefficients = " ".join(f"{a:.6g}" for a in r.coefficients)
        return [
            name, r.cosine, self.standard_error, int(r.suppressed), int(r.fired), coefficients, r.norm_new,
            r.norm_memory, self.captured, self.energy, self.overlap, self.cosine_after,
            self.inner_after,
        ]  # fmt: skip


def in_numbers(reports: Mapping[str, MatrixReport]) -> dict[str, float]:
    """Summarise the boundary; without memory only `lowest_captured` and `median_energy_2r`."""
    out = {
        "lowest_captured": min(r.captured for r in reports.values()),
        "median_energy_2r": statistics.median(r.energy for r in reports.values()),
    }
    compared = [r for r in reports.values() if r.cosine_after is not None]
    if compared:
        out |= {
            "fired": sum(r.record.fired for r in compared) / len(compared),
            "negative": sum(r.record.cosine < 0 for r in compared) / len(compared),
            "median_abs_cosine": statistics.median(abs(r.record.cosine) for r in compared),
            "median_overlap": statistics.median(r.overlap for r in compared),
            "lowest_overlap": min(r.overlap for r in compared),
            "lowest_cosine_after": min(r.cosine_after for r in compared),
        }
    return out


def boundary_row(task: str, numbers: Mapping[str, float], seconds: float) -> list[Any]:
    """Make a boundary's row: `numbers` as from `in_numbers`, and "fired_by_chance" with a reliability test."""
    return [
        task,
        *(100 * numbers[k] if k in numbers else None for k in ("negative", "fired", "fired_by_chance")),
        *(numbers.get(k) for k in ("median_abs_cosine", "median_overlap", "lowest_overlap")),
        *(numbers.get(k) for k in ("lowest_cosine_after", "median_energy_2r", "lowest_captured")),
        seconds,
    ]


def in_words(numbers: Mapping[str, float], matrices: int) -> str:
    """Describe the boundary in one line."""
    if "fired" not in numbers:
        return "no memory to compare with, so the new task's own subspace"
    chance = f", {100 * numbers['fired_by_chance']:.0f} % by chance" if "fired_by_chance" in numbers else ""
    return (
        f"surgery fired in {100 * numbers['fired']:.0f} % of {matrices} matrices "
        f"({100 * numbers['negative']:.0f} % conflict{chance}), median |cos| {numbers['median_abs_cosine']:.3f}, "
        f"overlap with LoRA-GA's subspace median {numbers['median_overlap']:.4f}, "
        f"lowest {numbers['lowest_overlap']:.4f}"
    )
