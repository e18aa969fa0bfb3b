"""A base from the hub: what is waited for, why one cannot be had, and none of the library's retries."""

import io
import json
import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from cl_lightning.common.noise import silence_loading
from cl_lightning.model import hub
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.moved_base import BaseMissing
from tests.families import FAMILIES, save

COMMIT = "1" * 40
VOCABULARY = 259


class Hub(BaseHTTPRequestHandler):
    """Serves the model `someone/tiny` from `folder` as the hub does; refuses some names."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if content := self._answer():
            self.wfile.write(content)

    def _answer(self) -> bytes | None:
        owner, name, _, revision, file = f"{self.path}/////".split("?")[0].split("/")[1:6]
        self.asked.append(f"{name}/{revision}/{file}")
        path = self.folder / file
        if self.path.split("?")[0] == "/api/models/someone/tiny":
            return self._send(json.dumps({"id": "someone/tiny", "sha": COMMIT}).encode(), "application/json")
        if owner == "api" or revision not in ("main", COMMIT) or name != "tiny" or not path.is_file():
            kinds = {"gated": (403, "GatedRepo"), "tiny": (404, "EntryNotFound"), "broken": (500, "")}
            code, kind = kinds.get(name, (404, "RepoNotFound"))
            if name == "tiny" and revision not in ("main", COMMIT):
                kind = "RevisionNotFound"
            if owner == "api" and "/tiny/" in self.path:  # folders in the model, of which there are none
                kind = "EntryNotFound"
            self.send_response(code)
            self.send_header("X-Error-Code", kind)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return self._send(path.read_bytes(), "application/octet-stream", ETag=f'"{file}"')

    def _send(self, content: bytes, kind: str, **headers: str) -> bytes:
        self.send_response(200)
        known = {"Content-Type": kind, "Content-Length": str(len(content)), "X-Repo-Commit": COMMIT}
        for key, value in (known | headers).items():
            self.send_header(key, value)
        self.end_headers()
        return content

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(FAMILIES["Llama"](), tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the hub's library prints."""
    (handler,) = logging.getLogger("huggingface_hub").handlers
    monkeypatch.setattr(handler, "stream", io.StringIO())
    return handler.stream


def connect(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    hub._use_cache_if_unreachable.cache_clear()
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # keeps the endpoint that it was first used with
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@pytest.fixture
def served(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on this machine, and what it is asked for."""
    handler = type("Served", (Hub,), {"folder": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    connect(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "cache")
    yield handler.asked
    server.shutdown()
    server.server_close()


def test_what_is_waited_for_is_said_once_and_cached_files_need_no_hub(
    served: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    backbone = Backbone("someone/tiny", dtype="float32")
    tokenizer = backbone.load_tokenizer()
    backbone.load(len(tokenizer))
    out, err = capfd.readouterr()
    end = f"{constants.ENDPOINT}; HF_HUB_OFFLINE=1 uses the cache alone"
    lines = [f"looking for someone/tiny at {end}", f"downloading the weights of someone/tiny from {end}"]
    assert out.splitlines() == lines
    assert err == ""
    assert f"tiny/{COMMIT}/model.safetensors" in served
    backbone.load(len(backbone.load_tokenizer()))
    assert capfd.readouterr().out == ""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    del served[:]
    backbone.load(len(backbone.load_tokenizer()))
    assert (served, capfd.readouterr().out) == ([], "")


@pytest.mark.parametrize(
    ("name", "revision", "why"),
    [
        ("someone/gated", None, "it is gated: accept its terms at {hub}/someone/gated, then run hf auth login, or set"),
        ("someone/else", None, "{hub} has no such model for you; a private one needs hf auth login, or HF_TOKEN"),
        ("someone/tiny", "v2", "it has no revision 'v2' (model.backbone.revision)"),
        ("no//name", None, "nor can it be the name of one"),
    ],
)
def test_why_a_model_cannot_be_had_is_said(served: list[str], name: str, revision: str | None, why: str) -> None:
    with pytest.raises(BaseMissing) as error:
        Backbone(name, revision=revision).load_tokenizer()
    assert f"'{name}' is not a folder, a .gguf file, or a model that can be loaded from the hub or its cache" in str(
        error.value
    )
    assert why.format(hub=constants.ENDPOINT) in str(error.value)


def test_a_hub_that_cannot_be_reached_is_named_after_one_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing listens at port 9."""
    connect(monkeypatch, "http://127.0.0.1:9", tmp_path)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own retries
    silence_loading()
    with pytest.raises(BaseMissing, match=r"\(the cache has no such model, and http://127.0.0.1:9 cannot be reached\)"):
        Backbone("someone/tiny").load_tokenizer()
    assert (capsys.readouterr().out.count("\n"), logged.getvalue()) == (1, "")


def test_cached_files_are_used_at_once_where_the_hub_cannot_be_reached(
    served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = Backbone("someone/tiny", dtype="float32")
    backbone.load(len(backbone.load_tokenizer()))
    connect(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the library tries again"))
    del served[:]
    capsys.readouterr()
    backbone.load(len(backbone.load_tokenizer()))
    out = capsys.readouterr().out
    assert out.startswith("http://127.0.0.1:9 cannot be reached (") and out.count("\n") == 1
    assert out.endswith("; using the cached files of someone/tiny\n")
    assert served == []


def test_the_control_retries_are_printed_without_the_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: io.StringIO
) -> None:
    connect(monkeypatch, "http://127.0.0.1:9", tmp_path)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("cl_lightning.common.noise.LOGGED", ())
    with pytest.raises(BaseMissing):
        Backbone("someone/tiny").load_tokenizer()
    assert "thrown while requesting" in logged.getvalue()


def test_without_a_network_wanted_the_line_says_so() -> None:
    with pytest.raises(BaseMissing, match=r"\(the cache has no such model, and HF_HUB_OFFLINE=1 looks nowhere else\)"):
        hub.model_file("someone/tiny", "config.json")


def test_a_path_is_no_name_of_the_hub(served: list[str]) -> None:
    with pytest.raises(BaseMissing, match="a hub's names do not begin so"):
        hub.model_file("/gone/model", "config.json")
    assert not served


def test_a_revision_is_asked_for_alone_and_loaded_from_the_cache(
    served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone("someone/tiny", dtype="float32", revision=COMMIT)
    backbone.load(len(backbone.load_tokenizer()))
    assert f"tiny/{COMMIT}/generation_config.json" in served
    assert not [asked for asked in served if "/main/" in asked]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    backbone.load(len(backbone.load_tokenizer()))
