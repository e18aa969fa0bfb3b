"""The documents: what they name exists, what they show works, the README stays short."""

import ast
import gc
import inspect
import re
import shlex
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import pytest
import torch
import yaml

import callbacks
import cl_lightning
from cl_lightning import adapters, data, initializers, surgery
from cl_lightning.__main__ import QUIET
from cl_lightning.commands import COMMANDS, experiments, mine, plan, precheck, sweep
from cl_lightning.commands.data_check import read_benchmark
from cl_lightning.data.benchmarks.user_tasks import UserTasks
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.metrics.registry import METRICS
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.load import LoadedRun, load_run
from cl_lightning.sequence.settings import SequenceSettings
from tests.conftest import ROOT, batch_of, random_examples

README = ROOT / "README.md"
PYTHON = ROOT / "docs" / "python.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "REPRODUCIBILITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Records of earlier states, and examples of classes that are yet to be written, name what is not there.
OF_THIS_STATE = [path for path in DOCUMENTS if path.name not in ("REPRODUCIBILITY.md", "extending.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
each_present = pytest.mark.parametrize("path", OF_THIS_STATE, ids=lambda path: path.name)


def code(path: Path) -> list[str]:
    """The lines of its code blocks, and its code spans."""
    text = path.read_text()
    lines = [line for _, block in FENCE.findall(text) for line in block.splitlines()]
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def block(path: Path, language: str, start: str) -> str:
    """The code block in `language` whose text begins with `start`."""
    found = [text for kind, text in FENCE.findall(path.read_text()) if kind == language and text.startswith(start)]
    assert len(found) == 1
    return found[0]


def matches(path: Path, pattern: str) -> Iterator[str]:
    for line in code(path):
        yield from re.findall(pattern, line)


def placeholder(word: str) -> bool:
    """Whether a word stands for the reader's own: FOLDER, --option=NAME, <task>."""
    return bool(re.search(r"(^|[=/])[A-Z]{2,}\b|<", word))


# ---- the README ------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_narrow() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 130
    assert max(len(line) for _, text in FENCE.findall(README.read_text()) for line in text.splitlines()) <= 100
    assert max(len(line) for line in lines if not line.startswith("|")) <= 100  # tables are laid out by who shows them


def test_every_experiment_is_in_the_table_of_methods_or_in_that_of_variants() -> None:
    named = [name for path in (README, *(ROOT / "docs" / "methods").glob("*.md")) for name in code(path)]
    assert [name for name in experiments.names() if not any(fnmatch(name, word) for word in named)] == []


def test_the_figures_of_the_readme_were_measured() -> None:
    record = (ROOT / "REPRODUCIBILITY.md").read_text()
    table = README.read_text().split("### Which one", 1)[1].split("\n\n")[1]
    figures = re.findall(r"-?\d+\.\d+", table)
    assert len(figures) >= 12
    assert [figure for figure in figures if not re.search(rf"(?<![\d.]){figure}(?![\d.])", record)] == []


def test_what_the_readme_says_is_printed_is_in_the_page_that_shows_it_whole() -> None:
    page = (ROOT / "docs" / "scores.md").read_text()
    excerpt = block(README, "", "trace_slice: DATA")
    assert len(excerpt.splitlines()) == 10
    lines = [line.removesuffix("...").rstrip() for line in excerpt.splitlines() if line.strip(" .")]
    for line in lines[:-1]:  # the last names the run's folder
        assert f"\n{line}" in page


def test_the_readme_names_all_that_scripts_may_import() -> None:
    part = README.read_text().split("## From Python", 1)[1]
    assert [name for name in cl_lightning.__all__ if not re.search(rf"\b{name}\b", part)] == []


#: What makes the scripts of the documents small.
SMALL = {
    r"ContinualLM\((?:Backbone\([^)]*\), )?(?:SeqLoRA\([^)]*\), )?": (
        "ContinualLM(cl_lightning.Backbone('random-llama', dtype='float32'), cl_lightning.adapters.SeqLoRA(rank=2), "
    ),
    r"(?<!max_)epochs=\d, ": "test_samples=2, ",
    r"range\(9\)": "range(7)",
    r"L\.Trainer\(": "L.Trainer(logger=False, enable_checkpointing=False, accelerator='cpu', ",
}


@pytest.mark.parametrize(
    ("path", "start"),
    [(README, "from callbacks"), (PYTHON, "# arithmetic.py"), (PYTHON, "# one_task.py")],
    ids=["readme", "sequence", "one_task"],
)
def test_the_scripts_that_are_shown_run(
    path: Path, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny model in place of theirs."""
    monkeypatch.chdir(tmp_path)
    shown = block(path, "python", start)
    for pattern, small in SMALL.items():
        shown = re.sub(pattern, small, shown)
    assert "random-llama" in shown
    scope: dict[str, Any] = {"cl_lightning": cl_lightning}
    exec(shown, scope)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(("']", '"]')), "an answer is printed"
    if "result" in scope:
        assert len(scope["result"].matrix) == 2
        assert {*re.findall(r"`result\.(\w+)", PYTHON.read_text())} == _names(scope["result"])


def _names(result: Any) -> set[str]:
    return {name for name in dir(result) if not name.startswith("_")}


def test_the_mathematics_that_is_shown_runs(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    shown = block(PYTHON, "python", "import torch")
    for _ in range(5):  # any two gradients
        exec(shown, scope)
        assert float((scope["reconciled"] * scope["old"]).sum()) > -1e-4
    assert scope["A"].shape == (4, 32) and scope["B"].shape == (64, 4)
    assert capsys.readouterr().out == "-30.0\n" * 5


def test_the_arguments_of_a_task_are_all_shown_with_their_defaults() -> None:
    table = PYTHON.read_text().split("| argument of `DatasetTask` |", 1)[1].split("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    shown = [name for names, _ in rows for name in re.findall(r"`(\w+)`", names)]
    assert shown == [field.name for field in fields(cl_lightning.DatasetTask)][:2] + shown[2:]
    assert {*shown} == {field.name for field in fields(cl_lightning.DatasetTask)}
    defaults = [ast.literal_eval(text) for _, texts in rows for text in re.findall(r"`([^`]+)`", texts)]
    by_name = {field.name: field.default for field in fields(cl_lightning.DatasetTask)}
    assert defaults == [by_name[name] for name in shown[2:]]


# ---- what is named exists --------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_every_relative_link_resolves(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text()))
    for link in (link for link in links if not link.startswith(("http:", "https:"))):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"no file {link}"
        assert not anchor or anchor in anchors(target), f"no heading {link}"


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"]
    assert [name for name in pages if f"]({name})" not in index] == []
    methods = (ROOT / "docs" / "methods.md").read_text()
    pages = [path.name for path in (ROOT / "docs" / "methods").glob("*.md")]
    assert len(pages) >= 14 and [name for name in pages if f"](methods/{name})" not in methods] == []
    assert "](docs/README.md)" in README.read_text()


@each_document
def test_every_make_target_and_variable_exists(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert {*matches(path, r"\bmake ([a-z][a-z-]*)")} <= targets
    variables = set(re.findall(r"\$\((?:if \$\()?([A-Z_]+)", makefile))
    assert {*matches(path, r"(?<![\w'-])([A-Z_]{2,})=")} <= variables


@each_document
def test_every_command_exists(path: Path) -> None:
    assert {*matches(path, r"\bcl-lightning ([a-z][a-z-]*)")} <= COMMANDS.keys()


@each_document
def test_every_experiment_and_preset_exists(path: Path) -> None:
    for name in matches(path, r"\bEXP=([\w.-]+)"):
        assert placeholder(name) or name in experiments.names()
    for name in matches(path, r"(?:\bPRESET=|--preset[ =])([\w.-]+)"):
        assert placeholder(name) or name in experiments.presets()
    benchmarks = r"(?:trace|superni|long_sequence|niseq|flip)_[a-z0-9_*]+"
    for name in (span for span in code(path) if re.fullmatch(benchmarks, span)):
        assert any(fnmatch(known, name) for known in experiments.names()), f"no experiment {name}"


def exported() -> dict[str, type]:
    return {
        name: getattr(home, name)
        for home in (adapters, data, initializers, surgery, callbacks)
        for name in home.EXPORTS
    }


@each_present
def test_every_class_exists(path: Path) -> None:
    bases = {"AdapterStrategy", "Initializer", "SurgeryOperator", "RangeOperator", "Benchmark", "TaskCallback"}
    spans = {span for span in code(path) if re.fullmatch(r"[A-Z][A-Za-z]*[a-z][A-Za-z]*", span)}
    lightnings = {*lightning.pytorch.callbacks.__all__, *lightning.pytorch.loggers.__all__}
    assert spans <= exported().keys() | {*cl_lightning.__all__} | bases | lightnings | {"FrozenA", "Wqkv", "None"}


@each_present
def test_every_file_exists(path: Path) -> None:
    made = ("runs", "build")
    folders = "|".join(p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", *made)))
    for name in (span for span in code(path) if re.fullmatch(rf"(?:{folders})/[\w./<>*-]*", span)):
        assert placeholder(name) or list(ROOT.glob(name.rstrip("/"))), f"no file {name}"


def parameters(*kinds: Any) -> set[str]:
    """The options of classes, those that they hand on to their bases included."""
    made = [base for kind in kinds for base in inspect.getmro(kind)]
    return {name for kind in made if kind is not object for name in inspect.signature(kind).parameters}


def options() -> dict[str, set[str]]:
    """What may stand in each section of the configuration, at any depth."""
    kinds = {
        home: [getattr(home, n) for n in home.EXPORTS] for home in (adapters, data, initializers, surgery, callbacks)
    }
    files = [yaml.safe_load(path.read_text()) for path in experiments.folder().glob("*.yaml")]
    slots = {slot for file in files for section in ("boundary", "observers") for slot in file.get(section) or {}}
    work = parameters(*kinds[callbacks], *kinds[initializers], *kinds[surgery]) | slots | {"general"}
    return {
        "model": parameters(ContinualLM, Backbone, *kinds[adapters]),
        "data": parameters(TaskSequence, *kinds[data]),
        "boundary": work,
        "observers": work,
        "sequence": parameters(SequenceSettings),
    }


@each_present
def test_every_option_exists(path: Path) -> None:
    known = options()
    for option in matches(path, rf"(?<![\w./])((?:{'|'.join(known)})(?:\.[a-z_0-9]+)+)"):
        section, *names = option.split(".")
        if names == ["json"]:  # sequence.json is a file
            continue
        assert set(names) - {"init_args", "help"} <= known[section], f"no option {option}"


def flags(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        import_module(f"cl_lightning.commands.{command.replace('-', '_')}").main(["--help"])
    return set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))


def test_every_flag_of_a_command_exists(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"--config", "--help", "--preset", "--print_config", "--quick"}  # of `run`, and of the benchmarks
    known |= {flag for command in COMMANDS.keys() - {"run", "experiments"} for flag in flags(command, capsys)}
    known |= {QUIET, "--version"}  # of all commands
    known |= {"--budget", "--device", "--only", "--out", "--tiny"}  # of `make gpu`
    # Of pip, ruff and torchrun.
    foreign = {"--no-deps", "--check", "--nnodes", "--nproc_per_node", "--rdzv_backend", "--rdzv_endpoint"}
    foreign |= {"--apply_chat_template", "--batch_size", "--model_args", "--system_instruction", "--tasks"}  # lm-eval's
    for path in OF_THIS_STATE:
        plain = {*matches(path, r"(?<![\w-])(--[a-z][a-z_-]*)(?![\w.+-])")}
        assert plain <= known | foreign | {"--section", "--model", "--data", "--boundary"}, path.name


# ---- what is shown works ---------------------------------------------------------------------------------


def runs(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Commands of `make` or `cl-lightning` that take an experiment: the command and its arguments."""
    for line in code(path):
        if not re.match(r"(make|cl-lightning) (run|mine|sweep|plan) ", line):
            continue
        program, target, *argv = shlex.split(line, comments=True)
        swept = [""]
        if program == "make":
            given = dict(word.split("=", 1) for word in argv)
            argv = [given.get("EXP", "NAME"), *([f"--preset={given['PRESET']}"] if "PRESET" in given else [])]
            argv += shlex.split(given.get("ARGS", ""))
            swept = [f"--{given['OVER']}={value}" for value in given["VALUES"].split()] if "OVER" in given else swept
        elif target == "sweep":
            given, more = sweep.parser().parse_known_args(argv)
            argv, swept = [given.experiment, *more], [f"--{given.over}={value}" for value in given.values]
        asks = any(word == "--help" or ".help=" in word for word in argv)
        if "--config" not in argv and not asks and not any(placeholder(word) for word in argv):
            yield from ((target, [*argv, *filter(None, [one])]) for one in swept)


@each_present
def test_every_run_that_is_shown_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CL_DATA", raising=False)
    for target, argv in runs(path):
        argv = plan.gpu_memory(argv)[1] if target == "plan" else argv
        rest = mine.parse(argv)[1] if target == "mine" else experiments.expanded(argv)
        precheck.check([word for word in rest if word != "--print_config"])


def test_runs_are_shown() -> None:
    assert sum(len(list(runs(path))) for path in OF_THIS_STATE) >= 8


def test_the_tasks_of_ones_own_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(block(ROOT / "docs" / "tasks.md", "yaml", "# mine.yaml"))
    benchmark, _ = read_benchmark(file)
    assert isinstance(benchmark, UserTasks)
    specs = benchmark.tasks(None)
    assert list(specs) == ["reviews", "titles"]
    assert {metric for spec in specs.values() for metric in (spec.metric, *spec.also)} <= METRICS.keys()


def test_what_a_loaded_run_has_is_what_is_shown() -> None:
    shown = block(ROOT / "docs" / "run_folder.md", "python", "from cl_lightning import load_run")
    assert {*re.findall(r"^run\.(\w+)", shown, re.MULTILINE)} == set(LoadedRun.__dataclass_fields__)
    assert "tasks" in inspect.signature(load_run).parameters


def test_the_strategy_in_the_readme_trains_b_only(tiny: Callable[..., ContinualLM]) -> None:
    scope: dict[str, Any] = {"SeqLoRA": adapters.SeqLoRA}
    exec(block(README, "python", "class FrozenA"), scope)
    module = tiny("float64", scope["FrozenA"](rank=4))
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    module.sample_nll(batch_of(random_examples(3))).sum().backward()
    for layer in module.adapter.layers.values():
        assert layer.lora_A.grad is None
        assert layer.lora_B.grad.norm() > 0
    # The parser knows classes by their short names, and another test has one of this name.
    known = weakref.ref(scope["FrozenA"])
    del layer, module
    scope.clear()
    gc.collect()
    assert known() is None


# ---- rooms and citation ----------------------------------------------------------------------------------


def test_contributing_lists_the_rooms_in_the_order_of_imports() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().split("| room |", 1)[1].split("\n\n")[0]
    rooms = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    structure = next((ROOT / "tests").rglob("test_structure.py")).read_text()
    order = re.search(r"^ROOMS = \((.*?)\)", structure, re.DOTALL | re.MULTILINE)
    assert order is not None
    assert [*rooms, "__main__"] == re.findall(r'"(\w+)"', order[1])


def test_the_citation_is_whole() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license", "type"} <= cited.keys()
    assert (cited["cff-version"], cited["type"], cited["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert f"version = {cited['version']}\n" in (ROOT / "setup.cfg").read_text()
    papers = cited["references"]
    assert [paper["identifiers"][0]["value"] for paper in papers] == ["arXiv:2605.12752", "arXiv:2505.15424"]
    for entry in (cited, *papers):
        assert (
            entry["type"] and entry["title"] and all(a.get("name") or a.get("family-names") for a in entry["authors"])
        )
    assert all({"year", "url"} <= paper.keys() for paper in papers)
    assert papers[1]["type"] == "conference-paper" and "NeurIPS 2025" in papers[1]["conference"]["name"]
