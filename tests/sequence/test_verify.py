"""Damage on disk is noticed when a run is opened, with the same verdict from every command."""

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cl_lightning.commands import compare, verify
from cl_lightning.common.errors import StateError
from cl_lightning.results.report import tables
from cl_lightning.results.rescore import rescore
from cl_lightning.sequence import versions
from cl_lightning.sequence.folder import RunFolder
from cl_lightning.sequence.load import load_run
from cl_lightning.sequence.run_files import EXPORTS, PREVIOUS
from cl_lightning.sequence.verify import REMEDY, read_record
from tests.commands.test_bad_runs import flip, go_on
from tests.results.page.whole_run import whole_run
from tests.runs import put_record, record

#: Every way to open a run.
OPENERS: dict[str, Callable[[Path], object]] = {
    "report": tables,
    "compare": lambda run: compare.render([str(run)]),
    "score": lambda run: rescore(run, "own"),
    "load": load_run,
    "verify": lambda run: verify.main([str(run)]),
    "run": lambda run: RunFolder(run).open(record(run)["identity"], False, {}),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return whole_run(tmp_path / "run", ["A", "B"])


@pytest.mark.parametrize(
    "name", ["config.yaml", "predictions/A_A.jsonl", "adapters/A/adapter.safetensors", "state/memory-1.json"]
)
def test_every_command_refuses_a_flipped_bit_in_any_file(run: Path, name: str) -> None:
    flip(run / name)
    output = set()
    for act in OPENERS.values():
        with pytest.raises(StateError) as caught:
            act(run)
        output.add(str(caught.value))
    assert output == {f"{run / name}: damaged (its checksum is not the recorded one); {REMEDY}"}


@pytest.mark.parametrize("name", ["config.yaml", "predictions/A_A.jsonl", "matrix.csv", "sequence.json"])
def test_a_folder_in_place_of_a_file_is_one_line(run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    for act in (tables, lambda run: verify.main([str(run)])):
        with pytest.raises(StateError, match=rf"{name}: (missing \(what is there is no file\)|is not a file); "):
            act(run)


def text(run: Path) -> str:
    screen = Console(file=io.StringIO(), width=200)
    for table in tables(run):
        screen.print(table)
    return screen.file.getvalue()


def test_any_flipped_bit_of_the_record_is_noticed(run: Path) -> None:
    file, draw = run / "sequence.json", random.Random(0)
    data = file.read_bytes()
    for bit in draw.sample(range(8 * len(data)), 300):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(StateError):
            read_record(run)
    file.write_bytes(data)
    assert read_record(run)["done"] == 2, "the control"


def test_a_score_that_was_edited_is_refused(run: Path) -> None:
    edited = record(run)
    edited["R"][1][0] = 99.0
    (run / "sequence.json").write_text(json.dumps(edited, indent=1))
    with pytest.raises(StateError, match=r"damaged \(its checksum is not that of its content\)"):
        tables(run)


def test_a_deleted_record_beside_adapters_is_refused(run: Path) -> None:
    (run / "sequence.json").rename(run / PREVIOUS)
    with pytest.raises(StateError, match="holds files but no run"):
        RunFolder(run).open("0123456789ab", False, {})
    with pytest.raises(StateError, match=rf"no sequence.json\); {PREVIOUS} holds an earlier state: copy it"):
        tables(run)


def test_verify_prints_the_verdict_and_all_damage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify.main([str(run)])
    assert capsys.readouterr().out.startswith(f"{run}: whole (2 of 2 tasks done, ")
    names = ("config.yaml", "predictions/A_A.jsonl")
    for name in names:
        flip(run / name)
    with pytest.raises(StateError, match="and 1 more of its files"):
        verify.main([str(run)])
    said = capsys.readouterr().out
    assert all(f"damaged: {run / name}: damaged" in said for name in names)


@pytest.mark.parametrize("change", [flip, Path.unlink])
def test_a_damaged_copy_for_other_programs_is_said_and_written_again(
    finished: Path, tmp_path: Path, change: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    verify.main([str(run)])
    assert "damaged: " not in capsys.readouterr().out
    before = {name: (run / name).read_bytes() for name in EXPORTS}
    for name in EXPORTS:
        change(run / name)
    verify.main([str(run)])
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith("damaged: ")]
    assert len(found) == len(EXPORTS) and all(line.endswith("writes again") for line in found)
    assert go_on(run).code == 0
    assert {name: (run / name).read_bytes() for name in EXPORTS} == before


def test_no_other_name_among_the_copies_is_a_path(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    put_record(run, {**record(run), "exports": {"../outside": "0" * 64}})
    verify.main([str(run)])
    assert "outside" not in capsys.readouterr().out


def test_a_large_file_is_measured_at_once_and_compared_when_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "adapters/A/adapter.safetensors"
    size = (run / name).stat().st_size
    put_record(run, {**record(run), "large": {name: size}})
    flip(run / name)
    tables(run)
    with pytest.raises(StateError, match="its checksum is not the recorded one"):
        verify.main([str(run)])
    (run / name).write_bytes(b"short")
    with pytest.raises(StateError, match=rf"damaged \(it should have {size} bytes\)"):
        tables(run)


@pytest.mark.parametrize(
    "victim", ["sequence.json", pytest.param("adapters/NumGLUE-cm/adapter.safetensors", marks=pytest.mark.long)]
)
def test_the_state_before_is_used_and_said(finished: Path, tmp_path: Path, victim: str) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    flip(run / victim)
    with pytest.raises(StateError, match=r"The run's own command goes on from the state after task 1 of 2"):
        tables(run)
    result = go_on(run)
    assert result.code == 0, result.err
    assert f"{run / victim}: damaged" in result.err and "going on from the state after task 1 of 2" in result.err
    assert record(run)["R"] == record(finished)["R"]
    verify.main([str(run)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    assert go_on(run).code == 0
    return run


def test_other_versions_are_named(finished: Path, tmp_path: Path) -> None:
    now = versions.installed()
    assert versions.differences(now, now) == ([], [])
    other = {**now, "torch": "1.0.0", "python": "3.0"}
    assert versions.differences(other, now) == (
        [f"torch 1.0.0 (now {now['torch']})"],
        [f"python 3.0 (now {now['python']})"],
    )
    local = {**now, "torch": now["torch"].split("+")[0] + "+other"}
    assert versions.differences(local, now)[0] == [], "another build of the same release"
    run = shutil.copytree(finished, tmp_path / "run")
    put_record(run, {**json.loads((run / PREVIOUS).read_text()), "versions": other})
    result = go_on(run)
    assert result.code == 2
    assert result.line.startswith("the finished tasks were trained with torch 1.0.0 (now ")
    result = go_on(run, "--sequence.other_versions=true")
    assert result.code == 0
    assert "warning: the finished tasks were trained with torch 1.0.0 (now " in result.err
    assert record(run)["R"] == record(finished)["R"]
