"""Charts of many tasks, and of tasks whose names are alike: what is written in them stays apart."""

import warnings
from pathlib import Path

import pytest

from cl_lightning.results.page.drawing import drawing
from cl_lightning.results.page.heat import WRITTEN, Heat
from cl_lightning.results.page.parts import Chart, Rows, Section, label
from cl_lightning.results.page.sections import losses, replay
from cl_lightning.results.page.source import Source
from tests.results.page.parsed import parsed
from tests.results.page.whole_run import whole_run, write_log


def texts(chart: Chart) -> list[str]:
    return [text.text for text in parsed(drawing(chart).svg.partition(b"?>")[2]).all("text")]


def heat(count: int) -> Chart:
    names = [f"task{n:02}" for n in range(count)]
    map_ = Heat(names, names, [[12.5] * count] * count, (0, 100), "x", "y", digits=1)
    return Chart("heat", "", "", Rows("", [], []), map_.draw, map_.size)


def test_long_names_differ_in_figures_where_their_ends_do() -> None:
    name = "task1344_glue_entailment_classification"
    cut = label(f"{name}_one"), label(f"{name}_two")
    assert cut == ("task1344_gl…cation_one", "task1344_gl…cation_two")
    assert (label("short"), label("x" * 22), label("x" * 23)) == ("short", "x" * 22, f"{'x' * 11}…{'x' * 10}")


@pytest.mark.parametrize(("count", "written", "named"), [(WRITTEN, 256, 16), (WRITTEN + 1, 0, 17), (50, 0, 25)])
def test_a_map_has_only_the_numbers_and_names_that_it_has_room_for(count: int, written: int, named: int) -> None:
    found = texts(heat(count))
    assert found.count("12.5") == written
    assert sum(text.startswith("task") for text in found) == 2 * named


def test_the_legend_of_a_replay_memory_has_room_below_the_chart(tmp_path: Path) -> None:
    section = replay.section(Source(whole_run(tmp_path / "run", [f"task{n:02}" for n in range(50)], examples=1)))
    assert isinstance(section, Section)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where a legend leaves no room for the axes
        figure = drawing(section.charts[0]).figure
    assert figure.axes[0].get_window_extent().y0 > figure.legends[0].get_window_extent().y1


def test_a_value_that_was_logged_once_is_seen(tmp_path: Path) -> None:
    path = whole_run(tmp_path / "run", ["A"])
    (path / "logs/attempt_0/metrics.csv").unlink()
    (path / "logs/attempt_0").rmdir()
    write_log(path, 0, [(0, 0, 5.0)])
    section = losses.section(Source(path))
    assert isinstance(section, Section)
    lines = [line for axes in drawing(section.charts[0]).figure.axes for line in axes.get_lines()]
    assert len(lines) == 3 and all(line.get_marker() == "o" for line in lines)
