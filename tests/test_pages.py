"""Pages of docs/: tables of options hold the code's defaults, commands are tried or marked."""

import inspect
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.commands import COMMANDS, experiments, precheck
from cl_lightning.commands.data_check import read_benchmark
from tests.conftest import ROOT
from tests.launch import launched
from tests.test_documents import DOCUMENTS, FENCE, README, block, code, exported, placeholder

#: Its class and its rows.
TABLE = re.compile(r"^\| option of `(\w+)` \| default \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", re.MULTILINE)
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TOUR = ROOT / "docs" / "tour.md"

# ---- options ---------------------------------------------------------------------------------------------


def tables() -> dict[str, dict[str, str]]:
    """The tables of options: what is called a default, by class and option."""
    found: dict[str, dict[str, str]] = {}
    for path in PAGES:
        for name, rows in re.findall(
            r"^\| option of `(\w+)` \| default \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", path.read_text(), re.M
        ):
            assert name not in found, f"{name} has two tables"
            found[name] = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", rows, re.M))
            assert len(found[name]) == rows.count("\n"), f"a row of {name} is no option"
    return found


def own_options(kind: type) -> dict[str, Any]:
    """Defaults of a class's constructor, without those that the table of its base class lists."""
    inherited = kind is not AdapterStrategy and issubclass(kind, AdapterStrategy)
    listed = inspect.signature(AdapterStrategy).parameters if inherited else {}
    own = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in own if p.kind is not p.VAR_KEYWORD and p.name not in listed}


def same(shown: str, default: object) -> bool:
    value = float(shown) if isinstance(default, float) else yaml.safe_load(shown)
    return value == (default if isinstance(default, str | int | float | None) else type(default).__name__)


def test_tables_of_options_hold_all_options_and_their_defaults() -> None:
    found = tables()
    kinds = {**exported(), "AdapterStrategy": AdapterStrategy}
    assert len(found) >= 20
    for name, shown in found.items():
        options = own_options(kinds[name])
        assert shown.keys() == options.keys(), name
        assert [option for option, text in shown.items() if not same(text, options[option])] == [], name


@pytest.mark.parametrize(("shown", "default"), [("2", 1), ("PCGrad", None), ("null", "none"), ("false", True)])
def test_the_control_another_default_is_noticed(shown: str, default: object) -> None:
    assert not same(shown, default)


# ---- commands --------------------------------------------------------------------------------------------

PROGRAMS = r"(?:make|cl-lightning|python|torchrun|vllm|llama-server|ollama|pip|source|\.venv/bin/python) "
#: What the reader needs that tests do not have; it stands in the block or in the paragraph before it.
MARK = re.compile(r"needs? (?:a )?(?:GPUs?|hub|key)|not run here", re.IGNORECASE)
#: Commands and what tries them: the test of runs that are accepted, parsers, CI itself, or a test of their own.
TRIED = {
    r"(make|cl-lightning) (run|mine|sweep|plan) ": "test_every_run_that_is_shown_is_accepted",
    r"cl-lightning (predict|export|compare|score|chat) ": "test_arguments_that_are_shown_are_accepted",
    r"make (compare|score) ": "test_arguments_that_are_shown_are_accepted",
    r"make (setup|test|test-all|lint|mutants|bench|docs)\b": "CI, or a person: they take minutes",
    r"make gpu\b": "tests/gpu/test_command.py",
    r"python -m cl_lightning\.export\.lm_eval ": "tests/export/test_lm_eval.py",
    r"\.venv/bin/python -m pytest -n 0 tests/contracts": "tests/contracts/test_extending.py",
}


def shown() -> Iterator[tuple[Path, str, str]]:
    """Commands in code blocks: the page, the command, and the block with the paragraph before it."""
    for path in DOCUMENTS:
        text = path.read_text()
        for found in FENCE.finditer(text):
            if found[1] in ("", "sh", "bash"):
                before = text[: found.start()].rstrip().rpartition("\n\n")[2]
                for line in found[2].replace("\\\n", "").splitlines():
                    if re.match(PROGRAMS, line):
                        yield path, line, before + found[2]


def untried(line: str, around: str) -> bool:
    """Whether a command is neither tried by a test nor marked."""
    return not MARK.search(around) and not any(re.match(pattern, line) for pattern in TRIED)


