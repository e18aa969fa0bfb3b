"""`cl-lightning plan`: what it prints, without weights, and its errors."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cl_lightning.commands import plan
from cl_lightning.common.errors import ConfigError
from cl_lightning.model.random_llama import random_model
from cl_lightning.model.strategies import SHARDED
from cl_lightning.planning.memory import PARTS, Memory
from cl_lightning.sequence.rehearsal import Size
from tests.commands.test_cli import launch
from tests.planning.test_memory import LLAMA

Planned = Callable[..., list[str]]
#: Without boundary work, which none of what these tests look at depends on.
PLAIN = ("--boundary.memory=null", "--boundary.init=null")


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Planned:
    """What the command prints, in lines."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def tell(*argv: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["cl-lightning", "plan", *argv])
        plan.main(list(argv))
        return capsys.readouterr().out.splitlines()

    return tell


@pytest.fixture
def nothing_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the rehearsal, which takes most of a plan's time, for tests that do not look at memory."""
    found = Memory(parameters={"base": 1, "trained": 1}, prompts=Size(1, 1, 1, 2, 1), products=1)
    for part in PARTS:
        found.put(part, 1)
    monkeypatch.setattr("cl_lightning.planning.memory.rehearse", lambda *_: found)


def test_an_experiment_is_planned_in_80_columns(planned: Planned) -> None:
    lines = planned("smoke", "--gpu-memory=1GiB", "--model.backbone.load_in_4bit=false")
    assert lines[0] == "smoke: DATA = built-in sample, NOT TRACE"
    assert max(map(len, lines)) <= 80
    names = [line[2:12].strip() for line in lines[1:9]]
    assert names == ["steps", "scored", "batch", "model", "on disk", "time", "", ""]
    assert lines[1].endswith("10 optimiser steps in 2 tasks")
    assert any(line.startswith("together ") for line in lines)
    assert lines[-1].startswith("fits 1 GiB: ")


@pytest.mark.usefixtures("nothing_rehearsed")
def test_scores_that_are_left_out_are_not_counted(planned: Planned) -> None:
    def scored(*options: str) -> int:
        lines = planned("smoke", "--data.test_samples=6", "--data.order=[FOMC,C-STANCE,Py150]", *options)
        return int(next(line for line in lines if line[2:8] == "scored").split()[1])

    assert scored() == 6 * (1 + 2 + 3)
    assert scored("--data.score_every=3") == 6 * (1 + 1 + 3)
    assert scored("--data.score_samples_old=2") == 6 + (2 + 6) + 6 * 3


def test_ranks_that_share_the_base_hold_a_part_of_it_each(planned: Planned) -> None:
    whole = random_model(259, {"num_hidden_layers": 3})
    block = 4 * sum(p.numel() for p in whole.model.layers[0].parameters())
    held = 4 * sum(p.numel() for p in whole.parameters()) - 3 * block + 3 * block // 4 + 2 * block

    def base(strategy: str) -> str:
        lines = planned(
            "smoke", *PLAIN, "--model.backbone.config={num_hidden_layers: 3}", f"--trainer.strategy={strategy}",
            "--trainer.devices=4", "--trainer.accelerator=cpu",
        )  # fmt: skip
        assert (" on 4 ranks that share the base" in " ".join(lines[1:4])) == (strategy == SHARDED)
        return next(line for line in lines if line.startswith("base model")).split()[2]

    assert base(SHARDED) == f"{held / 2**20:.2f}"
    assert base("ddp") == f"{4 * sum(p.numel() for p in whole.parameters()) / 2**20:.2f}", "the control"


def test_a_configuration_alone_is_enough(planned: Planned, tmp_path: Path) -> None:
    """Without weights and tokenizer."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**LLAMA.to_dict(), "architectures": ["LlamaForCausalLM"]}))
    limits = ("--data.max_prompt_tokens=60", "--data.max_answer_tokens=20")
    lines = planned("smoke", f"--model.backbone.name={folder}", *limits, "--gpu-memory", "12MiB")
    assert any(
        line.split(None, 1)[1] == "at most 7 examples of 80 tokens at a time" for line in lines if "batch" in line
    )
    assert any("there is no tokenizer" in line for line in lines)
    assert any(line.startswith("does not fit 12 MiB") for line in lines)
    assert "trainer.accumulate_grad_batches" in lines[-1] or "memory_budget" in lines[-1]
    assert not list(folder.glob("*.safetensors"))


def test_a_model_that_is_not_here_is_one_line(planned: Planned) -> None:
    with pytest.raises(ConfigError, match=r"not a folder.*; a folder with its config.json is enough to plan"):
        planned("smoke", "--model.backbone.name=some-owner/no-model-of-this-name")


@pytest.mark.parametrize("size", ["80", "GiB", "0GiB", "-1GiB", "80 gigabytes", "1e3GiB", ""])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        plan.gpu_memory(["smoke", f"--gpu-memory={size}"])


def test_sizes() -> None:
    assert plan.gpu_memory(["smoke", "--gpu-memory=1.5GiB", "--data.epochs=2"]) == (
        3 * 2**29,
        ["smoke", "--data.epochs=2"],
    )
    assert plan.gpu_memory(["smoke", "--gpu-memory", "24GB"]) == (24 * 10**9, ["smoke"])
    assert plan.gpu_memory(["smoke"]) == (None, ["smoke"])


@pytest.mark.usefixtures("nothing_rehearsed")
def test_time_rests_on_the_costs_of_an_earlier_run(planned: Planned) -> None:
    options = (*PLAIN, "--data.order=[FOMC]", "--data.train_samples=8", "--data.test_samples=2", "--sequence.wandb=off")
    assert launch("run", "smoke", *options, "--sequence.report=false").code == 0
    lines = planned("smoke", *options)
    assert any("by the costs of 1 task of runs/smoke/" in line for line in lines)
    other = planned("smoke", *options, "--model.adapter.rank=3")
    assert " measured now (cpu)" in " ".join(other), "another model's run says nothing"
