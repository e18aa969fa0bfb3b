"""Pages in a browser: nothing is wider than the window, nothing is asked for, nothing is complained of."""

from pathlib import Path

import pytest

from cl_lightning.results.page.write import write
from tests.results.page.browser import NAMES, PROGRAM, Browser, Seen
from tests.results.page.whole_run import whole_run

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason=f"needs a browser: none of {', '.join(NAMES)} is installed"),
]
#: Of a phone, a tablet and a desk.
WIDTHS = (360, 800, 1600)
LONG = "a_task_whose_name_is_longer_than_a_phone_is_wide"
BAD = """<!doctype html><img src="http://127.0.0.1:9/x.png"><div style="width: 5000px">wide</div>
<script>console.error("a fault")</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with every chart, names and answers that do not fit, and markup that would ask for a picture."""
    answer = '<img src="http://127.0.0.1:9/x.png">' + "x" * 300
    names = ["FOMC", f"{LONG}_1", f"{LONG}_2", "<b>&"]
    return write(whole_run(tmp_path_factory.mktemp("run") / "run", names, answer=lambda *_: answer))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_fits_its_window_and_asks_for_nothing(browser: Browser, page: Path, width: int, dark: bool) -> None:
    assert browser.open(page, width, dark) == Seen(widths=(width, width))


def test_the_control_a_page_that_does_neither_is_noticed(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(BAD)
    seen = browser.open(tmp_path / "page.html", 800)
    assert seen.widths[0] >= 5000 and seen.requests == ["http://127.0.0.1:9/x.png"]
    assert any("a fault" in message for message in seen.messages)