def test_every_command_in_a_block_is_tried_or_marked() -> None:
    commands = [each for each in shown() if each[0] != TOUR and each[0].name != "REPRODUCIBILITY.md"]
    assert len(commands) >= 20
    assert [line for _, line, around in commands if untried(line, around)] == []


def test_the_control_a_command_without_test_or_mark_is_noticed() -> None:
    assert untried("torchrun --nnodes=2 -m cl_lightning run trace_slice", "On two machines:")
    assert not untried("torchrun --nnodes=2 -m cl_lightning run trace_slice", "On two machines (needs GPUs):")


def test_arguments_that_are_shown_are_accepted() -> None:
    lines = [line for path in [README, *PAGES] for line in code(path)]
    tried = 0
    for line in lines:
        if not re.match(r"(?:make|cl-lightning) (?:predict|export|compare|score|chat) ", line):
            continue
        program, command, *words = shlex.split(line, comments=True)
        if program == "make":
            given = dict(word.split("=", 1) for word in words)
            words = given.get("RUNS", given.get("RUN", "")).split()
            words += ["--metrics", *given["METRICS"].split()] if "METRICS" in given else []
            words += shlex.split(given.get("ARGS", ""))
        if any(word.startswith("--") and placeholder(word) for word in words):
            continue
        import_module(f"cl_lightning.commands.{command}").parser().parse_args(words)
        tried += 1
    assert tried >= 12


# ---- the tour --------------------------------------------------------------------------------------------


def tour_commands() -> list[str]:
    return [line for path, line, _ in shown() if path == TOUR and not line.startswith("source")]


@pytest.fixture
def tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a reader follows the tour, with its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CL_DATA", raising=False)
    (tmp_path / "tour.yaml").write_text(block(TOUR, "yaml", "# tour.yaml"))
    exec(block(TOUR, "python", "# make_files.py"), {})
    return tmp_path


def test_the_files_of_the_tour_are_accepted(tour: Path) -> None:
    benchmark, _ = read_benchmark(tour / "tour.yaml")
    specs = benchmark.tasks(None)
    assert list(specs) == ["tickets", "reviews", "notes"]
    assert all(len(benchmark.load(tour, name).train) > 40 for name in specs)
    runs = [shlex.split(line)[2:] for line in tour_commands() if line.startswith("cl-lightning run")]
    assert len(runs) == 3
    for argv in runs:
        precheck.check(experiments.expanded(argv))


@pytest.mark.long
@pytest.mark.timeout(480)
def test_the_tour_goes_as_it_says(tour: Path) -> None:
    """On the tiny model: every command of the page, in its order."""
    tiny = ["--model.backbone.name=random-llama", "--model.backbone.dtype=float32", "--sequence.wandb=off"]
    tiny += ["--model.adapter.init_args.rank=2", "--sequence.threads=1", "--data.epochs=1", "--data.train_samples=16"]
    prompt = "Which team answers: billing, delivery or technical?\nthe app crashes, on Friday\nTeam: "
    (tour / "prompts.csv").write_text(f'prompt\n"{prompt}"\n')
    run = ""
    for line in tour_commands():
        program, command, *words = shlex.split(line.replace("RUN", run))
        if program == "python":
            continue
        if command == "run":
            done = launched(["run", *words, *tiny], tour)
            assert done.returncode == 0, done.stderr
            run = run or ("" if "plain" in line else re.findall(r"^run folder: (\S+)", done.stdout, re.M)[-1])
        else:
            paths = [str(p) for w in words for p in (sorted(tour.glob(w)) if "*" in w else [w])]
            import_module(f"cl_lightning.commands.{command.replace('-', '_')}").main(paths)
    assert {"comparison.html", "answers.csv"} <= {path.name for path in tour.iterdir()}
    assert (tour / run / "export" / "peft" / "adapter_model.safetensors").exists()
    assert (tour / "answers.csv").read_text().startswith("prompt,prediction\n")


def test_all_commands_of_the_tour_are_ours() -> None:
    assert {line.split()[1] for line in tour_commands() if line.startswith("cl-lightning")} <= COMMANDS.keys()
