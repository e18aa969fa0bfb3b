"""What a run logs besides numbers: tables, pictures and scatter charts, in the form that each logger takes.

Loggers without a form of their own for these (CSV files) take numbers only. Adding one is a function that is registered
with `show`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from cl_lightning.common.files import to_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Grid:
    """A table: names of its columns, and its rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Scatter(Grid):
    """A table of which two columns are drawn as points.

    Attributes:
        x, y: names of the columns.
        title: above the chart.
    """

    x: str = ""
    y: str = ""
    title: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure, drawn only if a logger takes it.

    Attributes:
        draw: draws on an empty figure.
        size: inches.
    """

    draw: Callable[[Figure], None]
    size: tuple[float, float]

    def figure(self) -> Figure:
        """Draw the figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.size, layout="constrained")
        self.draw(figure)
        return figure

    def pixels(self) -> NDArray[Any]:
        """Draw it, as (height, width, 3) bytes."""
        import numpy as np
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(self.figure())
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3]


Media = Grid | Picture


@singledispatch
def show(logger: Logger, name: str, media: Media, step: int) -> None:
    """Log a table, a picture or a chart under `name`, if the logger has a form for it."""


@show.register
def _(logger: WandbLogger, name: str, media: Media, step: int) -> None:
    import wandb

    if isinstance(media, Picture):
        shown: Any = wandb.Image(media.pixels())
    else:
        shown = wandb.Table(columns=list(media.columns), data=[list(row) for row in media.rows])
        if isinstance(media, Scatter):
            shown = wandb.plot.scatter(shown, media.x, media.y, media.title)
    logger.log_metrics({name: shown}, step)


@show.register
def _(logger: TensorBoardLogger, name: str, media: Media, step: int) -> None:
    if isinstance(media, Picture):
        logger.experiment.add_image(name, media.pixels(), step, dataformats="HWC")
    else:
        logger.experiment.add_text(name, _markdown(media), step)


@show.register
def _(logger: MLFlowLogger, name: str, media: Media, step: int) -> None:
    if isinstance(media, Picture):
        logger.experiment.log_figure(logger.run_id, media.figure(), f"{name}/{step}.png")
    else:
        text = to_csv(list(media.columns), media.rows).decode()
        logger.experiment.log_text(logger.run_id, text, f"{name}/{step}.csv")


def _markdown(table: Grid) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    cells = ([" ".join(str("" if cell is None else cell).split()).replace("|", "/") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
