"""Draws charts as SVG and PNG with matplotlib. The same chart gives the same bytes.

Text in an SVG stays text: it can be searched, read aloud and set in the reader's font. In a page, an SVG has unique
`id`s, a title and a description, and follows the page's colours.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from cl_lightning.common.terminal import printable
from cl_lightning.results.page.palette import INK, MUTED, RULE, SERIES, as_properties
from cl_lightning.results.page.parts import Chart
from cl_lightning.sequence.run_files import MARK

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
#: Resolution of PNG files, as journals require for figures.
DPI = 300
TIP = "tip "
STYLE: dict[str, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8, "axes.titlesize": 8,
    "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.edgecolor": MUTED, "axes.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": RULE, "grid.linewidth": 0.5,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "lines.linewidth": 1.3, "lines.markersize": 3.5,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "axes.axisbelow": True,
    # Names are plain text, not math. The same chart gives the same file.
    "text.parse_math": False, "text.usetex": False, "svg.fonttype": "none", "svg.hashsalt": "cl-lightning",
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A drawn chart: its SVG file, and its PNG file on demand."""

    svg: bytes
    figure: Figure

    def files(self) -> dict[str, bytes]:
        """What to write, by suffix."""
        return {"svg": self.svg, "png": self.png()}

    def png(self) -> bytes:
        """Return the PNG file, at `DPI` dots per inch."""
        return _saved(self.figure.savefig, format="png", dpi=DPI, facecolor="white", metadata={"Software": MARK})


def drawing(chart: Chart) -> Drawing:
    """Draw a chart."""
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "axes.prop_cycle": cycler(color=SERIES)}):
        figure = Figure(figsize=chart.size, layout="constrained")
        chart.draw(figure)
    # `savefig` would draw once more before, for the layout, which drawing makes by itself.
    svg = _saved(FigureCanvasSVG(figure).print_svg, metadata={"Creator": MARK, "Date": None})
    figure.set_layout_engine(None)  # the layout is final
    return Drawing(_with_tips(svg), figure)


def _saved(save: Callable[..., None], **options: Any) -> bytes:
    from matplotlib import rc_context

    data = io.BytesIO()
    with rc_context(STYLE), warnings.catch_warnings():
        # A reader's fonts may have glyphs that this one lacks; a PNG shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        save(data, **options)
    return data.getvalue()


def tip(artist: Artist, text: str) -> None:
    """Give a mark a title, which browsers show on hover."""
    artist.set_gid(TIP + printable(text))


def _with_tips(svg: bytes) -> bytes:
    _named_as_usual()
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        if (name := element.get("id", "")).startswith(TIP):
            del element.attrib["id"]
            title = ElementTree.Element(f"{{{SVG}}}title")
            title.text = name.removeprefix(TIP)
            element.insert(0, title)
    return ElementTree.tostring(root, xml_declaration=True, encoding="utf-8")


def in_page(chart: Chart, svg: bytes) -> str:
    """Return a chart's SVG as an element of a page."""
    _named_as_usual()
    root = ElementTree.fromstring(svg)
    for child in [c for c in root if c.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}title")]:
        root.remove(child)
    for style in root.findall(f"{{{SVG}}}defs"):
        # It would apply to the whole page, whose own style sheet covers charts.
        for each in style.findall(f"{{{SVG}}}style"):
            style.remove(each)
    for element in root.iter():
        if name := element.get("id"):
            element.set("id", f"{chart.name}-{name}")
        if link := element.attrib.pop(f"{{{XLINK}}}href", None):
            element.set("href", f"#{chart.name}-{link[1:]}" if link.startswith("#") else link)
        if clip := element.get("clip-path"):
            element.set("clip-path", clip.replace("url(#", f"url(#{chart.name}-"))
        if look := element.get("style"):  # hatches are patterns with a name
            element.set("style", as_properties(look).replace("url(#", f"url(#{chart.name}-"))
    for key in ("width", "height"):
        del root.attrib[key]
    root.attrib |= {"role": "img", "aria-labelledby": f"{chart.name}-title {chart.name}-says"}
    for tag, key, text in (("desc", "says", chart.says), ("title", "title", chart.title)):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{chart.name}-{key}"})
        element.text = printable(text)
        root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


def _named_as_usual() -> None:
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
