"""Downloads: resume, checksum, terms; against a server of our own on this machine."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

import pytest

from cl_lightning.__main__ import main
from cl_lightning.common.errors import DataError
from cl_lightning.data.audit import check as data_check
from cl_lightning.data.audit import fetch as data_fetch
from cl_lightning.data.audit.profile import Limits, words
from cl_lightning.data.audit.published import CHECKSUMS, HOST, PublishedFile, checksum, copies, files
from cl_lightning.data.benchmarks.long_sequence import LongSequence
from cl_lightning.data.benchmarks.trace import SUBSETS, TRACE
from tests.conftest import SHARED

REAL = SHARED / "data"
ROWS = [{"prompt": f"p {i}", "answer": "a" * i, "more": i} for i in range(1, 60)]
BODY = json.dumps(ROWS).encode()


@dataclass
class Server:
    """What it serves, how it behaves, and what it was asked for."""

    url: str
    bodies: dict[str, bytes] = field(default_factory=dict)
    breaks_after: int | None = None
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            state.asked.append((self.path, asked))
            body = state.bodies.get(self.path)
            if body is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if asked and state.ranges else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start:][: state.breaks_after])

        def log_message(self, *_: object) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def one(tmp_path: Path, known: str | None = None) -> PublishedFile:
    return PublishedFile(Path("trace/T/train.json"), "a/train.json", "a source, MIT", "open", known)


def hash_of(tmp_path: Path, rows: object) -> str:
    path = tmp_path / "hashed.json"
    path.write_text(json.dumps(rows))
    return checksum(path)


def test_a_file_is_fetched_once(tmp_path: Path, server: Server) -> None:
    server.bodies["/a/train.json"] = BODY
    file = one(tmp_path, hash_of(tmp_path, ROWS))
    assert data_fetch.fetch(file, tmp_path, server.url) is True
    assert (tmp_path / file.path).read_bytes() == BODY
    assert data_fetch.fetch(file, tmp_path, server.url) is False
    assert len(server.asked) == 1
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(tmp_path: Path, server: Server, ranges: bool) -> None:
    server.bodies["/a/train.json"], server.breaks_after, server.ranges = BODY, 100, ranges
    file = one(tmp_path, hash_of(tmp_path, ROWS))
    with pytest.raises(DataError, match=r"/a/train\.json: .*run again to go on"):
        data_fetch.fetch(file, tmp_path, server.url)
    assert not (tmp_path / file.path).exists()
    assert (tmp_path / "trace/T/train.json.part").read_bytes() == BODY[:100]
    server.breaks_after = None
    assert data_fetch.fetch(file, tmp_path, server.url)
    assert (tmp_path / file.path).read_bytes() == BODY
    assert [asked for _, asked in server.asked] == [None, "bytes=100-"]


def test_a_whole_part_is_taken(tmp_path: Path, server: Server) -> None:
    server.bodies["/a/train.json"] = BODY
    part = tmp_path / "trace/T/train.json.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY)
    assert data_fetch.fetch(one(tmp_path), tmp_path, server.url)
    assert (tmp_path / "trace/T/train.json").read_bytes() == BODY


def test_other_rows_are_not_kept(tmp_path: Path, server: Server) -> None:
    server.bodies["/a/train.json"] = BODY
    file = one(tmp_path, "0" * 16)
    with pytest.raises(
        DataError,
        match=r"its rows differ .* \(checksum [0-9a-f]{16} instead of 0{16}\); the download was discarded",
    ):
        data_fetch.fetch(file, tmp_path, server.url)
    assert not (tmp_path / file.path).exists()
    server.bodies["/a/train.json"] = b"<html>sorry</html>"
    with pytest.raises(DataError, match=r"not valid JSON .*; the download was discarded"):
        data_fetch.fetch(file, tmp_path, server.url)
    (tmp_path / file.path).write_bytes(BODY)
    with pytest.raises(DataError, match="delete it to download it again"):
        data_fetch.fetch(file, tmp_path, server.url)
    assert (tmp_path / file.path).exists(), "the user's own file stays"


def test_a_refusal_and_a_silent_server_are_reported(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError, match=r"/a/train\.json: the server says 404"):
        data_fetch.fetch(one(tmp_path), tmp_path, server.url)
    with pytest.raises(DataError, match="run again to go on"):
        data_fetch.fetch(one(tmp_path), tmp_path, "http://127.0.0.1:1")


def test_the_checksum_is_of_the_rows(tmp_path: Path) -> None:
    instances = [{"input": r["prompt"], "output": r["answer"]} for r in ROWS]
    assert hash_of(tmp_path, ROWS) == hash_of(tmp_path, {"Definition": ["d"], "Instances": instances})
    assert hash_of(tmp_path, ROWS) != hash_of(tmp_path, ROWS[::-1])
    assert hash_of(tmp_path, ROWS) != hash_of(tmp_path, ROWS[:-1])
    with pytest.raises(DataError, match="row 1 has neither input and output nor prompt and answer"):
        hash_of(tmp_path, [{"prompt": "p"}])


# ---------------------------------------------------------------- what is fetched


def test_the_list_says_where_and_on_which_terms() -> None:
    listed = files()
    assert len(listed) == 3 * (15 + 15 + 8) == len({file.path for file in listed})
    by_path = {str(file.path): file for file in listed}
    wic = by_path["long_sequence/wic/train.json"]
    assert (wic.use, wic.place.endswith("/CL_Benchmark/Long_Sequence/wic/train.json")) == ("non-commercial", True)
    assert by_path["LLM-CL-Benchmark_5000/NumGLUE-cm/test.json"].use == "open"
    assert by_path["superni/task1572_samsum_summary/train.json"].use == "non-commercial"
    assert by_path["superni/task363_sst2_polarity_classification/train.json"].use == "unclear"
    development = {path: file for path, file in by_path.items() if not file.needed}
    assert len(development) == 15 + 15 + 8
    assert development["LLM-CL-Benchmark_5000/FOMC/eval.json"].place.endswith("_5000/FOMC/eval.json")
    assert development["superni/task363_sst2_polarity_classification/dev.json"].checksum == "c1507f1f279f47b1"
    assert development["long_sequence/yahoo/dev.json"].checksum is None
    assert {file.checksum for file in files(SUBSETS)} == {*CHECKSUMS.values(), None}


def test_the_smaller_sizes_of_trace_are_listed_where_they_are_asked_for() -> None:
    more = {str(file.path): file for file in files((500, 1000))}
    assert len(more) == 3 * (15 + 15 + 2 * 8)
    small = more["LLM-CL-Benchmark_500/FOMC/train.json"]
    assert small.place.endswith("/TRACE-Benchmark/LLM-CL-Benchmark_500/FOMC/train.json")
    assert (small.use, small.checksum) == ("non-commercial", None), "only 5000 is known"
    assert more["LLM-CL-Benchmark_500/Py150/test.json"].checksum == CHECKSUMS["LLM-CL-Benchmark_500/Py150/test.json"]
    assert more["LLM-CL-Benchmark_1000/Py150/test.json"].checksum is None
    assert more["LLM-CL-Benchmark_1000/FOMC/test.json"].checksum is None
    assert more["long_sequence/cb/train.json"].checksum == CHECKSUMS["long_sequence/cb/train.json"]


def launch(root: Path, server: Server, *argv: str) -> int:
    with patch("sys.argv", ["cl-lightning", "data", str(root), "--mirror", server.url, *argv]):
        return main()


def test_the_command_fetches_what_terms_allow_and_names_the_rest(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    task = {"Definition": [], "Instances": [{"input": "i", "output": "A"}]}
    for file in files((500, 5000)):
        server.bodies[f"/{file.place}"] = json.dumps(task).encode()
    assert launch(tmp_path, server) == 2, "made rows are not the published ones"
    result = capsys.readouterr()
    fetched = {path.split("/")[-2] for path, _ in server.asked}
    assert fetched == {file.path.parent.name for file in files() if file.use == "open"}
    assert (
        "downloaded: " in result.out
        and "boolq/test.json (not checked: no checksum known; Long Sequence boolq" in result.out
    )
    assert "error: " in result.err and "copa/train.json: its rows differ from the published ones" in result.err
    assert LongSequence().load(tmp_path, "dbpedia").train[0].prompt == "i\nOutput: "
    wic = next(file for file in files() if file.path == Path("long_sequence/wic/train.json"))
    assert f"{HOST}/{wic.place} -> {tmp_path / wic.path} (Long Sequence wic: SuperGLUE, CC BY-NC 4.0)" in result.out
    assert "NI-Seq: clone github.com/allenai/natural-instructions" in result.out
    assert not list(tmp_path.glob("LLM-CL-Benchmark_500"))
    launch(tmp_path, server, "--subset", "500")
    assert (tmp_path / "LLM-CL-Benchmark_500/NumGLUE-cm/test.json").exists()
    launch(tmp_path, server, "--accept", "unclear")
    assert (tmp_path / "long_sequence/yahoo/train.json").exists()
    assert not (tmp_path / wic.path).exists()


def test_a_development_split_that_cannot_be_had_stops_nothing(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "i", "answer": "A"}]
    listed = [
        PublishedFile(Path(f"LLM-CL-Benchmark_5000/FOMC/{split}.json"), f"a/{split}.json", "MIT", "open", None)
        for split in ("eval", "test", "train")
    ]
    monkeypatch.setattr(data_fetch, "files", lambda subsets: listed)
    server.bodies |= {f"/a/{split}.json": json.dumps(rows).encode() for split in ("train", "test")}
    assert launch(tmp_path, server) == 0
    result = capsys.readouterr()
    assert f"not downloaded, and no run needs it: {server.url}/a/eval.json: the server says 404" in result.out
    assert result.err == ""
    assert data_check.check(tmp_path, "TRACE", TRACE(), "FOMC", words, Limits()).profile.dev == 0
    server.bodies["/a/eval.json"] = json.dumps(rows).encode()
    assert launch(tmp_path, server) == 0
    found = data_check.check(tmp_path, "TRACE", TRACE(), "FOMC", words, Limits())
    assert "dev equals test (all 1 prompts): do not select models by it" in found.flaws
    del server.bodies["/a/test.json"]
    (tmp_path / listed[1].path).unlink()
    assert launch(tmp_path, server) == 2, "a split that runs read is missed"


@pytest.mark.parametrize("place", ["file", "file/deeper", "/proc/no"])
def test_a_folder_that_cannot_be_is_one_line(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert launch(tmp_path / place, server) == 2
    result = capsys.readouterr()
    assert (
        result.err.startswith(f"error: {tmp_path / place}: cannot be made a folder (") and result.err.count("\n") == 1
    )
    assert (result.out, server.asked) == ("", [])


def test_a_file_in_the_way_of_a_download_is_reported(tmp_path: Path, server: Server) -> None:
    (tmp_path / "trace").write_text("in the way")
    with pytest.raises(DataError, match=r"trace/T/train\.json: cannot be written \(.*: .*/trace"):
        data_fetch.fetch(one(tmp_path), tmp_path, server.url)


@pytest.mark.skipif(not (REAL / "superni").is_dir(), reason="no data beside this checkout")
def test_the_real_files_have_the_checksums() -> None:
    known = [path for file in files() if file.checksum for path in copies(file, REAL)]
    assert len(known) == 53 + 15 + 4 + 6, "and the development splits: Super-NI, Long Sequence, TRACE"
    made_here = {REAL / "long_sequence/yelp/train.json", REAL / "long_sequence/imdb/test.json"}
    assert not made_here & {*known}
    assert REAL / "trace/FOMC/train.json" in known
    assert data_check.changed(REAL) == []


@pytest.mark.parametrize(
    ("place", "compared"),
    [
        ("long_sequence/copa/train.json", True),
        ("Long_Sequence/copa/train.json", True),
        ("copa/train.json", True),
        ("superni/task363_sst2_polarity_classification/test.json", True),
        ("trace/FOMC/train.json", True),
        ("FOMC/test.json", True),
        ("LLM-CL-Benchmark_5000/FOMC/train.json", True),
        ("LLM-CL-Benchmark_500/FOMC/train.json", False),  # other rows, whose checksum is not known
        ("LLM-CL-Benchmark_500/Py150/test.json", True),
        ("LLM-CL-Benchmark_1000/ScienceQA/train.json", True),
        ("trace/Py150/test.json", False),  # counts as the largest size's, which is not known
        ("superni/task363_sst2_polarity_classification/dev.json", True),
        ("trace/FOMC/eval.json", True),
        ("trace/MeetingBank/train.json", False),
    ],
)
def test_the_data_check_compares_every_place_that_is_read(tmp_path: Path, place: str, compared: bool) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"prompt": "i", "answer": "A"}]))
    assert data_check.changed(tmp_path) == ([f"{path}: its rows differ from the published ones"] if compared else [])


def test_all_copies_are_compared_and_a_folder_of_the_authors_may_be_the_root(tmp_path: Path) -> None:
    for folder in ("LLM-CL-Benchmark_5000", "LLM-CL-Benchmark_500", "trace"):
        path = tmp_path / folder / "FOMC" / "train.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps([{"prompt": "i", "answer": "A"}]))
    assert len(data_check.changed(tmp_path)) == 2
    assert len(data_check.changed(tmp_path / "LLM-CL-Benchmark_5000")) == 1
    assert data_check.changed(tmp_path / "LLM-CL-Benchmark_500") == []
