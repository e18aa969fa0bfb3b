"""InfLoRA with its subspaces as a run: continued, on two ranks, refused where it cannot be right."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from callbacks import ReplayBuffer, SliceInit
from cl_lightning.adapters import AdapterStrategy, CLoRA, IncLoRA, OLoRA
from cl_lightning.linalg.subspaces import Subspace
from tests.commands.test_bad_input import refused
from tests.conftest import save_tiny_t5
from tests.ragged_words import finished_run, words
from tests.runs import adapters, record, relative, same_bits, smoke

OPTIONS = (
    "--boundary.memory=null", "--boundary.init=null", "--model.adapter=InfLoRA", "--model.adapter.rank=2",
    "--boundary.subspaces=InputSubspaces", "--boundary.subspaces.share=0.9", "--boundary.subspaces.samples=12",
    "--boundary.subspaces.batch_size=3",
)  # fmt: skip
#: Of which two are trained here.
THREE = "--boundary.subspaces.tasks=3"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "inflora"
    output = smoke(run, *OPTIONS, THREE)
    assert "input subspaces after each task" in output.stdout
    return run


def test_subspaces_grow_and_are_kept(finished: Path) -> None:
    rows = json.loads((finished / "state" / "subspaces-2.json").read_text())["rows"]
    assert [row[0] for row in rows] == ["FOMC", "NumGLUE-cm"]
    assert [row[1] for row in rows] == pytest.approx([0.9, 0.9 + 0.1 / 3])
    assert rows[0][2] <= rows[1][2]
    assert all(row[-1] >= 100 * row[1] - 1e-9 for row in rows), "each task's share is held"
    bases = load_file(finished / "state" / "subspaces-2.safetensors")
    assert all(2 * basis.shape[1] <= basis.shape[0] for basis in bases.values()), "the smaller of basis and complement"


def test_a_continued_sequence_ends_where_the_whole_one_does(finished: Path, tmp_path: Path) -> None:
    smoke(tmp_path / "one", *OPTIONS, THREE, "--data.order=[FOMC]")
    smoke(tmp_path / "on", *OPTIONS, THREE, f"--sequence.continue_from={tmp_path / 'one'}")
    assert same_bits(tmp_path / "on", finished)
    assert record(tmp_path / "on")["R"] == record(finished)["R"]


@pytest.mark.long
def test_two_ranks_design_and_grow_as_one(finished: Path, tmp_path: Path) -> None:
    smoke(tmp_path / "two", *OPTIONS, THREE, ranks=2)
    one, two = adapters(finished), adapters(tmp_path / "two")
    for task in ("FOMC", "NumGLUE-cm"):
        assert relative(two[task], one[task]) < 1e-4, task


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--boundary.subspaces=null"], "InfLoRA designs A from input subspaces: add boundary.subspaces"),
        (["--model.adapter=IncLoRA"], "boundary.subspaces designs A, but IncLoRA trains it"),
        (["--boundary.subspaces.share=0"], "boundary.subspaces.share: 0.0 is a share of energy, above 0 and up to 1"),
        (["--boundary.subspaces.tasks=1"], "the share would pass 1 after 1 of 2 tasks; use 2 or more, or null"),
        (["--boundary.init=SliceInit", "--boundary.init.operator=null"], "but InfLoRA trains only one"),
    ],
)
def test_refused_before_training(tmp_path: Path, options: list[str], said: str) -> None:
    assert said in refused(tmp_path, *OPTIONS, *options)


def test_nothing_left_outside_is_reported_and_nothing_is_lost(tmp_path: Path) -> None:
    """With all of the energy held, the tiny model's inputs soon fill their spaces."""
    run = tmp_path / "run"
    output = smoke(run, *OPTIONS, "--boundary.subspaces.share=1", check=False)
    assert output.returncode != 0
    line = output.stderr.strip().splitlines()[-1]
    assert "boundary of task NumGLUE-cm, layer" in line
    assert "are left outside earlier tasks', rank 2 needs as many; lower boundary.subspaces.share" in line
    assert record(run)["done"] == 1


@pytest.mark.parametrize("strategy", [IncLoRA, OLoRA, CLoRA])
def test_slice_starts_the_branches_of_every_strategy_that_trains_both_factors(
    tmp_path: Path, strategy: type[AdapterStrategy]
) -> None:
    init = SliceInit(samples=8, memory_samples=4, batch_size=4)
    boundary = {"memory": ReplayBuffer(6), "init": init}
    finished_run(tmp_path, words(("one", "two")), boundary, adapter=strategy(rank=2))
    fired = [row[1] for row in init.tables()[0].rows]
    assert fired[0] is None and fired[1] is not None, "there was a memory to reconcile with"
    kept = adapters(tmp_path)["two"]
    assert {name.rsplit(".", 1)[1] for name in kept} == {"lora_A", "lora_B", "lora_A0", "lora_B0"}


def test_cross_attention_has_subspaces_of_what_it_reads(tmp_path: Path) -> None:
    """Values read the encoder's states, queries the decoder's; the published code takes the one for the other."""
    t5 = save_tiny_t5(tmp_path / "t5", layers=1, dropout=0.0)
    layers = (f"--model.backbone.name={t5}", "--model.backbone.dtype=float32", "--model.adapter.targets=[q,v]")
    smoke(tmp_path / "own", *OPTIONS, *layers)
    smoke(tmp_path / "query", *OPTIONS, *layers, "--boundary.subspaces.cross=query", "--data.order=[FOMC]")
    own, query = (load_file(tmp_path / run / "state" / "subspaces-1.safetensors") for run in ("own", "query"))
    name = "decoder.block.0.layer.1.EncDecAttention"
    assert {f"{name}.q", f"{name}.v"} <= own.keys()
    assert f"{name}.q" in query and f"{name}.v" not in query, "negative control: values go by the query's"
    branch = adapters(tmp_path / "own")["NumGLUE-cm"]
    flags = json.loads((tmp_path / "own" / "state" / "subspaces-1.json").read_text())["by_complement"]
    for leaf in "qv":
        seen = Subspace(own[f"{name}.{leaf}"], flags[f"{name}.{leaf}"]).full()
        assert (branch[f"{name}.{leaf}.lora_A"].double() @ seen).abs().max() < 1e-6, leaf


def test_a_penalty_counts_once_however_many_micro_batches_make_a_step(tmp_path: Path) -> None:
    def learnt(name: str, strength: float, accumulate: int) -> dict[str, torch.Tensor]:
        strategy = OLoRA(rank=2, lambda_orthogonal=strength)
        finished_run(tmp_path / name, words(("one", "two")), None, None, strategy, accumulate, lr=0.001)
        return adapters(tmp_path / name)["two"]

    one, two, double = learnt("one", 5, 1), learnt("two", 5, 2), learnt("double", 10, 1)
    assert relative(two, one) < 1e-3
    assert relative(double, one) > 5 * relative(two, one), "negative control: counted twice"
