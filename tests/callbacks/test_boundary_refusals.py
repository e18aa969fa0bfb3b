"""What a boundary cannot do is told in one line: before training where it can be known, else with the matrix's name."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.model.random_llama import random_model, random_tokenizer
from tests.commands.test_bad_input import SMALL, refused
from tests.commands.test_cli import launch, record

#: name -> options after a small smoke run, what the line must say.
KNOWN_BEFORE: dict[str, tuple[list[str], str]] = {
    "a budget too small for any mode": (
        ["--boundary.init.memory_budget=1000"],
        r"^boundary\.init\.memory_budget: 1000 bytes are too few .* of 14 matrices; single_pass needs \d+$",
    ),
    "a budget too small for a start that needs the gradient itself": (
        ["--boundary.init.memory_budget=1000", "--boundary.init.initializer=LoRASB"],
        r"^boundary\.init\.memory_budget: 1000 bytes are too few .*; exact needs \d+$",
    ),
    "fewer samples than a batch": (
        ["--boundary.init.samples=4"],
        r"^boundary\.init\.batch_size: 6 is more than the 4 examples for the gradient of FOMC; lower it",
    ),
    "fewer training examples than a batch": (
        ["--data.train_samples=5"],
        r"^boundary\.init\.batch_size: 6 is more than the 5 examples .* of FOMC",
    ),
    "too few batches for a standard error": (
        ["--boundary.init.reliability=2"],
        r"^boundary\.init\.reliability: 12 samples of FOMC in batches of 6 are 2 batches, but a standard error needs 3",
    ),
    "a rank over half of a matrix": (
        ["--model.adapter.rank=17"],
        r"rank: at 17, SLICE needs 34 singular directions of .*k_proj, which has 32; use at most 16, or leave",
    ),
    "an operator over several memories given one": (
        ["--boundary.init.operator=GEM"],
        r"operator: GEM needs one gradient per past task, but memory_gradient=mean .*; set memory_gradient=per_task$",
    ),
    "an operator over one memory given several": (
        ["--boundary.init.memory_gradient=per_task"],
        r"operator: PCGrad takes one memory gradient; set memory_gradient=mean or last$",
    ),
    "range removal for all matrices together": (
        ["--boundary.init.operator=RangeRemoval", "--boundary.init.scope=global"],
        r"operator: RangeRemoval works matrix by matrix at full strength; set scope=matrix and strength=1$",
    ),
    "surgery before a start without gradient": (
        ["--boundary.init.initializer=EVA"],
        r"initializer: EVA starts from inputs, which SliceInit does not collect; use boundary\.init=.*BranchInit$",
    ),
    "a warm start without the gradient's directions": (
        ["--boundary.init.initializer=LoRAM", "--boundary.init.operator=null", "--boundary.init.warm_start=0.1"],
        r"warm_start: LoRAM does not start at a gradient's directions; set it to 0$",
    ),
    "a strategy that fixes A": (
        ["--model.adapter=tests.callbacks.test_boundary_refusals.OnlyB"],
        r"^boundary\.init sets A and B, but OnlyB trains only one; set boundary\.init=null$",
    ),
    "an unknown scope": (
        ["--boundary.init.scope=layer"],
        r"^SliceInit\.scope: expected 'matrix' or 'block' or 'global', not 'layer'$",
    ),
    "a negative reliability": (["--boundary.init.reliability=-1"], r"reliability: -1\.0 must not be negative$"),
}


class OnlyB(SeqLoRA):
    """A strategy that trains B only."""

    trainable_factors = frozenset({"B"})


@pytest.mark.parametrize("name", KNOWN_BEFORE)
def test_reported_before_training(tmp_path: Path, name: str) -> None:
    options, expected = KNOWN_BEFORE[name]
    assert re.search(expected, refused(tmp_path, *options))


def saved(folder: Path, **faults: float) -> Path:
    """The random model with whole matrices of layer 1 set to a number."""
    tokenizer = random_tokenizer()
    llm = random_model(len(tokenizer), {})
    with torch.no_grad():
        for name, value in faults.items():
            getattr(llm.model.layers[1].self_attn, name).weight.fill_(value)
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("faults", "budget", "expected"),
    [
        # Nothing of the values reaches the loss behind an output projection of zeros.
        ({"o_proj": 0.0}, "null", r"matrix model\.layers\.1\.self_attn\.[qkv]_proj: the gradient is all zero"),
        ({"q_proj": float("nan")}, "null", r"model\.layers\.0\.self_attn\.q_proj: the new gradient is not finite$"),
        ({"q_proj": float("nan")}, "150000", r"model\.layers\.0\.self_attn\.q_proj: the gradient is not finite$"),
    ],
)
def test_a_gradient_without_direction_names_its_matrix(
    tmp_path: Path, faults: dict[str, Any], budget: str, expected: str
) -> None:
    model, run = saved(tmp_path / "model", **faults), tmp_path / "run"
    options = (
        f"--model.backbone.name={model}", f"--sequence.run_dir={run}", "--sequence.zero_shot=false",
        f"--boundary.init.memory_budget={budget}",
    )  # fmt: skip
    result = launch(*SMALL, *options)
    assert result.code == 1, result.err
    assert re.search(rf"^error: boundary of task FOMC, {expected}", result.err.splitlines()[-1])
    assert record(run)["done"] == 0


def test_an_empty_memory_is_said_once_and_the_new_gradient_is_taken(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = launch(*SMALL, f"--sequence.run_dir={run}")
    assert result.code == 0, result.err
    assert result.out.count("no memory to compare with, so the new task's own subspace") == 1
    first, second = record(run)["tables"]["init"][0]["rows"]
    assert first[2] is None and second[2] is not None, "what fired"
