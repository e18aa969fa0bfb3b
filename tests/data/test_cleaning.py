"""Cleaning: what goes, what stays, and that a run says so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cl_lightning.data.base import Example, Splits
from cl_lightning.data.benchmarks import trace
from cl_lightning.data.cleaning import Removed, clean, removal_summary
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.random_llama import random_tokenizer
from tests.commands.test_cli import configs, launch, record
from tests.conftest import SHARED

REAL = SHARED / "data"


def splits(train: str, test: str) -> Splits:
    """One letter is one prompt; the answer is its place."""
    made = [
        tuple(Example(f"{s}/{i}", p, str(i)) for i, p in enumerate(text)) for s, text in (("a", train), ("b", test))
    ]
    return Splits(*made, blank=3)


def test_what_the_benchmark_left_out_itself_is_counted_too() -> None:
    assert clean(replace(splits("ab", "bx"), leaked=5), False, True)[1] == Removed(0, 6)
    assert clean(replace(splits("ab", "bx"), leaked=5), False, False)[1] == Removed(0, 5)


def prompts(cleaned: Splits) -> str:
    return "".join(e.prompt for e in cleaned.train)


@pytest.mark.parametrize(
    ("dedup", "drop_leaks", "left", "removed"),
    [
        (False, False, "abacbd", Removed(0, 0)),
        (True, False, "abcd", Removed(2, 0)),
        (False, True, "aacd", Removed(0, 2)),
        (True, True, "acd", Removed(2, 1)),
    ],
)
def test_what_goes_is_counted_and_the_first_stays(dedup: bool, drop_leaks: bool, left: str, removed: Removed) -> None:
    cleaned, counts = clean(splits("abacbd", "bxx"), dedup, drop_leaks)
    assert (prompts(cleaned), counts) == (left, removed)
    assert (cleaned.test, cleaned.blank) == (splits("", "bxx").test, 3)
    assert cleaned.train[0].answer == "0", "the first of several"


def test_the_summary_of_what_was_removed() -> None:
    assert (
        removal_summary({"A": Removed(3, 1), "B": Removed(), "C": Removed(0, 2)})
        == "left out: A 3 repeated and 1 leaked, C 2 leaked"
    )
    assert removal_summary({"A": Removed()}) == "nothing left out"


def written(root: Path) -> Path:
    """Ten training rows of eight prompts, two of them tested."""
    folder = root / "Mine"
    folder.mkdir(parents=True)
    for split, numbers in (("train", [*range(8), 0, 1]), ("test", [6, 7, 8])):
        rows = [{"prompt": f"text {i}", "answer": "yes"} for i in numbers]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return root


def test_a_run_says_what_was_left_out(tmp_path: Path) -> None:
    root = written(tmp_path / "data")
    options = (f"--data.root={root}", "--data.order=[Mine]", "--data.train_samples=null", "--data.test_samples=null")
    clean_up = ("--data.dedup=true", "--data.drop_leaks=true", "--data.validation_samples=1", "--boundary.init=null")
    run = tmp_path / "run"
    done = launch(*configs("smoke"), *options, *clean_up, "--boundary.memory=null", f"--sequence.run_dir={run}")
    assert done.code == 0, done.err
    source = "TRACE files, cleaned (left out: Mine 2 repeated and 2 leaked)"
    first, tasks, *_ = done.out.splitlines()
    assert first.endswith(f"DATA = {source}")
    assert tasks.startswith("  tasks     1 tasks, each 5 training examples; ")
    assert record(run)["data"] == source
    assert f"scores 0..100 on {source}" in " ".join(done.out.split())


def test_off_by_default(tmp_path: Path) -> None:
    data = TaskSequence(trace.TRACE(), root=str(written(tmp_path)), order=["Mine"], validation_samples=0)
    data.prepare(random_tokenizer(), False)
    assert (len(data.tasks[0].train), data.source) == (10, "TRACE files")


@pytest.mark.skipif(not (REAL / "trace").is_dir(), reason="no TRACE data beside this checkout")
@pytest.mark.parametrize(
    ("name", "repeated", "leaked"), [("FOMC", 3085, 16), ("NumGLUE-ds", 3931, 32), ("NumGLUE-cm", 4718, 0)]
)
def test_known_flaws_of_trace_go(name: str, repeated: int, leaked: int) -> None:
    raw = trace.load(REAL, name)
    cleaned, removed = clean(raw, True, True)
    assert removed == Removed(repeated, leaked)
    assert len(cleaned.train) == 5000 - repeated - leaked
    assert clean(cleaned, True, True) == (cleaned, Removed())
