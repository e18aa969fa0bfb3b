"""Sections of a run's page, in order, one per file. A section without data returns `Missing`."""

from collections.abc import Callable

from cl_lightning.results.page.parts import Missing, Section
from cl_lightning.results.page.sections import (
    curves,
    gates,
    losses,
    parameters,
    plane,
    predictions,
    probes,
    ran,
    repeat,
    replay,
    scores,
    subspaces,
    summaries,
    surgery,
    tables,
    times,
)
from cl_lightning.results.page.source import Source

SECTIONS: tuple[Callable[[Source], Section | Missing], ...] = (
    ran.section,
    scores.section,
    plane.section,
    curves.section,
    summaries.section,
    predictions.section,
    losses.section,
    probes.section,
    surgery.section,
    gates.section,
    subspaces.section,
    replay.section,
    parameters.section,
    times.section,
    tables.section,
    repeat.section,
)
