"""A comparison's page: the Pareto front, what paired intervals say, the same numbers as the printed table."""

from pathlib import Path

import pytest

from cl_lightning.commands import compare
from cl_lightning.common.errors import ConfigError
from cl_lightning.results.comparison.table import compare as aligned
from cl_lightning.results.page import papers
from cl_lightning.results.page.assemble import assembled
from cl_lightning.results.page.comparing import SECTIONS, differences
from cl_lightning.results.page.comparing.plane import front
from cl_lightning.results.page.comparing.selection import Selection
from cl_lightning.results.page.parts import Missing
from tests.conftest import ROOT
from tests.results.page.parsed import Element, parsed, table
from tests.results.test_compare import INDEPENDENT, LOW, OTHER, PLAIN, MakeRun, run, shifted

__all__ = ["run"]  # the fixture


@pytest.fixture
def runs(run: MakeRun) -> list[Path]:
    """Two methods, the first with two seeds."""
    return [run("lora", 1), run("lora", 2, shifted(PLAIN, -5.0) | {(0, 0): PLAIN[0, 0]}), run("other", 1, LOW, **OTHER)]


def page_of(paths: list[Path], *options: str, to: Path) -> Element:
    compare.main([*map(str, paths), "--html", str(to), *options])
    return parsed(to.read_bytes())


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1, 3), (2, 2), (1.5, 1.5), (3, 1)], [0, 1, 3]),
        ([(1, 1), (2, 2)], [1]),
        ([(1, 1), (1, 2)], [1]),
        ([(1, 1), (1, 1)], [0, 1]),
        ([(3, 1), (1, 3)], [1, 0]),
        ([], []),
    ],
)
def test_the_front_holds_what_nothing_beats(points: list[tuple[float, float]], expected: list[int]) -> None:
    assert front(points) == expected


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [((0.1, 2), "higher"), ((-2, -0.1), "lower"), ((-1, 1), "not told apart"), ((0, 1), "not told apart")],
)
def test_a_difference_is_said_from_nothing_by_its_interval(ends: tuple[float, float], verdict: str) -> None:
    assert differences.verdict(ends) == verdict


