"""Pages of a run and of a comparison in a browser with axe: contrast, labels, landmarks, headings, names of tables."""

from pathlib import Path

import pytest

from cl_lightning.commands import compare
from cl_lightning.results.page.write import write
from tests.results.page.browser import AXE_PACKAGE, NAMES, PROGRAM, Browser, axe
from tests.results.page.whole_run import whole_run
from tests.results.test_compare import LOW, OTHER, PLAIN, MakeRun, run, shifted

__all__ = ["run"]  # the fixture

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason=f"needs a browser: none of {', '.join(NAMES)} is installed"),
    pytest.mark.skipif(axe() is None, reason=f"needs the script of axe-core: {AXE_PACKAGE} is not installed"),
]
HEBREW = "\u05de\u05e9\u05d9\u05de\u05d4"
BAD = """<!doctype html><html lang="en"><title>bad</title><main><h1>one</h1><h3>three</h3>
<p style="color: #bbb; background: #fff">pale</p><input><img src="data:,"></main><p>outside</p></html>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with every chart, one of whose tasks has a name that is written from right to left."""
    return write(whole_run(tmp_path_factory.mktemp("run") / "run", ["FOMC", "a long name of a task", HEBREW]))


@pytest.fixture
def comparison(run: MakeRun, tmp_path: Path) -> Path:
    runs = [run("lora", 1), run("lora", 2, shifted(PLAIN, -5.0) | {(0, 0): PLAIN[0, 0]}), run("other", 1, LOW, **OTHER)]
    page = tmp_path / "page.html"
    compare.main([*map(str, runs), "--html", str(page)])
    return page


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1600, False)], ids=["phone, dark", "desk, light"])
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_nobody_is_kept_out(
    browser: Browser, request: pytest.FixtureRequest, kind: str, width: int, dark: bool
) -> None:
    assert browser.open(request.getfixturevalue(kind), width, dark, axe()).faults == []


def test_the_control_faults_are_found(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(BAD)
    found = {fault.partition(":")[0] for fault in browser.open(tmp_path / "page.html", 800, axe=axe()).faults}
    assert {"color-contrast", "label", "image-alt", "heading-order", "region"} <= found
