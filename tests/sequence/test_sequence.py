"""Whole runs: order of events, resuming, kill -9, continuing, two ranks. Smoke model, real processes."""

import csv
import json
from pathlib import Path

import pytest
import torch

from cl_lightning.sequence.load import load_run
from tests.conftest import batch_of, random_examples
from tests.runs import adapters, all_tables, killed, record, relative, same_bits, smoke
from tests.wandb_offline import history, records


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    result = smoke(run)
    assert "built-in sample, NOT TRACE" in result.stdout.splitlines()[0]
    assert "surgery at each boundary" in all_tables(run)
    return run


def test_run_folder_has_the_documented_files(finished: Path) -> None:
    state = record(finished)
    assert state["schema"] == 4
    assert state["done"] == 2
    assert state["order"] == ["FOMC", "NumGLUE-cm"]
    assert {"torch", "lightning", "transformers", "python"} <= state["versions"].keys()
    assert (state["seed"], state["world_size"]) == (42, 1)
    rows = list(csv.reader((finished / "matrix.csv").open()))
    assert "NOT TRACE" in rows[0][0]
    assert rows[0][1:] == state["order"]
    assert rows[1][2] == ""
    assert float(rows[2][1]) == state["R"][1][0]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert {"ap", "fp", "forget_T", "forget_Tm1", "bwt", "f_ra", "tasks", "data"} <= metrics.keys()
    assert "NOT TRACE" in metrics["data"]
    after = {row: sorted(cells) for row, cells in metrics["intervals"].items()}
    assert after == {"zero-shot": state["order"], "FOMC": ["FOMC"], "NumGLUE-cm": state["order"]}
    for j, name in enumerate(state["order"]):
        low, high = metrics["intervals"]["NumGLUE-cm"][name]
        assert low <= state["R"][1][j] <= high
    lines = [json.loads(x) for x in (finished / "predictions/NumGLUE-cm_FOMC.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert lines[0].keys() == {"id", "prediction", "reference", "score"}
    assert (finished / "config.yaml").exists()
    assert len(list(csv.DictReader((finished / "surgery/NumGLUE-cm.csv").open()))) == 14


def test_log_axes_are_monotone_over_tasks(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "logs/attempt_0/metrics.csv").open()))
    losses = [r for r in rows if r.get("train/loss")]
    steps = [int(float(r["cl/step"])) for r in losses]
    tokens = [int(float(r["cl/tokens"])) for r in losses]
    assert steps == list(range(1, 11))
    assert tokens == sorted(tokens)
    assert len(set(tokens)) == 10
    assert [int(float(r["cl/task"])) for r in losses] == [0] * 5 + [1] * 5


def test_mixed_precision_trains_float32_factors_and_wandb_offline_reads_back(tmp_path: Path) -> None:
    run = tmp_path / "mixed"
    smoke(run, "--trainer.precision=bf16-mixed", "--sequence.wandb=offline")
    assert {t.dtype for ts in adapters(run).values() for t in ts.values()} == {torch.float32}
    written = list(records(run))
    assert {r.run.run_id for r in written if r.WhichOneof("record_type") == "run"} == {record(run)["identity"]}
    axes = {r.metric.glob_name: r.metric.step_metric for r in written if r.WhichOneof("record_type") == "metric"}
    assert axes["*"] == "cl/step"
    rows = history(run)
    steps, tokens = ([row[f"cl/{axis}"] for row in rows] for axis in ("step", "tokens"))
    assert (steps, tokens) == (sorted(steps), sorted(tokens))
    tables = [key for row in rows for key in row if key.startswith("surgery/NumGLUE-cm")]
    assert tables, "every matrix of a boundary is logged"
    losses = [row for row in rows if "train/loss" in row]
    assert [row["cl/step"] for row in losses] == list(range(1, 11))
    assert [row["cl/task"] for row in losses] == [0] * 5 + [1] * 5
    assert [row["task/FOMC/score"] for row in rows if "task/FOMC/score" in row] == [r[0] for r in record(run)["R"]]


def test_a_finished_run_prints_its_result_and_trains_nothing(finished: Path) -> None:
    before = (finished / "sequence.json").read_bytes()
    result = smoke(finished)
    assert "scores 0..100" in result.stdout
    assert "boundary" not in result.stdout.split("scores 0..100")[0]
    assert (finished / "sequence.json").read_bytes() == before


@pytest.mark.long
@pytest.mark.parametrize(
    "moment",
    [
        "predictions/zero-shot_FOMC.jsonl",
        "surgery/NumGLUE-cm.csv",
        "adapters/NumGLUE-cm",
        "predictions/NumGLUE-cm_FOMC.jsonl",
    ],
)
def test_after_a_kill_anywhere_the_same_command_gives_the_same_numbers(
    finished: Path, tmp_path: Path, moment: str
) -> None:
    """With saves every ten minutes: tests/chaos kills runs that save each step."""
    run = tmp_path / "killed"
    killed(run, moment)
    assert not (run / "sequence.json").exists() or record(run)["done"] < 2
    smoke(run)
    assert record(run)["R"] == record(finished)["R"]
    assert record(run)["clock"] == record(finished)["clock"]
    assert same_bits(run, finished)
    predictions = "predictions/NumGLUE-cm_NumGLUE-cm.jsonl"
    assert (run / predictions).read_text() == (finished / predictions).read_text()


