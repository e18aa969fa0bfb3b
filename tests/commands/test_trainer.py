"""Runs from Python: a sequence with data sets of a script, and one task by a Trainer of the user's own."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader, Dataset

from callbacks import ReplayBuffer, ScoreMatrix, SliceInit
from cl_lightning import (
    Backbone,
    ContinualLM,
    ContinualTrainer,
    DatasetTask,
    DatasetTasks,
    LoadedModel,
    SequenceSettings,
    TaskSequence,
    load,
)
from cl_lightning.adapters import GainLoRA, SeqLoRA
from cl_lightning.commands.trainer import Result
from cl_lightning.common.errors import ConfigError, DataError, StateError
from cl_lightning.sequence.callback import TaskCallback
from tests.commands.test_cli import configs, launch, record
from tests.runs import adapters, same_bits

PAIRS = [(f"colour {i}?", "red" if i % 2 else "blue") for i in range(20)]


class Numbers(Dataset):
    """A map-style data set of PyTorch, whose indices never end, with tensors for answers."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
        return f"{index} plus one is", torch.tensor(index + 1)


def three_tasks() -> DatasetTasks:
    """A list of pairs, a data set of PyTorch, and one of the library `datasets`."""
    parity = datasets.Dataset.from_list([{"n": i, "odd": i % 2} for i in range(20)])
    return DatasetTasks(
        [
            DatasetTask("colours", PAIRS),
            DatasetTask("numbers", Numbers(), max_new_tokens=4),
            DatasetTask("parity", parity, prompt="is {n} odd?", answer="odd", labels={0: "no", 1: "yes"}),
        ]
    )


def data(tasks: DatasetTasks | None = None, **options: Any) -> TaskSequence:
    return TaskSequence(
        tasks or three_tasks(), **{"batch_size": 4, "validation_samples": 0, "test_samples": 2, **options}
    )


def model(**options: Any) -> ContinualLM:
    return ContinualLM(Backbone("random-llama", dtype="float32"), SeqLoRA(rank=2, alpha=4), lr=0.05, **options)


def trainer(run: Path, boundary: dict[str, TaskCallback] | None = None, **options: Any) -> ContinualTrainer:
    settings = SequenceSettings(run_dir=str(run), wandb="off", threads=1, report=False)
    return ContinualTrainer(boundary, sequence=settings, **options)


