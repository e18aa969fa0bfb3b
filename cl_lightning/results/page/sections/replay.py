"""Charts the number of examples of each task in the replay memory, never their text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_lightning.results.page.palette import SERIES
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section, label
from cl_lightning.results.page.source import Source
from cl_lightning.sequence.folder import CONFIG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Columns of the legend, which is below the chart and as long as the tasks are many.
ACROSS = 3
HATCHES = ("", "///", "...", "\\\\\\")


def section(run: Source) -> Section | Missing:
    """Build a chart with a stacked bar after each task."""
    slots = run.slots("ReplayBuffer")
    kept = [run.kept(slots[0], done + 1) for done in range(len(run.done))] if slots else []
    if not any(kept):
        return Missing("replay: no examples of earlier tasks were kept (boundary.memory)")
    rows = [[after, *[counts.get(name) for name in run.done]] for after, counts in zip(run.done, kept, strict=True)]
    chart = Chart(
        "replay",
        "Examples in memory after each task",
        f"Stacked bars over {len(run.done)} tasks. At the end: {_listed(kept[-1])}.",
        Rows("", ["after", *run.done], rows),
        lambda figure: _draw(figure, run.done, kept),
        (3.4, 2.55 + 0.15 * -(-len(run.done) // ACROSS)),
    )
    return Section("Replay memory", [_use(run, slots[0])], charts=[chart])


def _use(run: Source, slot: str) -> str:
    with run.checked_content(CONFIG):
        options = run.config["boundary"][slot]["init_args"]
        capacity, ratio = int(options["capacity"]), float(options["train_ratio"])
    trained = f"{100 * ratio:g} % of each batch was drawn from it" if ratio else "no batch mixed them with new ones"
    return f"At most {capacity:,} examples are kept; {trained}."


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _draw(figure: Figure, tasks: list[str], kept: list[dict[str, int]]) -> None:
    axes, places = figure.subplots(), range(1, len(tasks) + 1)
    below = [0] * len(tasks)
    for k, name in enumerate(tasks):
        heights = [counts.get(name, 0) for counts in kept]
        look = {"color": SERIES[k % len(SERIES)], "hatch": HATCHES[k // len(SERIES) % len(HATCHES)]}
        look |= {"edgecolor": "white", "linewidth": 0.3}
        axes.bar(places, heights, bottom=below, width=0.8, label=label(name, 16), **look)
        below = [one + other for one, other in zip(below, heights, strict=True)]
    axes.set(xlabel="tasks learnt", ylabel="examples")
    axes.set_xticks(range(1, len(tasks) + 1, 1 + len(tasks) // 10))
    figure.legend(loc="outside lower center", ncols=ACROSS, handlelength=1.0, columnspacing=0.9)
