"""A finished run scored anew: predictions with other metrics, adapters evaluated again, nothing overwritten."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.__main__ import main
from cl_lightning.commands.compare import render
from cl_lightning.common.errors import ConfigError, DataError, StateError
from cl_lightning.data.sample import tasks as sample
from cl_lightning.metrics.matrix import summary
from cl_lightning.metrics.sari import sari_score
from cl_lightning.results.reevaluate import evaluate, moved
from cl_lightning.results.rescore import rescore
from tests.callbacks.test_gainlora_run import OPTIONS as GATED
from tests.conftest import ROOT
from tests.runs import put_record, record, smoke
from tests.sequence.test_protocols import PLAIN

#: So large a rate that the random model's answers change with every task.
HOT = ("--model.lr=0.05",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "hot"
    smoke(run, *HOT)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluated", "rescored")))


def rows(folder: Path, after: str, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"predictions/{after}_{task}.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    views = (folder / "rescored", folder / "evaluated")
    files = (p for p in folder.rglob("*") if p.is_file() and not any(p.is_relative_to(v) for v in views))
    return {str(p): p.read_bytes() for p in files}


# --- stored predictions -------------------------------------


def test_the_tasks_own_metrics_give_the_runs_own_scores(run: Path) -> None:
    before = contents(run)
    view = rescore(run, "own")
    assert view == run / "rescored" / "own"
    old, new = record(run), record(view)
    assert (new["R"], new["zero_shot"]) == (old["R"], old["zero_shot"])
    assert any(score for row in old["R"] for score in row if score is not None), (
        "something is right, or this is no test"
    )
    assert new["metrics"]["intervals"] == old["metrics"]["intervals"]
    assert new["metrics"]["majority"] == old["metrics"]["majority"]
    assert contents(run) == before


def test_other_metrics_score_the_same_predictions(run: Path) -> None:
    view = rescore(run, "FOMC=rouge_1")
    state = record(view)
    assert state["metrics"]["metric_of_task"] == {"FOMC": "rouge_1", "NumGLUE-cm": "accuracy"}
    assert state["metrics"]["majority"] is None, "it was scored by the other metric"
    for after in ("FOMC", "NumGLUE-cm"):
        mine = rows(view, after, "FOMC")
        assert [{**r, "score": 0} for r in mine] == [{**r, "score": 0} for r in rows(run, after, "FOMC")]
        expected = [100.0 * (r["prediction"].lower() == r["reference"].lower()) for r in mine]
        assert [r["score"] for r in mine] == expected
        assert state["R"][state["order"].index(after)][0] == sum(expected) / len(expected)
    assert state["metrics"]["fp"] == pytest.approx(summary(state["R"])["fp"])


def test_the_official_metrics(run: Path) -> None:
    state = record(rescore(run, "official"))
    assert state["metrics"]["metric_of_task"] == {"FOMC": "accuracy_trace", "NumGLUE-cm": "accuracy_trace"}
    assert state["view"] == "re-scored: official"


def test_metrics_that_read_the_prompt_get_the_runs_prompts(run: Path) -> None:
    view = rescore(run, "sari_trace")
    prompts = {e.id: e.prompt for e in sample.load("FOMC").test}
    for row in rows(view, "NumGLUE-cm", "FOMC"):
        assert row["score"] == sari_score(prompts[row["id"]], row["prediction"], row["reference"])


def test_prompts_of_other_data_are_refused(run: Path, tmp_path: Path) -> None:
    for task in ("FOMC", "NumGLUE-cm"):
        (folder := tmp_path / "data" / task).mkdir(parents=True)
        for split in ("train", "test"):
            (folder / f"{split}.json").write_text(json.dumps([{"prompt": "p", "answer": "A"}] * 50))
    with pytest.raises(StateError, match=r"FOMC/test/\d+: not in the data as the run had it; .*--root"):
        rescore(run, "sari", str(tmp_path / "data"))
    assert not (run / "rescored" / "sari").exists()


@pytest.mark.parametrize(
    ("scheme", "error", "message"),
    [
        ("rouge_k", ConfigError, "unknown metric 'rouge_k'"),
        ("FMOC=f1", ConfigError, "no task 'FMOC'; did you mean FOMC"),
        ("first_letter", DataError, "does not begin with a choice"),  # the answers of NumGLUE-cm
    ],
)
def test_what_cannot_be_scored(run: Path, scheme: str, error: type[Exception], message: str) -> None:
    before = contents(run)
    with pytest.raises(error, match=message):
        rescore(run, scheme)
    assert not (run / "rescored").exists() and contents(run) == before


def test_damaged_predictions_are_refused(run: Path) -> None:
    file = run / "predictions" / "FOMC_FOMC.jsonl"
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(StateError, match=r"FOMC_FOMC\.jsonl: damaged"):
        rescore(run, "own")


# --- stored adapters ----------------------------------------


def test_adapters_evaluated_again_give_the_run_and_what_it_left_out(run: Path) -> None:
    before = contents(run)
    view = evaluate(run, batch_size=5)
    assert contents(run) == before
    assert moved(run, view) == []
    for after, task in [("zero-shot", "FOMC"), ("FOMC", "FOMC"), ("NumGLUE-cm", "FOMC"), ("NumGLUE-cm", "NumGLUE-cm")]:
        assert rows(view, after, task) == rows(run, after, task)
    texts = {
        after: [r["prediction"] for r in rows(view, after, "FOMC")] for after in ("zero-shot", "FOMC", "NumGLUE-cm")
    }
    assert len({tuple(t) for t in texts.values()}) == 3, "every stage answers differently, or this is no test"
    old, new = record(run), record(view)
    assert old["R"][0][1] is None and new["R"][0][1] is not None
    assert new["zero_shot"] == old["zero_shot"]
    assert new["metrics"]["fwt_gem"] == new["R"][0][1] - new["zero_shot"][1]
    assert old["metrics"]["fwt_gem"] is None


@pytest.mark.parametrize(
    "options",
    [
        GATED,
        pytest.param((*PLAIN, "--data.protocol=joint"), marks=pytest.mark.long),
        (*PLAIN, "--data.protocol=independent"),
    ],
    ids=["gates", "joint", "independent"],
)
def test_gates_and_references_are_evaluated_again_too(tmp_path: Path, options: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    smoke(run, *options, *HOT)
    view = evaluate(run)
    stored = [path.stem.rsplit("_", 1) for path in (run / "predictions").glob("*.jsonl")]
    assert len(stored) >= 4
    assert all(rows(view, *cell) == rows(run, *cell) for cell in stored)
    trained = record(run)["order"][0]
    assert rows(view, trained, "FOMC") != rows(view, "zero-shot", "FOMC")
    assert record(rescore(view, "own"))["metrics"]["fp"] == record(run)["metrics"]["fp"]


def test_a_run_without_zero_shot_scores_gets_them(run: Path) -> None:
    state = record(run)
    put_record(run, {**state, "zero_shot": None})
    assert record(evaluate(run))["zero_shot"] == state["zero_shot"]


def test_adapters_on_other_data_are_refused(run: Path) -> None:
    state = record(run)
    put_record(run, {**state, "fingerprints": {**state["fingerprints"], "FOMC": "other"}})
    with pytest.raises(StateError, match="FOMC: the data is not what the run had"):
        evaluate(run)


# --- the command, and who reads views -----------------------


def test_the_command_prints_tables_and_errors(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def output(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cl-lightning", "score", *argv])
        return main(), *capsys.readouterr()

    code, out, err = output(str(run), "--evaluate", "--metrics", "official")
    assert (code, err) == (0, "")
    assert "adapters evaluated again" in out and "re-scored: official" in out and "fwt_gem" in out
    assert (run / "evaluated" / "rescored" / "official" / "sequence.json").exists()
    code, out, _ = output("--list")
    assert code == 0 and "edit_similarity / edit_similarity_trace" in out
    for argv, line in [
        ((str(run),), "error: say which run, and --evaluate or --metrics"),
        ((str(run / "logs"), "--metrics", "f1"), f"error: {run}/logs: is not a run folder"),
        ((str(run), "--metrics", "f2"), "error: unknown metric 'f2'"),
    ]:
        code, _, err = output(*argv)
        assert code == 2 and err.startswith(line) and len(err.splitlines()) == 1


def test_views_are_compared_with_their_kind_only(run: Path, tmp_path: Path) -> None:
    view = rescore(run, "official")
    made, _ = render([str(run), str(view)])
    assert "B is kept apart from A: other metric.FOMC (accuracy_trace, not accuracy)" in made
    with pytest.raises(StateError, match="are the same run"):
        render([str(run), str(rescore(run, "own"))])


def test_re_scoring_needs_no_torch(run: Path) -> None:
    made = f"import sys, cl_lightning.commands.score as s; s.rescore(s.Path({str(run)!r}), 'sari')"
    code = f"{made}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
