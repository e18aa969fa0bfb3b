"""Untrusted run folders: their classes are not imported and code of their model does not run unless allowed."""

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from cl_lightning.__main__ import main
from cl_lightning.adapters import EXPORTS as ADAPTERS
from cl_lightning.commands import compare, mine, score
from cl_lightning.common.errors import ConfigError, UserError
from cl_lightning.results import report
from cl_lightning.results.reevaluate import evaluate
from cl_lightning.results.rescore import rescore
from cl_lightning.sequence.load import load_run
from cl_lightning.sequence.slots import PARTS, SLOTS
from cl_lightning.sequence.stored import exported_classes, restricted_imports
from tests.commands.test_bad_runs import go_on
from tests.conftest import save_tiny_t5
from tests.runs import put_file

PLANTED = """
from pathlib import Path
Path({marker!r}).write_text("imported")
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.benchmarks.trace import TRACE
class Evil(SeqLoRA):
    "Somebody's."
class EvilData(TRACE):
    "Somebody's."
def made(*args, **options):
    return 1
"""
Config = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("stored") / "run"
    assert go_on(run, "--data.order=[FOMC]").code == 0
    return run


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Path of a file that importing the module `planted`, in the current folder, creates."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "planted.py").write_text(PLANTED.format(marker=str(tmp_path / "MARKER")))
    (tmp_path / "adapter.yaml").write_text("class_path: planted.Evil\n")
    (tmp_path / "backbone.yaml").write_text("name: random-llama\n")
    yield tmp_path / "MARKER"
    sys.modules.pop("planted", None)


Foreign = Callable[..., Path]


@pytest.fixture
def foreign(whole: Path, tmp_path: Path) -> Foreign:
    """Change the configuration of the run, with the right checksum: foreign(("model", "lr"), 1.0) or foreign(text)."""

    def make(place: tuple[str, ...] | str, value: Any = None) -> Path:
        run = Path(shutil.copytree(whole, tmp_path / f"run-{len(list(tmp_path.iterdir()))}"))
        text = place
        if isinstance(place, tuple):
            config = node = yaml.safe_load((run / "config.yaml").read_text())
            for key in place[:-1]:
                node = node[key]
            node[place[-1]] = copy.deepcopy(value)
            text = yaml.safe_dump(config)
        put_file(run, "config.yaml", text.encode())
        return run

    return make


def command(module: Any, *argv: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["cl-lightning", module.__name__.rpartition(".")[2].replace("_", "-"), *argv])
    return main()


# ---- the model ---------------------------------------------------------------------------------------------

ADAPTER = ("model", "adapter")
GATED = "cl_lightning.adapters.GainLoRA"
ATTACKS: dict[str, tuple[tuple[str, ...], Any]] = {
    "a class path": (ADAPTER, {"class_path": "planted.Evil"}),
    "a bare name": (ADAPTER, "planted.Evil"),
    "a class in JSON": (ADAPTER, '{"class_path": "planted.Evil"}'),
    "a file": (ADAPTER, "adapter.yaml"),
    "a file for a class": (ADAPTER, {"class_path": "adapter.yaml"}),
    "a function of a library of ours": (ADAPTER, {"class_path": "cl_lightning.adapters.linear.torch.load"}),
    "a module behind ours": (
        ADAPTER,
        {"class_path": "cl_lightning.sequence.folder.os.system", "init_args": {"command": "true"}},
    ),
    "a dotted key": (("model", "adapter.class_path"), "planted.Evil"),
    "inside": (ADAPTER, {"class_path": GATED, "init_args": {"branches": {"class_path": "planted.Evil"}}}),
    "a bare name inside": (ADAPTER, {"class_path": GATED, "init_args": {"branches": "planted.Evil"}}),
    "a dotted key inside": (ADAPTER, {"class_path": GATED, "init_args": {"branches.class_path": "planted.Evil"}}),
    "of another slot": (ADAPTER, {"class_path": "cl_lightning.data.TRACE"}),
    "in a list": (("model", "adapter", "init_args", "targets"), ["q_proj", {"class_path": "planted.made"}]),
    "in a text": (("model", "adapter", "init_args", "offset"), "[{class_path: planted.made}]"),
    "extra arguments": (("model", "adapter", "dict_kwargs"), {"a": {"class_path": "planted.made"}}),
    "the section itself": (("model", "class_path"), "planted.Evil"),
    "a section that is a data class": (("model", "backbone"), {"class_path": "planted.made"}),
    "a file for a section": (("model", "backbone"), "backbone.yaml"),
    "in a mapping": (("model", "backbone", "config"), {"hidden_size": {"class_path": "planted.made"}}),
    "for a number": (("model", "lr"), "{class_path: planted.made}"),
    "kernels": (("model", "backbone", "attn_implementation"), "somebody/kernel"),
    "nothing": (ADAPTER, None),
    "a dotted key past the checks": (("model", "backbone.trust_remote_code"), True),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_class_of_an_untrusted_configuration_is_imported(foreign: Foreign, marker: Path, name: str) -> None:
    run = foreign(*ATTACKS[name])
    for act in (load_run, evaluate):
        with pytest.raises(UserError, match=r"config\.yaml: ") as caught:
            act(run)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 450
    assert not marker.exists() and "planted" not in sys.modules
    assert not (run / "evaluated").exists()


def test_a_class_in_a_regular_expression_is_text(foreign: Foreign, marker: Path) -> None:
    run = foreign(("model", "adapter", "init_args", "targets"), "[{class_path: planted.made}]")
    for act in (load_run, evaluate):
        with pytest.raises(UserError, match=r"^model\.adapter\.targets: .* matches no linear layer of the model"):
            act(run)
    assert not marker.exists() and "planted" not in sys.modules


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "a: \x00", "data: {}\n", "model: {backbone: {}}\ndata: 3\n", "x: !!python/object/apply:os.getcwd []\n",
     "data: {}\nmodel: {backbone: {}, z: &a [*a]}\n", "model: \xff"],
)  # fmt: skip
def test_a_malformed_configuration_is_refused_in_one_line(foreign: Foreign, text: str) -> None:
    run = foreign(text)
    for act in (load_run, evaluate, lambda run: rescore(run, "official"), lambda run: compare.render([str(run)])):
        if "&a" in text and act not in (load_run, evaluate):
            continue  # nothing is made from it
        with pytest.raises(UserError, match=r"config\.yaml") as caught:
            act(run)
        assert "\n" not in str(caught.value)


