"""The command line: help, overrides through named slots, the resolved configuration, and every shipped experiment."""

import io
import json
import os
import re
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from jsonargparse import get_loader
from lightning.pytorch.cli import LightningArgumentParser

from callbacks import ReplayBuffer, SliceInit
from cl_lightning.__main__ import main
from cl_lightning.commands.parser import ContinualCLI, make_cli
from cl_lightning.common.yaml_files import dump_yaml
from cl_lightning.data.benchmarks import trace
from tests.conftest import ROOT

EXPERIMENTS = sorted(p for p in (ROOT / "experiments").glob("*.yaml") if p.stem != "_base")
NO_REPORT = "--sequence.report=false"
SHORT_NAMES = (
    "--boundary.memory=ReplayBuffer", "--boundary.init=SliceInit", "--boundary.init.initializer=LoRAGA",
    "--boundary.init.operator=null", "--model.adapter=SLAO",
)  # fmt: skip
#: The tiny model, a rank that fits it, and little data.
TINY = (
    "--model.backbone.name=random-llama",
    "--model.backbone.dtype=float32",
    "--data.order=[FOMC, NumGLUE-cm]",
    "--data.train_samples=16",
    "--data.validation_samples=2",
    "--data.test_samples=2",
    "--sequence.wandb=off",
    "--sequence.threads=1",
)


@dataclass(frozen=True)
class Result:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of an error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


def configs(experiment: str) -> list[str]:
    """The options that name an experiment, without its report: drawing that takes longer than most runs of tests."""
    return [*(f"--config={ROOT / 'experiments' / name}.yaml" for name in ("_base", experiment)), NO_REPORT]


def launch(*argv: str) -> Result:
    """`python -m cl_lightning argv` in this process, its environment left as it was."""
    out, err = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ))
        stack.enter_context(patch.object(sys, "argv", ["cl_lightning", *argv]))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        try:
            code = main()
        except SystemExit as left:
            code = int(left.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def parse(*argv: str) -> ContinualCLI:
    with patch.dict(os.environ), patch.object(sys, "argv", ["cl_lightning", *argv]):
        return make_cli()


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "sequence.json").read_text())


def test_no_arguments_say_how_to_run() -> None:
    result = launch("run")
    assert result.code == 2
    assert "cl-lightning run NAME" in result.line


def test_help_names_the_sections_and_exits_0() -> None:
    result = launch("run", "--help")
    assert result.code == 0
    assert result.out.startswith("usage: cl-lightning run NAME")
    assert all(
        option in result.out for option in ("--data.order", "--boundary", "--sequence.run_dir", "--model.adapter")
    )


def test_help_of_a_class_names_its_options() -> None:
    result = launch("--model.adapter.help=SeqLoRA")
    assert result.code == 0
    assert "--model.adapter.per_task" in result.out


@pytest.mark.parametrize("middle", ["", ".init_args"])
def test_overrides_reach_into_slots(middle: str) -> None:
    cli = parse(
        *configs("trace_slice"),
        f"--boundary.init{middle}.strength=0.5",
        f"--boundary.init{middle}.initializer{middle}.directions=A2rBr",
        f"--boundary.memory{middle}.capacity=7",
        f"--model.adapter{middle}.rank=16",
    )
    init, memory = cli.slots("boundary")["init"], cli.slots("boundary")["memory"]
    assert isinstance(init, SliceInit)
    assert isinstance(memory, ReplayBuffer)
    assert (init.strength, init.initializer.directions, memory.capacity) == (0.5, "A2rBr", 7)
    assert (init.samples, memory.train_ratio) == (16, 0.0), "the file's other options stay"
    assert (cli.model.adapter.rank, cli.model.adapter.alpha) == (16, 2)


def test_slots_take_classes_by_their_short_names() -> None:
    """That none of the classes need have been imported, test_waiting shows."""
    config = yaml.safe_load(launch(*configs("trace_lora"), *SHORT_NAMES, "--print_config").out)
    slots = config["boundary"]
    assert by_slot(slots) == {"memory": "ReplayBuffer", "init": "SliceInit"}
    assert slots["init"]["init_args"]["initializer"]["class_path"].endswith(".LoRAGA")
    assert slots["init"]["init_args"]["operator"] is None
    assert config["model"]["adapter"]["class_path"].endswith(".SLAO")


def test_null_empties_a_slot() -> None:
    assert set(parse(*configs("trace_slice"), "--boundary.init=null").slots("boundary")) == {"memory"}


def test_order_is_appended_to() -> None:
    assert parse(*configs("smoke"), "--data.order+=Sentiment").datamodule.order == ["FOMC", "NumGLUE-cm", "Sentiment"]


@pytest.mark.parametrize("name", trace.ORDERS)
def test_an_order_has_its_name(name: str) -> None:
    cli = parse(*configs("trace_lora"), f"--data.benchmark.init_args.order={name}", "--data.order=null")
    assert cli.datamodule.order == list(trace.ORDERS[name])


def test_the_seed_is_one_for_all() -> None:
    assert parse(*configs("smoke")).datamodule.seed == 42
    assert parse(*configs("smoke"), "--seed_everything=7").datamodule.seed == 7


def test_later_files_win_and_the_rest_stays() -> None:
    base, smoke = (yaml.safe_load(Path(c.removeprefix("--config=")).read_text()) for c in configs("smoke")[:2])
    cli = parse(*configs("smoke"))
    assert cli.datamodule.batch_size == smoke["data"]["batch_size"] != base["data"]["batch_size"]
    assert cli.model.warmup == base["model"]["warmup"]