def slice_slots() -> dict[str, TaskCallback]:
    return {"memory": ReplayBuffer(8), "init": SliceInit(samples=8, memory_samples=4, batch_size=4)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run of three data sets."""
    return trainer(tmp_path_factory.mktemp("script") / "run", slice_slots()).fit(model(), data())


def test_a_sequence_of_data_sets_is_trained_and_scored(finished: Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert [[score is None for score in row] for row in finished.matrix] == [
        [False, True, True], [False, False, True], [False, False, False]
    ]  # fmt: skip
    assert finished.record["order"] == ["colours", "numbers", "parity"]
    assert finished.metrics["complete"] and 0 <= finished.metrics["ap"] <= 100
    assert finished.record["label"].startswith("name=random-llama dtype=float32 adapter=SeqLoRA")
    finished.show()
    assert "3 parity" in capsys.readouterr().out


def test_what_is_trained_is_what_the_folder_holds(finished: Result) -> None:
    prompts = [prompt for prompt, _ in PAIRS[:3]]
    answers = finished.generate(prompts, max_new_tokens=6)
    assert load(finished.folder).generate(prompts, max_new_tokens=6) == answers
    assert load(finished.folder, after=0).generate(prompts, max_new_tokens=6) != answers, "the control"


def test_rows_are_read_as_given(finished: Result) -> None:
    encoded = {task.spec.name: task.train[0].example for task in _prepared().tasks}
    assert encoded["colours"].prompt.startswith("colour ") and encoded["colours"].answer in ("red", "blue")
    assert encoded["numbers"].answer == str(int(encoded["numbers"].prompt.split()[0]) + 1)
    assert encoded["parity"].prompt.endswith(" odd?") and encoded["parity"].answer in ("no", "yes")


def _prepared(tasks: DatasetTasks | None = None) -> TaskSequence:
    made = data(tasks)
    made.prepare(Backbone("random-llama").load_tokenizer(), False)
    return made


class Fails(TaskCallback):
    """Ends the process, as it were, once a number of tasks are done."""

    def __init__(self, error: type[BaseException] = RuntimeError) -> None:
        self.error = error

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.lightning_module.task_name == "numbers":
            raise self.error("stopped here")


def test_the_same_script_goes_on_where_it_was_stopped(finished: Result, tmp_path: Path) -> None:
    stopped = trainer(tmp_path / "run", slice_slots())
    stopped.observers["fails"] = Fails()
    with pytest.raises(RuntimeError, match="stopped here"):
        stopped.fit(model(), data())
    assert record(tmp_path / "run")["done"] == 1
    again = trainer(tmp_path / "run", slice_slots()).fit(model(), data())
    assert again.record["attempts"] == 2
    assert again.matrix == finished.matrix
    assert again.record["identity"] == finished.record["identity"]
    assert same_bits(again.folder, finished.folder)


def test_a_finished_run_is_loaded_and_takes_a_name(finished: Result) -> None:
    by_name = trainer(finished.folder, slice_slots())
    by_name.settings.name = "a name that came later"
    again = by_name.fit(model(), data())
    assert again.matrix == finished.matrix
    assert again.record["name"] == "a name that came later"
    assert again.generate(["colour 1?"], max_new_tokens=6) == finished.generate(["colour 1?"], max_new_tokens=6)


def test_another_data_set_is_another_run(finished: Result) -> None:
    changed = three_tasks()
    changed._splits["colours", "train"] = [*PAIRS[:-1], (PAIRS[-1][0], "green")]
    with pytest.raises(StateError, match="another configuration, data or model"):
        trainer(finished.folder, slice_slots()).fit(model(), data(changed))


def test_ctrl_c_ends_fit_and_not_the_process(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    stopped = trainer(tmp_path / "run")
    stopped.observers["fails"] = Fails(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt, match="finished tasks are kept"):
        stopped.fit(model(), data())
    assert signal.getsignal(signal.SIGINT) is before
    assert record(tmp_path / "run")["done"] == 1


SAMPLE: dict[str, Any] = {
    "order": ["FOMC", "NumGLUE-cm"], "train_samples": 8, "validation_samples": 0, "test_samples": 2, "batch_size": 4
}  # fmt: skip


def test_it_is_the_run_of_the_same_options(tmp_path: Path) -> None:
    """Objects and options of equal values have one identity, one configuration and the same weights, bit for bit."""
    options = [f"--data.{name}={value}".replace("'", "") for name, value in SAMPLE.items()]
    where = ("--sequence.wandb=off", "--sequence.threads=1", f"--sequence.run_dir={tmp_path / 'one'}")
    base = ("--model.backbone.name=random-llama", "--model.backbone.dtype=float32", "--model.adapter.rank=2")
    result = launch(*configs("trace_lora"), *base, *options, *where)
    assert result.code == 0, result.err
    ours = ContinualLM(Backbone("random-llama", dtype="float32"), SeqLoRA(rank=2), lr=1e-3)
    same = TaskSequence(
        **SAMPLE, max_prompt_tokens=144, max_answer_tokens=80, long_answers="drop", system_prompt="", seed=42
    )
    two = trainer(tmp_path / "two").fit(ours, same)
    one = record(tmp_path / "one")
    assert two.matrix == one["R"]
    assert two.record["identity"] == one["identity"]
    assert same_bits(tmp_path / "one", tmp_path / "two")


# ---- one task by a Trainer -------------------------------------------------------------------------------


def plain(tmp_path: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        **{"max_epochs": 1, "gradient_clip_val": 1.0, "enable_checkpointing": False, **options},
    )  # fmt: skip


def test_a_trainer_trains_one_task(tmp_path: Path) -> None:
    """It gives the branch that a run's first task gives, bit for bit."""
    module, one = model(), data()
    fitted = plain(tmp_path)
    fitted.fit(module, datamodule=one)
    trainer(tmp_path / "run").fit(model(), data(order=["colours"]))
    first = adapters(tmp_path / "run")["colours"]
    state = module.adapter.task_state()
    assert state.keys() == first.keys()
    assert all(torch.equal(state[name], first[name]) for name in first)
    assert float(fitted.callback_metrics["train/loss"]) > 0
    answers = LoadedModel.of(module, one).generate(["colour 1?"], max_new_tokens=6)
    assert answers == load(tmp_path / "run", after=1).generate(["colour 1?"], max_new_tokens=6)


def test_a_trainer_validates_stops_and_saves_as_ever(tmp_path: Path) -> None:
    module = model()
    fitted = plain(tmp_path, max_epochs=3, enable_checkpointing=True, callbacks=[EarlyStopping("val/loss")])
    fitted.fit(module, datamodule=data(validation_samples=4))
    assert float(fitted.callback_metrics["val/loss"]) > 0
    kept = {name: tensor.clone() for name, tensor in module.adapter.task_state().items()}
    again = model()
    one = plain(tmp_path, max_epochs=3)
    one.fit(again, datamodule=data(validation_samples=4), ckpt_path=fitted.checkpoint_callback.best_model_path)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in again.adapter.task_state().items())


