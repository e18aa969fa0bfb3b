"""Files too large to hold: the same examples as of held ones, in bounded memory."""

import gzip
import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import feather, parquet

from cl_lightning.common.errors import DataError
from cl_lightning.data import choosing
from cl_lightning.data.audit.check import check
from cl_lightning.data.audit.profile import Limits, words
from cl_lightning.data.base import Example
from cl_lightning.data.benchmarks import user_tasks
from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks
from cl_lightning.data.streamed import Streamed, take
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.random_llama import random_tokenizer

ROWS = [{"q": f"Number {i % 90}?", "a": "odd" if i % 2 else "even"} for i in range(120)]
TASK = {"name": "t", "metric": "accuracy", "prompt": "{q}", "answer": "a"}


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_tasks, "HELD", 0)


def write(path: Path, rows: list[dict[str, str]] = ROWS) -> str:
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path.name


def benchmark(**task: Any) -> UserTasks:
    return UserTasks([UserTask(**{**TASK, **task})])


def prepared(root: Path, task: dict[str, Any], **options: Any) -> TaskSequence:
    data = TaskSequence(benchmark(**task), str(root), **{"train_samples": 20, "test_samples": 9, **options})
    data.prepare(random_tokenizer(), False)
    return data


@pytest.mark.parametrize("options", [
    {}, {"train_samples": None, "test_samples": None}, {"dedup": True, "drop_leaks": True}, {"score_by": "likelihood"},
    {"max_answer_tokens": 4, "long_answers": "drop"},
])  # fmt: skip
@pytest.mark.parametrize("task", [{"test_share": 0.3}, {"test": "b.jsonl.gz"}])
def test_a_streamed_file_gives_the_same_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: dict[str, Any], options: dict[str, Any]
) -> None:
    files = {"train": write(tmp_path / "a.jsonl"), **task}
    write(tmp_path / "b.jsonl.gz", ROWS[:50:3])
    held = prepared(tmp_path, files, **options)
    monkeypatch.setattr(user_tasks, "HELD", 0)
    assert isinstance(benchmark(**files).load(tmp_path, "t").train, Streamed)
    streamed = prepared(tmp_path, files, **options)
    assert streamed.tasks == held.tasks and streamed.removed == held.removed
    assert streamed.fingerprint() == held.fingerprint()
    assert streamed.tasks[0].dropped == held.tasks[0].dropped


@pytest.mark.usefixtures("streaming")
def test_every_fault_shows_before_anything_is_chosen(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [*ROWS, {"q": "no answer", "a": " "}])
    with pytest.raises(DataError, match=r"a\.jsonl, row 121: 'a' is empty"):
        benchmark(train="a.jsonl", test_share=0.3).load(tmp_path, "t")


def test_the_data_check_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = benchmark(train=write(tmp_path / "a.jsonl"), test_share=0.3)
    held = check(tmp_path, "own", own, "t", words, Limits(prompt=1, answer=1))
    assert held.profile is not None and held.profile.repeated > 0 and held.profile.contradicted == 0
    monkeypatch.setattr(user_tasks, "HELD", 0)
    assert check(tmp_path, "own", own, "t", words, Limits(prompt=1, answer=1)) == held


def test_a_sequence_of_which_none_is_held() -> None:
    passes = []

    def read() -> Iterator[Example]:
        passes.append(1)
        return (Example(str(i), f"p{i}", "a") for i in range(10))

    every = [*read()]
    some = Streamed(read, bytes([0, 1] * 5), size=100)
    assert some.size == 50
    assert list(some) == every[1::2] and len(some) == 5
    passes.clear()
    assert some.take([4, 0, 2]) == take(every[1::2], [4, 0, 2])
    assert len(passes) == 1, "one pass for all"
    assert some[-1] == every[9] and some[1:3] == every[3:7:2] and some.take([]) == []
    assert list(some.only(bytes([1, 0, 0, 1, 0]))) == [every[1], every[7]]
    with pytest.raises(IndexError):
        some[5]


def most(path: Path) -> float:
    """Read a task and take a few of its examples. Returns the most megabytes in use by Python and Arrow together."""
    pool, before = pyarrow.proxy_memory_pool(pyarrow.default_memory_pool()), pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pool)
    tracemalloc.start()
    try:
        splits = benchmark(train=path.name, test_share=0.1).load(path.parent, "t")
        assert len(take(splits.train, range(0, 100, 5))) == 20
        return (tracemalloc.get_traced_memory()[1] + pool.max_memory()) / 1e6
    finally:
        tracemalloc.stop()
        pyarrow.set_memory_pool(before)


def large(path: Path) -> None:
    """16 MB of texts that cannot be packed: in one group of rows, if the format has groups."""
    texts = random.Random(0).randbytes(8_000_000).hex()
    rows = [{"q": texts[i : i + 4000], "a": "b"} for i in range(0, len(texts), 4000)]
    match path.suffix:
        case ".jsonl":
            write(path, rows)
        case ".csv":
            path.write_text("q,a\n" + "".join(f"{row['q']},{row['a']}\n" for row in rows))
        case ".parquet":
            parquet.write_table(pyarrow.Table.from_pylist(rows), path, use_dictionary=False)
        case ".feather":
            feather.write_feather(pyarrow.Table.from_pylist(rows), str(path), "uncompressed")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".feather"])
def test_memory_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """A task of a file of 16 MB takes less than half of that; the control: holding it takes more than all."""
    large(path := tmp_path / f"a{suffix}")
    held = most(path)
    monkeypatch.setattr(user_tasks, "HELD", 0)
    assert most(path) < 8 < 16 < held


def test_a_large_hub_data_set_is_read_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.jsonl")
    task = {"hub": str(tmp_path), "train": "train", "test_share": 0.3}
    held = benchmark(**task).load(None, "t")
    monkeypatch.setattr(user_tasks, "HELD", 0)
    streamed = benchmark(**task).load(None, "t")
    assert isinstance(streamed.train, Streamed)
    assert (*streamed.train, *streamed.test) == (*held.train, *held.test)


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("split", ["train", "test"])
def test_more_than_the_memory_holds_is_refused_unless_a_part_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    write(tmp_path / "a.jsonl")
    size = (tmp_path / "a.jsonl").stat().st_size
    option, task = f"{split}_samples", {"train": "a.jsonl", "test": "a.jsonl"}
    monkeypatch.setattr(choosing, "machine_memory", lambda: size)
    assert prepared(tmp_path, task, **{option: None}), "it just fits"
    monkeypatch.setattr(choosing, "machine_memory", lambda: size - 1)
    assert prepared(tmp_path, task), "a part of it"
    with pytest.raises(DataError, match=rf"data.{option}: the {split} examples of t take .* say how many are used"):
        prepared(tmp_path, task, **{option: None})
