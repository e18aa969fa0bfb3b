"""A run's page: its numbers are the run's, everybody can read it, it asks for nothing, and it stays small."""

import json
import re
import struct
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from cl_lightning.metrics.bootstrap import format_interval
from cl_lightning.results.page import papers
from cl_lightning.results.page.assemble import assembled
from cl_lightning.results.page.drawing import drawing
from cl_lightning.results.page.palette import COLOURS
from cl_lightning.results.page.parts import Chart, Missing, Section
from cl_lightning.results.page.sections import SECTIONS
from cl_lightning.results.page.source import Source
from cl_lightning.results.page.verdict import verdict
from cl_lightning.results.page.write import write
from cl_lightning.results.tables import Rows
from cl_lightning.sequence.run_files import FIGURES
from tests.results.page.parsed import Element, parsed, table
from tests.results.page.whole_run import whole_run, write_log
from tests.runs import put_record

TASKS = ("FOMC", "Py150", "ScienceQA")
#: What a browser may ask others for.
ASKS = ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "ping")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three tasks with its page."""
    path = whole_run(tmp_path_factory.mktemp("page") / "run", TASKS, examples=20)
    write(path)
    return path


@pytest.fixture(scope="module")
def page(run: Path) -> Element:
    return parsed((run / "report.html").read_bytes())


def outside(page: Element) -> list[str]:
    """What the page would ask others for."""
    found = [e.attributes[name] for e in page.all() for name in ASKS if name in e.attributes]
    styles = [e.attributes.get("style", "") + (e.text if e.tag == "style" else "") for e in page.all()]
    urls = [url for style in styles for url in re.findall(r"url\(['\"]?([^)]*)|@import (\S+)", style)]
    return [u for u in [*found, *("".join(pair) for pair in urls)] if not u.startswith(("#", "data:image/png;base64,"))]


def test_gates_say_what_they_are_like_in_the_paper(page: Element) -> None:
    lines = [e.text for e in page.all("p") if e.attributes.get("class") == "like"]
    assert lines == 2 * [f"In the papers: {papers.GAIN_GATES}."], "of the mean and of the largest opening"


# ---- numbers ---------------------------------------------------------------------------------------------


def test_sequence_metrics_are_those_of_metrics_json(run: Path, page: Element) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    rows = {row[0]: row[1] for row in table(page, "sequence metrics")[1:]}
    assert {"ap", "fp", "forget_T", "aaa", "bwt"} < rows.keys()
    assert rows == {name: f"{metrics[name]:.2f}" for name in rows}


def test_the_matrix_is_that_of_the_record(run: Path, page: Element) -> None:
    R = json.loads((run / "sequence.json").read_text())["R"]
    shown = [row[1:] for row in table(page, "Numbers of: Scores of each task after each task")[1:]]
    assert shown == [["" if score is None else f"{score:.2f}" for score in row] for row in R]
    drawn = [t.text for t in page.one("svg", **{"aria-labelledby": "matrix-title matrix-says"}).all("text")]
    assert [f"{score:.1f}" for row in R for score in row if score is not None] == [t for t in drawn if "." in t]


def test_intervals_at_the_end_are_those_of_the_sequence_metrics(run: Path, page: Element) -> None:
    """AP, FP, AAA and forgetting over the tasks are resampled by themselves; at the end both must agree."""
    heads, *rows = table(page, "Numbers of: AP, FP")
    ends = Source(run).metric_intervals
    assert rows[-1][2::2] == [format_interval(ends[name]) for name in heads[1::2]]
    assert len({*rows[-1][2::2]}) > 1, "not the same one four times"


def test_the_verdict_has_numbers_with_their_intervals(run: Path, page: Element) -> None:
    metrics, ends = json.loads((run / "metrics.json").read_text()), Source(run).metric_intervals
    (lead,) = (e.text for e in page.all("p") if e.attributes.get("class") == "lead")
    output = {name: f"{metrics[name]:.2f} ({format_interval(ends[name])})" for name in ("ap", "fp", "forget_T")}
    assert lead.startswith(
        f"Learnt {output['ap']} on average over 3 tasks, kept {output['fp']}: forgot {output['forget_T']}"
    )


def test_what_became_of_examples_is_counted(run: Path, page: Element) -> None:
    source = Source(run)
    heads, *rows = table(page, "Numbers of: What became of the test examples")
    assert heads == ["task", "lost", "kept above 0", "stayed at 0", "gained"]
    for task, *counts in rows:
        pairs = [
            (then["score"], now["score"])
            for then, now in zip(source.predictions(task, task), source.predictions(TASKS[-1], task), strict=True)
        ]
        expected = [pairs.count(pair) for pair in ((100.0, 0.0), (100.0, 100.0), (0.0, 0.0), (0.0, 100.0))]
        assert [*map(int, counts)] == expected
        assert sum(expected) == 20


def test_replay_shows_counts_and_never_the_text(run: Path, page: Element) -> None:
    rows = table(page, "Numbers of: Examples in memory after each task")[1:]
    assert [row[1:] for row in rows] == [["8", "", ""], ["4", "4", ""], ["2", "2", "2"]]
    assert "25 % of each batch was drawn from it" in page.text
    assert "SECRET" not in (run / "report.html").read_text()


def test_parameters_are_counted_from_the_stored_branches(page: Element) -> None:
    rows = table(page, "Numbers of: Parameters of each task's branch")[1:]
    assert [row[:3] for row in rows] == [[task, "14", "14"] for task in TASKS]


# ---- what ran, and what is not there ---------------------------------------------------------------------


def test_a_folder_with_everything_has_every_figure(run: Path, page: Element) -> None:
    assert {p.name for p in (run / "figures").iterdir()} == {f"{n}.{kind}" for n in FIGURES for kind in ("svg", "png")}
    assert "Not recorded" not in [e.text for e in page.all("h2")]


def test_what_is_missing_is_listed_and_left_out(tmp_path: Path) -> None:
    run = Source(whole_run(tmp_path / "run", TASKS[:1]))
    parts = [make(run) for make in SECTIONS]
    missing = [part.what for part in parts if isinstance(part, Missing)]
    assert [what.split(":")[0] for what in missing] == [
        "stability-plasticity plane", "curves over the sequence", "sequence metrics after each task",
        "answers that were forgotten",
    ]  # fmt: skip
    page = parsed(assembled("x", verdict(run), [parts[-1], *(part for part in parts if isinstance(part, Missing))])[0])
    assert [e.text for e in page.all("h2")] == ["Configuration", "Not recorded"]
    assert all(f"{what}." in page.text for what in missing)
    assert "Learnt one task: " in page.text


def test_an_attempt_takes_over_the_log_where_it_goes_on(tmp_path: Path) -> None:
    """Steps 4 to 6 of the first attempt were lost with it, and done again."""
    path = whole_run(tmp_path / "run", TASKS[:2])
    write_log(path, 1, [(step, 1, 90.0 + step) for step in range(3, 6)])
    log = Source(path).log
    assert log.series("train/loss") == ([1, 2, 3, 4, 5, 6], [5.0, 2.5, 5 / 3, 93.0, 94.0, 95.0])
    assert log.series("train/penalty") == ([1, 4], [0.5, 0.5]), "Lightning's own lines are of the step before"
    with (path / "logs/attempt_1/metrics.csv").open("a") as file:
        file.write("7,1,7")
    assert Source(path).log.left_out == 1
    assert len(Source(path).log.series("train/loss")[0]) == 6


def test_no_claim_without_an_interval(tmp_path: Path) -> None:
    path = whole_run(tmp_path / "run", TASKS)
    record = json.loads((path / "sequence.json").read_text())
    record["files"] = {name: sha for name, sha in record["files"].items() if not name.startswith("predictions/")}
    put_record(path, record)
    assert "no intervals" in verdict(Source(path)) and "Learnt" not in verdict(Source(path))


def test_the_same_run_gives_the_same_files(run: Path) -> None:
    section = next(part for make in SECTIONS if isinstance(part := make(Source(run)), Section) and part.charts)
    for _ in range(2):
        again = drawing(section.charts[0])
        assert (run / "figures/matrix.svg").read_bytes() == again.svg
        assert (run / "figures/matrix.png").read_bytes() == again.png()


def test_each_file_of_a_figure_is_drawn_once() -> None:
    chart = Chart("chart", "", "", Rows("", [], []), lambda figure: figure.subplots().plot([1, 2]))
    with patch.object(Figure, "draw", autospec=True, side_effect=Figure.draw) as drawn:
        files = drawing(chart).files()
    assert [*files] == ["svg", "png"] and drawn.call_count == 2


# ---- for everybody ---------------------------------------------------------------------------------------


def test_the_page_asks_for_nothing(page: Element) -> None:
    assert outside(page) == []
    assert [e.tag for e in page.all("script", "link", "iframe", "object", "embed", "img", "form")] == []
    (policy,) = (e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes)
    assert policy.startswith("default-src 'none';") and "script" not in policy
    bad = parsed(b'<p style="background: url(http://x)"><a href="//x">y</a></p>')
    assert len(outside(bad)) == 2, "negative control"


def test_headings_language_and_landmarks(page: Element) -> None:
    levels = [int(e.tag[1]) for e in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.one("html").attributes["lang"] == "en"
    assert len([*page.all("main")]) == len([*page.all("nav")]) == 1
    assert page.one("head").one("title").text == page.one("h1").text == "whole on sample"


def test_every_figure_has_a_title_a_description_and_its_numbers(page: Element) -> None:
    figures = [*page.all("figure")]
    assert len(figures) == len(FIGURES)
    for figure in figures:
        svg = figure.one("svg")
        assert svg.attributes["role"] == "img"
        named = svg.attributes["aria-labelledby"].split()
        texts = {e.attributes.get("id"): e.text for e in svg.all("title", "desc")}
        assert all(len(texts[name]) > 10 for name in named)
        assert len(figure.one("details").one("table").rows()) > 1


def test_names_are_unique_and_lead_somewhere(page: Element) -> None:
    names = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(names) == len(set(names))
    wanted = [name for e in page.all() for name in e.attributes.get("aria-labelledby", "").split()]
    wanted += [e.attributes["href"][1:] for e in page.all() if e.attributes.get("href", "").startswith("#")]
    styles = " ".join(e.attributes.get("style", "") + e.attributes.get("clip-path", "") for e in page.all())
    wanted += re.findall(r"url\(#([^)]+)\)", styles)
    assert len(wanted) > 50 and {*wanted} <= {*names}


def test_tables_have_heads_and_can_be_scrolled_by_keyboard(page: Element) -> None:
    tables = [*page.all("table")]
    assert tables
    for each in tables:
        assert each.one("thead").rows()[0] and {e.attributes["scope"] for e in each.all("th")} == {"col", "row"}
    scrolled = [e for e in page.all("div") if e.attributes.get("class") == "scroll"]
    assert all(e.attributes["tabindex"] == "0" and e.attributes["role"] == "group" for e in scrolled)
    assert len(scrolled) == len(tables) + len(FIGURES)
    closed = [e.one("summary").text for e in page.all("details") if not [*e.all("svg")]]
    assert sum("examples that changed, of 20 in all" in title for title in closed) == 2, "opened on demand"


def test_a_name_in_a_fold_does_not_turn_the_text_beside_it(page: Element) -> None:
    closed = [e.one("summary") for e in page.all("details") if "examples that changed" in e.one("summary").text]
    assert [e.one("bdi").text for e in closed] == [e.text.partition(":")[0] for e in closed] and len(closed) == 2


def test_both_colour_schemes_and_paper_are_provided_for(page: Element) -> None:
    style = page.one("style").text
    assert all(f"@media {kind}" in style for kind in ("(prefers-color-scheme: dark)", "print"))
    used = {name for e in page.all() for name in re.findall(r"var\(--(\w+)\)", e.attributes.get("style", ""))}
    assert "ink" in used and all(style.count(f"--{name}:") == 3 for name in used), "light, dark, print"
    assert not re.findall(r"#1c2128|#57606a", " ".join(e.attributes.get("style", "") for e in page.all("text")))


def test_colours_are_told_apart_from_the_page() -> None:
    """WCAG 2: text 4.5 to 1, marks 3 to 1, on the light page and on the dark one."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    assert round(contrast("#000000", "#ffffff")) == 21
    for name, pair in COLOURS.items():
        for colour, page in zip(pair, ("#ffffff", "#12161c"), strict=True):
            needed = 4.5 if name in ("ink", "muted", "series0") else 3.0
            assert name == "rule" or contrast(colour, page) >= needed, f"{name} on {page}"


