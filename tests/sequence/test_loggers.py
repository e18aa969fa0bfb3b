"""Any logger of Lightning gets what the run's own log has: the same keys, values, steps and options."""

import csv
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cl_lightning.commands import precheck
from cl_lightning.commands.composition import _label
from cl_lightning.commands.dashboard import definition, pattern
from cl_lightning.commands.experiments import expanded
from cl_lightning.commands.parser import make_cli
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.options import hyperparameters, label
from tests.conftest import ROOT
from tests.dashboard_picture import picture
from tests.runs import BASE, record, smoke
from tests.wandb_offline import history, records

AXES = ("cl/step", "cl/tokens", "cl/task")
SECRET = "not-to-be-told"
#: Series: key -> (step, value) in order.
Series = dict[str, list[tuple[int, float]]]

SETTINGS = """
trainer:
  limit_val_batches: 1.0
  callbacks: [{{class_path: LearningRateMonitor}}]
  logger:
    - {{class_path: TensorBoardLogger, init_args: {{save_dir: '{folder}/board', name: mine, prefix: ''}}}}
    - {{class_path: CSVLogger, init_args: {{save_dir: '{folder}/csv', name: '${{oc.env:CL_TEST_SECRET}}'}}}}
    - {{class_path: MLFlowLogger, init_args: {{tracking_uri: 'file:{folder}/mlruns'}}}}
model:
  lr: ${{oc.env:CL_TEST_RATE}}
sequence: {{wandb: offline, tags: [first, second], group: some, job_type: test, notes: a try, name: mine}}
"""
#: Surgery, gates, a penalty and probes, so that everything that a dashboard shows is logged.
METHOD = (
    "--model.adapter=GainLoRA", "--model.adapter.branches=IncLoRA", "--model.adapter.branches.rank=2",
    "--boundary.gates=GateOrthogonalization", "--boundary.lwf=LwF", "--observers.probes=Probes",
)  # fmt: skip


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and with what its other loggers wrote."""
    folder = tmp_path_factory.mktemp("logged")
    (folder / "mine.yaml").write_text(SETTINGS.format(folder=folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CL_TEST_SECRET", SECRET)
        patch.setenv("CL_TEST_RATE", "0.002")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        smoke(folder / "run", f"--config={folder / 'mine.yaml'}", *METHOD, "--data.train_samples=14")
    return folder


def series(file: Path) -> Series:
    """What a CSV log holds, but for its own column of steps."""
    found: Series = defaultdict(list)
    for row in csv.DictReader(file.open()):
        for key, value in row.items():
            if value and key != "step":
                found[key].append((int(row["step"]), float(value)))
    return dict(found)


@pytest.fixture(scope="module")
def own(logged: Path) -> Series:
    """The run's own log."""
    return series(logged / "run/logs/attempt_0/metrics.csv")


def same(one: Series, other: Series) -> bool:
    """Whether two logs have the same keys, steps and values, within float32 of TensorBoard."""
    close = all(
        [s for s, _ in one[key]] == [s for s, _ in other[key]]
        and [v for _, v in one[key]] == pytest.approx([v for _, v in other[key]], rel=1e-6, nan_ok=True)
        for key in one.keys() & other.keys()
    )
    return close and one.keys() == other.keys()


def test_the_log_has_losses_penalties_rates_and_scores_on_axes_that_never_go_back(own: Series) -> None:
    wanted = {
        "train/loss",
        "train/lr",
        "train/distillation",
        "val/loss",
        "lr-AdamW/pg1",
        "task/FOMC/score",
        "cl/ap",
        *AXES,
    }
    assert wanted <= own.keys()
    assert [step for step, _ in own["train/loss"]] == [1, 2, 3, 4]
    for key in own:
        steps = [step for step, _ in own[key]]
        assert steps == sorted(steps), key
    assert [step for step, _ in own["val/loss"]] == [2, 4], "Lightning's own values go on over tasks, too"
    for axis in AXES:
        values = [value for _, value in own[axis]]
        assert values == sorted(values)
    assert all(step == value for step, value in own["cl/step"])


