"""GainLoRA as a run: old prompts stay shut out through real training, continued, on two ranks, refused, ablated."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from callbacks import GateOrthogonalization
from cl_lightning.adapters import GainLoRA, IncLoRA
from cl_lightning.common.seeding import generator
from cl_lightning.data.collate import training_batch
from cl_lightning.data.prompt import Encoded, PromptEncoder
from cl_lightning.data.sample.tasks import TASKS, load
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.load import load_run
from tests.commands.test_bad_input import refused
from tests.ragged_words import finished_run, words
from tests.runs import adapters, killed, record, relative, same_bits, smoke

OPTIONS = (
    "--boundary.memory=null", "--boundary.init=null", "--model.adapter=GainLoRA", "--model.adapter.branches=IncLoRA",
    "--model.adapter.branches.rank=2", "--boundary.gates=GateOrthogonalization", "--boundary.gates.share=1",
    "--model.weight_decay=0.1", "--model.lr=0.01",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "gainlora"
    output = smoke(run, *OPTIONS)
    assert "gates: a on held-out prompts" in output.stdout
    return run


def on_old_prompts(run: Path) -> float:
    """Largest a of the second task's gate on what the first task trained on, 30 prompts in 64 dimensions."""
    module = load_run(run).module
    encoder, spec = PromptEncoder(module.tokenizer, 176, ""), TASKS["FOMC"]
    train = load("FOMC").train
    seed = record(run)["seed"]
    order = torch.randperm(len(train), generator=generator(seed, "samples", "FOMC")).tolist()
    seen = [encoder.encode(train[i], spec) for i in order[4:34]]  # the first four are validation's
    return second_gate(module, seen)


@torch.no_grad()
def second_gate(module: ContinualLM, seen: Sequence[Encoded]) -> float:
    return float(module.adapter.forward_kwargs(training_batch(seen, 0))["gates"][:, 1].max())


def test_the_new_gate_is_0_on_the_old_tasks_prompts(finished: Path) -> None:
    assert on_old_prompts(finished) < 1e-5


@pytest.mark.parametrize(
    ("options", "accumulate", "low", "high"),
    [
        ({}, 1, 0, 1e-10),
        ({}, 2, 0, 1e-10),
        # Negative controls: updates left free, and the published code's row norms.
        ({"ablation": "no_update"}, 1, 1e-3, 1),
        ({"row_norms": True}, 1, 1e-4, 1),
    ],
    ids=["each step", "accumulated", "no update", "row norms"],
)
def test_every_step_is_projected(
    options: dict[str, Any], accumulate: int, low: float, high: float, tmp_path: Path
) -> None:
    gates, data = GateOrthogonalization(share=1, **options), words(("one", "two"), epochs=4)
    rates = {"lr": 0.01, "weight_decay": 0.1}
    run = finished_run(tmp_path, data, {"gates": gates}, None, GainLoRA(IncLoRA(rank=2)), accumulate, **rates)
    assert low <= second_gate(run.module, data.tasks[0].train) <= high


def test_what_gates_do_is_kept(finished: Path) -> None:
    with (finished / "gates" / "NumGLUE-cm.csv").open() as file:
        rows = {(r["gate of"], r["prompts of"]): float(r["mean a"]) for r in csv.DictReader(file)}
    assert set(rows) == {(g, p) for g in ("FOMC", "NumGLUE-cm") for p in ("FOMC", "NumGLUE-cm")}
    assert all(0 <= a <= 1 for a in rows.values())
    assert rows["NumGLUE-cm", "NumGLUE-cm"] > rows["NumGLUE-cm", "FOMC"]
    assert (finished / "state" / "gates-2.safetensors").exists()


def test_a_continued_sequence_ends_where_the_whole_one_does(finished: Path, tmp_path: Path) -> None:
    two = (*OPTIONS, "--boundary.gates.tasks=2")
    smoke(tmp_path / "one", *two, "--data.order=[FOMC]")
    smoke(tmp_path / "on", *two, f"--sequence.continue_from={tmp_path / 'one'}")
    assert same_bits(tmp_path / "on", finished)
    assert record(tmp_path / "on")["R"] == record(finished)["R"]