def test_another_task_of_the_sequence_can_be_served(tmp_path: Path) -> None:
    module, one = model(), data()
    one.activate(2)
    plain(tmp_path).fit(module, datamodule=one)
    assert module.task_name == "parity"
    assert LoadedModel.of(module, one).tasks == ("parity",)
    one.activate(0)
    with pytest.raises(ConfigError, match="trained on parity, and a Trainer trains one task"):
        plain(tmp_path).fit(module, datamodule=one)


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fit", "why"),
    [
        ({"callbacks": [ScoreMatrix()]}, {}, "ScoreMatrix works at the boundaries of tasks"),
        ({"precision": "bf16-true"}, {}, "trainer.precision=bf16-true: use one of"),
        ({}, {"datamodule": pl.LightningDataModule()}, "must be a cl_lightning.TaskSequence"),
        ({}, {"datamodule": None, "train_dataloaders": DataLoader([1])}, "must be a cl_lightning.TaskSequence"),
    ],
    ids=["callback", "bf16", "module", "loader"],
)
def test_a_trainer_that_cannot_is_said_why(
    tmp_path: Path, options: dict[str, Any], fit: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        plain(tmp_path, **options).fit(model(), **{"datamodule": data(), **fit})


def test_a_base_in_float16_is_not_trained_on(tmp_path: Path) -> None:
    half = ContinualLM(Backbone("random-llama", dtype="float16"), SeqLoRA(rank=2))
    with pytest.raises(ConfigError, match=r"model\.backbone\.dtype=float16: float16 loses small gradients"):
        plain(tmp_path).fit(half, datamodule=data())
    with pytest.raises(ConfigError, match=r"model\.backbone\.dtype=float16: float16 loses small gradients"):
        trainer(tmp_path / "run").fit(half, data())
    with pytest.raises(ConfigError, match=r"trainer\.precision=16-mixed: float16 loses small gradients"):
        ContinualTrainer(precision="16-mixed")


def test_a_strategy_that_needs_boundaries_is_said_so(tmp_path: Path) -> None:
    module = ContinualLM(Backbone("random-llama", dtype="float32"), GainLoRA(width=8))
    with pytest.raises(ConfigError, match="boundary"):
        plain(tmp_path).fit(module, datamodule=data())


def test_objects_serve_one_run(tmp_path: Path) -> None:
    used, ours = model(), trainer(tmp_path / "run")
    ours.fit(used, data(DatasetTasks([DatasetTask("colours", PAIRS)])))
    with pytest.raises(ConfigError, match="this ContinualTrainer has been used; make new objects"):
        ours.fit(model(), data())
    with pytest.raises(ConfigError, match="this ContinualLM has been used"):
        trainer(tmp_path / "other").fit(used, data())
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: ContinualTrainer(max_epochs=3), "trainer.max_epochs: passes are per task; use data.epochs"),
        (lambda: ContinualTrainer(precision="16-true"), "trainer.precision=16-true"),
        (lambda: trainer(Path("x"), accelerator="tqu").fit(model(), data()), "trainer: "),
        (
            lambda: trainer(Path("x"), {"init": SliceInit()}).fit(model(), data()),
            "boundary.init.operator needs earlier",
        ),
        (lambda: trainer(Path("x")).fit(model(betas=(2, 1)), data()), "betas"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    make: Callable[[], Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=why):
        make()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "mine, train: holds no row"),
        ("file.json", "mine, train: is text, expected rows"),
        ({"train": PAIRS}, "mine, train: is an object, expected rows: a list, or a data set of one split"),
        (3, "mine, train: is a number, expected rows"),
        ([*PAIRS, "x"], "mine, train, row 20: is text, expected a pair"),
        ([*PAIRS, ("a", "b", "c")], "mine, train, row 20: is of type tuple, expected a pair"),
        ([*PAIRS, ("a", None)], "mine, train, row 20: 'answer' is null"),
        ([*PAIRS, ("a", "")], "mine, train, row 20: 'answer' is empty"),
        ([*PAIRS, {"prompt": "x"}], "mine, train, row 20 has no field 'answer'"),
    ],
)
def test_rows_that_cannot_be_read_are_named(rows: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        _prepared(DatasetTasks([DatasetTask("mine", rows)]))


def test_a_generator_is_read_once_and_kept() -> None:
    tasks = DatasetTasks([DatasetTask("mine", (pair for pair in PAIRS))])
    assert [len(tasks.load(None, "mine").train) + len(tasks.load(None, "mine").test) for _ in range(2)] == [20, 20]


def test_the_command_line_has_no_rows_of_a_script(finished: Result) -> None:
    result = launch("score", str(finished.folder), "--evaluate")
    assert result.code == 2
    assert "the rows are those of a script (cl_lightning.ContinualTrainer), and no file holds them" in result.line
    assert launch("report", str(finished.folder), "--tables").code == 0


def test_one_model_per_task_is_not_one_that_answers(tmp_path: Path) -> None:
    two = DatasetTasks([DatasetTask("colours", PAIRS), DatasetTask("numbers", Numbers())])
    result = trainer(tmp_path / "run").fit(model(), data(two, protocol="independent"))
    with pytest.raises(StateError, match=r"one model per task .*cl_lightning\.load\("):
        result.generate(["colour 1?"])


def test_a_part_of_a_model_does_not_answer(tmp_path: Path) -> None:
    """What a rank has after a run under trainer.strategy=model_parallel."""
    result = Result(tmp_path, [], {}, {"protocol": "sequential"}, None)
    with pytest.raises(StateError, match=r"each rank holds a part of the base .*cl_lightning\.load\("):
        result.generate(["colour 1?"])


class Frame:
    """Like one of pandas."""

    columns = ("prompt", "answer")

    def to_dict(self, orient: str) -> list[dict[str, str]]:
        return []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: ContinualTrainer(boundary=[ReplayBuffer(4)]), "boundary: is of type list, expected callbacks by name"),
        (lambda: ContinualTrainer({"init": SliceInit}), r"boundary\['init'\]: is the class SliceInit"),
        (
            lambda: ContinualTrainer().fit(data(), ContinualLM()),
            "module: is of type TaskSequence, expected Con",
        ),
        (lambda: ContinualTrainer().fit(ContinualLM(), three_tasks()), "data: is of type DatasetTasks, expected TaskS"),
        (lambda: TaskSequence([DatasetTask("a", PAIRS)]), "data.benchmark: is of type list, expected a benchmark"),
        (lambda: DatasetTasks(DatasetTask("a", PAIRS)), "tasks: is of type DatasetTask, expected a list"),
        (lambda: DatasetTasks([("a", PAIRS)]), r"tasks: is of type tuple, expected a list of DatasetTask\("),
        (lambda: ContinualLM(adapter="SeqLoRA"), "model.adapter: is of type str, expected a strategy"),
        (lambda: ContinualLM(adapter=SeqLoRA), "model.adapter: is the class SeqLoRA, expected a strategy"),
        (lambda: ContinualLM("smollm2-135m-instruct"), "model.backbone: is of type str, expected Backbone"),
    ],
)
def test_objects_of_another_kind_are_refused(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        wrong()


def test_a_frame_is_said_how_it_becomes_rows() -> None:
    with pytest.raises(DataError, match=r"a, train: is a Frame, expected rows: give its \.to_dict\('records'\)"):
        data(DatasetTasks([DatasetTask("a", Frame())]))._task("a", 1)
