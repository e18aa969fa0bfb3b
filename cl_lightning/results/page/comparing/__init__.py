"""Sections of a comparison's page, in order, one per file."""

from collections.abc import Callable

from cl_lightning.results.page.comparing import curves, differences, forgetting, plane, tables
from cl_lightning.results.page.comparing.selection import Selection
from cl_lightning.results.page.parts import Missing, Section

SECTIONS: tuple[Callable[[Selection], Section | Missing], ...] = (
    plane.section,
    differences.section,
    curves.section,
    forgetting.section,
    tables.section,
)
