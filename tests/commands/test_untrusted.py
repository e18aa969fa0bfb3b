"""Texts that must not get out: the environment's, the replay memory's; and input that must not be obeyed or awaited."""

import csv
import io
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from callbacks.replay_buffer import ids_only
from cl_lightning.commands import purge, verify
from cl_lightning.common.errors import DataError, StateError
from cl_lightning.common.files import to_csv
from cl_lightning.data.benchmarks.json_files import read_json
from cl_lightning.data.files.read import read_rows
from cl_lightning.results.reevaluate import evaluate
from cl_lightning.sequence.run_files import PREVIOUS
from tests.commands.test_bad_runs import go_on
from tests.runs import put_file, put_record, record, same_bits

SECRET = "hunter2-hunter2"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    result = go_on(run, "--boundary.memory.train_ratio=0.3")
    assert result.code == 0, result.err
    return run


def holding(run: Path, text: str) -> list[str]:
    return [str(p) for p in run.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_the_environment_stays_out_of_everything_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    run = tmp_path / "run"
    outcome = go_on(run, "--data.system_prompt=${oc.env:TOKEN}", "--data.order=[FOMC]", "--sequence.wandb=offline")
    assert outcome.code == 0, outcome.err
    assert holding(run, SECRET) == [] and SECRET not in outcome.out + outcome.err
    assert holding(run, "system_prompt: ${oc.env:TOKEN}") == [str(run / "config.yaml")]
    with pytest.raises(StateError, match=r"data holds \$\{\.\.\.\}, which only the run's own command fills in"):
        evaluate(run)
    outcome = go_on(run, "--data.system_prompt=${oc.env:TOKEN}", "--data.order=[FOMC]", "--sequence.wandb=offline")
    assert outcome.code == 0, "the same command shows the result"
    outcome = go_on(tmp_path / "new", "--data.system_prompt=${oc.env:TOKEN}", "--print_config")
    assert SECRET not in outcome.out and "${oc.env:TOKEN}" in outcome.out


def test_other_interpolations_are_resolved_as_ever(tmp_path: Path) -> None:
    result = go_on(tmp_path, "--boundary.memory.capacity=${data.test_samples}", "--print_config")
    assert "capacity: 2\n" in result.out


def test_the_memory_is_for_its_owner_only(finished: Path) -> None:
    files = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (finished / "state").iterdir()}
    assert files["memory-1.json"] == files["memory-2.json"] == 0o600
    assert stat.S_IMODE((finished / "config.yaml").stat().st_mode) != 0o600, "the control"


def stopped(finished: Path, to: Path) -> Path:
    """The run as it was after its first task."""
    run = shutil.copytree(finished, to)
    put_record(run, json.loads((run / PREVIOUS).read_text()))
    (run / PREVIOUS).unlink()
    return run


def test_a_memory_of_ids_gives_the_same_run_without_texts(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert go_on(run, "--boundary.memory.train_ratio=0.3", "--boundary.memory.keep=ids").code == 0
    with_texts = json.loads((finished / "state/memory-2.json").read_text())
    assert json.loads((run / "state/memory-2.json").read_text()) == ids_only(with_texts) != with_texts
    assert same_bits(run, finished)
    again = stopped(run, tmp_path / "again")
    assert go_on(again, "--boundary.memory.train_ratio=0.3", "--boundary.memory.keep=ids").code == 0
    assert same_bits(again, finished)


def test_a_purged_run_holds_no_text_and_goes_on_to_the_same_result(finished: Path, tmp_path: Path) -> None:
    texts = [e["prompt"] for e in json.loads((finished / "state/memory-1.json").read_text())["examples"]["FOMC"]]
    text = json.dumps(texts[0], ensure_ascii=False)[1:-1]
    run = stopped(finished, tmp_path / "run")
    assert holding(run, text)
    purge.main([str(run)])
    assert holding(run / "state", text) == [str(run / "state/memory-2.json")], "begun after the record, not of the run"
    verify.main([str(run)])
    purge.main([str(run)])
    assert go_on(run, "--boundary.memory.train_ratio=0.3").code == 0
    assert same_bits(run, finished)
    purge.main([str(run)])
    assert not holding(run, text) and not (run / PREVIOUS).exists()
    assert record(run)["R"] == record(finished)["R"]


def test_what_is_no_memory_is_not_purged(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    put_file(run, "state/memory-2.json", b"[1]")
    before = (run / "state/memory-1.json").read_bytes()
    with pytest.raises(StateError, match="does not hold a replay memory; nothing was changed"):
        purge.main([str(run)])
    assert (run / "state/memory-1.json").read_bytes() == before


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a+1", "@SUM(1)", "\t=1", "-1+cmd|' /C calc'!A0"])
def test_no_cell_of_any_table_is_a_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO(to_csv([text, "b"], [[text, -1.5], ["-2.5", text]]).decode())))
    assert rows == [[f"'{text}", "b"], [f"'{text}", "-1.5"], ["-2.5", f"'{text}"]]


def test_figures_with_their_spread_are_left_alone() -> None:
    for text in ("-2.5 ± 1.0", "-2.5 [-3.0, 1.0]", "+1", "-1e-5", "3 of 4"):
        assert text in to_csv(["a"], [[text]]).decode() and "'" not in to_csv(["a"], [[text]]).decode()


@pytest.mark.parametrize("name", ["train.json", "rows.jsonl", "rows.csv"])
def test_a_pipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is not a regular file"):
        read_json(tmp_path / name)
    with pytest.raises(DataError, match="is not a regular file"):
        list(read_rows(tmp_path / name))
    (tmp_path / f"link-{name}").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is not a regular file"):
        read_json(tmp_path / f"link-{name}")
