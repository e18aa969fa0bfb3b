"""Charts the parameters that each task trained and stored."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from cl_lightning.common.errors import StateError
from cl_lightning.common.paths import below
from cl_lightning.results.page.palette import SERIES
from cl_lightning.results.page.parts import Chart, Missing, Rows, Section, label
from cl_lightning.results.page.source import Source
from cl_lightning.sequence.folder import adapter_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Stored = tuple[int, int]


def section(run: Source) -> Section | Missing:
    """Build a chart with two bars for each task."""
    trained = run.metrics["trained"]
    if not trained:
        return Missing("parameters: no task is finished")
    stored = [_stored(run, name) for name in run.done]
    rows = [
        [name, f"{count:,}", *(["", ""] if found is None else [f"{found[0]:,}", f"{found[1]:,}"])]
        for name, count, found in zip(run.done, trained, stored, strict=True)
    ]
    total = sum(found[1] for found in stored if found is not None)
    chart = Chart(
        "parameters",
        "Parameters of each task's branch",
        f"Bars of {len(trained)} tasks: {min(trained):,} to {max(trained):,} parameters trained.",
        Rows("", ["task", "trained", "stored", "bytes stored"], rows),
        lambda figure: _draw(figure, run.done, trained, stored),
        (3.4, 1.0 + 0.26 * len(trained)),
    )
    text = ["No branch is stored in this folder."]
    if total:
        text = [f"{total:,} bytes of branches are stored in all."]
    if any(found is not None and found[0] > count for found, count in zip(stored, trained, strict=True)):
        text.append("What is stored beyond what was trained stayed as it started, or is the start itself.")
    return Section("Parameters", text, charts=[chart])


def _stored(run: Source, task: str) -> Stored | None:
    """Return (parameters, bytes) of a task's file, read from its header; None without a file."""
    name = adapter_file(task)
    if name not in run.record["files"]:
        return None
    file = below(run.path, name)
    try:
        with safe_open(file, framework="numpy") as tensors:
            return sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys()), file.stat().st_size  # noqa: SIM118
    except (OSError, SafetensorError):
        raise StateError(f"{file}: missing or damaged; restore it, or start over with FRESH=1") from None


def _draw(figure: Figure, tasks: list[str], trained: list[int], stored: list[Stored | None]) -> None:
    from matplotlib.ticker import EngFormatter

    axes, places = figure.subplots(), range(len(tasks))
    kept = [0 if found is None else found[0] for found in stored]
    axes.barh([p - 0.19 for p in places], trained, 0.36, color=SERIES[0], label="trained")
    axes.barh([p + 0.19 for p in places], kept, 0.36, color=SERIES[1], label="stored")
    axes.set_yticks(places, [*map(label, tasks)])
    axes.invert_yaxis()
    axes.set_xlabel("parameters")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 14k, 3.5M
    axes.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=2)
