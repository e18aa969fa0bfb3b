"""Draws the dashboard of docs/logging.md from the offline file of a run: `python -m tests.dashboard_picture RUN FILE`.

wandb shows a workspace on its own servers only. This draws the same panels with the same keys from the same file.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from cl_lightning.commands.dashboard import Panel, definition, pattern
from tests.wandb_offline import history

COLUMNS = 3
#: Inches of a panel.
SIZE = (3.1, 2.1)
#: Series that get a name in the legend; more would not fit in a panel.
NAMED = 4


def main(argv: Sequence[str]) -> None:
    """Draw."""
    run, file = map(Path, argv)
    picture(run).savefig(file, metadata={"Date": None})


def picture(run: Path) -> Figure:
    """All sections of the definition, one below the other, from the only offline run in a run folder."""
    logged, media = history(run), next(run.glob("wandb/offline-run-*/files"))
    sections = definition()
    heights = [1 + -(-len(panels) // COLUMNS) * 4 for panels in sections.values()]
    figure = Figure((COLUMNS * SIZE[0], sum(heights) * SIZE[1] / 4), layout="constrained")
    for part, (section, panels) in zip(
        figure.subfigures(len(sections), 1, height_ratios=heights, squeeze=False)[:, 0], sections.items(), strict=True
    ):
        part.suptitle(section, x=0.01, ha="left", weight="bold", size=10)
        grid = part.subplots(-(-len(panels) // COLUMNS), COLUMNS, squeeze=False).flat
        for axes, panel in zip(grid, [*panels, *[None] * COLUMNS], strict=False):
            if panel is None:
                axes.set_axis_off()
                continue
            axes.set_title(panel.title, size=8)
            axes.tick_params(labelsize=6)
            KINDS[panel.kind](axes, panel, logged, media)
            if not axes.has_data() and not axes.tables:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "nothing logged", ha="center", size=7, transform=axes.transAxes)
    return figure


def matching(logged: list[dict[str, Any]], keys: list[str]) -> list[str]:
    """The logged names that some keys stand for, as in wandb's panels."""
    names = dict.fromkeys(name for row in logged for name in row)
    return [name for name in names if any(re.search(pattern(key), name) for key in keys)]


def _lines(axes: Axes, panel: Panel, logged: list[dict[str, Any]], media: Path) -> None:
    for number, name in enumerate(matching(logged, panel.keys)):
        points = [(row["cl/step"], row[name]) for row in logged if isinstance(row.get(name), int | float)]
        label = name if number < NAMED else None
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 20 else "", linewidth=1, label=label)
    if axes.lines:
        axes.legend(fontsize=5)


def _points(axes: Axes, panel: Panel, logged: list[dict[str, Any]], media: Path) -> None:
    points = [[row[key] for key in panel.keys] for row in logged if all(key in row for key in panel.keys)]
    if not points:
        return
    axes.scatter(*zip(points[-1], strict=True))
    axes.set_xlabel(panel.keys[0], size=6)
    axes.set_ylabel(panel.keys[1], size=6)


def _pictures(axes: Axes, panel: Panel, logged: list[dict[str, Any]], media: Path) -> None:
    if (file := _file(panel, logged, media)) is None:
        return
    axes.imshow(imread(file))
    axes.set_xticks([])
    axes.set_yticks([])


def _table(axes: Axes, panel: Panel, logged: list[dict[str, Any]], media: Path) -> None:
    if (file := _file(panel, logged, media)) is None:
        return
    found = json.loads(file.read_text())
    cells = [[_short(cell) for cell in row[:5]] for row in found["data"][:6]]
    axes.set_axis_off()
    table = axes.table(cells, colLabels=found["columns"][:5], loc="upper center")
    table.auto_set_font_size(False)
    table.set_fontsize(6)


def _file(panel: Panel, logged: list[dict[str, Any]], media: Path) -> Path | None:
    """The last file that was logged under a panel's key."""
    found = [row[key] for row in logged if (key := f"{panel.keys[0]}/path") in row]
    return media / found[-1] if found else None


def _short(cell: Any) -> str:
    return "" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else str(cell)[:14]


KINDS = {"lines": _lines, "points": _points, "pictures": _pictures, "table": _table}

if __name__ == "__main__":
    main(sys.argv[1:])
