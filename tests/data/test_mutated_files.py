"""Files of any content: each is read, or refused in one line; none hangs or ends in a traceback."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_lightning.common.errors import UserError
from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks
from cl_lightning.data.files.read import READERS
from cl_lightning.data.files.text import COMPRESSIONS

TURNS = [{"role": "user", "content": "Größe?"}, {"role": "assistant", "content": "5"}]
ROWS = [
    {"text": f"a {i}; b,\nc", "label": "ja", "messages": TURNS, "instruction": "x", "input": "", "output": "y",
     "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    for i in range(3)
]  # fmt: skip
CSV = 'text,label\n"a 1; b,\nc",ja\nd,nein\n'
LAYOUTS = {
    "fields": {"prompt": "{text}", "answer": "label"},
    "messages": {},
    "sharegpt": {},
    "alpaca": {},
}
#: Pieces that readers trip over.
PIECES = [
    b"\0", b"\r", b"\n", b'"', b",", b";", b"\t", b"\\ud800", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"null", b"NaN",
    b"[" * 3000, b"{}", b"[]", b"1" * 5000, b'"text"', b"1e999", b"\xe2\x80\xa8", b"PAR1", b"ARROW1",
]  # fmt: skip


def tables() -> dict[str, bytes]:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (extra `data`) is not installed")
    from pyarrow import feather, parquet

    table, made = pyarrow.Table.from_pylist(ROWS), {}
    writers: dict[str, Callable[[io.BytesIO], None]] = {
        ".parquet": lambda file: parquet.write_table(table, file),
        ".feather": lambda file: feather.write_feather(table, file, compression="uncompressed"),
        ".arrow": lambda file: pyarrow.ipc.new_stream(file, table.schema).write_table(table),
    }
    for suffix, write in writers.items():
        write(file := io.BytesIO())
        made[suffix] = file.getvalue()
    return made


def originals() -> dict[str, bytes]:
    texts = {
        ".json": json.dumps(ROWS, ensure_ascii=False),
        ".jsonl": "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in ROWS),
        ".csv": CSV,
        ".tsv": CSV.replace(",", "\t"),
    }
    plain = {suffix: text.encode() for suffix, text in texts.items()} | tables()
    return plain | {".jsonl.gz": gzip.compress(plain[".jsonl"]), ".csv.gz": gzip.compress(plain[".csv"])}


ORIGINALS = originals()


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file that was cut, overwritten, repeated or mixed with awkward pieces in some places."""
    suffix = draw(st.sampled_from(sorted(ORIGINALS)))
    content = draw(st.sampled_from([ORIGINALS[suffix], b""]))
    if draw(st.booleans()) and not suffix.endswith((".gz", ".parquet", ".feather", ".arrow")):
        content = content.decode().encode(
            draw(st.sampled_from(["utf-16", "utf-16-le", "latin-1", "utf-32", "utf-8-sig"]))
        )
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        until = min(len(content), at + draw(st.integers(0, 12)))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=6), st.just(content[:at])))
        content = content[:at] + piece + content[until:]
    return suffix, content[: draw(st.one_of(st.none(), st.integers(0, len(content))))]


def check(folder: Path, file: tuple[str, bytes], layout: str, encoding: str | None) -> None:
    suffix, content = file
    (folder / f"a{suffix}").write_bytes(content)
    options = {"encoding": encoding} if ".json" in suffix or "sv" in suffix else {}
    task = UserTask("t", "f1", f"a{suffix}", f"a{suffix}", layout=layout, **LAYOUTS[layout], **options)
    try:
        splits = UserTasks([task]).load(folder, "t")
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000 and str(folder) in str(error), str(error)
    else:
        assert splits.train and all(e.prompt.strip() and e.answer.strip() for e in splits.train)
        for e in splits.train:
            e.prompt.encode()


FILES = {
    "file": mutated(),
    "layout": st.sampled_from(sorted(LAYOUTS)),
    "encoding": st.sampled_from([None, None, None, "latin-1", "utf-16", "shift_jis", "utf-7"]),
}
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def test_the_originals_are_read(tmp_path: Path) -> None:
    """The control: without mutations, all are data."""
    assert {Path(f"a{suffix}").suffixes[0] for suffix in ORIGINALS} == {*READERS}
    assert {Path(suffix).suffix for suffix in ORIGINALS} & {*COMPRESSIONS}
    for suffix, content in ORIGINALS.items():
        (tmp_path / f"a{suffix}").write_bytes(content)
        for layout, options in LAYOUTS.items():
            if layout == "fields" or "sv" not in suffix:
                task = UserTask("t", "f1", f"a{suffix}", f"a{suffix}", layout=layout, **options)
                assert UserTasks([task]).load(tmp_path, "t").train


@settings(max_examples=200, deadline=None, suppress_health_check=QUIET, derandomize=True, database=None)
@given(**FILES)
def test_mutated_files_are_read_or_refused(
    tmp_path: Path, file: tuple[str, bytes], layout: str, encoding: str | None
) -> None:
    check(tmp_path, file, layout, encoding)


@pytest.mark.long
@settings(max_examples=1000, deadline=None, suppress_health_check=QUIET, database=None)
@given(**FILES)
def test_a_thousand_mutated_files(tmp_path: Path, file: tuple[str, bytes], layout: str, encoding: str | None) -> None:
    check(tmp_path, file, layout, encoding)