def test_a_finished_sequence_is_continued(finished: Path, tmp_path: Path) -> None:
    before = (finished / "sequence.json").read_bytes()
    run = tmp_path / "longer"
    result = smoke(run, f"--sequence.continue_from={finished}", "--data.order+=Sentiment")
    state = record(run)
    assert state["order"] == ["FOMC", "NumGLUE-cm", "Sentiment"]
    assert state["R"][:2] == [[*row, None] for row in record(finished)["R"]]
    assert len(state["R"][2]) == 3
    assert list(state["metrics"]["intervals"]) == ["zero-shot", *state["order"]]
    assert "task 1/3" not in result.stdout + result.stderr
    assert state["tables"]["init"][0]["rows"][-1][0] == "Sentiment"
    assert state["tables"]["init"][0]["rows"][-1][1] is not None, "surgery found the memory of the earlier tasks"
    old, new = adapters(finished), adapters(run)
    assert all(torch.equal(t, new[task][k]) for task, ts in old.items() for k, t in ts.items())
    assert (finished / "sequence.json").read_bytes() == before


def test_load_run_rebuilds_the_model(finished: Path) -> None:
    loaded = load_run(finished)
    assert loaded.matrix == record(finished)["R"]
    layer = next(iter(loaded.module.adapter.layers.values()))
    assert layer.lora_A is None, "all branches are folded"
    with torch.no_grad():
        assert torch.isfinite(loaded.module.sample_nll(batch_of(random_examples(2)))).all()


# ---- dropout, and who watches -----------------------------------------------------------------------------

DROPOUT = "--model.adapter.dropout=0.5"


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with dropout."""
    run = tmp_path_factory.mktemp("runs") / "dropped"
    smoke(run, DROPOUT)
    return run


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other observers, and the files in which two of them wrote what they saw."""
    folder = tmp_path_factory.mktemp("watched")
    smoke(
        folder / "run",
        DROPOUT,
        "--observers.progress=null",
        "--observers.matrix=null",
        "--observers.recorder=tests.recorder.Recorder",
        f"--observers.recorder.init_args.file={folder / 'events.json'}",
        "--trainer.callbacks+=tests.recorder.Stateful",
        f"--trainer.callbacks.file={folder / 'counts.txt'}",
    )
    return folder


def test_dropout_is_on_in_training(finished: Path, dropped: Path) -> None:
    assert not same_bits(dropped, finished)


def test_observers_never_change_a_score_and_dropout_is_off_in_scoring(dropped: Path, watched: Path) -> None:
    """Each draw of a random number would be noticed."""
    assert record(watched / "run")["R"] == record(dropped)["R"]
    assert same_bits(watched / "run", dropped)


def test_order_of_events_and_copies_of_stock_callbacks(watched: Path) -> None:
    events = json.loads((watched / "events.json").read_text())
    task = ["task_start", "train_start", "task_end", "task_scored"]
    assert [name for name, _ in events] == ["sequence_start", *task, *task, "sequence_end"]
    facts = [f for _, f in events]
    starts, trains, ends, scored = (facts[1 + i : -1 : 4] for i in range(4))
    assert [s["displaced"] for s in starts] == [True, True], "observers come after the initialiser"
    assert [s["steps"] for s in starts] == [0, 5]
    assert all(t["trained"] == ["torch.float32"] and t["step"] == 0 for t in trains)
    assert [(e["branch"], e["rows"]) for e in ends] == [(True, 0), (True, 1)]
    assert [(s["branch"], s["rows"], s["on_disk"]) for s in scored] == [(False, 1, 1), (False, 2, 2)]
    assert (watched / "counts.txt").read_text().split() == ["5", "5"]


# ---- two ranks ---------------------------------------------------------------------------------------------


def is_the_run_of_one_rank(two: Path, finished: Path) -> None:
    assert record(two)["world_size"] == 2
    one_adapters, two_adapters = adapters(finished), adapters(two)
    for task in record(finished)["order"]:
        assert relative(two_adapters[task], one_adapters[task]) < 1e-5, task
    assert record(two)["R"] == record(finished)["R"]
    for file in finished.glob("predictions/*.jsonl"):
        assert (two / "predictions" / file.name).read_text() == file.read_text()


def test_two_ranks_equal_one_and_the_rank_mean_loss_does_not(finished: Path, tmp_path: Path) -> None:
    """Over 5 s: processes."""
    smoke(tmp_path / "two", ranks=2)
    is_the_run_of_one_rank(tmp_path / "two", finished)
    # Negative control: each rank averages over its own tokens, DDP averages the ranks.
    wrong = tmp_path / "wrong"
    smoke(wrong, "--observers.loss=tests.recorder.RankMeanLoss", "--data.order=[FOMC]", ranks=2)
    assert relative(adapters(wrong)["FOMC"], adapters(finished)["FOMC"]) > 1e-3


@pytest.mark.long
def test_a_rank_that_lightning_starts_itself_is_the_same(finished: Path, tmp_path: Path) -> None:
    smoke(tmp_path / "two", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")
    is_the_run_of_one_rank(tmp_path / "two", finished)
