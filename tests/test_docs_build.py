"""The built documents: no warning, and nothing in a page asks another host for anything."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.results.page.browser import AXE_PACKAGE, NAMES, PROGRAM, Browser, axe

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(480),
    pytest.mark.skipif(find_spec("sphinx") is None, reason="needs Sphinx: the extra `docs` is not installed"),
]
#: Pages with all that others have: tables, code, formulas, pictures, docstrings.
KINDS = ("README", "REPRODUCIBILITY", "docs/api", "docs/methods/slice", "docs/troubleshooting", "docs/which-method")
#: What a browser fetches by itself: scripts, styles, pictures, frames, fonts. Links that a reader follows are not.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(https?:|//)|<link\b[^>]*\bhref=["']?(https?:|//)"""
)
STYLES = re.compile(r"""url\(["']?(https?:|//)|@import\s+["'](https?:|//)""")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does."""
    out = tmp_path_factory.mktemp("docs")
    argv = ["--quiet", "--fail-on-warning", "--keep-going", "-c", "docs", ".", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *argv], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert " ".join(argv[:-1]) in (ROOT / "Makefile").read_text()
    return out


def test_every_page_is_built_with_the_docstrings(built: Path) -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "REPRODUCIBILITY.md"]
    assert [page for page in pages if not (built / page.relative_to(ROOT)).with_suffix(".html").exists()] == []
    assert "url=docs/README.html" in (built / "index.html").read_text()
    api = (built / "docs" / "api.html").read_text()
    names = (
        "cl_lightning.load",
        "cl_lightning.load_run",
        "ContinualLM",
        "TaskSequence",
        "RunContext",
        "GainLoRA",
        "PCGrad",
    )
    assert [name for name in names if not re.search(rf'id="(cl_lightning\.)?[\w.]*{re.escape(name)}"', api)] == []
    assert "Keep at most" in api and "&lt;!-- api" not in api and "<!-- api" not in api


def test_formulas_are_drawn_without_a_script(built: Path) -> None:
    page = (built / "docs" / "methods" / "slice.html").read_text()
    assert page.count("<math") >= 5 and "\\frac" not in page
    assert not re.search(r"<script[^>]*(mathjax|katex)", page, re.IGNORECASE)


def test_nothing_is_fetched_from_another_host(built: Path) -> None:
    pages, styles = [*built.rglob("*.html")], [*built.rglob("*.css")]
    assert len(pages) > 30 and styles
    assert [page.name for page in pages if FETCHED.search(page.read_text())] == []
    assert [style.name for style in styles if STYLES.search(style.read_text())] == []


@pytest.mark.skipif(PROGRAM is None, reason=f"needs a browser: none of {', '.join(NAMES)} is installed")
@pytest.mark.skipif(axe() is None, reason=f"needs the script of axe-core: {AXE_PACKAGE} is not installed")
def test_nobody_is_kept_out_of_a_page(built: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        for name in KINDS:
            seen = browser.open(built / f"{name}.html", 360, dark=True, axe=axe())
            assert seen.faults == [], name
            assert seen.widths == (360, 360), f"{name} is wider than the window"


@pytest.mark.parametrize("text", ['<script async src="https://a.b/c.js">', '<link rel="icon" href="//a.b/c.png">'])
def test_the_control_a_fetch_is_noticed(text: str) -> None:
    assert FETCHED.search(text) and not FETCHED.search('<a href="https://a.b/">')
