"""Files of the user's own tasks: encodings, line ends, compression, delimiters, folders, saved data sets."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import ConfigError, DataError, UserError
from cl_lightning.data.files.read import read_rows
from cl_lightning.data.files.rows import Reading

ROWS = [{"text": "Größe, 5 €", "label": "ja"}, {"text": "文本", "label": "nein; doch"}]
LATIN = [{"text": "Größe", "label": "ja"}, {"text": "é", "label": "nein"}]


def table(rows: list[dict[str, str]], delimiter: str = ",", end: str = "\n") -> str:
    lines = [delimiter.join(rows[0])] + [delimiter.join(f'"{value}"' for value in row.values()) for row in rows]
    return end.join(lines) + end


def lines(rows: list[dict[str, str]]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


WRITERS: dict[str, Callable[[list[dict[str, str]]], str]] = {
    ".csv": table,
    ".tsv": lambda rows: table(rows, "\t"),
    ".json": lambda rows: json.dumps(rows, ensure_ascii=False),
    ".jsonl": lines,
}


def values(path: Path, **options: str) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path, Reading(**options))]


def said(path: Path, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        values(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- encodings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-mark", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, suffix: str, encoding: str) -> None:
    text, path = WRITERS[suffix](ROWS), tmp_path / f"a{suffix}"
    path.write_bytes(b"\xfe\xff" + text.encode("utf-16-be") if encoding.endswith("mark") else text.encode(encoding))
    assert values(path) == ROWS


@pytest.mark.parametrize("suffix", WRITERS)
def test_another_encoding_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(WRITERS[suffix](LATIN).encode("latin-1"))
    assert values(path, encoding="latin-1") == LATIN
    assert "not UTF-8 text (byte " in said(path)
    assert "if it is in another encoding, name it, for example encoding: latin-1" in said(path)


def test_a_named_encoding_goes_with_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for written, named in (("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("utf-8-sig", "UTF8")):
        path.write_bytes(lines(ROWS).encode(written))
        assert values(path, encoding=named) == ROWS
    # What looks like a mark of UTF-16 is text in Latin-1.
    path.write_bytes("ÿþ".encode("latin-1"))
    assert "row 1, column 1: not valid JSON" in said(path, encoding="latin-1")


def test_utf16_without_a_mark_is_recognised_and_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(table(ROWS).encode("utf-16-le"))
    assert said(path) == (
        f"{path}: holds zero bytes, as UTF-16 without a byte order mark does; name the encoding, for example encoding: "
        "utf-16-le"
    )
    assert values(path, encoding="utf-16-le") == ROWS


def test_bytes_of_no_character_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff\xfe" + "ab\r\ncd\n".encode("utf-16-le") + b"\x00\xdc\x41\x00")
    assert said(path) == f"{path}, line 3: not utf-16-le text (byte 16)"
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\r{"a": 2}\r\n"\xe2\x82')
    assert said(path).startswith(f"{path}, line 3: not UTF-8 text (byte 20)")


# ---- line ends and compression ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_kind(tmp_path: Path, end: str) -> None:
    for suffix, text in ((".csv", table(ROWS, end=end)), (".jsonl", lines(ROWS).replace("\n", end))):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(text.encode())
        assert values(path) == ROWS


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_files(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    for kind, write in WRITERS.items():
        path = tmp_path / f"a{kind}{suffix}"
        path.write_bytes(compress(write(ROWS).encode("utf-16")))
        assert values(path) == ROWS
        assert next(read_rows(path))[0] == f"{path}, row 1"
        damaged = bytearray(path.read_bytes())
        for broken in (damaged[:-9], b"text,label\na,b\n"):
            path.write_bytes(broken)
            assert f"{path}: is damaged, or not compressed as {suffix} (" in said(path)
    path = tmp_path / f"a.parquet{suffix}"
    path.write_bytes(b"x")
    assert said(path) == f"{path}: cannot be read while it is compressed; unpack it first"


# ---- delimiters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(table(ROWS, delimiter))
    assert values(path) == ROWS
    # Others in the texts do not mislead, even on every line.
    others = "".join(other for other in ",;\t" if other != delimiter)
    path.write_text(f"text{delimiter}label\na{others}b{delimiter}c\n")
    assert values(path) == [{"text": f"a{others}b", "label": "c"}]


def test_a_delimiter_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text^label\na^b\n")
    assert values(path, delimiter="^") == [{"text": "a", "label": "b"}]
    assert [*values(path)[0]] == ["text^label"], "the control: it is not among those that are looked for"


def test_one_column_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\na\n")
    assert values(path) == [{"text": "a"}]
    path.write_text('text\n"a, b; c"\n')
    assert values(path) == [{"text": "a, b; c"}]


def test_two_delimiters_that_fit_are_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a;b,c\n1;2,3\n")
    assert said(path) == f"{path}: ',' or ';' may separate its fields; say which, for example delimiter: ','"
    assert values(path, delimiter=";") == [{"a": "1", "b,c": "2,3"}]


def test_a_row_of_another_length_is_named_with_the_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text;label\na;b\nc\n")
    assert said(path) == f"{path}, row 2: has 1 fields, the head line has 2 (separated by ';')"


def test_a_record_over_the_lines_that_are_looked_at(tmp_path: Path) -> None:
    path, long = tmp_path / "a.csv", "\n".join("x;,y" for _ in range(80))
    path.write_text(f'text;label\n"{long}";b\nc;d\n')
    assert values(path) == [{"text": long, "label": "b"}, {"text": "c", "label": "d"}]


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.jsonl", {"delimiter": ";"}), ("a.json", {"delimiter": ","}), ("a.parquet", {"encoding": "latin-1"})],
)
def test_an_option_without_effect_is_refused(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(
        ConfigError, match=rf"{name}: {next(iter(options))} has no effect on \.\w+ files; leave it out$"
    ):
        values(tmp_path / name, **options)


def test_json_lines_under_the_name_of_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(lines(ROWS))
    assert said(path).endswith("not valid JSON (Extra data); a file with an object on each line is called .jsonl")


# ---- folders and saved data sets -------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(ROWS[1:]).encode()))
    (folder / "a.csv").write_text(table(ROWS[:1]))
    (folder / ".hidden.csv").write_text("x")
    (folder / "README.md").write_text("x")
    assert list(read_rows(folder)) == [
        (f"{folder / 'a.csv'}, row 1", ROWS[0]),
        (f"{folder / 'b.jsonl.gz'}, row 1", ROWS[1]),
    ]
    (folder / "c.csv").symlink_to("gone.csv")
    assert said(folder) == f"{folder / 'c.csv'}: is a link that leads to no file"
    (folder / "c.csv").unlink()
    (folder / "c.csv").write_text("text,label\n")
    assert said(folder) == f"{folder / 'c.csv'}: has no rows"


def test_a_data_set_that_was_saved_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets (extra `data`) is not installed")
    rows = [{"text": f"Text {i}", "label": i % 2} for i in range(7)]
    made = datasets.Dataset.from_list(rows)
    made.save_to_disk(str(tmp_path / "one"), num_shards=3)
    assert values(tmp_path / "one") == rows
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "two"))
    assert values(tmp_path / "two" / "test") == rows
    folder = tmp_path / "two"
    assert said(folder) == f"{folder}: holds several splits; name one of them: {folder / 'train'}, {folder / 'test'}"


def test_a_damaged_saved_data_set_is_one_line(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    for content, line in (
        ("{", f"{state}, column 2: not valid JSON"),
        ("[]", f"{state}: does not list the data set's files; save it again"),
        ('{"_data_files": [{"filename": "../a.arrow"}]}', f'{state}: "../a.arrow" is not the name of a file in this'),
        ('{"_data_files": [{"filename": "a.arrow"}]}', f"{tmp_path / 'a.arrow'} is missing; state.json lists it"),
    ):
        state.write_text(content)
        assert said(tmp_path).startswith(line)
    (tmp_path / "a.arrow").write_bytes(b"ARROW1 and no more")
    assert said(tmp_path).startswith(f"{tmp_path / 'a.arrow'}: not readable as Arrow (")
    (tmp_path / "a.arrow").write_bytes(b"")
    assert said(tmp_path).startswith(f"{tmp_path / 'a.arrow'}: ")


def test_arrow_without_its_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_lightning.common.packages.find_spec", lambda name: None)
    for name in ("a.arrow", "a.feather", "a.parquet"):
        (tmp_path / name).write_bytes(b"x")
        output = f"{tmp_path / name} needs pyarrow, which is not installed: pip install 'cl-lightning[data]'"
        assert said(tmp_path / name) == output


def test_rows_are_not_held_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(ROWS) + "\n{broken")
    rows = read_rows(path)
    assert [next(rows)[1], next(rows)[1]] == ROWS
    with pytest.raises(DataError, match="row 3"):
        next(rows)