@pytest.mark.long
def test_killed_at_the_end_of_a_task_the_same_command_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Over InfLoRA, so that subspaces of inputs and of gates, branches and gates all have to come back."""
    options = (
        *[o for o in OPTIONS if "branches=" not in o],
        "--model.adapter.branches=InfLoRA",
        "--boundary.subspaces=InputSubspaces",
        "--boundary.subspaces.share=0.9",
    )
    smoke(tmp_path / "whole", *options)
    run = tmp_path / "killed"
    killed(run, "gates/NumGLUE-cm.csv", *options)
    assert record(run)["done"] == 1
    smoke(run, *options)
    assert same_bits(run, tmp_path / "whole")
    assert record(run)["R"] == record(tmp_path / "whole")["R"]
    kept = [load_file(folder / "state" / "gates-2.safetensors") for folder in (run, tmp_path / "whole")]
    assert all(torch.equal(M, kept[1][name]) for name, M in kept[0].items())


@pytest.mark.long
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    # Large steps of Adam amplify the last bit, and so does the gates' last layer: from 1e-7 in float32 to 1e-3.
    exact = "--model.lr=0.001", "--model.backbone.dtype=float64"
    smoke(tmp_path / "one", *OPTIONS, *exact)
    smoke(tmp_path / "two", *OPTIONS, *exact, ranks=2)
    one, two = adapters(tmp_path / "one"), adapters(tmp_path / "two")
    for task in ("FOMC", "NumGLUE-cm"):
        assert any(name.startswith("gate.") for name in one[task])
        assert relative(two[task], one[task]) < 1e-5, task
    assert on_old_prompts(tmp_path / "two") < 1e-5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--boundary.gates=null"], "add boundary.gates (callbacks.GateOrthogonalization)"),
        (["--model.adapter=IncLoRA"], "boundary.gates keeps gates orthogonal, but IncLoRA has none"),
        (["--boundary.gates.share=1.5"], "boundary.gates.share: 1.5 is a share of energy"),
        (["--boundary.gates.tasks=1"], "the share would pass 1 after 1 of 2 tasks"),
        (["--model.adapter.branches=SeqLoRA"], "SeqLoRA does not keep each task's branch separate"),
        (["--model.adapter.branches=InfLoRA"], "add boundary.subspaces (callbacks.InputSubspaces)"),
        (["--model.adapter.branches=InfLoar"], "no class 'InfLoar'; did you mean InfLoRA"),
    ],
)
def test_refused_before_training(tmp_path: Path, options: list[str], said: str) -> None:
    assert said in refused(tmp_path, *OPTIONS, *options)


def test_no_room_for_a_key_is_reported_and_nothing_is_lost(tmp_path: Path) -> None:
    """Forty prompts of each of two tasks fill the 64 dimensions of the tiny model's embeddings."""
    run = tmp_path / "run"
    wide = ("--data.train_samples=70", "--data.order+=Sentiment")
    output = smoke(run, *OPTIONS, *wide, check=False)
    assert output.returncode == 1
    assert "so no key is orthogonal to them; lower boundary.gates.share" in output.stderr.splitlines()[-1]
    finished = output.stdout.count("  scores after task ")
    assert 1 <= record(run)["done"] == finished < 3


@pytest.mark.parametrize("weighting", ["new", pytest.param("none", marks=pytest.mark.long), "both"])
def test_slice_starts_branches_under_gates(tmp_path: Path, weighting: str) -> None:
    options = [o for o in OPTIONS if o not in ("--boundary.memory=null", "--boundary.init=null")]
    output = smoke(tmp_path / "run", *options, f"--boundary.init.gate_weighting={weighting}")
    assert "surgery fired in" in output.stdout
    norms = [float(row["norm_memory"]) for row in csv.DictReader((tmp_path / "run/surgery/NumGLUE-cm.csv").open())]
    assert (max(norms) < 1e-3) == (weighting == "both"), "a gate that is shut leaves a memory gradient of nothing"
