"""Draws sections and puts them on one page, with a list of what has no data at its end."""

from collections.abc import Iterable

from cl_lightning.results.page.document import html
from cl_lightning.results.page.drawing import Drawing, drawing
from cl_lightning.results.page.parts import Missing, Section


def assembled(title: str, lead: str, parts: Iterable[Section | Missing]) -> tuple[bytes, dict[str, Drawing]]:
    """Return the page, and its figures by name."""
    made = list(parts)
    sections = [part for part in made if isinstance(part, Section)]
    drawn = {chart.name: drawing(chart) for section in sections for chart in section.charts}
    if missing := [f"{part.what}." for part in made if isinstance(part, Missing)]:
        sections.append(Section("Not recorded", missing))
    return html(title, lead, sections, {name: each.svg for name, each in drawn.items()}), drawn
