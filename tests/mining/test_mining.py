"""Mining: a flip is the strongest conflict once the first task is learnt; not before, nor among random gradients."""

import csv
import io
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import replace
from inspect import signature
from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from cl_lightning.__main__ import main
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.commands.mine import parse
from cl_lightning.common import stopping
from cl_lightning.common.errors import ConfigError, TrainingError
from cl_lightning.data.base import Example
from cl_lightning.data.prompt import Encoded
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.mining.conflicts import Conflicts, compare, task_sketches
from cl_lightning.mining.count_sketch import CountSketch
from cl_lightning.mining.mine import _experiments, _of_first, _write
from cl_lightning.mining.search import cosine_matrix, most_conflicting, worst_order
from cl_lightning.model.module import ContinualLM
from tests.commands.test_cli import Result, configs, launch
from tests.conftest import batch_of
from tests.data.test_label_flip import accuracy, stances

WIDTH = 4096
POOL = "[FOMC, FOMC-flipped, NumGLUE-cm, Py150]"
CONFIGS = [*configs("smoke"), "--data.benchmark=Flipped"]


def labels_only(examples: list[Encoded]) -> list[Encoded]:
    """Without the end token, which all tasks teach alike."""
    return [replace(e, answer_ids=e.answer_ids[:1]) for e in examples]


def unrelated(seed: int, count: int) -> list[Encoded]:
    """Prompts like those of `stances`, with cues and labels of their own."""
    rng = torch.Generator().manual_seed(seed)
    tokens = (100 + torch.randperm(150, generator=rng)[:6]).tolist()
    examples = []
    for i in range(count):
        words = torch.randint(100, 250, (6,), generator=rng).tolist()
        examples.append(Encoded(Example(f"u{seed}/{i}", "p", "a"), (*words, tokens[i % 3]), (tokens[3 + i % 3],), 0))
    return examples


def pool(seed: int) -> dict[str, list[Encoded]]:
    """A task, five that have nothing to do with it, and, after them, its label flip."""
    others = {f"other {i}": unrelated(100 * seed + i, 96) for i in range(5)}
    task, flipped = (labels_only(stances(seed + i, i, 96)) for i in range(2))
    return {"task": task, **others, "flipped": flipped}


def conflicts(module: ContinualLM, sketch: CountSketch, seed: int) -> Conflicts:
    tasks = pool(seed).items()
    return compare({name: task_sketches(module, [batch_of(examples)], sketch) for name, examples in tasks})


def worst_pair(found: Conflicts) -> set[str]:
    return {found.tasks[i] for i in most_conflicting(found.cosines, 2)[0].members}


