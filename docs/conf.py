"""Builds the documents: `make docs`. Their pages are written for GitHub, and nothing in them is for this builder alone.

- The source folder is the repository, so that links between documents are the same here and there.
- The navigation is made of the links in docs/README.md. A page with a folder of its name has the pages in it below it.
- Formulas become MathML, which browsers draw themselves: built pages ask no other host for anything.
- `<!-- api: NAME ... -->` is replaced by the docstrings of these names; a package with EXPORTS stands for all of them.
"""

import re
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

project = "cl-lightning"
root_doc = "docs/README"
include_patterns = ["*.md", "docs/**.md", "study/*.md"]
exclude_patterns = ["build", "runs", ".*"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
# Links such as [name](../experiments/) lead to files of the repository.
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = "cl-lightning"
html_show_sphinx = html_copy_source = html_show_sourcelink = html_show_copyright = False
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"
# They are shown as in a shell, and some are answers.
highlight_language = "none"

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True, "show-inheritance": True}

HERE = Path(__file__).parent
#: Style of a formula on a line of its own: a wide one is scrolled, not the page.
BLOCK = "overflow: auto hidden; padding: 0.6em 0"
#: What builder and theme leave out for people who use a keyboard or a screen reader, and what stands there then.
ACCESSIBLE = (
    ('role="heading">', 'role="heading" aria-level="2">'),
    ("<pre>", '<pre tabindex="0">'),
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    ('<aside class="sidebar-drawer"', '<aside aria-label="all pages" class="sidebar-drawer"'),
    ('<aside class="toc-drawer', '<aside aria-label="this page" class="toc-drawer'),
    ('<th class="head"><p></p></th>', "<td></td>"),
)
LINK = re.compile(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)")
API = re.compile(r"<!-- api: ([\w. ]+) -->")


def toctree(pages: list[str], caption: str = "") -> str:
    """A toctree of these pages that is not shown where it stands."""
    options = ["hidden:", *([f"caption: {caption}"] if caption else [])]
    return "\n".join(["", "```{toctree}", *(f":{option}" for option in options), *pages, "```", ""])


def navigation(name: str, text: str) -> str:
    """What is below a page: sections of the index, or the pages in the folder of its name."""
    if name == root_doc:
        sections = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
        parts = zip(sections[1::2], sections[2::2], strict=True)
        return "".join(toctree(list(dict.fromkeys(LINK.findall(part))), caption) for caption, part in parts)
    folder = (HERE.parent / name).with_suffix("")
    below = [link for link in dict.fromkeys(LINK.findall(text)) if link.startswith(f"{folder.name}/")]
    return toctree(below) if below else ""


def documented(name: str, members: bool = True) -> str:
    """Directives for one name: a module, a class or a function; a package's are those of the names that it exports."""
    home, _, leaf = name.rpartition(".")
    try:
        found = import_module(name)
    except ModuleNotFoundError:
        kind = "class" if isinstance(getattr(import_module(home), leaf), type) else "function"
        return f".. auto{kind}:: {name}\n" + ("" if members else "   :no-members:\n")
    if not hasattr(found, "EXPORTS"):
        return f".. automodule:: {name}\n   :no-index:\n"
    each = [
        (f"{name}.{module}", f"{name}.{module}.{one}")
        for one, module in sorted(found.EXPORTS.items())
        if not isabstract(getattr(found, one))
    ]
    about = ".. automodule:: {}\n   :no-members:\n   :no-index:\n"
    return "\n".join(about.format(module) + "\n" + documented(one, members=False) for module, one in each)


def docstrings(found: re.Match[str]) -> str:
    """What stands for an `api` comment."""
    directives = "\n".join(documented(name) for name in found[1].split())
    return f"```{{eval-rst}}\n{directives}\n```"


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Add the navigation and the docstrings to a page."""
    source[0] = API.sub(docstrings, source[0] + navigation(name, source[0]))


def escape(app: Sphinx, what: str, name: str, thing: object, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` and indented formulas: keep both as they are."""
    out: list[str] = []
    section = False  # inside Args:, Raises:, ..
    for line in lines:
        indented = line.startswith("    ")
        if line and not indented:
            section = bool(re.fullmatch(r"(Args|Raises|Returns|Yields|Attributes):", line))
        if indented and not section:
            if out and not out[-1].strip():
                out += ["::", ""]
            out.append(line)
            continue
        parts = re.split(r"(`[^`]*`)", line)
        out.append("".join(p if k % 2 else re.sub(r"([*|\\]|_(?=\W|$))", r"\\\1", p) for k, p in enumerate(parts)))
    lines[:] = out


def inline(writer: Any, node: Any) -> None:
    """Write an inline formula as MathML."""
    writer.body.append(tex2mathml(node.astext()))
    raise SkipNode


def display(writer: Any, node: Any) -> None:
    """Write a formula on a line of its own as MathML."""
    writer.body.append(f'<div tabindex="0" style="{BLOCK}">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def open_to_all(app: Sphinx, error: Exception | None) -> None:
    """Complete all pages by `ACCESSIBLE`."""
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for found, better in ACCESSIBLE:
            text = text.replace(found, better)
        page.write_text(text, encoding="utf-8")


def begin(app: Sphinx, error: Exception | None) -> None:
    """Lead the folder's address to the first page."""
    page = f"{root_doc}.html"
    html = f'<!doctype html><html lang="en"><title>{project}</title><meta http-equiv="refresh" content="0; url={page}">'
    (Path(app.outdir) / "index.html").write_text(f'{html}<p><a href="{page}">{project}</a></p></html>\n')


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", escape, priority=100)  # before napoleon
    app.connect("build-finished", open_to_all)
    app.connect("build-finished", begin)
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