def test_the_page_has_the_numbers_of_the_table(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = page_of(runs, to=tmp_path / "page.html")
    printed = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    methods, difference = table(page, "Methods"), table(page, "Differences from lora")
    assert [*methods[1:], *difference[1:]] == [row for row in rows if row[0] not in ("method", "---")]
    assert printed.endswith(f"written: {tmp_path / 'page.html'}\n")
    listings = [e.text for e in page.all("code")]
    assert listings[0].strip() in printed
    assert "\\toprule" in listings[2] and listings[1].startswith("method,column,")


def test_charts_show_the_same_aggregates(runs: list[Path], tmp_path: Path) -> None:
    page, found = page_of(runs, to=tmp_path / "page.html"), aligned(runs)
    plane = table(page, "Numbers of: Mean score when learnt and at the end")
    expected = [found.aggregate(r, 0, "ap").mean for r in range(2)]
    assert [row[1] for row in plane[1:]] == [f"{value:.2f}" for value in expected]
    assert [row[-1] for row in plane[1:]] == ["yes", "no"]
    curves = table(page, "Numbers of: FP after each task")
    assert curves[1:] == [["lora", "75.00 ± 0.00", "62.50 ± 3.54"], ["other", "40.00", "22.50"]]
    forgotten = table(page, "Numbers of: Points forgotten")
    assert [row[1] for row in forgotten[1:]] == [f"{found.aggregate(r, 0, 'forget_T').mean:.2f}" for r in range(2)]


def test_charts_say_what_they_are_like_in_the_papers(runs: list[Path], tmp_path: Path) -> None:
    """In the words of the documents, which say where there is nothing like it."""
    figures = page_of(runs, to=tmp_path / "page.html").all("figure")
    lines = {
        figure.one("figcaption").text.split()[0]: [
            e.text.removeprefix("In the papers: ") for e in figure.all("p") if e.attributes.get("class") == "like"
        ]
        for figure in figures
    }
    assert lines["FP"] == [f"{papers.GAIN_CURVES}.", f"{papers.GAIN_SWEPT}."]
    assert lines["Mean"] == lines["Points"] == [f"{papers.SLICE_TABLE}."]
    assert [] in lines.values(), "differences are in neither paper"
    shown = (ROOT / "docs" / "report.md").read_text()
    texts = [value for name, value in vars(papers).items() if name.isupper()]
    assert len(texts) == 4 and [text for text in texts if f"| {text.partition(';')[0]} |" not in shown] == []


def test_the_baseline_and_the_metrics_are_those_asked_for(runs: list[Path], tmp_path: Path) -> None:
    page = page_of(runs, "--baseline", "other", "--metrics", "aaa", "--format", "csv", to=tmp_path / "page.html")
    rows = table(page, "Numbers of: Differences from the baseline")[1:]
    assert [row[:2] for row in rows] == [["lora", "aaa"]]
    assert rows[0][-1] == "higher" and "Each method less other, on the same seeds" in page.text


def test_columns_have_charts_of_their_own(run: MakeRun, tmp_path: Path) -> None:
    paths = [run("lora", 1), run("lora", 1, **{"data.train_samples": 5})]
    page = page_of(paths, "--figures", str(tmp_path / "figures"), to=tmp_path / "page.html")
    titles = [e.text for e in page.all("figcaption")]
    assert any(", column A" in title for title in titles) and any(", column B" in title for title in titles)
    names = {
        f"{kind}_{column}.{form}"
        for kind in ("plane", "curves", "forgetting")
        for column in "AB"
        for form in ("svg", "png")
    }
    assert {p.name for p in (tmp_path / "figures").iterdir()} == names
    assert "differences: no two methods share a column and a seed." in page.text


def test_references_alone_leave_out_what_needs_a_sequence(run: MakeRun) -> None:
    paths = [run("alone", 1, INDEPENDENT, protocol="independent")]
    selection = Selection(aligned(paths), ["ap"], 0)
    parts = [make(selection) for make in SECTIONS]
    assert [isinstance(part, Missing) for part in parts] == [True, True, True, True, False]
    assert "Not recorded" in assembled("x", "x", parts)[0].decode()


def test_method_names_are_text(run: MakeRun, tmp_path: Path) -> None:
    name = "<b>$x^{ \x1b[2J\u202e"
    page = page_of([run("x", 1, facts={"experiment": name}), run("y", 1, LOW, **OTHER)], to=tmp_path / "page.html")
    assert not [*page.all("b")] and "\x1b" not in page.text and "\u202e" not in page.text
    texts = [t.text for t in page.all("text", "title", "desc", "th")]
    assert sum(r"<b>$x^{ \x1b[2J\u202e" in text for text in texts) >= 6


def test_a_page_that_cannot_be_written_is_said(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written .*; name another file"):
        page_of(runs, to=tmp_path)


@pytest.mark.parametrize("name", ["page.html", "figures/forgetting_A.png"])
def test_files_of_others_stay_and_nothing_is_written(
    runs: list[Path], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/figures").mkdir(parents=True)
    (tmp_path / "out" / name).write_text("precious")
    before = {path: path.is_file() and path.read_bytes() for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(ConfigError, match=rf"^--(html|figures): .*{name} is there already and is no report; move it"):
        page_of(runs, "--figures", str(tmp_path / "out/figures"), to=tmp_path / "out/page.html")
    assert {path: path.is_file() and path.read_bytes() for path in (tmp_path / "out").rglob("*")} == before
    assert capsys.readouterr().out == ""


def test_an_earlier_page_is_replaced(runs: list[Path], tmp_path: Path) -> None:
    options = ("--figures", str(tmp_path / "figures"))
    page_of(runs, *options, to=tmp_path / "page.html")
    first = (tmp_path / "page.html").read_bytes()
    page_of(runs[:1], *options, to=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() != first