def learn(module: ContinualLM, seed: int) -> None:
    """The first task, on prompts that are never seen again."""
    module.adapter.begin_task(0, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(module.adapter.param_groups(), lr=1e-3)
    for step in range(60):
        batch = batch_of(labels_only(stances(1000 * seed + step, 0)))
        optimizer.zero_grad()
        (module.sample_nll(batch) * batch["sample_weight"]).sum().backward()
        optimizer.step()
    module.adapter.end_task(0)


Make = Callable[[], ContinualLM]


@pytest.fixture
def make(tiny: Callable[..., ContinualLM]) -> Make:
    """A tiny model, wide enough to keep unrelated tasks apart."""
    config = {"hidden_size": 128, "intermediate_size": 192}
    return lambda: tiny("float32", SeqLoRA(rank=8, alpha=16), config=config)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_the_flip_is_the_strongest_conflict_once_the_first_task_is_learnt(make: Make, seed: int) -> None:
    module, sketch = make(), CountSketch(WIDTH, seed)
    before = conflicts(module, sketch, seed)
    flip = (before.tasks.index("task"), before.tasks.index("flipped"))
    assert float(before.cosines[flip]) > 0, "at the base both teach the same words"
    assert worst_pair(before) != {"task", "flipped"}
    learn(module, seed)
    assert accuracy(module, stances(seed, 0)) == 1, "the first task is learnt"
    after = conflicts(module, sketch, seed)
    assert worst_pair(after) == {"task", "flipped"}
    assert float(after.cosines[flip]) < -0.2
    assert float(after.negative[flip]) > 0.75
    others = after.cosines.clone()
    others[flip] = others[flip[::-1]] = 0
    assert float(others.min()) > -0.1, "nothing else comes near"
    chosen = most_conflicting(after.cosines, 3, start=0)[0].members
    assert flip[1] in chosen
    assert worst_order(after.cosines, chosen, start=0).conflict > 0.2


def test_sketched_cosines_are_the_exact_ones_within_their_error(make: Make) -> None:
    module, sketch = make(), CountSketch(WIDTH, 0)
    learn(module, 1)
    gradients = [module.gradients([batch_of(examples)]) for examples in pool(1).values()]
    flat = torch.stack([torch.cat([g.flatten() for g in by_name.values()]) for by_name in gradients]).double()
    exact = cosine_matrix(flat @ flat.t())

    def error(sketch: CountSketch) -> float:
        return float((conflicts(module, sketch, 1).cosines - exact).abs().max())

    assert error(sketch) < 4 * sketch.cosine_error
    assert error(CountSketch(16, 0)) > 4 * sketch.cosine_error, "a narrow sketch is not that good"


def test_random_gradients_do_not_single_out_the_flip(tiny: Callable[..., ContinualLM]) -> None:
    shapes = {name: layer.shape for name, layer in tiny().adapter.layers.items()}
    tasks, sketch, times, draws = list(pool(0)), CountSketch(WIDTH, 0), 0, 60
    for seed in range(draws):
        rng = torch.Generator().manual_seed(seed)
        found = compare({t: {n: sketch(torch.randn(s, generator=rng)) for n, s in shapes.items()} for t in tasks})
        assert float((found.cosines - torch.eye(len(tasks))).abs().max()) < 0.1
        assert 0.1 < float(found.negative[0, 1:].mean()) < 0.9
        times += worst_pair(found) == {"task", "flipped"}
    pairs = len(list(combinations(tasks, 2)))
    assert times <= 4 * draws / pairs, "one pair of many"


def test_a_task_without_a_gradient_is_reported() -> None:
    with pytest.raises(TrainingError, match="gradient of task b is zero or not finite"):
        compare({"a": {"W": torch.ones(4)}, "b": {"W": torch.zeros(4)}})


# ---- the command ---------------------------------------------------------------------------------------------


def mine(out: Path, *options: str) -> Result:
    """`python -m cl_lightning mine` in this process."""
    argv = ["cl-lightning", "mine", "--length=3", "--count=2", "--samples=12", "--width=1024", f"--out={out}", *options]
    result, err = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ))
        stack.enter_context(patch.object(sys, "argv", argv))
        stack.enter_context(redirect_stdout(result))
        stack.enter_context(redirect_stderr(err))
        code = main()
    return Result(code, result.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("mined")
    done = mine(out, *CONFIGS, f"--data.order={POOL}", "--boundary={}")
    assert done.code == 0, done.err
    return out, done.out


def test_the_command_learns_the_first_task_and_writes_what_it_found(mined: tuple[Path, str]) -> None:
    out, output = mined
    assert "mine: DATA = built-in sample, NOT TRACE; a pool of 4 tasks after learning FOMC to" in output
    rows = list(csv.reader((out / "cosines.csv").open()))
    tasks = rows[0][1:]
    assert tasks == [row[0] for row in rows[1:]] == ["FOMC", "FOMC-flipped", "NumGLUE-cm", "Py150"]
    cosines = torch.tensor([[float(cell) for cell in row[1:]] for row in rows[1:]], dtype=torch.float64)
    assert torch.equal(cosines, cosines.t())
    assert torch.allclose(cosines.diagonal(), torch.ones(4, dtype=torch.float64))
    shares = list(csv.reader((out / "negative_share.csv").open()))
    assert all(0 <= float(cell) <= 1 for row in shares[1:] for cell in row[1:])
    wanted = most_conflicting(cosines, 3, 2, start=0)
    for number, found in enumerate(wanted, 1):
        text = (out / f"conflict-{number}.yaml").read_text()
        assert text.startswith(f"# Mined conflict of 3 tasks: mean cosine {found.score:+.3f} after learning FOMC")
        order = [tasks[i] for i in worst_order(cosines, found.members, start=0).members]
        assert yaml.safe_load(text)["data"]["order"] == order
        assert order[0] == "FOMC"
        assert f"conflict-{number}: mean cosine {found.score:+.3f}" in output


def test_a_mined_sequence_is_an_experiment(mined: tuple[Path, str], tmp_path: Path) -> None:
    file = mined[0] / "conflict-1.yaml"
    order = yaml.safe_load(file.read_text())["data"]["order"]
    quick = ("--boundary={}", "--trainer.max_steps=1", "--data.test_samples=2", "--data.train_samples=12")
    result = launch(*configs("smoke"), f"--config={file}", f"--sequence.run_dir={tmp_path}", *quick)
    assert result.code == 0, result.err
    assert {p.name for p in tmp_path.glob("adapters/*")} == {*order}


def test_what_it_says_to_run_has_the_data_it_was_mined_on(mined: tuple[Path, str]) -> None:
    (line,) = (line for line in mined[1].splitlines() if line.startswith("run one: "))
    command = ["cl-lightning", "run", *CONFIGS, f"--data.order={POOL}", "--boundary={}"]
    assert shlex.split(line.removeprefix("run one: ")) == [*command, f"--config={mined[0] / 'conflict-1.yaml'}"]
    data = yaml.safe_load((mined[0] / "conflict-1.yaml").read_text())["data"]
    learnt = yaml.safe_load((mined[0] / "first" / "config.yaml").read_text())["data"]
    assert data == {**learnt, "order": data["order"]}


@pytest.mark.parametrize(("cosine", "agree"), [(0.5, True), (-0.5, False)])
def test_tasks_that_agree_are_marked_as_no_conflict(
    cosine: float, agree: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pool = Conflicts(["a", "b"], torch.tensor([[1.0, cosine], [cosine, 1.0]]), torch.zeros(2, 2), 1)
    found = most_conflicting(pool.cosines, 2, 1, start=0)
    files = _experiments("conflict", found, pool, 0, {"root": "data"}, "a", tmp_path)
    assert os.listdir(tmp_path) == [], "nothing is written before all is found"
    written = files[tmp_path / "conflict-1.yaml"].decode()
    assert ("on average no conflict" in written, "on average no conflict" in capsys.readouterr().out) == (agree, agree)
    assert yaml.safe_load(written)["data"] == {"root": "data", "order": ["a", "b"]}


def test_a_stop_while_results_are_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second file is a pipe: writing waits there for a reader."""
    monkeypatch.setattr(stopping._Command, "message", "nothing was written")
    first, pipe = tmp_path / "cosines.csv", tmp_path / "conflict-1.yaml"
    os.mkfifo(pipe)
    writer = threading.Thread(target=_write, args=({first: b"1", pipe: b"2"}, tmp_path))
    writer.start()
    while not first.exists():
        assert writer.is_alive()
    assert stopping._Command.message == (
        f"{tmp_path} may hold a part of what was found (cosines.csv, conflict-1.yaml); "
        "move that away, then run the same command again"
    )
    assert pipe.read_bytes() == b"2"
    writer.join()
    assert stopping._Command.message == f"all that was found is in {tmp_path}"


@pytest.mark.parametrize(
    "name",
    [
        "FOMC",
        "a,b",
        "[b]bold",
        "{x: 1}",
        "1",
        "1e3",
        "true",
        "null",
        "~",
        "a: b",
        "# x",
        "'",
        '"',
        " a ",
        "é 😀",
        "\\n",
        "w " * 99,
    ],
)
def test_the_first_task_is_asked_for_by_its_very_name(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data.order", type=signature(TaskSequence).parameters["order"].annotation)
    parser.add_argument("--sequence.run_dir", type=str)
    assert parser.parse_args(_of_first(name, Path("runs/first"))).data.order == [name]


def test_a_run_of_the_first_task_is_taken_and_gives_the_same(mined: tuple[Path, str], tmp_path: Path) -> None:
    first = f"--run={mined[0] / 'first'}"
    done = mine(tmp_path, first, f"--data.order={POOL}", "--start=any")
    assert done.code == 0, done.err
    for name in ("cosines.csv", "negative_share.csv"):
        assert (tmp_path / name).read_bytes() == (mined[0] / name).read_bytes()


@pytest.mark.parametrize("name", ["conflict-7.yaml", "control-1.yaml", "cosines.csv", "negative_share.csv"])
def test_a_folder_with_results_is_refused_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    done = mine(tmp_path, *CONFIGS, f"--data.order={POOL}", "--boundary={}")
    assert (done.code, done.line) == (
        2, f"--out: {tmp_path} holds results already ({name}); move them away, or name another folder"
    )  # fmt: skip
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


def test_other_files_in_the_folder_stay(mined: tuple[Path, str], tmp_path: Path) -> None:
    for name in ("notes.txt", "conflict-resolution.yaml", "conflict-.yaml", "control-x.yaml"):
        (tmp_path / name).write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    done = mine(tmp_path, f"--run={mined[0] / 'first'}", f"--data.order={POOL}")
    assert done.code == 0, done.err
    assert before.items() <= {p: p.read_bytes() for p in tmp_path.iterdir()}.items()


REFUSED: dict[str, tuple[list[str], str]] = {
    "no run": (["--run={tmp}/nowhere"], r"nowhere: is not a run folder"),
    "a pool without the task learnt": (
        ["--run={first}", "--data.order=[NumGLUE-cm, Py150, ScienceQA]"],
        r"data\.order: the pool lacks FOMC, the task that .* has learnt",
    ),
    "other data": (["--run={first}", f"--data.order={POOL}", "--data.train_samples=9"], r"learnt other data for FOMC"),
    "a pool too small": ([*CONFIGS, "--data.order=[FOMC, Py150]"], r"a pool of 2 tasks has no sequence of --length=3"),
    "a task that is none": ([*CONFIGS, "--data.order=[FOMC, FOMC-fliped, Py150]"], r"did you mean FOMC-flipped"),
    "a task that cannot be flipped": (
        [*CONFIGS, "--data.benchmark.task=Py150", "--data.order=[FOMC, Py150-flipped, ScienceQA]"],
        r"Py150 has no closed label set",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_reported_in_one_line_before_anything_is_learnt(
    mined: tuple[Path, str], tmp_path: Path, name: str
) -> None:
    options, line = REFUSED[name]
    done = mine(tmp_path / "out", *(o.format(tmp=tmp_path, first=mined[0] / "first") for o in options))
    assert done.code == 2
    assert re.search(line, done.line)
    assert not (tmp_path / "out").exists()


def test_options_are_checked() -> None:
    assert parse(["--length=2", "--config", "a.yaml", "--x.y=3"])[1] == ["--config", "a.yaml", "--x.y=3"]
    for argv, line in (
        (["--length=9"], "not in 2..8"),
        (["--samples=0"], "--samples: 0 must be 1 or more"),
        (["--length=two"], "invalid int value: 'two'"),
        (["--start=last"], "invalid choice: 'last'"),
    ):
        with pytest.raises(ConfigError, match=line):
            parse(argv)
