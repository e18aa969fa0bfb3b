"""Charts how far each task's gate opens on each task's prompts, from gates/<task>.csv."""

from typing import Any

from cl_lightning.results.page.heat import Heat
from cl_lightning.results.page.papers import GAIN_GATES
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section
from cl_lightning.results.page.source import Source


def section(run: Source) -> Section | Missing:
    """Build maps of the mean and the largest values after the last finished task."""
    name = f"gates/{run.done[-1]}.csv" if run.done else ""
    rows = run.rows(name, ["gate of", "prompts of"], ["mean a", "largest a"])
    if not rows:
        return Missing("gates: the method has none, or none were measured (boundary.gates)")
    charts = [
        _chart(run, rows, "gates", "mean a", "Mean opening of each gate"),
        _chart(run, rows, "gates_largest", "largest a", "Largest opening of each gate"),
    ]
    text = [
        "Rows are the branches' tasks, columns the tasks of the held-out prompts: 1 is an open gate, 0 a closed one. "
        "On the diagonal, gates see prompts of their own task."
    ]
    return Section("Gates", text, charts=charts)


def _chart(run: Source, rows: list[dict[str, Any]], name: str, column: str, title: str) -> Chart:
    found = {(row["gate of"], row["prompts of"]): row[column] for row in rows}
    values = [[found.get((gate, prompts)) for prompts in run.done] for gate in run.done]
    own = [f"{task} {found[task, task]:.2f}" for task in run.done if found.get((task, task)) is not None]
    heat = Heat(run.done, run.done, values, (0, 1), "prompts of", "gate of", digits=2)
    return Chart(
        name,
        f"{title} after {run.done[-1]}",
        f"Heat map of {len(run.done)} gates by prompts of as many tasks. On its own prompts: {', '.join(own)}.",
        Rows("", ["gate of", *run.done], [[gate, *row] for gate, row in zip(run.done, values, strict=True)]),
        heat.draw,
        heat.size,
        [GAIN_GATES],
    )
