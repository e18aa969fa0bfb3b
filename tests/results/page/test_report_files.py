"""Where a report's files go: into the run's folder, whole or not at all, over its own files and nobody else's."""

import os
from pathlib import Path

import pytest

from cl_lightning.commands import report
from cl_lightning.common.errors import StateError
from cl_lightning.results.page import write as written
from cl_lightning.results.page.parts import Missing
from cl_lightning.results.page.sections import scores
from cl_lightning.results.page.source import Source
from cl_lightning.results.page.verdict import standing
from cl_lightning.results.page.write import write, write_at_end
from cl_lightning.results.rescore import rescore
from cl_lightning.sequence.folder import RunFolder, read_record
from cl_lightning.sequence.run_files import FIGURES, LOCK, MARK, PAGE, RECORD, REPORT, split_files
from tests.commands.test_cli import launch
from tests.commands.test_user_files import BEGIN, contents
from tests.results.page.whole_run import whole_run
from tests.runs import BASE


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose page has one chart: what files are called does not depend on how many there are."""
    monkeypatch.setattr(written, "SECTIONS", (scores.section, lambda _: Missing("the rest")))
    return whole_run(tmp_path / "run", ["FOMC", "Py150"])


def others(run: Path) -> list[str]:
    return [name for name in split_files(run, read_record(run), lambda _: None)[1] if not name.startswith("logs/")]


def test_the_files_and_nothing_else(run: Path) -> None:
    before = contents(run)
    assert write(run) == run / PAGE
    after = contents(run)
    assert {*after} - {*before} == {PAGE, "figures", "figures/matrix.svg", "figures/matrix.png"}
    assert {name: after[name] for name in before} == before, "the record and all that it names stay as they are"
    assert all(MARK.encode() in (run / name).read_bytes()[:2048] for name in REPORT if (run / name).exists())


def test_a_report_is_made_again_over_its_own_files(run: Path) -> None:
    write(run)
    (run / PAGE).write_text(f"<!-- {MARK} --> an earlier one")
    write(run)
    assert (run / PAGE).read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("name", [PAGE, "figures/matrix.png"])
def test_somebody_elses_file_of_that_name_stays(run: Path, name: str) -> None:
    (run / "figures").mkdir()
    (run / name).write_text("precious")
    with pytest.raises(StateError, match=f"{name}: is not a report's, and would be overwritten; move it away"):
        write(run)
    assert (run / name).read_text() == "precious"
    assert {p.name for p in run.rglob("*.*g")} <= {Path(name).name}, "no figure is written before"


def test_a_folder_of_that_name_stays(run: Path) -> None:
    (run / PAGE).mkdir()
    with pytest.raises(StateError, match=f"{PAGE}: is not a report's, and would be overwritten; move it away"):
        write(run)


def test_links_are_not_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match=r"figures: is a link, and links are not followed"):
        write(run)
    assert not [*(tmp_path / "elsewhere").iterdir()]


@pytest.mark.parametrize("name", [PAGE, "figures/matrix.svg"])
def test_a_file_that_is_a_link_is_not_written_through(run: Path, tmp_path: Path, name: str) -> None:
    (run / "figures").mkdir()
    (tmp_path / "elsewhere").write_text(f"{MARK}: precious")
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match=rf"{name}: is a link, and links are not followed"):
        write(run)
    assert (tmp_path / "elsewhere").read_text() == f"{MARK}: precious"


def test_starting_over_deletes_a_report_and_keeps_what_is_not_one(run: Path) -> None:
    write(run)
    (run / ".cl_lightning-0123456789abcdef").write_text("half")  # what a killed report leaves
    assert others(run) == []
    for name in ("figures/mine.svg", "notes.html", "figures/curves.svg", ".cl_lightning-mine"):
        (run / name).write_text("precious")
    assert others(run) == [".cl_lightning-mine", "figures/curves.svg", "figures/mine.svg", "notes.html"]
    with pytest.raises(StateError, match=r"holds files that are not the run's"):
        RunFolder(run).open("another", fresh=True, begin={**BEGIN, "identity": "another"})
    for name in others(run):
        (run / name).unlink()
    (run / "logs/attempt_0/metrics.csv").unlink()
    folder = RunFolder(run)
    folder.open("another", fresh=True, begin={**BEGIN, "identity": "another"})
    folder.close()
    assert {*os.listdir(run)} - {"logs"} == {RECORD, LOCK}


def test_callbacks_cannot_write_a_reports_files(run: Path) -> None:
    for name in (PAGE, "figures/plane.svg"):
        with pytest.raises(StateError, match="is reserved"):
            RunFolder(run).write(name, b"")


def test_a_view_has_a_page_of_its_own(run: Path) -> None:
    view = rescore(run, "exact_match")
    write(view)
    assert (view / PAGE).exists() and not (run / PAGE).exists()
    assert "re-scored: exact_match" in (view / PAGE).read_text()


def test_the_command_prints_tables_and_where_the_page_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(run), "--tables"])
    assert "sequence metrics" in capsys.readouterr().out
    assert not (run / PAGE).exists()
    report.main([str(run)])
    shown = capsys.readouterr().out
    assert shown.endswith(f"run folder: {run}\nreport: {run / PAGE}\n")
    assert (run / PAGE).exists()


def test_a_fault_at_the_end_of_a_run_is_said_and_fails_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("a defect")

    again = f"the run is complete; cl-lightning report {run} draws it again"
    monkeypatch.setattr(written, "SECTIONS", (broken,))
    write_at_end(run)
    assert capsys.readouterr().err == f"the report could not be drawn (ZeroDivisionError: a defect); {again}\n"
    with pytest.raises(ZeroDivisionError, match="a defect"):
        report.main([str(run)])
    (run / "config.yaml").write_text("changed")
    write_at_end(run)
    output = capsys.readouterr().err
    assert "config.yaml: damaged (its checksum is not the recorded one)" in output and output.endswith(f"{again}\n")
    assert not (run / PAGE).exists()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A real run with surgery, replay, gates and a further loss, and what it printed. 12 s: it trains and draws."""
    run = tmp_path_factory.mktemp("real") / "run"
    options = (
        "--model.adapter=GainLoRA", "--model.adapter.branches=IncLoRA", "--model.adapter.branches.rank=2",
        "--boundary.gates=GateOrthogonalization", "--boundary.lwf=LwF", "--trainer.log_every_n_steps=1",
        "--sequence.report=true", "--observers.probes=Probes",
    )  # fmt: skip
    result = launch(*BASE, *options, f"--sequence.run_dir={run}")
    assert result.code == 0, result.err
    return run, result.out


def test_without_a_plane_no_place_on_it_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "figures").mkdir()
    (run / "figures/plane.svg").write_text(f"<!-- {MARK} -->")  # of an earlier report
    write_at_end(run)
    assert capsys.readouterr().out == f"report: {run / PAGE}\n"


def test_a_real_run_ends_with_its_page(real: tuple[Path, str]) -> None:
    run, output = real
    *_, folder, page, last = output.splitlines()
    assert (folder, page) == (f"run folder: {run}", f"report: {run / PAGE}")
    assert last == f"{standing(Source(run))} ({run / 'figures/plane.svg'})" and " kept " in last
    page = (run / PAGE).read_text()
    for title in ("Surgery", "Gates", "Subspaces of earlier tasks", "Replay memory", "Losses and penalties", "Time"):
        assert f">{title}</h2>" in page
    assert "distillation" in page
    drawn = {p.stem for p in (run / "figures").iterdir()}
    assert {*FIGURES} - drawn == {"subspaces"}, "InputSubspaces does not go with SliceInit"
    assert others(run) == []
