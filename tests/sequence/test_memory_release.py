"""Garbage is collected once per task, over the objects of that task only, and nothing stays frozen after a run."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from cl_lightning.common.memory import gc_frozen, release_memory
from cl_lightning.sequence import run as sequence
from tests.commands.test_cli import configs, launch, record

#: Once after loading.
LOADED = 1


@pytest.fixture(autouse=True)
def _nothing_frozen() -> Iterator[None]:
    """Undo what is done for all other tests."""
    gc.unfreeze()
    yield
    gc.freeze()


@contextmanager
def counted() -> Iterator[dict[str, list[int]]]:
    """Record the number of frozen objects at each full collection and each memory trim."""
    calls: dict[str, list[int]] = {"collect": [], "trim": []}
    collect, library = gc.collect, ctypes.CDLL

    def counting_collect(*args: Any) -> int:
        calls["collect"].append(gc.get_freeze_count())
        return collect(*args)

    def counting_library(name: str | None, *args: Any, **options: Any) -> ctypes.CDLL:
        if name is None:
            calls["trim"].append(gc.get_freeze_count())
        return library(name, *args, **options)

    with patch("gc.collect", counting_collect), patch("ctypes.CDLL", counting_library):
        yield calls


def test_memory_is_released_once_per_task(tmp_path: Path) -> None:
    before = gc.get_freeze_count()
    with counted() as calls:
        assert launch(*configs("smoke"), f"--sequence.run_dir={tmp_path / 'run'}").code == 0
    tasks = record(tmp_path / "run")["done"]
    assert {name: len(frozen) for name, frozen in calls.items()} == {"collect": LOADED + tasks, "trim": LOADED + tasks}
    assert all(frozen > 100_000 for frozen in calls["collect"][LOADED:]), "loaded objects are not scanned"
    assert gc.get_freeze_count() == before


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
        assert launch(*configs("smoke"), f"--sequence.run_dir={tmp_path / 'run'}").code == 0
    assert all(len(frozen) > LOADED + 2 for frozen in calls.values())
