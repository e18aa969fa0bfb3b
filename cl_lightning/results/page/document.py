"""Writes sections as one HTML file without scripts or requests, with all text escaped.

The content comes from models, data files and users. Each value passes through `printable`, which escapes characters
that do not print (terminal codes, line ends, direction marks), then through jinja's autoescape. Long texts and tables
are cut, with a count.
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

#: Largest number of characters of a value and of rows of a table; the rest is counted.
CHARACTERS, ROWS = 400, 500
#: Values of more characters wrap.
WRAPS = 18
NUMBER = re.compile(r"[-+]?\d[\d,.]*( \.\. -?[\d.]+| ± [\d.]+)?( \[.*\])?")


def html(title: str, lead: str, sections: Sequence[Section], svgs: Mapping[str, bytes]) -> bytes:
    """Return the page. `svgs`: SVG files by the name of their chart."""
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
        "cell": lambda value: cut(cell(value), CHARACTERS),
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
