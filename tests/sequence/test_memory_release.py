"""Garbage is collected once per task, over the objects of that task only, and nothing stays frozen after a run."""

import ctypes
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import pytest
import torch

from cl_lightning.commands.trainer import ContinualTrainer
from cl_lightning.common import memory
from cl_lightning.common.memory import frozen_imports, gc_frozen, release_memory, seldom_collected
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence import run as sequence
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.context import RunContext
from cl_lightning.sequence.settings import SequenceSettings
from tests.commands.test_cli import configs, launch, record
from tests.ragged_words import RaggedWords

#: Once after loading.
LOADED = 1
SMALL = (
    "--data.train_samples=14",
    "--data.validation_samples=2",
    "--data.test_samples=1",
    "--sequence.zero_shot=false",
)


@pytest.fixture(autouse=True)
def _nothing_frozen() -> Iterator[None]:
    """Undo what is done for all other tests."""
    gc.unfreeze()
    yield
    gc.freeze()


@contextmanager
def counted() -> Iterator[dict[str, list[int]]]:
    """Record the number of frozen objects at each full collection and each memory trim.

    Python's own collections, of all that the tests have imported, would take most of the time.
    """
    calls: dict[str, list[int]] = {"collect": [], "trim": []}
    collect, library = gc.collect, ctypes.CDLL

    def counting_collect(*args: Any) -> int:
        calls["collect"].append(gc.get_freeze_count())
        return collect(*args)

    def counting_library(name: str | None, *args: Any, **options: Any) -> ctypes.CDLL:
        if name is None:
            calls["trim"].append(gc.get_freeze_count())
        return library(name, *args, **options)

    gc.disable()
    try:
        with patch("gc.collect", counting_collect), patch("ctypes.CDLL", counting_library):
            yield calls
    finally:
        gc.enable()


def test_frozen_imports_stay_frozen_around_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory._Process, "imports_frozen", False)
    with pytest.raises(KeyError), frozen_imports():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    imports = gc.get_freeze_count()
    assert imports
    made = [[] for _ in range(1000)]
    with gc_frozen():
        assert gc.get_freeze_count() >= imports + len(made)
    assert gc.get_freeze_count() >= imports


def test_memory_is_released_once_per_task(tmp_path: Path) -> None:
    before = gc.get_freeze_count()
    with counted() as calls:
        assert launch(*configs("smoke"), *SMALL, f"--sequence.run_dir={tmp_path / 'run'}").code == 0
    tasks = record(tmp_path / "run")["done"]
    assert {name: len(frozen) for name, frozen in calls.items()} == {"collect": LOADED + tasks, "trim": LOADED + tasks}
    assert all(frozen > 100_000 for frozen in calls["collect"][LOADED:]), "loaded objects are not scanned"
    assert gc.get_freeze_count() == before


def test_all_objects_are_not_searched_while_data_is_loaded() -> None:
    before, searched = gc.get_threshold(), []

    def note(phase: str, found: dict[str, int]) -> None:
        searched.append(found["generation"])

    gc.callbacks.append(note)
    try:
        with seldom_collected():
            kept = [[i] for i in range(600_000)]
    finally:
        gc.callbacks.remove(note)
    assert len(kept) == 600_000
    assert set(searched) == {0, 1}
    assert gc.get_threshold() == before


def test_what_the_caller_has_frozen_stays_frozen() -> None:
    gc.freeze()
    with gc_frozen():
        assert gc.get_freeze_count() > 100_000
    assert gc.get_freeze_count() > 100_000
    gc.unfreeze()
    with gc_frozen():
        assert gc.get_freeze_count() > 100_000
    assert gc.get_freeze_count() < 100_000, "the control"


def test_releasing_after_each_score_is_noticed(tmp_path: Path) -> None:
    """Negative control."""
    score = sequence.score_task

    def score_and_release(*args: Any) -> Any:
        try:
            return score(*args)
        finally:
            release_memory()

    with counted() as calls, patch.object(sequence, "score_task", score_and_release):
        assert launch(*configs("smoke"), *SMALL, f"--sequence.run_dir={tmp_path / 'run'}").code == 0
    assert all(len(frozen) > LOADED + 2 for frozen in calls.values())


class Optimisers(TaskCallback):
    """Counts the optimisers that are alive when a task starts."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[torch.optim.Optimizer]] = []
        self.alive: list[int] = []

    def on_task_start(self, run: RunContext, task: int) -> None:
        self.alive.append(sum(one() is not None for one in self.seen))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(weakref.ref(trainer.strategy.optimizers[0]))


def test_the_optimiser_of_a_finished_task_is_gone_when_the_next_one_starts(tmp_path: Path) -> None:
    noted = Optimisers()
    gc.disable()  # which may find it in time, or not
    try:
        settings = SequenceSettings(run_dir=str(tmp_path / "run"), wandb="off", report=False, zero_shot=False)
        trainer = ContinualTrainer(None, {"noted": noted}, settings, accelerator="cpu")
        trainer.fit(
            ContinualLM(Backbone("random-llama", "float32")),
            TaskSequence(RaggedWords(), order=["one", "two"], train_samples=4, validation_samples=0, test_samples=1),
        )
    finally:
        gc.enable()
    assert noted.alive == [0, 0]