def test_print_config_prints_what_would_run(tmp_path: Path) -> None:
    result = launch(
        *configs("trace_slice"),
        "--model.adapter.rank=5",
        "--boundary.init.strength=0.25",
        "--data.order+=Sentiment",
        f"--sequence.run_dir={tmp_path / 'run'}",
        "--print_config",
    )
    assert result.code == 0
    config = yaml.safe_load(result.out)
    assert config["model"]["adapter"]["init_args"]["rank"] == 5
    assert config["model"]["adapter"]["init_args"]["per_task"] == "fresh_folded"
    assert config["boundary"]["init"]["init_args"]["strength"] == 0.25
    assert config["data"]["order"][-2:] == ["20Minuten", "Sentiment"]
    assert config["trainer"]["precision"] == "32-true"
    assert not (tmp_path / "run").exists()


TEXTS = ["1e3", "1.5e3", "-2E+5", "1_0e3", "12", "off", "2024-01-01"]


@pytest.mark.parametrize("root", ["1e3", "off"])
def test_texts_that_look_like_another_value_are_stored_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for task in TEXTS:
        (tmp_path / root / task).mkdir(parents=True)
        for split in ("train", "test"):
            (tmp_path / root / task / f"{split}.json").write_text('[{"prompt": "a", "answer": "b"}]')
    first = parse(*configs("smoke"), f"--data.root={root}", f"--data.order={json.dumps(TEXTS)}")
    (tmp_path / "stored.yaml").write_text(first.resolved())
    again = parse("--config=stored.yaml").datamodule
    assert again.order == first.datamodule.order == TEXTS
    assert str(again.root) == root
    values = {"order": TEXTS, "lr": 1e-5, "many": 1000.0}
    assert get_loader("yaml")(dump_yaml(values)) == values


#: Published settings of models that the tiny Llama cannot stand for are trained in test_paper_experiment.
TRAINED = [p for p in EXPERIMENTS if not re.search(r"gainlora.*_paper$", p.stem)]


def by_slot(slots: dict[str, Any] | None) -> dict[str, str]:
    """The short name of the class in each slot of a configuration."""
    return {slot: each["class_path"].rpartition(".")[2] for slot, each in (slots or {}).items()}


def written(path: Path) -> dict[str, Any]:
    """An experiment's own file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def parts(path: Path) -> set[str]:
    """The strategy of an experiment, its callbacks and its protocol. What these are given is mathematics."""
    file = written(path)
    strategy = file.get("model", {}).get("adapter", {}).get("class_path", "SeqLoRA")
    return {strategy, *by_slot(file.get("boundary")).values(), file.get("data", {}).get("protocol", "sequential")}


def one_for_each_part() -> list[Path]:
    """Experiments that have all strategies, callbacks and protocols between them, TRACE's before others."""
    chosen, seen = [], set[str]()
    for path in sorted(TRAINED, key=lambda p: (not p.stem.startswith("trace_"), p.stem)):
        if not (of := parts(path)) <= seen:
            chosen.append(path)
            seen |= of
    return chosen


QUICK = one_for_each_part()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_a_shipped_experiment_is_explained(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) > 20, "make help shows the first line"


@pytest.fixture(scope="module")
def parser() -> LightningArgumentParser:
    return parse(*configs("smoke")).parser


@pytest.mark.parametrize("path", [p for p in EXPERIMENTS if p not in QUICK], ids=lambda p: p.stem)
def test_a_shipped_experiment_instantiates(path: Path, parser: LightningArgumentParser) -> None:
    """Those that train do so there."""
    made = parser.instantiate_classes(parser.parse_args(configs(path.stem)))
    found = {slot: type(callback).__name__ for slot, callback in made.boundary.items()}
    assert found == by_slot(written(path).get("boundary"))
    assert set(made.observers) == {"progress", "matrix", "charts"}


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=() if p in QUICK else pytest.mark.long, id=p.stem) for p in TRAINED]
)
def test_a_shipped_experiment_trains(path: Path, tmp_path: Path) -> None:
    gated = any(name in path.stem for name in ("gainlora", "sapt"))
    rank = "--model.adapter.branches.rank=4" if gated else "--model.adapter.rank=4"
    result = launch(*configs(path.stem), *TINY, rank, "--trainer.max_steps=2", f"--sequence.run_dir={tmp_path}")
    assert result.code == 0, result.err
    ran = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert by_slot(ran["boundary"]) == by_slot(written(path).get("boundary"))
    assert set(ran["observers"]) == {"progress", "matrix", "charts"}
    state = record(tmp_path)
    stages, scores = {"joint": (1, 2), "independent": (2, 2), "sequential": (2, 3)}[state["protocol"]]
    assert state["done"] == stages
    assert state["clock"]["step"] == 2 * stages
    assert state["experiment"] == path.stem
    assert len([score for row in state["R"] for score in row if isinstance(score, float)]) == scores
    names = {"superni": "Super-NI", "long_sequence": "Long Sequence", "niseq": "NI-Seq"}
    absent = next((name for start, name in names.items() if path.stem.startswith(start)), "TRACE")
    assert f"{path.stem}: DATA = built-in sample, NOT {absent}" in result.out.splitlines()[0]
    assert "2 tasks" in result.out.splitlines()[1]
    assert f"{path.stem}: scores 0..100 on built-in sample, NOT {absent}" in " ".join(result.out.split())
    assert result.out.rstrip().endswith(f"run folder: {tmp_path}")
