"""The user's own tasks: each kind of file, templates, held-out shares; what is wrong is one line with file and row."""

import csv
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_lightning.common.errors import ConfigError, DataError, UserError
from cl_lightning.data.base import Splits
from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks
from cl_lightning.data.files.read import READERS, read_rows
from cl_lightning.data.task_sequence import TaskSequence
from tests.commands.test_cli import Result, configs, launch, record

ROWS = [{"text": "a {b}", "label": "yes"}, {"text": 'c, "d"\ne', "label": "no"}]
PROMPT = "Text: {text}\nAnswer:"


def written(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def jsonl(rows: list[Any]) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n\n"


def task(**options: Any) -> UserTask:
    most = {"name": "mine", "prompt": PROMPT, "answer": "label", "metric": "accuracy", "train": "a.jsonl"}
    chosen = {**most, **options}
    return UserTask(**chosen, **({} if {"test", "test_share"} & {*chosen} else {"test": "a.jsonl"}))


def load(root: Path, **options: Any) -> Splits:
    return UserTasks([task(**options)]).load(root, "mine")


# ---------------------------------------------------------------- kinds of files


def as_table(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (extra `data`) is not installed")
    from pyarrow import feather, parquet

    table = pyarrow.Table.from_pylist(ROWS)
    if path.suffix == ".arrow":
        with pyarrow.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        {".parquet": parquet.write_table, ".feather": feather.write_feather}[path.suffix](table, path)


@pytest.mark.parametrize("suffix", READERS)
def test_every_kind_of_file_reads_the_same(tmp_path: Path, suffix: str) -> None:
    texts = {
        ".json": json.dumps(ROWS),
        ".jsonl": jsonl(ROWS),
        ".csv": 'text,label\na {b},yes\n"c, ""d""\ne",no\n',
        ".tsv": 'text\tlabel\na {b}\tyes\n"c, ""d""\ne"\tno\n',
    }
    path = tmp_path / f"rows{suffix}"
    if suffix not in texts:
        as_table(path)
    else:
        written(path, texts[suffix])
    assert list(read_rows(path)) == [(f"{path}, row {i}", row) for i, row in enumerate(ROWS, start=1)]
    splits = load(tmp_path, train=path.name, test=path.name)
    assert [(e.id, e.prompt, e.answer) for e in splits.test] == [
        ("mine/test/0", "Text: a {b}\nAnswer:", "yes"),
        ("mine/test/1", 'Text: c, "d"\ne\nAnswer:', "no"),
    ]


def test_a_hub_data_set(tmp_path: Path) -> None:
    if not importlib.util.find_spec("datasets"):
        with pytest.raises(
            ConfigError, match=r"hub data set 'ag_news' needs datasets, which is not installed: pip install"
        ):
            load(tmp_path, hub="ag_news", train="train", test="test")
        return
    written(tmp_path / "train.csv", "text,label\na,0\nb,1\n")
    written(tmp_path / "test.csv", "text,label\nc,1\n")
    options = {"hub": str(tmp_path), "train": "train", "labels": {"0": "bad", "1": "good"}}
    splits = load(tmp_path, **options, test="test")
    assert [e.answer for e in (*splits.train, *splits.test)] == ["bad", "good", "good"]
    with pytest.raises(DataError, match=r", split nothing: cannot be loaded \("):
        load(tmp_path, **options, test="nothing")


# ---------------------------------------------------------------- prompts, answers, splits


def test_templates_answers_and_labels(tmp_path: Path) -> None:
    rows = [{"q": 1, "b.c": True, "label": 0}, {"q": 2.5, "b.c": False, "label": [1, 0, 1]}]
    written(tmp_path / "a.jsonl", jsonl(rows))
    # YAML reads 0 and 1 as numbers.
    splits = load(tmp_path, prompt="{{x}} {q}: {b.c}", labels={0: "bad", "1": "very good"})
    first, second = splits.train
    assert (first.prompt, first.answer, first.references) == ("{x} 1: True", "bad", ())
    assert (second.prompt, second.answer, second.references) == ("{x} 2.5: False", "very good", ("very good", "bad"))


@pytest.mark.parametrize(
    ("prompt", "instruction", "cue"),
    [
        (PROMPT, "Text: ", "\nAnswer:"),
        ("{text}{label}", "", ""),
        ("{{as}} JSON: {text} and {label}", "{as} JSON: ", ""),
        ("{text} {label}, {{x}} it is {{y}}", "", ", {x} it is {y}"),
    ],
)
def test_the_text_around_the_fields_is_instruction_and_cue(
    tmp_path: Path, prompt: str, instruction: str, cue: str
) -> None:
    written(tmp_path / "a.jsonl", jsonl(ROWS))
    for example in load(tmp_path, prompt=prompt).train:
        assert example.prompt[: example.instruction] == instruction
        assert example.prompt[len(example.prompt) - example.cue :] == cue


def test_a_share_is_held_out_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = [{"text": f"text {i % 150}", "label": str(i)} for i in range(200)]
    written(tmp_path / "a.jsonl", jsonl(rows))
    written(tmp_path / "b.jsonl", jsonl(rows[::-1]))
    one, other = (load(tmp_path, train=name, test_share=0.3) for name in ("a.jsonl", "b.jsonl"))
    assert {e.prompt for e in one.test} == {e.prompt for e in other.test}
    assert not {e.prompt for e in one.test} & {e.prompt for e in one.train}, "equal prompts are on one side"
    assert len(one.train) + len(one.test) == 200
    assert 40 <= len(one.test) <= 80


def test_specs_say_what_was_written() -> None:
    benchmark = UserTasks([task(), task(name="b", max_new_tokens=5, language="de", source="home, CC0")])
    mine, other = benchmark.tasks(None).values()
    assert (mine.metric, mine.max_new_tokens, mine.source) == ("accuracy", 32, "own data: a.jsonl")
    assert (other.name, other.max_new_tokens, other.language, other.source) == ("b", 5, "de", "home, CC0")
    assert benchmark.default_order(None) == ["mine", "b"]
    assert benchmark.describe(None) == "own data (mine, b)"


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("a.jsonl", jsonl([*ROWS, {"txt": "a"}]), {}, r"a\.jsonl, row 3 has no field 'text'; did you mean txt\?"),
        ("a.jsonl", jsonl([{"text": "a"}]), {}, r"a\.jsonl, row 1 has no field 'label'; valid: text"),
        ("a.jsonl", jsonl([{"text": "a", "label": " "}]), {}, r"row 1: 'label' is empty"),
        ("a.jsonl", jsonl([{"text": "a", "label": []}]), {}, r"row 1: 'label' is empty"),
        ("a.jsonl", jsonl([{"text": "a", "label": None}]), {}, r"row 1: 'label' is null, expected text or a number"),
        ("a.jsonl", jsonl([{"text": ["a"], "label": "b"}]), {}, r"row 1: 'text' is a list, expected text or a number"),
        ("a.jsonl", jsonl(ROWS) + "{broken\n", {}, r"a\.jsonl, row 4, column 2: not valid JSON \("),
        ("a.jsonl", '{"text": "a", "label": "\\ud83d"}', {}, r"a\.jsonl, row 1: 'label' holds '\\ud83d', half a surr"),
        ("a.jsonl", "[" * 100_000, {}, r"a\.jsonl, row 1: not usable JSON \(.*nested too deeply"),
        ("a.jsonl", f'{{"text": {"1" * 5000}}}', {}, r"a\.jsonl, row 1: not usable JSON \(.*4300 digits"),
        ("a.jsonl", "[1]\n", {}, r"a\.jsonl, row 1 is a list, expected an object of fields"),
        ("a.jsonl", "\n", {}, r"a\.jsonl: has no rows"),
        ("a.json", "[]", {}, r"a\.json: empty split"),
        ("a.json", "[3]", {}, r"a\.json, row 1 is a number, expected an object"),
        ("a.csv", "text,label\n", {}, r"a\.csv: has no rows"),
        ("a.csv", "", {}, r"a\.csv: has no rows"),
        ("a.csv", "text,label\na,b\nc\n", {}, r"a\.csv, row 2: has 1 fields, the head line has 2"),
        ("a.csv", "text,label\na,b,c,d\n", {}, r"a\.csv, row 1: has 4 fields, the head line has 2"),
        ("a.csv", 'text,label\na,b\n"c"d,e\n', {}, r"a\.csv, row 2: not valid CSV \("),
        ("a.csv", "text,label,text\na,b,c\n", {}, r"a\.csv: two columns are called 'text'; rename one of them"),
        ("a.jsonl", '{"text": NaN, "label": "b"}', {}, r"row 1: 'text' is nan, expected text or a finite number"),
        ("a.jsonl", '{"text": "a", "label": NaN}', {}, r"row 1: 'label' is nan, expected text or a finite number"),
        ("a.jsonl", '{"text": "a", "label": ["b", -1e999]}', {}, r"row 1: 'label' is -inf, expected text or a fin"),
        (
            "a.jsonl",
            jsonl([ROWS[0], {"text": " \n", "label": "b"}]),
            {},
            r"row 2: every field that the prompt uses is blank \(text\)",
        ),
        (
            "a.csv",
            'text,label\n"  ",b\n',
            {"prompt": "{text}"},
            r"row 1: every field that the prompt uses is blank \(text\)",
        ),
        ("a.jsonl", '{"text": "a", "text": "b", "label": "c"}', {}, r"row 1: an object has 'text' twice"),
        ("a.txt", "x", {}, r"a\.txt: cannot be read; its name must end in one of \.json, \.jsonl"),
        (
            "a.jsonl",
            jsonl(ROWS),
            {"labels": {"yes": "1"}},
            r"row 2: 'label' is 'no', which labels does not list; it lists yes$",
        ),
        (
            "a.jsonl",
            jsonl(ROWS),
            {"labels": {True: "1", False: "0"}},
            r"'yes', .*; it lists True, False; quote words like",
        ),
        ("a.jsonl", jsonl(ROWS), {"test": "b.jsonl"}, r"b\.jsonl is missing; did you mean a\.jsonl\?"),
        ("a.jsonl", jsonl(ROWS), {"test_share": 1e-9}, r"of 2 rows leaves one side empty; they have 2 diff"),
    ],
)
def test_bad_data_is_one_line(tmp_path: Path, name: str, content: str, options: dict[str, Any], said: str) -> None:
    written(tmp_path / name, content)
    with pytest.raises(DataError, match=said) as caught:
        load(tmp_path, train=name, **({} if {"test", "test_share"} & {*options} else {"test": name}), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([1.0, float("nan")], r"row 2: 'label' is nan, expected text or a finite number"),
        ([b"a", b"b"], r"row 1: 'label' is bytes, expected text or a number"),
        ([{"a": 1}, {"a": 2}], r"row 1: 'label' is an object, expected text or a number"),
    ],
)
def test_what_parquet_may_hold_that_is_not_text_is_reported(tmp_path: Path, column: list[Any], said: str) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (extra `data`) is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=said):
        load(tmp_path, train="a.parquet", test="a.parquet")
    twins = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    parquet.write_table(twins, tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: two columns are called 'text'"):
        load(tmp_path, train="b.parquet", test="b.parquet")
    far = pyarrow.array([10**7], pyarrow.date32())
    parquet.write_table(pyarrow.table({"text": ["a"], "label": ["b"], "day": far}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: holds a value out of Python's range"):
        load(tmp_path, train="c.parquet", test="c.parquet")


def test_what_is_not_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises(DataError, match=r"folder\.jsonl: contains no data file; data files end"):
        load(tmp_path, train="folder.jsonl", test="folder.jsonl")
    with pytest.raises(DataError, match=r"loop\.jsonl: is a link that leads to no file$"):
        load(tmp_path, train="loop.jsonl", test="loop.jsonl")


def test_a_bad_byte_is_counted_from_the_files_beginning(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\n" + b"a,b\n" * 30_000 + b"\xff,b\n")
    with pytest.raises(DataError, match=r"a\.csv, line 30002: not UTF-8 text \(byte 120011\); .* encoding: latin-1"):
        load(tmp_path, train="a.csv", test="a.csv")


def test_one_blank_field_beside_another_is_taken(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", jsonl([{"text": "a", "hint": "", "label": "b"}]))
    assert load(tmp_path, prompt="{text}{hint}:").train[0].prompt == "a:"


def test_a_field_of_csv_may_be_long_and_the_limit_stays(tmp_path: Path) -> None:
    before, text = csv.field_size_limit(), "a" * 200_000
    assert before < len(text), "else this shows nothing"
    written(tmp_path / "a.csv", f"text,label\n{text},yes\n")
    rows = read_rows(tmp_path / "a.csv")
    assert next(rows)[1]["text"] == text
    assert csv.field_size_limit() == before, "while the rows are being read, too"
    assert not list(rows)


def test_text_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(b"text,label\n\xff,b\n")
        with pytest.raises(DataError, match=rf"{name}, line 2: not UTF-8 text"):
            load(tmp_path, train=name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": "no field"}, "prompt: has no {field}"),
        ({"prompt": "{text"}, "prompt: .*write {{ and }} for braces"),
        ({"prompt": "{}"}, "prompt: {} must be the plain name of a field"),
        ({"prompt": "{text:>10}"}, "prompt: {text} must be the plain name"),
        ({"name": "a b"}, "'a b': a name has no blanks"),
        ({"name": ".."}, "'..': a name .* is not dots alone"),
        ({"name": "a\x07"}, "a name has no blanks"),
        ({"name": "ä" * 51}, "a name has at most 100 bytes"),
        ({"test": None}, "give either test or test_share, not both"),
        ({"test": "a.csv", "test_share": 0.5}, "give either test or test_share, not both"),
        ({"test_share": 1.0}, r"test_share: 1\.0 must lie between 0 and 1"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 must be 1 or more"),
        ({"labels": {0: False, 1: "yes"}}, "'mine'.labels: '0' has False, which is not text; quote words like yes, no"),
        ({"keep_head": 2.0}, r"keep_head: 2\.0 must lie in 0\.\.1"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        UserTasks([task(**options)])


def test_a_name_is_given_once_and_a_task_must_be_there() -> None:
    with pytest.raises(ConfigError, match="'mine': the name appears twice"):
        UserTasks([task(), task()])
    with pytest.raises(ConfigError, match="the list is empty; describe at least one task"):
        UserTasks([])


# ---------------------------------------------------------------- from the command line


def run(tmp_path: Path, **changes: Any) -> Result:
    rows = [{"text": f"number {i}", "label": "odd" if i % 2 else "even"} for i in range(20)]
    written(tmp_path / "data" / "a.jsonl", jsonl(rows))
    written(tmp_path / "data" / "b.csv", "q,a\n" + "".join(f"{i},{i + 1}\n" for i in range(20)))
    tasks: list[dict[str, Any]] = [
        {"name": "parity", "train": "a.jsonl", "test_share": 0.2, "prompt": "{text}?", "answer": "label"},
        {"name": "next", "train": "b.csv", "test": "b.csv", "prompt": "{q} + 1 =", "answer": "a"},
    ]
    for one in tasks:
        one |= {"metric": "accuracy", "max_new_tokens": 4, **changes}
    config = {
        "data": {
            "benchmark": {"class_path": "cl_lightning.data.UserTasks", "init_args": {"tasks": tasks}},
            "root": str(tmp_path / "data"),
            "order": None,
            "train_samples": 8,
            "test_samples": 3,
        }
    }
    extra = written(tmp_path / "own.yaml", yaml.safe_dump(config))
    return launch(*configs("smoke"), f"--config={extra}", f"--sequence.run_dir={tmp_path / 'run'}", "--boundary={}")


def test_tasks_written_in_yaml_run(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.code == 0, result.err
    first, tasks, *_ = result.out.splitlines()
    assert first.endswith("DATA = own data (parity, next)")
    assert tasks.startswith("  tasks     2 tasks, each 8 training examples; ")
    state = record(tmp_path / "run")
    assert (state["done"], state["order"]) == (2, ["parity", "next"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "acuracy"}, "unknown metric 'acuracy'; did you mean accuracy"),
        (
            {"metric": "first_letter"},
            r"parity/train/\d+: first_letter: the answer '(odd|even)' does not begin with a choice",
        ),
        ({"also": ["f1", "acuracy"]}, "unknown metric 'acuracy'; did you mean accuracy"),
        ({"also": ["first_letter"]}, r"first_letter: the answer '\w+' does not begin with a choice"),
        ({"also": "f1"}, "also: expected list or null, not 'f1'"),
        ({"answer": "lable"}, r"a\.jsonl, row 1 has no field 'lable'; did you mean label\?"),
        ({"max_new_tokens": "many"}, "max_new_tokens"),
        ({"promt": "x"}, "promt"),
    ],
)
def test_mistakes_in_yaml_end_in_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    result = run(tmp_path, **changes)
    assert result.code == 2
    assert re.search(said, result.line)
    assert not (tmp_path / "run").exists()


def test_absent_files_are_named(tmp_path: Path) -> None:
    result = run(tmp_path, train="c.jsonl")
    assert re.search(r"data\.order: no data for parity, next: looked for .*c\.jsonl; put them there", result.line)


def test_an_unknown_task_raises_before_anything_is_read() -> None:
    with pytest.raises(UserError, match=r"data\.order: unknown task 'mien'; did you mean mine"):
        TaskSequence(UserTasks([task()]), order=["mien"])
    with pytest.raises(UserError, match=r"'FOMC'; valid: mine; data\.order=null takes the benchmark's own"):
        TaskSequence(UserTasks([task()]), order=["FOMC", "Py150"])
