"""Charts loss, penalties and learning rate over the steps, from the CSV log."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from cl_lightning.results.page.palette import MUTED, SERIES
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section, label
from cl_lightning.results.page.source import LOSS, Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFIX = "train/"
#: Largest number of points of a line. More points are averaged down to it.
POINTS = 400
Line = tuple[list[float], list[float]]


def section(run: Source) -> Section | Missing:
    """Build a chart with a panel for each value logged in training."""
    lines = {name.removeprefix(PREFIX): run.log.series(name) for name in run.log.names(PREFIX)}
    if "loss" not in lines:
        return Missing("losses: the folder holds no log of them (logs/)")
    at = borders(run)
    rows = [
        [name, f"{len(values):,}", *(f"{v:.4g}" for v in (values[0], values[-1], min(values), max(values)))]
        for name, (_, values) in lines.items()
    ]
    first, last = lines["loss"][1][0], lines["loss"][1][-1]
    chart = Chart(
        "losses",
        "What training logged, over the optimiser steps (lines: where a task begins)",
        f"Line charts of {', '.join(lines)}. The loss begins at {first:.3g} and ends at {last:.3g}.",
        Rows("", ["value", "logged", "first", "last", "lowest", "highest"], rows),
        lambda figure: _draw(figure, lines, at),
        (3.4, 0.6 + 1.3 * len(lines)),
    )
    most = max(len(values) for _, values in lines.values())
    text = [f"Lines of more than {POINTS} values show means of neighbouring values."] if most > POINTS else []
    if run.log.left_out:
        text.append(f"{run.log.left_out} lines of the log are incomplete and were left out.")
    return Section("Losses and penalties", text, charts=[chart], tables=_of_tasks(run))


def borders(run: Source) -> list[float]:
    """Return the steps at which tasks begin, except the first task."""
    found: dict[float, float] = {}
    for row in run.log.rows:
        if "cl/task" in row and LOSS in row:
            found.setdefault(row["cl/task"], row["cl/step"] - 1)
    return [step for task, step in sorted(found.items()) if task]


def _of_tasks(run: Source) -> list[Rows]:
    """Build a table of each task's steps, tokens and losses."""
    by_task: dict[int, list[dict[str, float]]] = {}
    for row in run.log.rows:
        if {"cl/task", "cl/tokens", LOSS} <= row.keys():
            by_task.setdefault(int(row["cl/task"]), []).append(row)
    rows, before = [], (0, 0)
    for task, logged in sorted(by_task.items()):
        now = (int(logged[-1]["cl/step"]), int(logged[-1]["cl/tokens"]))
        tenth = [row[LOSS] for row in logged[-max(1, len(logged) // 10) :]]
        name = run.record["order"][task] if task < len(run.record["order"]) else str(task)
        steps, tokens = (f"{end - start:,}" for start, end in zip(before, now, strict=True))
        rows.append([name, steps, tokens, logged[0][LOSS], fmean(tenth)])
        before = now
    heads = ["task", "steps", "training tokens", "first loss", "mean loss of the last tenth"]
    return [Rows("Training of each task, as logged", heads, rows)]


def thinned(line: Line) -> Line:
    """Average neighbouring points down to at most POINTS."""
    width = -(-len(line[0]) // POINTS)
    steps, values = ([fmean(part[i : i + width]) for i in range(0, len(part), width)] for part in line)
    return steps, values


def _draw(figure: Figure, lines: dict[str, Line], borders: list[float]) -> None:
    panels = figure.subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, line) in zip(panels, lines.items(), strict=True):
        for border in borders:
            axes.axvline(border, color=MUTED, linewidth=0.4)
        axes.plot(*thinned(line), color=SERIES[0], linewidth=0.9, marker="o" if len(line[0]) == 1 else None)
        axes.set_title(label(name), loc="left", pad=3)
        axes.grid(axis="y")
    panels[-1].set_xlabel("optimiser step")
