"""Files as people have them: what is meant is read, or refused in one line that says what to do."""

from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data.base import Example
from cl_lightning.data.benchmarks.json_files import read_json
from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks

ROWS = {"jsonl": '{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n', "csv": "a,b\n1,x\n2,y\n"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def examples(path: Path, **options: Any) -> list[Example]:
    task = UserTask(**{"name": "t", "metric": "accuracy", "prompt": "{a}", "answer": "b", **options},
                    train=str(path), test=str(path))  # fmt: skip
    return list(UserTasks([task]).load(None, "t").train)


@pytest.mark.parametrize("delimiter", [None, ";"])
@pytest.mark.parametrize("first", ["sep=;", "sep=; "])
def test_a_line_that_says_the_delimiter_is_obeyed_and_is_no_head_line(
    first: str, delimiter: str | None, tmp_path: Path
) -> None:
    (tmp_path / "d.csv").write_text(f"{first}\na;b\n1;x\n2;y\n")
    assert [e.answer for e in examples(tmp_path / "d.csv", delimiter=delimiter)] == ["x", "y"]


def test_bars_separate_fields_where_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a|b\n1|x\n2|y\n")
    assert [e.answer for e in examples(tmp_path / "d.csv")] == ["x", "y"]
    (tmp_path / "e.csv").write_text("a,b\n1|x,y|z\n")
    assert [e.prompt for e in examples(tmp_path / "e.csv")] == ["1|x"]


def test_a_head_line_of_one_field_that_names_the_wanted_one_asks_for_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a:b\n1:x\n2:y\n")
    with pytest.raises(DataError, match=r"row 1 has one field, 'a:b'; .* name it as delimiter"):
        examples(tmp_path / "d.csv")
    assert [e.answer for e in examples(tmp_path / "d.csv", delimiter=":")] == ["x", "y"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_pointer_is_named(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"d.{suffix}").write_text(POINTER)
    with pytest.raises(DataError, match=rf"d.{suffix}: is a Git LFS pointer, not the file itself; run git lfs pull"):
        examples(tmp_path / f"d.{suffix}")


def test_a_pointer_for_a_benchmarks_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(POINTER)
    with pytest.raises(DataError, match="is a Git LFS pointer"):
        read_json(tmp_path / "train.json")


def test_files_in_folders_of_a_data_folder_are_not_left_out_in_silence(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(ROWS["jsonl"])
    (tmp_path / "images").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "old.jsonl").write_text(ROWS["jsonl"])
    assert len(examples(tmp_path)) == 2, "negative control: folders without data files, and hidden ones, may be there"
    (tmp_path / "more" / "still").mkdir(parents=True)
    (tmp_path / "more" / "still" / "two.csv").write_text(ROWS["csv"])
    with pytest.raises(DataError, match="more in it would not be read; name the folder of the files themselves"):
        examples(tmp_path)


def test_a_long_name_is_shortened_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data.benchmark.tasks, 'x{57}\.\.\.': a name has at most 100 bytes"):
        examples(tmp_path, name="x" * 400)
