"""Names and answers from anyone: on the page they are text, and nothing but text."""

import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from cl_lightning.common.errors import StateError
from cl_lightning.results.page.assemble import assembled
from cl_lightning.results.page.document import CHARACTERS, ROWS, html
from cl_lightning.results.page.drawing import drawing
from cl_lightning.results.page.parts import Chart, Rows, Section
from cl_lightning.results.page.sections import (
    gates,
    losses,
    predictions,
    ran,
    repeat,
    replay,
    scores,
    subspaces,
    surgery,
    times,
)
from cl_lightning.results.page.source import Source
from tests.results.page.parsed import Element, parsed, table
from tests.results.page.whole_run import whole_run
from tests.runs import put_record

Make = Callable[[Source], object]
#: What a model may answer -> how it stands on the page.
ANSWERS = {
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "</td></table><h1>x": "</td></table><h1>x",
    "{{7*7}} {% raw %}": "{{7*7}} {% raw %}",
    "\x1b[31mred\x07": r"\x1b[31mred\x07",
    "a\u202eb\u2066c": r"a\u202eb\u2066c",
    "line\nline\u2028line": r"line\nline\u2028line",
    "\ud800": r"\ud800",
    "شكرا": "شكرا",
    "&lt;b&gt; &amp;": "&lt;b&gt; &amp;",
}
NAMES = ("<b>&", "$x^{1}_$", "שלום", "n" * 100)


def shown(*sections: Section) -> Element:
    return parsed(assembled("title", "lead", sections)[0])


@pytest.fixture(scope="module")
def texts() -> Element:
    """A page of one table of ANSWERS."""
    return shown(Section("x", tables=[Rows("answers", ["n", "answer"], [[f"{n}", a] for n, a in enumerate(ANSWERS)])]))


def test_answers_are_text(texts: Element) -> None:
    assert [row[1] for row in table(texts, "answers")[1:]] == list(ANSWERS.values())
    assert not [*texts.all("script", "b")]
    assert len([*texts.all("h1")]) == 1
    assert [e.attributes["dir"] for e in texts.all("td")] == ["auto"] * len(ANSWERS), "each has a direction of its own"


def test_the_control_a_page_that_does_not_escape_is_noticed() -> None:
    raw = "".join(f"<p>{answer}</p>" for answer in list(ANSWERS)[:1])
    assert [*parsed(raw.encode()).all("script")]


def test_a_megabyte_without_a_space_is_cut_with_a_count() -> None:
    long = "x" * 1_000_000
    section = Section("x", facts=[("f", long)], tables=[Rows("long", ["a", "b"], [[long, long]])])
    page = html(long, "lead", [section], {})
    assert len(page) < 20_000
    rows = table(parsed(page), "long")
    assert rows[1] == [f"{'x' * CHARACTERS} … (999,600 more characters)"] * 2


def test_long_tables_are_cut_with_a_count() -> None:
    page = shown(Section("x", tables=[Rows("many", ["n"], [[n] for n in range(ROWS + 7)])]))
    assert len(table(page, "many")) == ROWS + 1
    assert f"many (the first {ROWS} of {ROWS + 7} rows)" in page.text


def test_answers_of_a_run_are_cut_and_counted(tmp_path: Path) -> None:
    """A megabyte each."""
    path = whole_run(tmp_path / "run", ["A", "B"], 4, lambda task, after, k: f"{after}<i>" + "z" * 1_000_000)
    page, _ = assembled("x", "x", [predictions.section(Source(path))])
    assert len(page) < 60_000
    answers = [cell for row in table(parsed(page), "A: ")[1:] for cell in row[2:5]]
    assert answers and all(
        re.fullmatch(r"(zero-shot|A|B)<i>z+ … \(999,\d+ more characters\)", cell) for cell in answers
    )


def test_names_of_tasks_do_not_break_charts(tmp_path: Path) -> None:
    """Mathematics, markup, another direction, and more characters than there is room for."""
    run = Source(whole_run(tmp_path / "run", NAMES, facts={"experiment": "<script>\x1b[2J", "data": "\u202ex"}))
    page, drawn = assembled("x", "x", [make(run) for make in (ran.section, scores.section, replay.section)])
    root = parsed(page)
    assert not [*root.all("b", "script")]
    labels = {t.text for t in root.one("svg", **{"aria-labelledby": "matrix-title matrix-says"}).all("text")}
    assert {"<b>&", "$x^{1}_$", "שלום", f"{'n' * 11}…{'n' * 10}"} <= labels
    assert drawn["matrix"].png().startswith(b"\x89PNG")
    facts = {e.one("dt").text: e.one("dd").text for e in root.one("dl").all("div")}
    assert facts["data"] == r"\u202ex"


