"""Sections as one HTML file that asks for nothing: no script, no request, all text escaped.

The content comes from models, data files and people. Every value passes `printable`, which escapes characters that do
not print (terminal codes, line ends, direction marks), then jinja's autoescape. Long texts and tables are cut, with a
count.
"""

import re
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cl_lightning.common.terminal import printable
from cl_lightning.results.page.drawing import in_page
from cl_lightning.results.page.palette import properties
from cl_lightning.results.page.parts import Chart, Section, cut
from cl_lightning.results.tables import Rows, cell
from cl_lightning.sequence.run_files import MARK

#: Characters of a value, and rows of a table; what is beyond is counted.
CHARACTERS, ROWS = 400, 500
#: Characters from which a value is a text that wraps.
WRAPS = 18
NUMBER = re.compile(r"[-+]?\d[\d,.]*( \.\. -?[\d.]+| ± [\d.]+)?( \[.*\])?")


def html(title: str, lead: str, sections: Sequence[Section], svgs: Mapping[str, bytes]) -> bytes:
    """The page. `svgs`: each chart's SVG file, by the chart's name."""
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
    environment.filters |= {
        "svg": lambda chart: _svg(chart, svgs[chart.name]),
        "short": lambda value, length=CHARACTERS: cut(str(value), length),
        "told": lambda value: cut(cell(value), CHARACTERS),
        "kinds": _kinds,
        "lines": str.splitlines,
    }
    page = environment.get_template("page.html").render(
        title=cut(title, 100),
        lead=lead,
        sections=sections,
        mark=MARK,
        most=ROWS,
        light=Markup(properties(dark=False)),
        dark=Markup(properties(dark=True)),
    )
    return page.encode()


def _svg(chart: Chart, data: bytes) -> Markup:
    return Markup(in_page(chart, data))


def _kinds(rows: Rows) -> list[Markup]:
    """The class of each column: numbers stand to the right, long texts wrap."""
    width = max(map(len, [rows.heads, *rows.rows]))  # a callback's rows may be wider than its head
    columns = ([cell(row[k]) for row in rows.rows if k < len(row)] for k in range(width))
    return [Markup(f' class="{_kind([text for text in texts if text])}"') for texts in columns]


def _kind(texts: list[str]) -> str:
    if 2 * sum(bool(NUMBER.fullmatch(text)) for text in texts) >= max(1, len(texts)):
        return "number"
    return "text" if any(len(text) > WRAPS for text in texts) else "word"
