"""Charts seconds and peak memory of each task's stages, from the record's costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cl_lightning.results.page.palette import SERIES
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section, label
from cl_lightning.results.page.source import Source
from cl_lightning.sequence.folder import RECORD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Stages in the order of a task; those of callbacks come after them.
STAGES = ("zero-shot", "start", "gradients", "inputs", "training", "probes", "end", "scoring", "saving")
#: Columns of the table of `SliceInit`.
BEFORE, SECONDS = "boundary before", "seconds"
MIB = 2**20
Costs = dict[str, dict[str, Any]]


def section(run: Source) -> Section | Missing:
    """Build a chart of seconds by task and stage, a table of memory, and one of boundaries."""
    with run.checked_content(RECORD):
        return _section(run)


def _section(run: Source) -> Section | Missing:
    costs: Costs = run.record.get("costs", {})
    tables = _boundaries(run)
    if not costs:
        return Section("Time", tables=tables) if tables else Missing("time and memory of each stage")
    found = dict.fromkeys(stage for of in costs.values() for stage in of.get("seconds", {}))
    stages = [*(stage for stage in STAGES if stage in found), *(stage for stage in found if stage not in STAGES)]
    total = {stage: sum(of.get("seconds", {}).get(stage, 0.0) for of in costs.values()) for stage in stages}
    whole = sum(total.values())
    shares = ", ".join(f"{stage} {100 * seconds / whole:.0f} %" for stage, seconds in total.items()) if whole else ""
    heads = ["task", *stages, "tokens per second"]
    rows = [[task, *(of["seconds"].get(s) for s in stages), of.get("tokens_per_second")] for task, of in costs.items()]
    chart = Chart(
        "times",
        "Seconds of each task's stages",
        f"Stacked bars of {len(costs)} tasks, {whole:.0f} seconds in all: {shares}.",
        Rows("", heads, rows),
        lambda figure: _draw(figure, costs, stages),
        (3.4, 1.2 + 0.22 * len(costs)),
    )
    memory = Rows(
        "Peak memory of each stage, MiB",
        ["task", *stages],
        [[task, *_mebibytes(of.get("peak_bytes", {}), stages)] for task, of in costs.items()],
    )
    text = [
        "A stage within another is not counted in that one. Memory is that of rank 0: allocated on its GPU or, "
        "without one, resident. Neither is part of the result, and both differ from run to run."
    ]
    return Section("Time", text, charts=[chart], tables=[memory, *tables])


def _mebibytes(of: dict[str, int], stages: list[str]) -> list[float | None]:
    return [of[stage] / MIB if stage in of else None for stage in stages]


def _boundaries(run: Source) -> list[Rows]:
    """Build the table of seconds for gradients and surgery; none without such boundaries."""
    found = run.tables_with(BEFORE, SECONDS)
    rows = [(task, float(seconds)) for task, seconds in zip(*found[0].values(), strict=True)] if found else []
    return [Rows("Seconds for gradients and surgery at each task boundary", ["before", "seconds"], rows)] * bool(rows)


def _draw(figure: Figure, costs: Costs, stages: list[str]) -> None:
    axes, places, left = figure.subplots(), range(len(costs)), [0.0] * len(costs)
    for k, stage in enumerate(stages):
        seconds = [of["seconds"].get(stage, 0.0) for of in costs.values()]
        lines = "///" * (k // len(SERIES))  # distinguish bars where colours are used again
        axes.barh(places, seconds, 0.7, left=left, color=SERIES[k % len(SERIES)], hatch=lines, label=stage)
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    axes.set_yticks(places, [*map(label, costs)])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=3)