def test_configuration_and_command_are_shown_as_they_are(tmp_path: Path) -> None:
    path = whole_run(tmp_path / "it's <b>", ["A"], facts={"experiment": "x; rm -rf /"})
    page = shown(repeat.section(Source(path)))
    command, config = (e.text for e in page.all("code"))
    assert "'--sequence.experiment=x; rm -rf /'" in command and """it'"'"'s <b>""" in command
    assert config.split() == (path / "config.yaml").read_text().split()


def test_what_is_drawn_cannot_reach_out() -> None:
    """A title that looks like markup or a style, in an SVG that stands in a page and in one that stands alone."""
    evil = '"><image href="http://x"/> url(http://x) #1c2128'

    def draw(figure) -> None:
        figure.subplots().set_title(evil)

    chart = Chart("c", evil, evil, Rows("", ["a"], [["b"]]), draw)
    page = shown(Section("x", charts=[chart]))
    assert not [*page.all("image")]
    assert page.one("desc").text == evil
    assert [t.text for t in page.all("text") if "http" in t.text] == [evil], "a colour in a text stays a text"
    assert b"<image href" not in drawing(chart).svg


def test_a_log_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    path = whole_run(tmp_path / "run", ["A", "B"])
    (path / "logs/attempt_0/metrics.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(StateError, match=r"metrics\.csv: is no CSV log; move it away"):
        losses.section(Source(path))
    (path / "logs/attempt_0/metrics.csv").write_text("cl/step,train/loss\n1,<script>\n2,3\nNaN\n")
    section = losses.section(Source(path))
    assert section.text == ["2 lines of the log are incomplete and were left out."]
    heads = "cl/step,cl/task,cl/tokens,train/loss\n"
    (path / "logs/attempt_0/metrics.csv").write_text(f"{heads}1,0,1,nan\nnan,0,1,1\n2,inf,1,1\n3,0,-inf,1\n")
    section = losses.section(Source(path))
    assert section.text == ["3 lines of the log are incomplete and were left out."]


@pytest.mark.parametrize(
    ("name", "data", "make"),
    [
        ("surgery/A.csv", b"matrix,cosine\nx,1\n", surgery.section),
        ("surgery/A.csv", b"\xff", surgery.section),
        ("gates/B.csv", b"gate of,prompts of,mean a,largest a\nA,B,<b>,1\n", gates.section),
        ("state/memory-1.json", b'{"examples": [1]}', replay.section),
        ("state/memory-1.json", b"{", replay.section),
    ],
)
def test_files_that_no_run_writes_are_told_in_one_line(tmp_path: Path, name: str, data: bytes, make: Make) -> None:
    """Their checksums are right: whoever made the folder made them so."""
    path = whole_run(tmp_path / "run", ["A", "B"])
    record = json.loads((path / "sequence.json").read_text())
    record["files"][name] = sha256(data).hexdigest()
    put_record(path, record)
    (path / name).write_bytes(data)
    with pytest.raises(StateError, match=rf"{name}: does not hold what a run writes there \(.*\); restore it"):
        make(Source(path))


@pytest.mark.parametrize("make", [subspaces.section, times.section])
def test_tables_that_no_run_writes_are_told_in_one_line(tmp_path: Path, make: Make) -> None:
    path = whole_run(tmp_path / "run", ["A", "B"])
    record = json.loads((path / "sequence.json").read_text())
    for tables in record["tables"].values():
        tables[0]["rows"][0] = tables[0]["rows"][0][:1] + ["<b>"] * 9
    put_record(path, record)
    with pytest.raises(StateError, match=r"sequence\.json: does not hold what a run writes there"):
        make(Source(path))


def test_a_record_of_a_billion_attempts_is_read_at_once(tmp_path: Path) -> None:
    path = whole_run(tmp_path / "run", ["A"], facts={"attempts": 10**9})
    assert len(Source(path).log.rows) == 4


def test_a_table_wider_than_its_head_is_shown() -> None:
    page = shown(Section("x", tables=[Rows("wide", ["a"], [["1", "2", "3"]]), Rows("none", [], [["1"]])]))
    assert table(page, "wide") == [["a"], ["1", "2", "3"]] and table(page, "none")[1] == ["1"]