def test_allowed_classes_are_built(foreign: Foreign, marker: Path) -> None:
    """Control: the planted class works, and the error gives the name under which it can be allowed."""
    run = foreign(("model", "adapter", "class_path"), "planted.Evil")
    with pytest.raises(UserError) as caught:
        load_run(run)
    assert str(caught.value) == (
        f"{run}/config.yaml: names planted.Evil, not a class of this project for that option; if you trust that code: "
        "--allow planted.Evil (in Python: allow=['planted.Evil'])"
    )
    with pytest.raises(UserError, match=r"names planted\.Evil, not a class of this project"):
        load_run(run, allow=["planted.Other", "planted"])
    assert not marker.exists()
    assert type(load_run(run, allow=["planted.Evil"]).module.adapter).__name__ == "Evil"
    assert marker.exists()
    for name in ("planted.Nothing", "nowhere.Class", "Evil", ""):
        with pytest.raises(ConfigError, match=r"allow: .* is not an importable class"):
            load_run(run, allow=["planted.Evil", name])


def test_the_parser_itself_does_not_import(marker: Path) -> None:
    """The library's import policy holds even if the configuration was not checked, and is restored afterwards."""
    from jsonargparse import ArgumentError, ArgumentParser

    from cl_lightning.adapters import AdapterStrategy

    def parse(name: str) -> Any:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(AdapterStrategy, "adapter")
        return parser.parse_object({"adapter": {"class_path": name}})

    with restricted_imports([]):
        parse("cl_lightning.adapters.SeqLoRA")
        with pytest.raises(ArgumentError, match="not allowed"):
            parse("planted.Evil")
        assert not marker.exists()
    parse("planted.Evil")
    assert marker.exists(), "the control"


def test_every_part_of_our_classes_is_listed() -> None:
    """Parts are values of options other than numbers, strings and slots, such as user tasks."""
    hints = (
        hint
        for package in SLOTS.values()
        for name in import_module(package).EXPORTS
        if name[0].isupper()
        for hint in get_type_hints(getattr(import_module(package), name).__init__).values()
    )
    parts = {part for hint in hints for part in (hint, *get_args(hint)) if is_dataclass(part)}
    assert {f"{part.__module__}.{part.__qualname__}" for part in parts} == {*PARTS}


def test_all_names_of_our_classes_are_listed() -> None:
    names = exported_classes("cl_lightning.adapters")
    for name, module in ADAPTERS.items():
        assert {f"cl_lightning.adapters.{name}", f"cl_lightning.adapters.{module}.{name}"} <= set(names)
    assert "cl_lightning.SLICE" in exported_classes("cl_lightning.initializers"), "the name that the parser writes"
    assert not exported_classes(None)


# ---- code that comes with the model ------------------------------------------------------------------------

CODE = """
from pathlib import Path
Path({marker!r}).write_text("ran")
from transformers import T5Config, T5ForConditionalGeneration
class Config(T5Config):
    model_type = "stranger"
class Model(T5ForConditionalGeneration):
    config_class = Config
"""


@pytest.fixture
def with_code(tmp_path: Path, marker: Path) -> Path:
    """A model folder with code of its own."""
    model = save_tiny_t5(tmp_path / "model", 1, 0.0)
    (model / "strange.py").write_text(CODE.format(marker=str(marker)))
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "stranger", "auto_map": {
        "AutoConfig": "strange.Config", "AutoModelForSeq2SeqLM": "strange.Model"
    }}  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    return model


