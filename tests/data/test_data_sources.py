"""Where examples come from: the TRACE reader and the built-in sample. No model, a few seconds."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from cl_lightning.common.errors import DataError, UserError
from cl_lightning.data.base import Example
from cl_lightning.data.benchmarks import trace
from cl_lightning.data.sample import tasks as sample
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.metrics.registry import METRICS
from tests.conftest import SHARED

REAL = SHARED / "data"
RECORDS = [{"prompt": "one plus one?", "answer": "2"}, {"prompt": "two plus two?", "answer": "4"}]
LABELLED = ("C-STANCE", "FOMC", "ScienceQA", "Sentiment")


def write_task(folder: Path, train: object = RECORDS, test: object = RECORDS) -> Path:
    folder.mkdir(parents=True)
    for name, content in (("train.json", train), ("test.json", test)):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


# ---------------------------------------------------------------- TRACE reader


def test_trace_tables_agree() -> None:
    assert all(set(trace.ORDERS[order]) == set(trace.TASKS) for order in ("order1", "order2"))
    assert trace.EPOCHS["MeetingBank"] == 7 and trace.EPOCHS["20Minuten"] == 7
    assert all(name == spec.name and spec.source for name, spec in trace.TASKS.items())


def test_an_order_by_name_is_the_published_one(tmp_path: Path) -> None:
    second = ["NumGLUE-cm", "NumGLUE-ds", "FOMC", "20Minuten", "C-STANCE", "Py150", "MeetingBank", "ScienceQA"]
    six = ["C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm"]
    for root in (None, tmp_path):
        assert trace.TRACE(order="order1").default_order(root) == list(trace.TASKS)
        assert trace.TRACE(order="order2").default_order(root) == second
        assert trace.TRACE(order="slice6").default_order(root) == six
    write_task(tmp_path / "Mine")
    assert trace.TRACE().default_order(tmp_path) == [*trace.TASKS, "Mine"]


def test_published_epochs_are_those_of_the_orders_authors() -> None:
    traces = {"C-STANCE": 5, "FOMC": 3, "MeetingBank": 7, "Py150": 5, "ScienceQA": 3, "NumGLUE-cm": 5, "NumGLUE-ds": 5}
    for order in (None, "order1", "order2"):
        assert trace.TRACE(order=order).published_epochs() == {**traces, "20Minuten": 7}
    six = trace.TRACE(order="slice6")
    assert TaskSequence(six, epochs="published").epochs_per_task == [3] * 6
    with pytest.raises(UserError, match="no number is published for NumGLUE-ds"):
        TaskSequence(six, order=["FOMC", "NumGLUE-ds"], epochs="published")


def test_an_absent_task_is_left_out_when_asked(tmp_path: Path) -> None:
    write_task(tmp_path / "LLM-CL-Benchmark_500" / "FOMC")
    options = {"root": str(tmp_path), "order": ["C-STANCE", "FOMC"]}
    with pytest.raises(
        UserError, match=r"data\.order: no data for C-STANCE: looked for .*LLM-CL-Benchmark_500/C-STANCE"
    ):
        TaskSequence(trace.TRACE(subset=500), **options)
    data = TaskSequence(trace.TRACE(subset=500), **options, skip_missing=True)
    assert (data.order, data.source) == (["FOMC"], "TRACE files, subset 500, without C-STANCE (no data)")
    with pytest.raises(DataError, match="no folder LLM-CL-Benchmark_1000"):
        TaskSequence(trace.TRACE(subset=1000), **options)


@pytest.mark.parametrize("layout", ["", "trace", "LLM-CL-Benchmark_500"])
def test_each_layout_loads(tmp_path: Path, layout: str) -> None:
    write_task(tmp_path / layout / "Mine")
    splits = trace.load(tmp_path, "Mine")
    assert splits.train == (
        Example("Mine/train/0", "one plus one?", "2"),
        Example("Mine/train/1", "two plus two?", "4"),
    )
    assert [example.id for example in splits.test] == ["Mine/test/0", "Mine/test/1"]


def test_authors_layout_takes_the_subset_asked_for_else_the_largest(tmp_path: Path) -> None:
    for size in (500, 1000, 5000):
        write_task(tmp_path / f"LLM-CL-Benchmark_{size}" / "FOMC", train=[{"prompt": f"p{size}", "answer": "A"}])
    assert trace.load(tmp_path, "FOMC").train[0].prompt == "p5000"
    assert trace.load(tmp_path, "FOMC", subset=1000).train[0].prompt == "p1000"
    inside = tmp_path / "LLM-CL-Benchmark_500"
    assert trace.load(inside, "FOMC").train[0].prompt == "p500"
    assert trace.load(inside, "FOMC", subset=500).train[0].prompt == "p500"
    with pytest.raises(DataError, match=r"LLM-CL-Benchmark_700.*sizes there: 500, 1000, 5000"):
        trace.load(tmp_path, "FOMC", subset=700)


def test_the_sizes_expected_are_those_of_the_subset(tmp_path: Path) -> None:
    def expected(root: Path, subset: int | None = None) -> dict[str, tuple[int | None, int | None]]:
        return {n: trace.TRACE(subset).tasks(root)[n].published for n in ("FOMC", "NumGLUE-cm")}

    whole, small = {"FOMC": (5000, 496), "NumGLUE-cm": (5000, 81)}, {"FOMC": (500, 100), "NumGLUE-cm": (500, 81)}
    assert expected(tmp_path) == whole
    for name in ("FOMC", "NumGLUE-cm"):
        write_task(tmp_path / "LLM-CL-Benchmark_500" / name)
    assert expected(tmp_path) == expected(tmp_path / "LLM-CL-Benchmark_500") == small
    write_task(tmp_path / "LLM-CL-Benchmark_1000" / "FOMC")
    assert expected(tmp_path) == {**small, "FOMC": (1000, 496)}
    assert expected(tmp_path, 500) == small
    assert expected(tmp_path, 1000) == {"FOMC": (1000, 496), "NumGLUE-cm": (1000, 81)}
    assert expected(tmp_path, 700) == {"FOMC": (None, None), "NumGLUE-cm": (None, None)}
    write_task(tmp_path / "trace" / "FOMC")
    assert expected(tmp_path) == {**small, "FOMC": (5000, 496)}


def test_the_folder_for_replay_is_not_a_task(tmp_path: Path) -> None:
    for base in (tmp_path, tmp_path / "trace"):
        write_task(base / "Lima", test=[{"prompt": "p", "answer": ""}])
    write_task(tmp_path / "Lima2")
    assert trace.TRACE().default_order(tmp_path) == [*trace.TASKS, "Lima2"]


def test_plain_layout_wins_and_a_task_may_be_in_one_subset_only(tmp_path: Path) -> None:
    write_task(tmp_path / "LLM-CL-Benchmark_5000" / "FOMC")
    write_task(tmp_path / "FOMC", train=[{"prompt": "plain", "answer": "A"}])
    write_task(tmp_path / "LLM-CL-Benchmark_500" / "Py150")
    assert trace.load(tmp_path, "FOMC").train[0].prompt == "plain"
    assert len(trace.load(tmp_path, "Py150").train) == 2


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ('[\n{"prompt": "a", "answer": "b"},\n{"prompt" "a"}\n]', r"train\.json, line 3, column \d+: not valid JSON"),
        ({"prompt": "a"}, r"train\.json: holds an object, expected a list"),
        ([], r"train\.json: empty split"),
        ([*RECORDS, {"answer": "b"}], r"train\.json: record 3 has no 'prompt'; its keys: answer"),
        ([{"prompt": "a"}], r"train\.json: record 1 has no 'answer'"),
        ([{"prompt": "a", "answer": 4}], r"train\.json: record 1: 'answer' is a number, expected text"),
        ([{"prompt": "a", "answer": " \n"}], r"train\.json: record 1: 'answer' is empty"),
        (["text"], r"train\.json: record 1 is text, expected an object"),
        ([*RECORDS, {"prompt": "a", "answer": "b\ud83d"}], r"train\.json: item 3, 'answer' holds '\\ud83d', half a "),
        ([{"\udc00": "a"}], r"train\.json: item 1, a key holds '\\udc00', half a surrogate pair"),
        ("[" * 100_000, r"train\.json: not usable JSON \(lists or objects are nested too deeply\)"),
        (f'[{{"prompt": {"9" * 4301}}}]', r"train\.json: not usable JSON \(.*4300 digits"),
    ],
)
def test_bad_file_is_one_clear_line(tmp_path: Path, train: object, message: str) -> None:
    write_task(tmp_path / "Mine", train=train)
    with pytest.raises(DataError, match=message) as caught:
        trace.load(tmp_path, "Mine")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_whole_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "Mine", train=[{"prompt": "a \U0001f600", "answer": "\U0001f601"}])
    assert r"\ud83d\ude00" in (folder / "train.json").read_text()
    example = trace.load(tmp_path, "Mine").train[0]
    assert (example.prompt, example.answer) == ("a \U0001f600", "\U0001f601")


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data root .*nowhere is not a folder"):
        trace.load(tmp_path / "nowhere", "FOMC")
    with pytest.raises(DataError, match=r"task 'FOMC' not found: looked for .*FOMC.*; no task folder there"):
        trace.load(tmp_path, "FOMC")
    folder = write_task(tmp_path / "FOMC")
    with pytest.raises(DataError, match=r"task 'FOCM' not found.*did you mean FOMC\?"):
        trace.load(tmp_path, "FOCM")
    (folder / "test.json").unlink()
    with pytest.raises(DataError, match=r"test\.json is missing; the folder holds: train\.json"):
        trace.load(tmp_path, "FOMC")
    (folder / "test.json").write_bytes(b'[{"prompt": "\xff"}]')
    with pytest.raises(DataError, match=r"test\.json: not UTF-8"):
        trace.load(tmp_path, "FOMC")


@pytest.mark.skipif(not (REAL / "trace").is_dir(), reason="no TRACE data beside the repository")
@pytest.mark.parametrize("name", trace.TASKS)
def test_real_data_loads(name: str) -> None:
    splits = trace.load(REAL, name)
    assert len(splits.train) >= 376 and len(splits.test) >= 81
    assert len({example.id for example in splits.train}) == len(splits.train)


# ------------------------------------------------------------- built-in sample


def sentences(examples: tuple[Example, ...], fixed: set[str]) -> set[str]:
    """Every sentence (line, clause of code) of prompts and answers; lines that every prompt has are no content."""
    found: set[str] = set()
    for example in examples:
        lines = [line for line in f"{example.prompt}\n{example.answer}".split("\n") if line not in fixed]
        found.update(part.strip() for part in re.split(r"[.!?。！？\n]|<EOL>", "\n".join(lines)))
    return {part for part in found if len(part) > 1}  # a single letter is a choice or a label


def numbers(examples: tuple[Example, ...]) -> set[str]:
    return {digits for e in examples for digits in re.findall(r"\d+", f"{e.prompt}\n{e.answer}")}


def leaks(train: tuple[Example, ...], test: tuple[Example, ...]) -> set[str]:
    """What a model could have learned by heart: sentences and numbers that both splits hold."""
    fixed = set.intersection(*(set(example.prompt.split("\n")) for example in train + test))
    shared = (sentences(train, fixed) & sentences(test, fixed)) - {"positive", "negative"}
    return shared | (numbers(train) & numbers(test))


@pytest.mark.parametrize("name", sample.TASKS)
def test_sample_sizes_ids_and_no_duplicates(name: str) -> None:
    splits = sample.load(name)
    for split, examples in (("train", splits.train), ("test", splits.test)):
        assert len(examples) == sample.SIZES[split]
        assert [example.id for example in examples] == [f"{name}/{split}/{i}" for i in range(len(examples))]
        assert len({example.prompt for example in examples}) == len(examples)
        assert all(example.prompt and example.answer == example.answer.strip() != "" for example in examples)


@pytest.mark.parametrize("name", sample.TASKS)
def test_sample_train_and_test_share_no_sentence_and_no_number(name: str) -> None:
    splits = sample.load(name)
    assert leaks(splits.train, splits.test) == set()


@pytest.mark.parametrize("name", sample.TASKS)
def test_the_leak_check_finds_a_leak(name: str) -> None:
    splits = sample.load(name)
    assert leaks(splits.train + splits.test[:1], splits.test)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("split", sample.SIZES)
def test_sample_labels_are_balanced(name: str, split: str) -> None:
    examples = getattr(sample.load(name), split)
    counts = Counter(example.answer.split("\n")[0] for example in examples)
    assert len(counts) == (2 if name == "Sentiment" else 3)
    assert max(counts.values()) - min(counts.values()) <= 2
    assert not numbers(examples)


@pytest.mark.parametrize("split", sample.SIZES)
def test_each_stance_target_meets_each_stance(split: str) -> None:
    counts: dict[str, Counter[str]] = {}
    for example in getattr(sample.load("C-STANCE"), split):
        target = example.prompt.split("\n")[-2]
        assert example.prompt.count(target) == 2  # in the text and as the object
        counts.setdefault(target, Counter())[example.answer] += 1
    assert len(counts) > 4
    for labels in counts.values():
        assert len(labels) == 3 and max(labels.values()) - min(labels.values()) <= 1


@pytest.mark.parametrize("name", sample.TASKS)
def test_no_cheap_prediction_scores_well(name: str) -> None:
    """Neither the copied prompt nor the commonest train answer leaves less than 25 points to learn."""
    splits, metric = sample.load(name), METRICS[sample.TASKS[name].metric]
    prompts, references = [e.prompt for e in splits.test], [e.answer for e in splits.test]
    commonest = Counter(e.answer for e in splits.train).most_common(1)[0][0]
    for predictions in (prompts, [commonest] * len(prompts)):
        assert sum(metric(predictions, references, prompts)) / len(prompts) < 55


@pytest.mark.parametrize(("name", "pinned"), [("MeetingBank", "f7ddd40e99a116a0"), ("NumGLUE-ds", "55471a8e645018ea")])
def test_sample_is_pinned(name: str, pinned: str) -> None:
    """The same text on every machine and Python version, so that stored results stay comparable."""
    splits = sample.load(name)
    rows = [(e.id, e.prompt, e.answer) for e in splits.train + splits.test]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == pinned


def test_sample_covers_the_eight_tasks_and_one_more() -> None:
    assert list(sample.TASKS) == [*trace.TASKS, "Sentiment"]
    for name, spec in trace.TASKS.items():
        mine = sample.TASKS[name]
        assert (mine.metric, mine.language, mine.keep_head) == (spec.metric, spec.language, spec.keep_head)
        assert mine.max_new_tokens <= spec.max_new_tokens and "not TRACE" in mine.source


def test_unknown_sample_task_says_which_are_meant() -> None:
    with pytest.raises(UserError, match="did you mean FOMC"):
        sample.load("FOCM")
