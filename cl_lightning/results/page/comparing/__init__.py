"""The sections of a comparison's page, in order: a file each, listed here."""

from collections.abc import Callable

from cl_lightning.results.page.comparing import curves, differences, forgetting, plane, tables
from cl_lightning.results.page.comparing.asked import Asked
from cl_lightning.results.page.parts import Missing, Section

SECTIONS: tuple[Callable[[Asked], Section | Missing], ...] = (
    plane.section,
    differences.section,
    curves.section,
    forgetting.section,
    tables.section,
)