def test_the_picture_of_the_dashboard_shows_every_panel(logged: Path) -> None:
    parts = picture(logged / "run").subfigs
    shown = [axes for part in parts for axes in part.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == [one.title for panels in definition().values() for one in panels]
    assert [axes.get_title() for axes in shown if any(t.get_text() == "nothing logged" for t in axes.texts)] == []


def test_csv_logger(logged: Path, own: Series) -> None:
    (file,) = logged.glob("csv/*/version_0/metrics.csv")
    assert same(series(file), own)


def test_tensorboard(logged: Path, own: Series) -> None:
    events = EventAccumulator(str(logged / "board/mine/version_0"), {"scalars": 0, "tensors": 0, "images": 0})
    events.Reload()
    found = {
        key: [(e.step, e.value) for e in events.Scalars(key)][key in AXES :]  # the first is that of hp_metric
        for key in events.Tags()["scalars"]
        if key != "hp_metric"  # with it, TensorBoardLogger logs the options
    }
    assert {"scores/R/text_summary", "surgery"} & {*events.Tags()["tensors"]} == {"scores/R/text_summary"}
    assert len(events.Images("scores/R_picture")) == 2
    assert same(found, own)
    content = HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info.hparams
    assert content["model.adapter"].string_value == "GainLoRA"
    assert content["data.batch_size"].number_value == 7


def test_mlflow(logged: Path, own: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(f"file:{logged}/mlruns")
    (experiment,) = [e for e in client.search_experiments() if e.name == "lightning_logs"]
    (run,) = client.search_runs([experiment.experiment_id])
    found = {
        key: sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }
    assert same({k: [(s, v) for s, v, _ in sorted(m)] for k, m in found.items()}, by_step(own))
    assert run.data.params["model.adapter"] == "GainLoRA"
    assert run.info.status == "FINISHED"
    assert {f.path for f in client.list_artifacts(run.info.run_id, "scores/R")} == {"scores/R/2.csv", "scores/R/4.csv"}


def by_step(log: Series) -> Series:
    """The log with the values of a step in ascending order."""
    return {key: sorted(pairs) for key, pairs in log.items()}


def test_wandb(logged: Path, own: Series) -> None:
    found: Series = defaultdict(list)
    rows = [row for row in history(logged / "run") if not any(key.endswith("/_type") for key in row)]
    for row in rows:
        for key, value in row.items():
            if not key.startswith("_") and key != "trainer/global_step" and isinstance(value, int | float):
                found[key].append((row["trainer/global_step"], float(value)))
    assert same(found, own)
    run = next(r.run for r in records(logged / "run") if r.WhichOneof("record_type") == "run")
    assert (run.display_name, run.run_group, run.job_type, run.notes) == ("mine", "some", "test", "a try")
    assert [*run.tags][-2:] == ["first", "second"]
    axes = {r.metric.name for r in records(logged / "run") if r.WhichOneof("record_type") == "metric"}
    assert {*AXES} <= axes
    settings = wandb_config(logged / "run")
    assert settings["model.adapter"] == "GainLoRA"
    assert settings["data.order"] == "FOMC, NumGLUE-cm"
    assert settings["sequence.group"] == "some"


def shown(run: Path) -> set[str]:
    """The keys under which an offline run holds numbers, tables and pictures."""
    keys = {key for row in history(run) for key in row}
    return keys | {key.rpartition("/")[0] for key in keys if key.endswith(("/_type", "/path"))}


def test_wandb_shows_tables_pictures_and_the_plane_of_each_task(logged: Path) -> None:
    assert {"scores/R", "scores/R_picture", "scores/predictions", "scores/plane_table"} <= shown(logged / "run")
    assert {"surgery/NumGLUE-cm", "gates/NumGLUE-cm"} <= shown(logged / "run")
    tables = [row for row in history(logged / "run") if "scores/R/nrows" in row]
    assert [row["scores/R/nrows"] for row in tables] == [1, 2]
    charts = [r for r in records(logged / "run") if "scores/plane" in str(r.config)]
    assert charts, "the plane is a chart of wandb's own"


def test_each_key_of_the_dashboard_is_logged(logged: Path) -> None:
    keys = shown(logged / "run")
    wanted = {key for panels in definition().values() for panel in panels for key in panel.keys}
    assert {key for key in wanted if not any(re.fullmatch(pattern(key), found) for found in keys)} == set()
    # Negative control: a key that nothing logs is found out.
    assert not any(re.fullmatch(pattern("task/*/forgotten"), found) for found in keys)


def wandb_config(run: Path) -> dict[str, Any]:
    """The options that an offline run holds."""
    return {
        item.key: json.loads(item.value_json)
        for r in records(run)
        if r.WhichOneof("record_type") == "config"
        for item in r.config.update
    }


def test_no_secret_reaches_a_logger_or_the_run_folder(logged: Path) -> None:
    assert wandb_config(logged / "run")["model.lr"] == "${oc.env:CL_TEST_RATE}"
    for file in (p for p in logged.rglob("*") if p.is_file()):
        assert SECRET.encode() not in file.read_bytes(), file
    assert [p.name for p in (logged / "csv").iterdir()] == [SECRET], "the logger itself got it"


def test_a_run_keeps_its_name_and_is_labelled_by_what_differs(logged: Path) -> None:
    found = record(logged / "run")
    assert found["name"] == "mine"
    assert found["label"] == "limit_val_batches=1 callbacks=[LearningRateMonito… +7 more"


def test_hyperparameters_are_flat_and_leave_loggers_out() -> None:
    big = {"class_path": "m.Big", "init_args": {"b": "${oc.env:B}", "c": [1, 2], "d": None}}
    config = {"a": big, "trainer": {"logger": {"e": 1}, "loggers": 2}, "config": ["x.yaml"]}
    assert hyperparameters(config) == {"a": "Big", "a.b": "${oc.env:B}", "a.c": "1, 2", "trainer.loggers": 2}


def test_labels_are_short() -> None:
    assert label({"boundary.init.initializer": "LoRAGA", "model.lr": 3e-4}) == "initializer=LoRAGA lr=3e-4"
    assert label({"boundary.init.samples": 4, "boundary.gates.samples": 8}) == "init.samples=4 gates.samples=8"
    assert label({"x.class_path": "a.b.C"}) == "x=C"
    assert label({}) == ""
    many = label({f"data.option_{i}": "a long value, indeed" for i in range(50)})
    assert len(many) <= 60
    assert many.endswith("more")
    assert label({"data." + "o" * 60: 1}) == "1 options"


def test_a_label_leaves_out_what_is_as_in_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "model: {lr: 3.0e-4, backbone: {dtype: float32}}\n"
        "boundary: {memory: {class_path: callbacks.ReplayBuffer, init_args: {capacity: 16}}, init: {class_path: "
        "SliceInit, init_args: {initializer: {class_path: cl_lightning.LoRAGA}, samples: 12}}}"
    )
    given = [*expanded(["smoke"]), f"--config={tmp_path / 'mine.yaml'}", "--sequence.wandb=off"]
    assert _label(list(precheck.options(given))) == "lr=3e-4 initializer=LoRAGA"


def test_a_run_by_name_keeps_its_experiment_whatever_file_comes_after() -> None:
    given = expanded(["trace_slice", "--config", "mine.yaml"])
    assert {o: v for _, o, v in precheck.options(given[:3])}["sequence.experiment"] == "trace_slice"
    assert expanded(["trace_slice", "--preset", "official_v1"])[-1] == "--sequence.experiment=trace_slice_official_v1"


def test_the_stored_configuration_keeps_a_loggers_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(
        "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: x, name: '${oc.env:CL_TEST_SECRET}'}}}"
    )
    monkeypatch.setenv("CL_TEST_SECRET", SECRET)
    monkeypatch.setattr(sys, "argv", ["cl-lightning", *BASE, f"--config={tmp_path / 'mine.yaml'}"])
    monkeypatch.chdir(ROOT)
    cli = make_cli()
    assert cli.trainers.loggers[0].name == SECRET
    assert "name: ${oc.env:CL_TEST_SECRET}" in cli.resolved()
    assert SECRET not in cli.resolved()
    assert SECRET in str(cli.config), "the control"


@pytest.mark.parametrize("argv", [
    ["--trainer.logger=MLFlowLogger", "--trainer.logger.tracking_uri=sqlite:///runs.db"],
    ["--trainer.logger=[CSVLogger, {class_path: MLFlowLogger, init_args: {tracking_uri: 'sqlite+pysqlite:///runs.db'}}]"],
    ["--trainer.logger=MLFlowLogger"],
])  # fmt: skip
def test_a_database_of_mlflow_without_its_packages_is_refused(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    monkeypatch.setattr(precheck, "find_spec", {"mlflow": True, "alembic": True}.get)
    with pytest.raises(ConfigError, match=r"for sqlite that are not installed: pip install sqlalchemy alembic$"):
        precheck.check(argv)
    monkeypatch.setattr(precheck, "find_spec", {"mlflow": True, "alembic": True, "sqlalchemy": True}.get)
    precheck.check(argv)
    monkeypatch.setattr(precheck, "find_spec", {"mlflow": True}.get)
    precheck.check(["--trainer.logger=MLFlowLogger", "--trainer.logger.tracking_uri=http://here"])
