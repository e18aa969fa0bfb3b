"""What a boundary did to every matrix, as rows for a file and as a few numbers for a table."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cl_lightning.gradients.surgery import SurgeryRecord

COLUMNS = [
    "matrix", "cosine", "standard_error", "gate_open", "fired", "coefficients", "norm_new", "norm_memory",
    "captured", "energy_2r", "overlap_with_loraga", "cosine_after",
]  # fmt: skip


@dataclass(frozen=True)
class MatrixReport:
    """One matrix at one boundary.

    Attributes:
        record: what surgery saw and did.
        captured: estimated share of ||G_new||^2 that its sketch holds; 1 for an exact gradient.
        energy: share of ||G~||^2 in its top 2r singular directions.
        overlap: of the top-2r column spaces of G~ and G_new (plain LoRA-GA's); 1 where surgery did not fire.
        cosine_after: between [G~]_2r and the memory gradient it points against most; None without memory. Truncation
            may bring back a conflict that surgery took out.
        standard_error: of `record.cosine`, by jackknife over batches; None without gate.
        gate_open: whether surgery was allowed here.
    """

    record: SurgeryRecord
    captured: float
    energy: float
    overlap: float
    cosine_after: float | None
    standard_error: float | None = None
    gate_open: bool = True

    def row(self, name: str) -> list[Any]:
        r = self.record
        coefficients = " ".join(f"{a:.6g}" for a in r.coefficients)
        return [
            name, r.cosine, self.standard_error, int(self.gate_open), int(r.fired), coefficients, r.norm_new,
            r.norm_memory, self.captured, self.energy, self.overlap, self.cosine_after,
        ]  # fmt: skip


def in_numbers(reports: Mapping[str, MatrixReport]) -> dict[str, float]:
    """The boundary in a few numbers; only `lowest_captured` and `median_energy` where there was no memory."""
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