def test_code_of_the_model_runs_only_if_the_caller_allows_it(
    foreign: Foreign, with_code: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    backbone = {"name": str(with_code), "dtype": "float32", "trust_remote_code": True}
    run = foreign(("model", "backbone"), backbone)
    for act in (load_run, evaluate):
        with pytest.raises(UserError) as caught:
            act(run)
        assert str(caught.value) == (
            f"model.backbone.name: {with_code} comes with code of its own; if you trust it: "
            "--model.backbone.trust_remote_code=true, or --trust-remote-code for commands that have it "
            "(in Python: trust_remote_code=True)"
        )
    assert not marker.exists()
    with pytest.raises(UserError, match="another base model"):
        load_run(run, trust_remote_code=True)
    assert marker.exists(), "the control: it runs where it is wanted"


def test_a_model_without_code_is_loaded_for_any_configuration(foreign: Foreign) -> None:
    run = foreign(("model", "backbone", "trust_remote_code"), True)
    assert load_run(run).module.backbone.trust_remote_code is False
    assert load_run(run, trust_remote_code=True).module.backbone.trust_remote_code is True


# ---- the data ----------------------------------------------------------------------------------------------

BENCHMARK = ("data", "benchmark")
FLIPPED, USER_TASKS = "cl_lightning.data.Flipped", "cl_lightning.data.UserTasks"
DATA_ATTACKS: dict[str, Any] = {
    "a class path": {"class_path": "planted.EvilData"},
    "a bare name": "planted.EvilData",
    "inside": {"class_path": FLIPPED, "init_args": {"base": {"class_path": "planted.EvilData"}}},
    "twice inside": {
        "class_path": FLIPPED,
        "init_args": {"base": {"class_path": FLIPPED, "init_args": {"base": {"class_path": "planted.EvilData"}}}},
    },
    "a bare name inside": {"class_path": FLIPPED, "init_args": {"base": "planted.EvilData"}},
    "a dotted key inside": {"class_path": FLIPPED, "init_args": {"base.class_path": "planted.EvilData"}},
    "in a list": {
        "class_path": USER_TASKS,
        "init_args": {"tasks": [{"class_path": "planted.made"}]},
    },
    "a file": {"class_path": USER_TASKS, "init_args": {"tasks": "adapter.yaml"}},
    "none": None,
}


@pytest.mark.parametrize("name", DATA_ATTACKS)
def test_no_benchmark_of_an_untrusted_run_is_imported(
    foreign: Foreign, marker: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = foreign(BENCHMARK, DATA_ATTACKS[name])
    ways = [
        (score, (str(run), "--metrics", "official"), True),
        (score, (str(run), "--evaluate"), True),
        (mine, (f"--run={run}", "--length=2"), True),
    ]
    if name == "a class path":
        ways += [
            (score, (str(run), "--metrics", "sari"), True),
            (report, (str(run),), False),
            (compare, (str(run),), False),
        ]
    for module, argv, builds_the_benchmark in ways:
        code = command(module, *argv, monkeypatch=monkeypatch)
        assert code == 2 or not builds_the_benchmark
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == (code == 2), "a failing command says why in one line, another is silent"
        assert all(line.startswith("error: ") for line in errors)
    assert not marker.exists() and "planted" not in sys.modules
    assert not (run / "rescored").exists() and not (run / "evaluated").exists()


@pytest.mark.parametrize("way", ["--metrics=official", "--metrics=sari", "--evaluate"])
def test_an_allowed_benchmark_is_built(
    foreign: Foreign, marker: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = foreign(BENCHMARK, DATA_ATTACKS["a class path"])
    assert command(score, str(run), way, "--allow", "planted.EvilData", monkeypatch=monkeypatch) == 0
    assert marker.exists()


# ---- mining at a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("trainer", "callbacks"), [{"class_path": "planted.made"}]),
        (("trainer", "logger"), {"class_path": "planted.made"}),
        (("observers", "mine"), {"class_path": "planted.made"}),
        (("observers", "mine"), "planted.made"),
        (("boundary", "init", "init_args", "operator"), "planted.made"),
        (ADAPTER, {"class_path": "planted.Evil"}),
        (("data", "root"), "${oc.env:HOME}"),
        (("model.backbone.attn_implementation",), "somebody/kernel"),
    ],
)
def test_mining_an_untrusted_run_imports_nothing(
    foreign: Foreign, marker: Path, place: tuple[str, ...], value: Any,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:  # fmt: skip
    run = foreign(place, value)
    assert command(mine, f"--run={run}", "--length=2", "--data.order=[FOMC, Py150]", monkeypatch=monkeypatch) == 2
    assert "config.yaml: " in capsys.readouterr().err
    assert not marker.exists()


def test_mining_uses_allowed_classes_and_no_trust_from_the_configuration(foreign: Foreign, tmp_path: Path) -> None:
    run = foreign(("model", "backbone", "trust_remote_code"), True)
    for flags, trusted in ((), "false"), (("--trust-remote-code", "--allow=a.B"), "true"):
        options, argv = mine.parse([f"--run={run}", *flags, "--data.root=x"])
        assert argv[1:] == [f"--model.backbone.trust_remote_code={trusted}", "--data.root=x"]
        assert options.allow == ["a.B"] * (trusted == "true")
    with pytest.raises(ConfigError, match="go with --run"):
        mine.parse(["--allow=a.B"])
