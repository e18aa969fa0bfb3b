"""Maps gradient surgery by layer and task boundary, from surgery/<task>.csv."""

import re
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cl_lightning.results.page.heat import Heat
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section
from cl_lightning.results.page.source import Source

#: The transformer block in a matrix's name: all up to the first number.
BLOCK = re.compile(r".*?\.\d+(?=\.)")


@dataclass(frozen=True)
class Measure:
    """A column of the files, with the title and colours of its map."""

    name: str
    column: str
    title: str
    scale: tuple[float, float]
    colours: str = "cividis"


MEASURES = (
    Measure("surgery_cosine", "cosine", "Cosine of the new task's gradient and memory's", (-1, 1), "PuOr"),
    Measure("surgery_fired", "fired", "Share of a layer's matrices in which surgery fired", (0, 1)),
    Measure("surgery_overlap", "overlap_with_loraga", "Overlap with the subspace of plain LoRA-GA", (0, 1)),
    Measure("surgery_energy", "energy_2r", "Energy in the 2r directions that the start takes", (0, 1)),
)
#: A column that is empty if there was no memory to compare with.
COMPARED = "cosine_after"


def section(run: Source) -> Section | Missing:
    """Build a map for each measure: layers by tasks. A cell is the mean over a layer's matrices."""
    columns = [*(measure.column for measure in MEASURES), COMPARED]
    files = {name: run.rows(f"surgery/{name}.csv", ["matrix"], columns) for name in run.done}
    files = {name: rows for name, rows in files.items() if rows}
    if not files:
        return Missing("surgery: no gradients were compared at task boundaries (boundary.init=SliceInit)")
    blocks = list(dict.fromkeys(_block(row["matrix"]) for rows in files.values() for row in rows))
    one_stack = len({block.rpartition(".")[0] for block in blocks}) == 1
    names = [block.rpartition(".")[2] if one_stack else block for block in blocks]
    charts = []
    for measure in MEASURES:
        by_task = {task: _by_block(rows, measure.column) for task, rows in files.items()}
        values = [[by_task[task].get(block) for task in files] for block in blocks]
        known = [value for row in values for value in row if value is not None]
        if known:
            charts.append(_chart(measure, names, list(files), values, known))
    text = [
        "A cell is the mean over the matrices of a layer. Where the cosine is below 0 (orange), the new task's "
        "gradient points against memory's. Before the first task there is no memory to compare with: "
        "only the energy is shown."
    ]
    return Section("Surgery", text, charts=charts)


def _block(matrix: str) -> str:
    found = BLOCK.match(matrix)
    return found[0] if found else "outside"


def _by_block(rows: list[dict[str, Any]], column: str) -> dict[str, float]:
    """Return the mean of a column by block. Only the energy includes matrices without a comparison."""
    found: dict[str, list[float]] = {}
    for row in rows:
        compared = column == "energy_2r" or row[COMPARED] is not None
        if compared and row[column] is not None:
            found.setdefault(_block(row["matrix"]), []).append(row[column])
    return {block: fmean(values) for block, values in found.items()}


def _chart(
    measure: Measure, layers: list[str], tasks: list[str], values: list[list[float | None]], known: list[float]
) -> Chart:
    heat = Heat(layers, tasks, values, measure.scale, "before learning", "layer", measure.colours)
    says = f"Heat map of {len(layers)} layers and {len(tasks)} tasks: from {min(known):.2f} to {max(known):.2f}, "
    return Chart(
        measure.name,
        measure.title,
        f"{says}mean {fmean(known):.2f}.",
        Rows("", ["layer", *tasks], [[layer, *row] for layer, row in zip(layers, values, strict=True)]),
        heat.draw,
        heat.size,
    )