def test_figure_files_stand_alone(run: Path) -> None:
    for name in FIGURES:
        root = ElementTree.fromstring((run / f"figures/{name}.svg").read_bytes())
        assert root.tag.endswith("svg") and "var(--" not in ElementTree.tostring(root, encoding="unicode")
        width, height = struct.unpack(">II", (run / f"figures/{name}.png").read_bytes()[16:24])
        inches = float(root.attrib["width"].removesuffix("pt")) / 72
        assert width == pytest.approx(300 * inches, abs=2) and height > 300
        assert 3.3 < inches < 7.6


@pytest.mark.long
def test_fifteen_tasks_of_500_predictions_stay_under_3_megabytes(tmp_path: Path) -> None:
    """With answers that are cut, and 32 layers. 10 s: sixteen charts of fifteen tasks are drawn."""
    tasks = [f"task{i:02}" for i in range(15)]
    path = whole_run(tmp_path / "run", tasks, 500, lambda task, after, k: f"{task} {after} {k} " + "long " * 60, 32)
    page, _ = assembled("x", "x", (make(Source(path)) for make in SECTIONS))
    assert 1_000_000 < len(page) < 3_000_000
    assert re.search(r"<bdi>task00</bdi>: 8 of \d+ examples that changed, of 500 in all", page.decode())
