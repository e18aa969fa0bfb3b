"""Charts the share of the inputs in the subspaces of earlier tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cl_lightning.results.page.palette import series
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section
from cl_lightning.results.page.source import Source
from cl_lightning.sequence.folder import RECORD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Columns of the table of `InputSubspaces`.
MEDIAN, HIGHEST, OUTSIDE = "dimensions %, median", "highest", "new inputs' energy outside before, median %"
#: Column of the table of `GateOrthogonalization`: a share for each weight of the gates.
OF_GATES = "dimensions held % (M_1, .., key)"


def section(run: Source) -> Section | Missing:
    """Build charts of the layers' inputs and of the gates' inputs."""
    with run.checked_content(RECORD):
        charts = [_of_inputs(table) for table in run.tables_with("after", MEDIAN, HIGHEST, OUTSIDE)]
        charts += [_of_gates(table) for table in run.tables_with("after", OF_GATES)]
    if not charts:
        return Missing("subspaces: none were kept of earlier tasks' inputs (boundary.subspaces, boundary.gates)")
    return Section("Subspaces of earlier tasks", ["Later tasks cannot learn in these subspaces."], charts=charts)


def _of_inputs(table: dict[str, list[Any]]) -> Chart:
    named = {"held, median": MEDIAN, "held, highest": HIGHEST, "energy outside before": OUTSIDE}
    return _chart(
        "subspaces",
        "Share of the layers' input dimensions held, and of new inputs' energy outside them",
        table["after"],
        {name: [float(value) for value in table[column]] for name, column in named.items()},
    )


def _of_gates(table: dict[str, list[Any]]) -> Chart:
    shares = [[float(share) for share in text.split()] for text in table[OF_GATES]]
    count = len(shares[0])
    names = [*(f"weight {i + 1}" for i in range(count - 1)), "key"]
    lines = {name: [row[i] for row in shares] for i, name in enumerate(names)}
    return _chart("subspaces_gates", "Share of the dimensions that the gates' weights see, held", table["after"], lines)


def _chart(name: str, title: str, tasks: list[str], lines: dict[str, list[float]]) -> Chart:
    rows = [[task, *(values[i] for values in lines.values())] for i, task in enumerate(tasks)]
    last = ", ".join(f"{key} {values[-1]:.0f} %" for key, values in lines.items())
    return Chart(
        name,
        title,
        f"Line chart over {len(tasks)} tasks. At the end: {last}.",
        Rows("", ["after", *(f"{key} %" for key in lines)], rows),
        lambda figure: _draw(figure, len(tasks), lines),
        (3.4, 2.6),
    )


def _draw(figure: Figure, tasks: int, lines: dict[str, list[float]]) -> None:
    axes, steps = figure.subplots(), range(1, tasks + 1)
    for k, (name, values) in enumerate(lines.items()):
        axes.plot(steps, values, label=name, **series(k))
    axes.set(xlabel="tasks learnt", ylabel="%", ylim=(-4, 104))
    axes.set_xticks(range(1, tasks + 1, 1 + tasks // 10))
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=2)
